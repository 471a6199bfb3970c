//! Whatever the platform answers, whoever cancels and whatever crashes: every message is answered once and truly,
//! in order, and nothing is left behind.
//!
//! A failure prints the smallest case that shows it. `PROPTEST_CASES` sets how many are tried.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use actix_rt::{System, time::sleep};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use result_poster::{
    CallError, CreateComment, GetStats, PostError, PostResult, UpdateIssueStatus,
    testing::{Crash, ManualClock},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::{ScriptedProvider, completed, options, start};

const MAX_ATTEMPTS: u32 = 3;
const MAX_IN_FLIGHT: usize = 8;

/// What the platform does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    TakenLate,
    Rejected,
    Unauthorized,
    Redirect,
    Unavailable,
    TooMany,
    Page,
    HintThenTaken,
    CutShort,
    Reset,
    SilenceThenReset,
    HintThenReset,
    ToTheClose,
    TakenAndRejected,
}

/// What the poster may conclude from the last answer to a call.
#[derive(Debug, PartialEq, Eq)]
enum Conclusion {
    Delivered,
    Permanent,
    Transient,
}

impl Answer {
    const ALL: [Self; 15] = [
        Self::Taken,
        Self::TakenLate,
        Self::Rejected,
        Self::Unauthorized,
        Self::Redirect,
        Self::Unavailable,
        Self::TooMany,
        Self::Page,
        Self::HintThenTaken,
        Self::CutShort,
        Self::Reset,
        Self::SilenceThenReset,
        Self::HintThenReset,
        Self::ToTheClose,
        Self::TakenAndRejected,
    ];

    fn concludes(self, proxy: bool) -> Conclusion {
        match self {
            Self::Taken | Self::TakenLate | Self::HintThenTaken | Self::ToTheClose | Self::TakenAndRejected => {
                Conclusion::Delivered
            }
            // A session's endpoint has spoken with its head.
            Self::CutShort if !proxy => Conclusion::Delivered,
            Self::Rejected | Self::Unauthorized | Self::Redirect => Conclusion::Permanent,
            _ => Conclusion::Transient,
        }
    }

    fn write(self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut send = |status: &str, extra: &str, body: &str| {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\n{extra}content-length: {length}\r\n\r\n{body}"
            )
        };
        let taken = r#"{"success":true}"#;
        match self {
            Self::Taken => send("200 OK", "", taken),
            Self::TakenLate => {
                thread::sleep(Duration::from_millis(3));
                send("200 OK", "", taken)
            }
            Self::Rejected => send("404 Not Found", "", "{}"),
            Self::Unauthorized => send("401 Unauthorized", "", ""),
            Self::Redirect => send("307 Temporary Redirect", "location: /login\r\n", ""),
            Self::Unavailable => send("503 Service Unavailable", "", "later"),
            Self::TooMany => send("429 Too Many Requests", "retry-after: 0\r\n", ""),
            Self::Page => send("200 OK", "content-type: text/html\r\n", "<html>"),
            Self::HintThenTaken => {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")?;
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{taken}",
                    taken.len()
                )
            }
            Self::CutShort => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"succ")?;
                stream.shutdown(Shutdown::Both)
            }
            Self::HintThenReset => {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")?;
                stream.shutdown(Shutdown::Both)
            }
            Self::ToTheClose => {
                write!(stream, "HTTP/1.1 200 OK\r\n\r\n{taken}")?;
                stream.shutdown(Shutdown::Both)
            }
            Self::TakenAndRejected => {
                // In one piece: what comes once the next request is on its way can't be told from its answer.
                let length = taken.len();
                let both = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{taken}\
                     HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\nfor nobody"
                );
                stream.write_all(both.as_bytes())
            }
            Self::Reset => stream.shutdown(Shutdown::Both),
            Self::SilenceThenReset => {
                thread::sleep(Duration::from_millis(20));
                stream.shutdown(Shutdown::Both)
            }
        }
    }
}

/// A request as the platform saw it.
#[derive(Debug, Clone)]
struct Seen {
    /// The message that it belongs to.
    message: usize,
    route: String,
    key: String,
    answer: Answer,
}

