//! A platform that speaks HTTP/2, and what can go wrong in it.

use std::{
    collections::{HashSet, VecDeque},
    future::{pending, poll_fn},
    io,
    net::{Shutdown, TcpListener},
    pin::pin,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{Either, join_all, select},
};
use h2::{Reason, RecvStream, server::SendResponse};
use http::Response;
use result_poster::{
    AttemptError, CallError, CallReceipt, OptionsBuilder, PostResult, ResultPoster, Stage, UpdateIssueStatus,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::{
    support::{TOKEN, completed, options, post, post_outcome, start},
    tls::{Authority, params},
};

const H2: &str = "h2";
const HTTP1: &str = "http/1.1";
const SUCCESS: &str = r#"{"success":true}"#;
const SECOND: Duration = Duration::from_secs(1);

/// An empty SETTINGS frame.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

type Poster = actix::Addr<ResultPoster>;

async fn update(poster: &Poster, issue: &str) -> Result<CallReceipt, CallError> {
    poster.send(UpdateIssueStatus::new(issue, "Finished")).await.unwrap()
}

fn long_result(session: &str) -> PostResult {
    PostResult::new(session, completed().with_summary("x".repeat(1 << 20)))
}

/// The last attempt's error against a platform that does `step` to every request.
async fn fault(step: Step) -> (AttemptError, bool) {
    let platform = Platform::start(&[H2], vec![step.clone(); 3]);
    let poster = start(platform.options());
    let error = update(&poster, "i").await.unwrap_err();
    let may_have_been_delivered = error.may_have_been_delivered();
    let CallError::Transient(error) = error else {
        panic!("{step:?}: {error:?}");
    };
    assert_eq!(error.attempts, 3, "{step:?}");
    // And the client is as good as new.
    assert_eq!(update(&poster, "i").await.unwrap().attempts, 1, "{step:?}");
    (error.last, may_have_been_delivered)
}

#[actix_rt::test]
async fn a_platform_that_speaks_nothing_but_http2_is_reached() {
    let platform = Platform::start(&[H2], []);
    let poster = start(platform.options().user_agent("runner/7"));
    let receipt = post(&poster, "s").await.unwrap();
    assert_eq!((receipt.completion.attempts, receipt.status.attempts), (1, 1));
    update(&poster, "i").await.unwrap();

    let requests = platform.requests();
    let routes: Vec<_> = requests.iter().map(Request::route).collect();
    assert_eq!(routes, ["completion", "status", "issue-tracker-proxy"]);
    let mut keys = HashSet::new();
    for request in &requests {
        assert_eq!((request.protocol, request.method.as_str()), (H2, "POST"));
        assert_eq!(format!("{}://{}", request.scheme, request.authority), platform.url);
        assert_eq!(
            request.header("authorization"),
            Some(format!("Bearer {TOKEN}").as_str())
        );
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("user-agent"), Some("runner/7"));
        assert_eq!(
            request.header("content-length"),
            Some(request.body.len().to_string().as_str())
        );
        assert_eq!(request.header("host"), None);
        keys.extend(request.header("idempotency-key"));
    }
    assert_eq!(requests[0].json()["summary"], "Done.");
    assert_eq!(
        requests[2].json(),
        json!({"method": "updateIssueStatus", "args": ["i", "Finished"]})
    );
    // Each request has a connection of its own.
    assert_eq!(platform.connections(), [H2; 3]);
}

#[actix_rt::test]
async fn many_calls_at_once_get_their_own_answers() {
    let platform = Platform::start(&[H2], vec![Step::Name; 128]);
    let poster = start(platform.options());
    for round in 0..2 {
        let issues: Vec<_> = (0..64).map(|call| format!("issue-{round}-{call}")).collect();
        let replies = join_all(issues.iter().map(|issue| update(&poster, issue))).await;
        for (issue, reply) in issues.iter().zip(replies) {
            assert_eq!(reply.unwrap_err().permanent().unwrap().body, format!("X: {issue}"));
        }
    }
    assert_eq!(platform.connections(), [H2; 128]);
}

#[actix_rt::test]
async fn http1_is_spoken_where_it_can_be() {
    for alpn in [[H2, HTTP1].as_slice(), &[HTTP1, H2], &[HTTP1], &[]] {
        let platform = Platform::start(alpn, []);
        let poster = start(platform.options());
        post(&poster, "s").await.unwrap();
        update(&poster, "i").await.unwrap();
        let requests = platform.requests();
        assert!(requests.iter().all(|request| request.protocol == HTTP1), "{alpn:?}");
        assert_eq!(platform.connections().len(), 1, "{alpn:?}");
    }
}

