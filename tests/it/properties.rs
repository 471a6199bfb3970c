//! With any answers, cancellations and crashes, every message gets one correct reply, lanes stay in order, and nothing
//! is left over.
//!
//! A failure prints the smallest case that shows it. `PROPTEST_CASES` sets how many cases are tried.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write as _,
    net::{Shutdown, TcpStream},
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
    CallError, CancelledBy, CreateComment, PostError, PostResult, UpdateIssueStatus,
    events::GetStats,
    testing::{Crash, ManualClock},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::{
    completed, options,
    provider::ScriptedProvider,
    raw_server::{SUCCESS, read_request, response, serve, success, unsized_response},
    start,
};

const MAX_ATTEMPTS: u32 = 3;
const MAX_IN_FLIGHT: usize = 8;

#[test]
fn every_message_gets_one_correct_reply() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(8, |cases| cases.parse().unwrap()),
        failure_persistence: None,
        max_shrink_iters: 50,
        ..ProptestConfig::default()
    });
    runner
        .run(&cases(), |(messages, answers, client_panics)| {
            System::new().block_on(run(messages, answers, client_panics));
            Ok(())
        })
        .unwrap();
}

/// The platform's answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Success,
    SlowSuccess,
    Rejected,
    Unauthorized,
    Redirect,
    Unavailable,
    TooManyRequests,
    Page,
    HintThenSuccess,
    Truncated,
    Reset,
    SilenceThenReset,
    HintThenReset,
    SuccessUntilClose,
    SuccessAndStray,
}

/// The outcome of a call whose last answer was this.
#[derive(Debug, PartialEq, Eq)]
enum Conclusion {
    Delivered,
    Permanent,
    Transient,
}

impl Answer {
    const ALL: [Self; 15] = [
        Self::Success,
        Self::SlowSuccess,
        Self::Rejected,
        Self::Unauthorized,
        Self::Redirect,
        Self::Unavailable,
        Self::TooManyRequests,
        Self::Page,
        Self::HintThenSuccess,
        Self::Truncated,
        Self::Reset,
        Self::SilenceThenReset,
        Self::HintThenReset,
        Self::SuccessUntilClose,
        Self::SuccessAndStray,
    ];

    fn concludes(self, is_issue_call: bool) -> Conclusion {
        match self {
            Self::Success
            | Self::SlowSuccess
            | Self::HintThenSuccess
            | Self::SuccessUntilClose
            | Self::SuccessAndStray => Conclusion::Delivered,
            // A session call is delivered by the head of its answer.
            Self::Truncated if !is_issue_call => Conclusion::Delivered,
            Self::Rejected | Self::Unauthorized | Self::Redirect => Conclusion::Permanent,
            _ => Conclusion::Transient,
        }
    }

    fn write(self, stream: &mut TcpStream) -> std::io::Result<()> {
        const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        let answer = match self {
            Self::Success => success(),
            Self::SlowSuccess => {
                thread::sleep(Duration::from_millis(3));
                success()
            }
            Self::Rejected => response(404, "", "{}"),
            Self::Unauthorized => response(401, "", ""),
            Self::Redirect => response(307, "location: /login\r\n", ""),
            Self::Unavailable => response(503, "", "later"),
            Self::TooManyRequests => response(429, "retry-after: 0\r\n", ""),
            Self::Page => response(200, "content-type: text/html\r\n", "<html>"),
            Self::HintThenSuccess => {
                stream.write_all(HINT)?;
                success()
            }
            // In one piece: the poster can't tell a stray answer that follows the next request from the answer to it.
            Self::SuccessAndStray => success() + &response(404, "", "stray"),
            Self::Truncated => {
                stream.write_all(unsized_response(200, "content-length: 100\r\n", "{\"succ").as_bytes())?;
                return stream.shutdown(Shutdown::Both);
            }
            Self::HintThenReset => {
                stream.write_all(HINT)?;
                return stream.shutdown(Shutdown::Both);
            }
            Self::SuccessUntilClose => {
                stream.write_all(unsized_response(200, "", SUCCESS).as_bytes())?;
                return stream.shutdown(Shutdown::Both);
            }
            Self::Reset => return stream.shutdown(Shutdown::Both),
            Self::SilenceThenReset => {
                thread::sleep(Duration::from_millis(20));
                return stream.shutdown(Shutdown::Both);
            }
        };
        stream.write_all(answer.as_bytes())
    }
}