#[derive(Default)]
struct Platform {
    answers: Vec<Answer>,
    seen: Mutex<Vec<Seen>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Platform {
    fn start(answers: Vec<Answer>) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let platform = Arc::new(Self {
            answers,
            ..Self::default()
        });
        let shared = Arc::clone(&platform);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream.unwrap()));
            }
        });
        (url, platform)
    }

    fn serve(&self, mut stream: TcpStream) {
        while let Some((route, key, body)) = read(&mut stream) {
            let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
            let answer = {
                let mut seen = self.seen.lock().unwrap();
                let answer = self.answers[seen.len() % self.answers.len()];
                let message = number(&body);
                seen.push(Seen {
                    message,
                    route,
                    key,
                    answer,
                });
                answer
            };
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            if answer.write(&mut stream).is_err() {
                return;
            }
        }
    }
}

/// Reads a request: the last segment of its path, its idempotency key, its body.
fn read(stream: &mut TcpStream) -> Option<(String, String, Value)> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).ok().filter(|&count| count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let length: usize = header("content-length").unwrap().parse().unwrap();
        let body = &bytes[end + 4..];
        if body.len() < length {
            continue;
        }
        let route = head.split(' ').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        return Some((
            route,
            header("idempotency-key").unwrap().to_owned(),
            serde_json::from_slice(body).unwrap(),
        ));
    }
}

/// The message's number, which each of its bodies holds in one field or another.
fn number(body: &Value) -> usize {
    let text = body["summary"]
        .as_str()
        .or(body["worktreePath"].as_str())
        .or(body["args"][1].as_str());
    text.unwrap().parse().unwrap()
}

#[derive(Debug, Clone)]
struct Message {
    kind: Kind,
    /// Its session or issue.
    key: usize,
    /// Cancelled after so many milliseconds.
    cancelled_after: Option<u64>,
    /// What befalls the poster right after it was sent.
    crash: Option<Crash>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Result,
    Status,
    Comment,
}

fn cases() -> impl Strategy<Value = (Vec<Message>, Vec<Answer>, bool)> {
    let message = (
        select(&[Kind::Result, Kind::Status, Kind::Comment][..]),
        0..24_usize,
        prop::option::weighted(0.1, 0..20_u64),
        prop::option::weighted(0.01, select(&[Crash::Stop, Crash::Terminate, Crash::Panic][..])),
    );
    let message = message.prop_map(|(kind, key, cancelled_after, crash)| Message {
        kind,
        key,
        cancelled_after,
        crash,
    });
    // Mostly good answers, so that more than failures is seen.
    let answer = prop_oneof![2 => Just(Answer::Taken), 3 => select(&Answer::ALL[..])];
    (vec(message, 1..300), vec(answer, 1..60), any::<bool>())
}

/// The replies of a message: one call's, or the two of a result.
type Replies = Vec<Result<(), CallError>>;

async fn run(messages: Vec<Message>, answers: Vec<Answer>, cursed: bool) {
    let (url, platform) = Platform::start(answers);
    let options = options(url)
        .max_attempts(MAX_ATTEMPTS)
        .max_in_flight(MAX_IN_FLIGHT)
        .credential_provider(ScriptedProvider::tokens(["a", "b", "c", "d"]))
        .clock(ManualClock::new());
    // The first two times that the client is built, that panics.
    let built = AtomicUsize::new(0);
    let options = options.customize_client(move |client| {
        let number = built.fetch_add(1, Ordering::Relaxed);
        assert!(!cursed || number >= 2, "a cursed client");
        client
    });
    let poster = start(options);

    let mut crashes = 0;
    let mut replies = Vec::new();
    for (number, message) in messages.iter().enumerate() {
        let token = CancellationToken::new();
        if let Some(after) = message.cancelled_after {
            let token = token.clone();
            actix_rt::spawn(async move {
                sleep(Duration::from_millis(after)).await;
                token.cancel();
            });
        }
        let (key, text) = (format!("key-{}", message.key), number.to_string());
        let poster_of_message = poster.clone();
        let kind = message.kind;
        replies.push(actix_rt::spawn(async move {
            let poster = poster_of_message;
            match kind {
                Kind::Result => {
                    let result = completed().with_summary(&text).with_worktree_path(&text);
                    let message = PostResult::new(key, result).with_cancellation(token);
                    match poster.send(message).await.expect("a reply") {
                        Ok(_) => vec![Ok(()), Ok(())],
                        Err(error) => split(error),
                    }
                }
                Kind::Status => {
                    let message = UpdateIssueStatus::new(key, text).with_cancellation(token);
                    vec![poster.send(message).await.expect("a reply").map(|_| ())]
                }
                Kind::Comment => {
                    let message = CreateComment::new(key, text).with_cancellation(token);
                    vec![poster.send(message).await.expect("a reply").map(|_| ())]
                }
            }
        }));
        if let (Some(crash), true) = (message.crash, crashes < 5) {
            crashes += 1;
            poster.do_send(crash);
        }
        // So that they do not all come in one go, and in the order of their numbers.
        actix_rt::task::yield_now().await;
    }
    let mut answered: Vec<Replies> = Vec::new();
    for reply in replies {
        answered.push(reply.await.unwrap());
    }

    let seen = platform.seen.lock().unwrap().clone();
    check_order(&messages, &seen);
    check_replies(&messages, &answered, &seen);
    if messages.iter().all(|message| message.cancelled_after.is_none()) {
        assert!(platform.most_in_flight.load(Ordering::SeqCst) <= MAX_IN_FLIGHT);
    }
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.running, stats.waiting, stats.lanes), (0, 0, 0));
    assert_eq!(
        stats.accepted,
        stats.delivered + stats.permanent + stats.transient + stats.cancelled + stats.panics
    );
    let calls: usize = answered.iter().map(Vec::len).sum();
    assert_eq!((stats.accepted, stats.refused), (calls as u64, 0));
    assert_eq!(stats.restarts, crashes);
}