#[actix_rt::test]
async fn a_reset_or_a_connection_that_ends_without_an_answer_is_transient() {
    for step in [
        Step::Reset(Reason::CANCEL),
        Step::Reset(Reason::INTERNAL_ERROR),
        Step::Reset(Reason::NO_ERROR),
        Step::Close,
        Step::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ] {
        let (error, may_have_been_delivered) = fault(step.clone()).await;
        assert!(matches!(error, AttemptError::Disconnected(_)), "{step:?}: {error:?}");
        assert!(may_have_been_delivered, "{step:?}");
    }
}

#[actix_rt::test]
async fn an_answer_that_breaks_off_counts_for_what_came_of_it() {
    let (error, may_have_been_delivered) = fault(Step::BreakOff).await;
    assert!(
        matches!(error, AttemptError::Unrecognized { status_code: 200, .. }),
        "{error:?}"
    );
    assert!(may_have_been_delivered);
    // A session call is delivered by the head alone.
    let platform = Platform::start(&[H2], vec![Step::BreakOff; 2]);
    let receipt = post(&start(platform.options()), "s").await.unwrap();
    assert_eq!((receipt.completion.attempts, receipt.status.attempts), (1, 1));
}

#[actix_rt::test]
async fn an_answer_that_does_not_come_is_a_timeout() {
    let platform = Platform::start(&[H2], [Step::Stall, Step::Stall]);
    let poster = start(platform.options().timeout(SECOND).max_attempts(2));
    let error = update(&poster, "i").await.unwrap_err();
    assert!(
        matches!(
            error.transient().unwrap().last,
            AttemptError::Timeout {
                stage: Stage::Waiting,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.may_have_been_delivered());
    update(&poster, "i").await.unwrap();
}

#[actix_rt::test]
async fn an_interim_answer_is_not_the_answer() {
    // `:status: 103`; `:status: 200`; the body.
    let interim = b"\0\0\x05\x01\x04\0\0\0\x01\x08\x03103".as_slice();
    let head = b"\0\0\x01\x01\x04\0\0\0\x01\x88".as_slice();
    let body = [b"\0\0\x10\0\x01\0\0\0\x01", SUCCESS.as_bytes()].concat();
    let platform = Platform::start(&[H2], [Step::Raw([SETTINGS, interim, interim, head, &body].concat())]);
    update(&start(platform.options().max_attempts(1)), "i").await.unwrap();
}

#[actix_rt::test]
async fn a_long_answer_is_read_to_a_limit() {
    let platform = Platform::start(&[H2], vec![Step::Answer(400, "x".repeat(4 << 20)); 3]);
    let poster = start(platform.options());
    for _ in 0..3 {
        let error = update(&poster, "i").await.unwrap_err();
        assert_eq!(error.permanent().unwrap().body.len(), 4096);
    }
    update(&poster, "i").await.unwrap();
}

#[actix_rt::test]
async fn a_long_request_is_sent_whole_or_answered_early() {
    let platform = Platform::start(&[H2], []);
    let poster = start(platform.options());
    poster.send(long_result("s")).await.unwrap().unwrap();
    assert_eq!(platform.requests()[0].json()["summary"], "x".repeat(1 << 20));
    platform.script([Step::AnswerEarly(413)]);
    let reply = poster.send(long_result("s")).await.unwrap();
    assert_eq!(post_outcome(&reply), "permanent:413");
}

#[actix_rt::test]
async fn a_platform_that_changes_its_protocol_is_followed_within_an_attempt() {
    let platform = Platform::start(&[H2], []);
    let poster = start(platform.options().max_attempts(1));
    for protocol in [H2, HTTP1, H2, HTTP1] {
        platform.speak(&[protocol]);
        let issues: Vec<_> = (0..8).map(|call| format!("issue-{call}")).collect();
        for reply in join_all(issues.iter().map(|issue| update(&poster, issue))).await {
            reply.unwrap();
        }
        let requests = platform.requests();
        assert!(
            requests
                .iter()
                .rev()
                .take(8)
                .all(|request| request.protocol == protocol)
        );
        platform.hang_up().await;
    }
}

#[actix_rt::test]
async fn a_platform_that_agrees_to_no_protocol_is_spoken_to_in_http1_by_our_own_means() {
    let platform = Platform::start(&[H2], []);
    let poster = start(platform.options().max_attempts(1));
    update(&poster, "i").await.unwrap();
    platform.hang_up().await;
    platform.speak(&[]);
    for _ in 0..3 {
        update(&poster, "i").await.unwrap();
    }
    // The first by the HTTP/2 client, and only that.
    let connections: Vec<_> = platform.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1, 2, 2]);
}

