use std::{
    collections::HashMap,
    convert::Infallible,
    fmt, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use actix_http::{HttpMessage as _, HttpService, Request, Response, StatusCode, body::BoxBody};
use actix_rt::{net::TcpStream, time::timeout};
use actix_service::{Service as _, ServiceFactory as _, fn_service};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::WAIT_LIMIT;

/// A platform on loopback that answers from a script and records what it receives.
///
/// It runs on a thread of its own, so that it answers whatever the test's own arbiter does, and is
/// down for good once it is dropped. It speaks plain HTTP/1.1, keeps connections alive, and never breaks HTTP.
///
/// What a poster sends it, all by `POST`; a field in brackets is left out when it is empty, zero or absent:
///
/// | path ends with | body |
/// |---|---|
/// | `{session_id}/completion` | `[workerId]`, `summary` |
/// | `{session_id}/status` | `workerId`, `status`, `[providerSessionId]`, `[worktreePath]`, `[error: {message}]`, `[totalCostUsd]`, `[inputTokens]`, `[outputTokens]` |
/// | `issue-tracker-proxy` | `method` (`updateIssueStatus` or `createComment`), `args: [issue_id, text]`, `[organizationId]` |
/// | `{worker_id}/refresh-token` | nothing that matters; the answer's `runtimeToken`, `[runtimeTokenExpiresAt]` do |
///
/// ```
/// use result_poster::{AgentResult, Options, PostResult, ResultPoster, SessionStatus};
/// use result_poster::testing::{FakePlatform, Reply};
///
/// # actix_rt::System::new().block_on(async {
/// let platform = FakePlatform::start()?;
/// platform.script("completion", [Reply::status(400).body("missing summary")]);
///
/// let poster = ResultPoster::start_supervised(Options::builder(platform.url()).build()?);
/// let result = AgentResult::new(SessionStatus::Completed);
/// let error = poster.send(PostResult::new("sess-1", result)).await?.unwrap_err();
///
/// assert_eq!(error.permanent().unwrap().status_code, 400);
/// let paths: Vec<_> = platform.requests().into_iter().map(|request| request.path).collect();
/// assert_eq!(paths, ["/api/sessions/sess-1/completion", "/api/sessions/sess-1/status"]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct FakePlatform {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the platform's thread shares with its handle.
#[derive(Debug, Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    requests: watch::Sender<Vec<RecordedRequest>>,
    connections: AtomicUsize,
}

#[derive(Debug)]
struct Script {
    replies: Vec<Reply>,
    next: usize,
}

/// The number of a connection, from 0.
struct ConnectionNumber(usize);

impl FakePlatform {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// No port, or no thread, is to be had.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let thread = thread::Builder::new().name("fake-platform".into()).spawn({
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            move || {
                let served = actix_rt::Runtime::new().and_then(|runtime| {
                    runtime
                        .block_on(stop.run_until_cancelled(serve(listener, shared)))
                        .transpose()
                });
                if let Err(error) = served {
                    log::error!("the fake platform is down: {error}");
                }
            }
        })?;
        Ok(Self {
            address,
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// Its URL, without a slash at the end: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets what a route answers from now on: each reply once, in turn, and the last one ever after.
    ///
    /// A route is the end of a path, from the beginning of a segment: `status` is every session's,
    /// `sess-1/status` is one session's. The longest that fits decides. What has no
    /// script, or an empty one, answers [`Reply::ok`].
    pub fn script(&self, route: impl Into<String>, replies: impl IntoIterator<Item = Reply>) {
        let script = Script {
            replies: replies.into_iter().collect(),
            next: 0,
        };
        self.shared
            .scripts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(route.into(), script);
    }

    /// All requests so far, in the order they were received in full.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.requests.borrow().clone()
    }

    /// Waits until there were at least `count` requests, but no longer than ten seconds, and returns all so far.
    pub async fn wait_for_requests(&self, count: usize) -> Vec<RecordedRequest> {
        let mut changes = self.shared.requests.subscribe();
        let _ = timeout(WAIT_LIMIT, changes.wait_for(|requests| requests.len() >= count)).await;
        self.requests()
    }

    /// How many connections were opened so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for FakePlatform {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // An error is a panic of the thread's, which was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// One answer of a script.
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
}