/// A result's two calls; the one that an error does not name was delivered.
fn split(error: PostError) -> Replies {
    match error {
        PostError::Completion(error) => vec![Err(error), Ok(())],
        PostError::Status(error) => vec![Ok(()), Err(error)],
        PostError::Both { completion, status } => vec![Err(completion), Err(status)],
        other => panic!("{other:?}"),
    }
}

/// Within a key the messages came in order, and in a result the completion before the status.
fn check_order(messages: &[Message], seen: &[Seen]) {
    let mut lanes: BTreeMap<(bool, usize), Vec<(usize, &str)>> = BTreeMap::new();
    for request in seen {
        let message = &messages[request.message];
        if message.cancelled_after.is_some() {
            // What was cancelled on its way may still be read by the platform, later than what came next.
            continue;
        }
        let lane = lanes.entry((message.kind == Kind::Result, message.key)).or_default();
        lane.push((request.message, &request.route));
    }
    for lane in lanes.values() {
        // "completion" < "status", and an issue's routes are all the same.
        assert!(lane.is_sorted(), "{lane:?}");
    }
}

/// Every reply is what the platform's last answer to that call means.
fn check_replies(messages: &[Message], answered: &[Replies], seen: &[Seen]) {
    let mut calls: HashMap<&str, Vec<&Seen>> = HashMap::new();
    for request in seen {
        calls.entry(&request.key).or_default().push(request);
    }
    for requests in calls.values() {
        // One call, one message; and no more attempts than allowed, with one more for other credentials.
        assert!(requests.iter().all(|request| request.message == requests[0].message));
        assert!(requests.len() <= MAX_ATTEMPTS as usize + 1, "{requests:?}");
    }
    for (number, replies) in answered.iter().enumerate() {
        for (index, reply) in replies.iter().enumerate() {
            let proxy = messages[number].kind != Kind::Result;
            let route = ["completion", "status"][index];
            let last = seen
                .iter()
                .rfind(|request| request.message == number && (proxy || request.route == route));
            let concluded = last.map(|request| request.answer.concludes(proxy));
            match reply {
                Ok(_) => assert_eq!(concluded, Some(Conclusion::Delivered), "{number}"),
                Err(CallError::Permanent(_)) => assert_eq!(concluded, Some(Conclusion::Permanent), "{number}"),
                Err(CallError::Transient(error)) => {
                    assert_eq!(concluded, Some(Conclusion::Transient), "{number}");
                    assert_eq!(error.attempts, MAX_ATTEMPTS);
                }
                Err(error @ CallError::Cancelled { .. }) => {
                    assert!(messages[number].cancelled_after.is_some());
                    // What was certainly not sent was not seen.
                    assert!(
                        error.may_have_been_delivered() || concluded != Some(Conclusion::Delivered),
                        "{number}"
                    );
                }
                Err(CallError::Internal { message }) => assert_eq!(message, "a cursed client"),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn every_message_is_answered_once_and_truly() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(8, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        max_shrink_iters: 50,
        ..ProptestConfig::default()
    });
    runner
        .run(&cases(), |(messages, answers, cursed)| {
            System::new().block_on(run(messages, answers, cursed));
            Ok(())
        })
        .unwrap();
}