#[actix_rt::test]
async fn a_request_that_is_not_read_is_a_timeout() {
    let platform = Platform::start(&[H2], [Step::NeverRead, Step::NeverRead]);
    let poster = start(platform.options().timeout(SECOND).max_attempts(2));
    let error = poster.send(long_result("s")).await.unwrap().unwrap_err();
    let completion = error.completion().unwrap();
    assert!(
        matches!(
            completion.transient().unwrap().last,
            AttemptError::Timeout {
                stage: Stage::Sending,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(completion.may_have_been_delivered());
    assert!(error.status().is_none());
    // Each attempt, and the status, had a connection of its own.
    assert_eq!(platform.connections(), [H2; 3]);
    poster.send(long_result("s")).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn a_request_that_is_given_up_in_its_middle_costs_nobody_else_anything() {
    let platform = Platform::start(&[H2], [Step::NeverRead]);
    let poster = start(platform.options().max_attempts(1));
    let cancellation = CancellationToken::new();
    let cancelled = poster.send(long_result("s").with_cancellation(cancellation.clone()));
    let cancelled = actix_rt::spawn(cancelled);
    platform.requested(1).await;
    let beside = ["a", "b", "c"].map(|session| actix_rt::spawn(poster.send(long_result(session))));
    actix_rt::task::yield_now().await;
    cancellation.cancel();
    for reply in join_all(beside).await {
        reply.unwrap().unwrap().unwrap();
    }
    let error = cancelled.await.unwrap().unwrap().unwrap_err();
    assert!(error.completion().unwrap().may_have_been_delivered(), "{error:?}");
    poster.send(long_result("s")).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn a_request_that_is_given_back_was_not_delivered() {
    // The end of the connection (GOAWAY), before the first request.
    let go_away = [SETTINGS, b"\0\0\x08\x07\0\0\0\0\0", &[0; 8]].concat();
    for step in [Step::Reset(Reason::REFUSED_STREAM), Step::Raw(go_away)] {
        let (error, may_have_been_delivered) = fault(step.clone()).await;
        assert!(matches!(error, AttemptError::Refused(_)), "{step:?}: {error:?}");
        assert!(!may_have_been_delivered, "{step:?}");
    }
}

#[actix_rt::test]
async fn what_the_platform_says_at_the_end_of_a_connection_is_not_repeated() {
    let words: &[u8; 24] = b"the token was tok-s3cret";
    let mut go_away = [SETTINGS, b"\0\0\x20\x07\0\0\0\0\0"].concat();
    // After no stream, with an ENHANCE_YOUR_CALM.
    go_away.extend([0, 0, 0, 0, 0, 0, 0, 11]);
    go_away.extend(words);
    let (error, _) = fault(Step::Raw(go_away)).await;
    let source = std::error::Error::source(&error).unwrap();
    assert!(!format!("{error:?} {source}").contains("s3cret"), "{error:?}");
    assert!(source.to_string().starts_with("HTTP/2: "), "{source}");
}

/// What a [`Platform`] does with a request.
#[derive(Clone, Debug)]
enum Step {
    /// Reads it and answers with this status and body.
    Answer(u16, String),
    /// As the proxy refuses a call, with the name of the issue.
    Name,
    /// Answers with this status, without reading the body.
    AnswerEarly(u16),
    /// Reads it and resets its stream.
    Reset(Reason),
    /// Reads it and closes the connection.
    Close,
    /// Reads it and closes the connection in the middle of the answer's body.
    BreakOff,
    /// Reads it and says nothing.
    Stall,
    /// Does not read its body.
    NeverRead,
    /// Reads it and writes these frames, and nothing else for as long as the connection lasts.
    Raw(Vec<u8>),
}

/// A connection is to write what there is, and then no more.
struct HangUp;

/// A request as it came.
#[derive(Clone, Debug)]
struct Request {
    /// Which connection it came on, from 0.
    connection: usize,
    protocol: &'static str,
    method: String,
    scheme: String,
    authority: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn route(&self) -> &str {
        self.path.rsplit('/').next().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        Some(value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A platform that speaks TLS as `localhost`, and one of these protocols within.
struct Platform {
    url: String,
    authority: String,
    shared: Arc<Shared>,
}

struct Shared {
    alpn: Mutex<Vec<Vec<u8>>>,
    steps: Mutex<VecDeque<Step>>,
    requests: watch::Sender<Vec<Request>>,
    /// What was agreed on, for each connection.
    connections: Mutex<Vec<String>>,
    orders: Mutex<Vec<UnboundedSender<HangUp>>>,
    /// How many connections are closed.
    closed: watch::Sender<usize>,
}

impl Platform {
    /// It does a step of the script with each request; after the last, it answers with success.
    fn start(alpn: &[&str], steps: impl IntoIterator<Item = Step>) -> Self {
        let authority = Authority::new();
        let (certificate, key) = authority.issue(params("localhost"));
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let platform = Self {
            url: format!("https://localhost:{}", listener.local_addr().unwrap().port()),
            authority: authority.pem(),
            shared: Arc::new(Shared {
                alpn: Mutex::default(),
                steps: Mutex::new(steps.into_iter().collect()),
                requests: watch::Sender::default(),
                connections: Mutex::default(),
                orders: Mutex::default(),
                closed: watch::Sender::default(),
            }),
        };
        platform.speak(alpn);
        let shared = Arc::clone(&platform.shared);
        // It ends with the test's process.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(listen(listener, config, shared));
        });
        platform
    }

    /// From the next connection on.
    fn speak(&self, alpn: &[&str]) {
        *self.shared.alpn.lock().unwrap() = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    }

    fn options(&self) -> OptionsBuilder {
        options(&self.url).add_root_certificates_pem(self.authority.clone())
    }

    fn script(&self, steps: impl IntoIterator<Item = Step>) {
        *self.shared.steps.lock().unwrap() = steps.into_iter().collect();
    }

    fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    fn connections(&self) -> Vec<String> {
        self.shared.connections.lock().unwrap().clone()
    }

    /// Closes all connections without a word, and waits until the other side knows.
    async fn hang_up(&self) {
        for connection in self.shared.orders.lock().unwrap().drain(..) {
            let _ = connection.send(HangUp);
        }
        self.closed(self.connections().len()).await;
    }

    /// Waits until so many connections are closed (those of HTTP/2 by both sides).
    async fn closed(&self, connections: usize) {
        await_state(&self.shared.closed, |closed| *closed >= connections).await;
    }

    /// Waits until so many requests have come.
    async fn requested(&self, requests: usize) {
        await_state(&self.shared.requests, |seen| seen.len() >= requests).await;
    }
}

async fn await_state<T>(state: &watch::Sender<T>, is_reached: impl FnMut(&T) -> bool) {
    let mut state = state.subscribe();
    timeout(20 * SECOND, state.wait_for(is_reached))
        .await
        .expect("in time")
        .unwrap();
}

impl Shared {
    /// A way to order a connection about: the sending end, kept here too, and the other.
    fn take_orders(&self) -> (UnboundedSender<HangUp>, UnboundedReceiver<HangUp>) {
        let (order, orders) = unbounded_channel();
        self.orders.lock().unwrap().push(order.clone());
        (order, orders)
    }

    fn next_if_raw(&self) -> Option<Vec<u8>> {
        let mut steps = self.steps.lock().unwrap();
        let Some(Step::Raw(frames)) = steps.front().cloned() else {
            return None;
        };
        steps.pop_front();
        Some(frames)
    }
}

async fn listen(listener: TcpListener, config: ServerConfig, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut config, shared) = (config.clone(), Arc::clone(&shared));
        config.alpn_protocols = shared.alpn.lock().unwrap().clone();
        tokio::spawn(async move {
            let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await else {
                return;
            };
            let agreed = String::from_utf8(stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec()).unwrap();
            let connection = {
                let mut connections = shared.connections.lock().unwrap();
                connections.push(agreed.clone());
                connections.len() - 1
            };
            let _ = if agreed != H2 {
                serve_http1(stream, connection, &shared).await
            } else if let Some(frames) = shared.next_if_raw() {
                serve_raw(stream, &frames).await
            } else {
                serve_http2(stream, connection, &shared).await.map_err(io::Error::other)
            };
            shared.closed.send_modify(|closed| *closed += 1);
        });
    }
}

async fn serve_http2(stream: TlsStream<TcpStream>, connection: usize, shared: &Arc<Shared>) -> Result<(), h2::Error> {
    let (order, mut orders) = shared.take_orders();
    let socket = SockRef::from(stream.get_ref().0).try_clone().unwrap();
    let mut http2 = h2::server::handshake(stream).await?;
    loop {
        let next = match select(pin!(http2.accept()), pin!(orders.recv())).await {
            Either::Left((None, _)) => return Ok(()),
            Either::Left((Some(request), _)) => Either::Left(request?),
            Either::Right((order, _)) => Either::Right(order.unwrap()),
        };
        match next {
            Either::Left((request, respond)) => {
                tokio::spawn(answer(request, respond, connection, Arc::clone(shared), order.clone()));
            }
            Either::Right(HangUp) => {
                let _ = poll_fn(|cx| http2.poll_closed(cx)).now_or_never();
                // What came meanwhile is still read, lest the system take back what was written.
                socket.shutdown(Shutdown::Write).unwrap();
            }
        }
    }
}

async fn answer(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    shared: Arc<Shared>,
    order: UnboundedSender<HangUp>,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let step = shared.steps.lock().unwrap().pop_front();
    let step = step.unwrap_or(Step::Answer(200, SUCCESS.into()));
    let mut body = Vec::new();
    if !matches!(step, Step::NeverRead | Step::AnswerEarly(_)) {
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            body.extend(chunk);
        }
    }
    let request = Request {
        connection,
        protocol: H2,
        method: head.method.to_string(),
        scheme: head.uri.scheme_str().unwrap_or_default().into(),
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        path: head.uri.path().into(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body: String::from_utf8(body).unwrap(),
    };
    shared.requests.send_modify(|requests| requests.push(request.clone()));
    let mut answer = |status: u16, body: String, is_whole: bool| {
        let head = Response::builder()
            .status(status)
            .header("content-type", "application/json");
        let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
        stream.send_data(body.into(), is_whole)?;
        Ok::<_, h2::Error>(stream)
    };
    match step {
        Step::Answer(status, body) => {
            answer(status, body, true)?;
        }
        Step::Name => {
            let issue = request.json()["args"][0].clone();
            let error = json!({"success": false, "error": {"code": "X", "message": issue}});
            answer(200, error.to_string(), true)?;
        }
        Step::AnswerEarly(status) => {
            answer(status, String::new(), true)?;
        }
        Step::Reset(reason) => respond.send_reset(reason),
        Step::Close => {
            let _ = order.send(HangUp);
            // The stream lasts as long as the connection.
            pending::<()>().await;
        }
        Step::BreakOff => {
            let _stream = answer(200, r#"{"success":"#.into(), false)?;
            let _ = order.send(HangUp);
            pending::<()>().await;
        }
        Step::Stall | Step::NeverRead => {
            poll_fn(|cx| respond.poll_reset(cx)).await?;
        }
        Step::Raw(_) => panic!("the connection is in the hands of h2 already"),
    }
    drop(stream);
    Ok(())
}

/// Reads a request, but understands nothing of it.
async fn serve_raw(mut stream: TlsStream<TcpStream>, frames: &[u8]) -> io::Result<()> {
    const END_STREAM: u8 = 1;
    stream
        .read_exact(&mut [0; "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()])
        .await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        stream
            .read_exact(&mut vec![0; u32::from_be_bytes([0, a, b, c]) as usize])
            .await?;
        if matches!(kind, 0 | 1) && flags & END_STREAM != 0 {
            break;
        }
    }
    stream.write_all(frames).await?;
    stream.flush().await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn serve_http1(mut stream: TlsStream<TcpStream>, connection: usize, shared: &Shared) -> io::Result<()> {
    let (_order, mut orders) = shared.take_orders();
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match select(pin!(stream.read_u8()), pin!(orders.recv())).await {
                Either::Left((byte, _)) => head.push(byte?),
                Either::Right(_) => return Ok(()),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let start = lines.next().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let header = |name| {
            headers
                .iter()
                .find(|(header, _)| header == name)
                .map(|(_, value)| value.clone())
        };
        let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await?;
        let request = Request {
            connection,
            protocol: HTTP1,
            method: start.split(' ').next().unwrap().into(),
            scheme: "https".into(),
            authority: header("host").unwrap(),
            path: start.split(' ').nth(1).unwrap().into(),
            headers,
            body: String::from_utf8(body).unwrap(),
        };
        shared.requests.send_modify(|requests| requests.push(request));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{SUCCESS}", SUCCESS.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}
