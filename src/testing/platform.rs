//! A scripted platform.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use actix_http::{HttpMessage as _, HttpService, Request, Response, body::BoxBody};
use actix_rt::{net::TcpStream, time::timeout};
use actix_service::{Service as _, ServiceFactory as _, fn_service};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{PlatformRules, RecordedRequest, Reply, rules::RuledPlatform};

/// How long [`FakePlatform::wait_for_requests`] waits, in real time.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// A platform on loopback that answers from a script and records what it receives.
///
/// The platform runs on its own thread, so that it answers even while the test's arbiter is busy. It stops when it is
/// dropped. It speaks plain HTTP/1.1, keeps connections alive, and always sends valid HTTP.
///
/// A poster sends these requests, all by `POST`. A field in brackets is left out when it is empty, zero or absent:
///
/// | path ends with | body |
/// |---|---|
/// | `{session_id}/completion` | `[workerId]`, `summary` |
/// | `{session_id}/status` | `workerId`, `status`, `[providerSessionId]`, `[worktreePath]`, `[error: {message}]`, `[totalCostUsd]`, `[inputTokens]`, `[outputTokens]` |
/// | `issue-tracker-proxy` | `method` (`updateIssueStatus` or `createComment`), `args: [issue_id, text]`, `[organizationId]` |
/// | `{worker_id}/refresh-token` | `{}`; the response holds `runtimeToken` and `[runtimeTokenExpiresAt]` |
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

/// The state that the thread shares with the handle.
#[derive(Debug, Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    /// Answers the requests that no script is for.
    rules: Mutex<Option<RuledPlatform>>,
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
    /// Starts a platform on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// The error of the operating system, if there is no port or no thread.
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

    /// The URL, without a trailing slash: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the replies to requests whose path ends with `path_end`, from now on: each reply once, in order, then the
    /// last one repeatedly.
    ///
    /// `path_end` begins at a segment: `status` matches every session, `sess-1/status` one session. The longest match
    /// applies. A path without a script, or with an empty one, is answered with [`Reply::ok`].
    pub fn script(&self, path_end: impl Into<String>, replies: impl IntoIterator<Item = Reply>) {
        let script = Script {
            replies: replies.into_iter().collect(),
            next: 0,
        };
        self.shared
            .scripts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path_end.into(), script);
    }

    /// Answers the requests that no script is for by these rules, from now on. Without rules: by [`Reply::ok`].
    ///
    /// The counts for the limits of former rules are forgotten.
    pub fn set_rules(&self, rules: PlatformRules) {
        let mut present = self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner);
        *present = Some(RuledPlatform::new(rules));
    }

    /// All requests so far, in the order in which they were completely received.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.requests.borrow().clone()
    }

    /// Waits for at least `count` requests, ten seconds at most, and returns all requests so far.
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

    /// Stops the platform, as dropping it does: waits until its thread has ended.
    pub fn stop(self) {}
}

impl Drop for FakePlatform {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // An error is a panic of the thread, which was printed when it happened.
            let _ = thread.join();
        }
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
            // The client disconnected before the end of the body: the request is not recorded.
            Err(_) => return Ok(Reply::status(400).into_response()),
        }
    }
    let path = request.path().to_owned();
    let mut recorded = RecordedRequest {
        connection: request.conn_data::<ConnectionNumber>().map_or(0, |number| number.0),
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body,
        answered_with: 0,
    };
    let reply = shared.next_reply(&path, &recorded);
    recorded.answered_with = reply.status_code();
    shared.requests.send_modify(|requests| requests.push(recorded));
    // A sleep takes at least a millisecond.
    if !reply.delay.is_zero() {
        actix_rt::time::sleep(reply.delay).await;
    }
    Ok(reply.into_response())
}

impl Shared {
    fn next_reply(&self, path: &str, request: &RecordedRequest) -> Reply {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let script = scripts
            .iter_mut()
            .filter(|(path_end, _)| is_end_of(path_end, path))
            .max_by_key(|(path_end, _)| path_end.len());
        let Some((_, script)) = script else {
            let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
            return rules.as_mut().map_or_else(Reply::ok, |rules| rules.reply(request));
        };
        let reply = script.replies.get(script.next).or(script.replies.last());
        script.next = script.next.saturating_add(1);
        reply.cloned().unwrap_or_else(Reply::ok)
    }
}

/// Whether `path_end` is the end of `path`, from the beginning of a segment.
fn is_end_of(path_end: &str, path: &str) -> bool {
    path.strip_suffix(path_end.trim_start_matches('/'))
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::is_end_of;

    #[test]
    fn a_path_end_begins_at_a_segment() {
        let path = "/api/sessions/sess-1/status";
        for path_end in ["status", "sess-1/status", "/sess-1/status", path, ""] {
            assert_eq!(is_end_of(path_end, path), !path_end.is_empty(), "{path_end}");
        }
        assert!(!is_end_of("tatus", path));
        assert!(!is_end_of("sess-2/status", path));
    }
}