/// A request as the platform received it.
#[derive(Debug, Clone)]
struct SeenRequest {
    /// The number of its message.
    message: usize,
    route: String,
    key: String,
    answer: Answer,
}

#[derive(Default)]
struct RandomPlatform {
    answers: Vec<Answer>,
    seen: Mutex<Vec<SeenRequest>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl RandomPlatform {
    /// A platform that answers its requests with these answers, over and over.
    fn start(answers: Vec<Answer>) -> (String, Arc<Self>) {
        let platform = Arc::new(Self {
            answers,
            ..Self::default()
        });
        let shared = Arc::clone(&platform);
        let server = serve(move |stream| shared.answer_all(stream));
        (server.url(), platform)
    }

    fn answer_all(&self, mut stream: TcpStream) {
        while let Some(request) = read_request(&mut stream) {
            let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
            let answer = {
                let mut seen = self.seen.lock().unwrap();
                let answer = self.answers[seen.len() % self.answers.len()];
                seen.push(SeenRequest {
                    message: message_number(&request.json()),
                    route: request.route().to_owned(),
                    key: request.header("idempotency-key").unwrap().to_owned(),
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

/// The number of a message, which is in one field or another of each of its bodies.
fn message_number(body: &Value) -> usize {
    let text = body["summary"]
        .as_str()
        .or(body["worktreePath"].as_str())
        .or(body["args"][1].as_str());
    text.unwrap().parse().unwrap()
}

#[derive(Debug, Clone)]
struct Message {
    kind: Kind,
    /// The number of its session or issue.
    target: usize,
    /// After how many milliseconds it is cancelled.
    cancelled_after: Option<u64>,
    /// The crash of the poster right after the message was sent.
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
    let message = message.prop_map(|(kind, target, cancelled_after, crash)| Message {
        kind,
        target,
        cancelled_after,
        crash,
    });
    // Mostly success, so that not only failures are tried.
    let answer = prop_oneof![2 => Just(Answer::Success), 3 => select(&Answer::ALL[..])];
    (vec(message, 1..300), vec(answer, 1..60), any::<bool>())
}

/// The outcomes of a message's calls: one, or the two of a result.
type Replies = Vec<Result<(), CallError>>;

async fn run(messages: Vec<Message>, answers: Vec<Answer>, client_panics: bool) {
    let (url, platform) = RandomPlatform::start(answers);
    let options = options(url)
        .max_attempts(MAX_ATTEMPTS)
        .max_in_flight(MAX_IN_FLIGHT)
        .credential_provider(ScriptedProvider::tokens(["a", "b", "c", "d"]))
        .clock(ManualClock::new());
    // If at all, the first two builds of the client panic.
    let built = AtomicUsize::new(0);
    let options = options.customize_client(move |client| {
        let number = built.fetch_add(1, Ordering::Relaxed);
        assert!(!client_panics || number >= 2, "a client that panics");
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
        let (target_id, text) = (format!("target-{}", message.target), number.to_string());
        let poster_of_message = poster.clone();
        let kind = message.kind;
        replies.push(actix_rt::spawn(async move {
            let poster = poster_of_message;
            match kind {
                Kind::Result => {
                    let result = completed().with_summary(&text).with_worktree_path(&text);
                    let message = PostResult::new(target_id, result).with_cancellation(token);
                    match poster.send(message).await.expect("a reply") {
                        Ok(_) => vec![Ok(()), Ok(())],
                        Err(error) => split(error),
                    }
                }
                Kind::Status => {
                    let message = UpdateIssueStatus::new(target_id, text).with_cancellation(token);
                    vec![poster.send(message).await.expect("a reply").map(|_| ())]
                }
                Kind::Comment => {
                    let message = CreateComment::new(target_id, text).with_cancellation(token);
                    vec![poster.send(message).await.expect("a reply").map(|_| ())]
                }
            }
        }));
        if let (Some(crash), true) = (message.crash, crashes < 5) {
            crashes += 1;
            poster.do_send(crash);
        }
        // So that the messages do not all arrive at once, and in the order of their numbers.
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
    assert_eq!((stats.in_flight, stats.queued, stats.active_lanes), (0, 0, 0));
    assert_eq!(
        stats.accepted,
        stats.delivered + stats.permanent + stats.transient + stats.cancelled + stats.internal_errors
    );
    let calls: usize = answered.iter().map(Vec::len).sum();
    assert_eq!((stats.accepted, stats.refused), (calls as u64, 0));
    assert_eq!(stats.restarts, crashes);
}

/// The outcomes of a result's two calls; a call that the error does not name was delivered.
fn split(error: PostError) -> Replies {
    match error {
        PostError::Completion(error) => vec![Err(error), Ok(())],
        PostError::Status(error) => vec![Ok(()), Err(error)],
        PostError::Both { completion, status } => vec![Err(completion), Err(status)],
        other => panic!("{other:?}"),
    }
}

/// Within a lane the messages were received in order, and the completion of a result before its status.
fn check_order(messages: &[Message], seen: &[SeenRequest]) {
    let mut lanes: BTreeMap<(bool, usize), Vec<(usize, &str)>> = BTreeMap::new();
    for request in seen {
        let message = &messages[request.message];
        if message.cancelled_after.is_some() {
            // The platform may read a request that was cancelled while it was sent, later than the next one.
            continue;
        }
        let lane = lanes.entry((message.kind == Kind::Result, message.target)).or_default();
        lane.push((request.message, &request.route));
    }
    for lane in lanes.values() {
        // "completion" < "status"; and all issue calls have the same route.
        assert!(lane.is_sorted(), "{lane:?}");
    }
}

/// Every reply is the verdict on the platform's last answer to that call.
fn check_replies(messages: &[Message], answered: &[Replies], seen: &[SeenRequest]) {
    let mut calls: HashMap<&str, Vec<&SeenRequest>> = HashMap::new();
    for request in seen {
        calls.entry(&request.key).or_default().push(request);
    }
    for requests in calls.values() {
        // A key belongs to one message. Each call has at most the allowed attempts, and one re-authentication.
        assert!(requests.iter().all(|request| request.message == requests[0].message));
        assert!(requests.len() <= MAX_ATTEMPTS as usize + 1, "{requests:?}");
    }
    for (number, replies) in answered.iter().enumerate() {
        for (index, reply) in replies.iter().enumerate() {
            let is_issue_call = messages[number].kind != Kind::Result;
            let route = ["completion", "status"][index];
            let last = seen
                .iter()
                .rfind(|request| request.message == number && (is_issue_call || request.route == route));
            let concluded = last.map(|request| request.answer.concludes(is_issue_call));
            match reply {
                Ok(_) => assert_eq!(concluded, Some(Conclusion::Delivered), "{number}"),
                Err(CallError::Permanent(_)) => assert_eq!(concluded, Some(Conclusion::Permanent), "{number}"),
                Err(CallError::Transient(error)) => {
                    assert_eq!(concluded, Some(Conclusion::Transient), "{number}");
                    assert_eq!(error.attempts, MAX_ATTEMPTS);
                }
                Err(
                    error @ CallError::Cancelled {
                        by: CancelledBy::Token, ..
                    },
                ) => {
                    assert!(messages[number].cancelled_after.is_some());
                    // A call that was certainly not delivered has no success.
                    assert!(
                        error.may_have_been_delivered() || concluded != Some(Conclusion::Delivered),
                        "{number}"
                    );
                }
                Err(CallError::Internal { message }) => assert_eq!(message, "a client that panics"),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}