impl Reply {
    /// The platform's ordinary answer on every route: 200, `{"success":true,"data":{}}`.
    pub fn ok() -> Self {
        Self::status(200).body(r#"{"success":true,"data":{}}"#)
    }

    /// An answer with this status, 200 to 999, and an empty body. Anything else is answered as 500.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
        }
    }

    /// Sets the body. Its `Content-Type` is `application/json` unless [`header`](Self::header) says otherwise.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a header. One that HTTP does not allow turns the answer into a 500.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Waits so long, in real time, after the request was received. Default: not at all.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn into_response(self) -> Response<BoxBody> {
        let status = StatusCode::from_u16(self.status)
            .ok()
            .filter(|status| !status.is_informational())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::build(status);
        response.insert_header(("content-type", "application/json"));
        for header in self.headers {
            response.insert_header(header);
        }
        response.body(self.body).map_into_boxed_body()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &String::from_utf8_lossy(&self.body))
            .field("delay", &self.delay)
            .finish()
    }
}

/// A request as the platform received it. Its `Debug` does not show the token that it held.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The connection that it came on, numbered from 0 in the order they were opened.
    pub connection: usize,
    /// The method, such as `POST`.
    pub method: String,
    /// The path as it was on the wire, with its percent-encoding and its query, if any.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl RecordedRequest {
    /// The first header with this name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// It is not JSON.
    pub fn json(&self) -> serde_json::Result<Value> {
        serde_json::from_slice(&self.body)
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): &(String, String)| match name.as_str() {
            "authorization" => format!("{name}: [REDACTED]"),
            _ => format!("{name}: {value}"),
        };
        f.debug_struct("RecordedRequest")
            .field("connection", &self.connection)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers.iter().map(shown).collect::<Vec<_>>())
            .field("body", &String::from_utf8_lossy(&self.body))
            .finish()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = actix_rt::net::TcpListener::from_std(listener)?;
    let connections = Arc::clone(&shared);
    let service = HttpService::build()
        .on_connect_ext(move |_: &TcpStream, extensions| {
            extensions.insert(ConnectionNumber(
                connections.connections.fetch_add(1, Ordering::Relaxed),
            ));
        })
        .h1(fn_service(move |request| answer(Arc::clone(&shared), request)))
        .tcp()
        .new_service(())
        .await
        .map_err(|()| io::Error::other("no HTTP service"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        actix_rt::spawn(service.call(stream));
    }
}

async fn answer(shared: Arc<Shared>, mut request: Request) -> Result<Response<BoxBody>, Infallible> {
    let mut payload = request.take_payload();
    let mut body = Vec::new();
    while let Some(chunk) = payload.next().await {
        match chunk {
            Ok(chunk) => body.extend_from_slice(&chunk),
            // The client left in the middle of it: nothing was received.
            Err(_) => return Ok(Reply::status(400).into_response()),
        }
    }
    let path = request.path().to_owned();
    let recorded = RecordedRequest {
        connection: request.conn_data::<ConnectionNumber>().map_or(0, |number| number.0),
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body,
    };
    let reply = shared.next_reply(&path);
    shared.requests.send_modify(|requests| requests.push(recorded));
    actix_rt::time::sleep(reply.delay).await;
    Ok(reply.into_response())
}

impl Shared {
    fn next_reply(&self, path: &str) -> Reply {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let script = scripts
            .iter_mut()
            .filter(|(route, _)| fits(route, path))
            .max_by_key(|(route, _)| route.len());
        let Some((_, script)) = script else {
            return Reply::ok();
        };
        let reply = script.replies.get(script.next).or(script.replies.last());
        script.next = script.next.saturating_add(1);
        reply.cloned().unwrap_or_else(Reply::ok)
    }
}

/// Whether `route` is the end of `path`, from the beginning of a segment.
fn fits(route: &str, path: &str) -> bool {
    path.strip_suffix(route.trim_start_matches('/'))
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_route_is_the_end_of_a_path() {
        let path = "/api/sessions/sess-1/status";
        for route in ["status", "sess-1/status", "/sess-1/status", path, ""] {
            assert_eq!(fits(route, path), !route.is_empty(), "{route}");
        }
        assert!(!fits("tatus", path));
        assert!(!fits("sess-2/status", path));
    }
}
