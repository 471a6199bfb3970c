//! The outbox and killed processes: a result that was confirmed as durable is delivered, the calls of a target keep their
//! order, and no call is sent by two processes at once. See also `tests/attack`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use result_poster::{
    CreateComment, OptionsBuilder, PostResult,
    outbox::{OutboxInspector, OutboxOptions},
    testing::{ManualClock, Reply},
};
use serde_json::Value;

use crate::support::{
    child::{child_process, output_of},
    completed, options,
    outbox::{OutboxFixture, count_calls},
    raw_server::{read_request, response, serve, success},
    start,
    wait::{wait_for_count, wait_until},
};

#[actix_rt::test]
async fn a_process_takes_over_the_calls_of_a_killed_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (url, platform) = RecordingPlatform::start();
    let poster = start(poster_options(&url, &path, "mine"));
    let child = spawn_poster(&url, &path, "child");
    let mine = actix_rt::spawn(async move {
        for number in 0..200 {
            let message = PostResult::new(format!("mine-{number}"), completed());
            poster.send(message).await.unwrap().unwrap();
        }
        poster
    });
    let confirmed = actix_rt::task::spawn_blocking(move || confirmed_until_killed(child, Duration::from_millis(300)));
    let confirmed = confirmed.await.unwrap();
    let poster = mine.await.unwrap();
    assert!(!confirmed.is_empty());
    wait_until(|| missing(&confirmed, &platform.requests()).is_empty()).await;
    // A result is sent by the process that accepted it, unless that was killed.
    let by_other = |request: &Request| {
        request.path.contains("/sessions/") && !request.path.contains(&format!("/{}-", request.sender))
    };
    let taken_over: Vec<_> = platform.requests().into_iter().filter(by_other).collect();
    assert!(taken_over.iter().all(|request| request.sender == "mine"));
    assert_eq!(platform.sent_twice_at_once(), Vec::<String>::new());
    drop(poster);
}

#[actix_rt::test]
async fn ten_thousand_parked_calls_are_delivered_in_order_within_max_in_flight() {
    const ISSUES: usize = 500;
    const COMMENTS: usize = 20;
    const MAX_IN_FLIGHT: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (url, platform) = RecordingPlatform::start();
    // During the outage, each issue's first comment is attempted and parked, and the others are parked behind it.
    platform.is_down.store(true, Ordering::Relaxed);
    let options = poster_options(&url, &path, "delivers").max_attempts(1);
    let poster = start(options.max_in_flight(MAX_IN_FLIGHT));
    let sends = (0..COMMENTS).flat_map(|comment| (0..ISSUES).map(move |issue| (issue, comment)));
    let mut replies: FuturesUnordered<_> = sends
        .map(|(issue, comment)| poster.send(CreateComment::new(format!("issue-{issue}"), comment.to_string())))
        .collect();
    while let Some(reply) = replies.next().await {
        assert!(reply.unwrap().unwrap_err().parked().is_some());
    }
    assert!(platform.requests().is_empty());
    platform.is_down.store(false, Ordering::Relaxed);
    wait_for_count(ISSUES * COMMENTS, || platform.requests.lock().unwrap().len()).await;
    let mut comments: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for request in platform.requests() {
        let args = &request.body["args"];
        let comment = args[1].as_str().unwrap().parse().unwrap();
        comments
            .entry(args[0].as_str().unwrap().to_owned())
            .or_default()
            .push(comment);
    }
    assert_eq!(comments.len(), ISSUES);
    assert!(
        comments
            .values()
            .all(|comments| comments.iter().copied().eq(0..COMMENTS))
    );
    assert!(platform.most_in_flight() <= MAX_IN_FLIGHT);
}

#[actix_rt::test]
async fn the_calls_of_a_killed_process_are_delivered_by_its_successor_at_once() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("completion", [slow]);
    let child = spawn_poster(&fixture.platform.url(), &fixture.path(), "child");
    let killed = actix_rt::task::spawn_blocking(move || confirmed_until_killed(child, Duration::ZERO));
    let confirmed: Vec<_> = killed
        .await
        .unwrap()
        .into_iter()
        .filter(|call| !call.contains(':'))
        .collect();
    let live = fixture.live();
    assert!(!live.is_empty());
    // Both posters of the process.
    assert!(live.iter().all(|entry| !entry.owner.unwrap().is_alive));
    let ids = |session_id: &str| {
        let of_session = live.iter().filter(|entry| entry.target_id == session_id);
        of_session.map(|entry| Some(entry.id)).collect::<Vec<_>>()
    };

    // The next life posts the last result again, and does not wait: its clock stands still.
    fixture.platform.script("completion", []);
    let stored = count_calls(&fixture.path());
    let successor = poster_options(&fixture.platform.url(), &fixture.path(), "successor");
    let successor = start(successor.clock(ManualClock::new()));
    if let Some(session_id) = confirmed.last() {
        let message = PostResult::new(session_id, completed()).reply_when_durable();
        let receipt = successor.send(message).await.unwrap().unwrap();
        let known = [receipt.completion, receipt.status].map(|receipt| receipt.call_id());
        assert_eq!(known.to_vec(), ids(session_id));
        assert!(count_calls(&fixture.path()) <= stored);
    }
    fixture.emptied().await;
    // The files of the dead owners are gone, too.
    wait_until(|| fixture.owner_files().len() == 1).await;
}

#[actix_rt::test]
async fn a_message_that_killed_three_processes_is_sent_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (url, platform) = RecordingPlatform::start();
    platform.holds_poison.store(true, Ordering::Relaxed);
    for life in 1..=3 {
        let mut child = child_process("outbox_crash::child_process_posts_poison")
            .env("RESULT_POSTER_CRASH_PLATFORM", &url)
            .env("RESULT_POSTER_CRASH_OUTBOX", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(|| platform.poisoned() == life).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    platform.holds_poison.store(false, Ordering::Relaxed);
    let poster = start(poster_options(&url, &path, "last").max_in_flight(4));
    let mut sent = 0;
    while count_calls(&path) > 0 || platform.poisoned() < 4 {
        let posts = (0..8).map(|number| poster.send(PostResult::new(format!("s-{sent}-{number}"), completed())));
        for reply in futures_util::future::join_all(posts).await {
            reply.unwrap().unwrap();
        }
        sent += 1;
    }
    assert_eq!(platform.with_poison(), Vec::<String>::new());
    // The completion three times, and then the whole result once.
    let completions = platform.requests();
    let completions = completions
        .iter()
        .filter(|request| request.path == session_path(POISON, "completion"));
    assert_eq!(completions.count(), 4);
}

#[actix_rt::test]
async fn readers_do_not_disturb_a_running_poster() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    // This port has no listener, and no call is replayed during the test.
    let hour = Duration::from_secs(60 * 60);
    let outbox = OutboxOptions::builder(&path).base_delay(hour).max_delay(hour);
    let options = options("http://127.0.0.1:1").max_attempts(1);
    let poster = start(options.outbox(outbox.build().unwrap()));
    for number in 1..=4 {
        let comment = CreateComment::new(format!("issue-{number}"), "Done.");
        let error = poster.send(comment).await.unwrap().unwrap_err();
        assert!(error.parked().is_some());
        // A reader in this process, and one in another.
        drop(OutboxInspector::open(&path).unwrap());
        assert_eq!(count_in_child_process(&path), number.to_string());
    }
}

/// Not a test by itself, but a child process of one: two posters on one file post results and comments until the process is
/// killed, and print each that is durable, and what they log about the outbox.
#[actix_rt::test]
async fn child_process_posts_until_it_is_killed() {
    let Ok(url) = env::var("RESULT_POSTER_CRASH_PLATFORM") else {
        return;
    };
    let (path, name) = (
        env::var("RESULT_POSTER_CRASH_OUTBOX").unwrap(),
        env::var("RESULT_POSTER_CRASH_NAME").unwrap(),
    );
    log::set_logger(&PrintLog).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let posters = ["a", "b"].map(|letter| {
        let name = format!("{name}-{letter}");
        let poster = start(
            poster_options(&url, path.as_ref(), &name)
                .max_attempts(1)
                .max_in_flight(8),
        );
        (name, poster)
    });
    let mut replies = FuturesUnordered::new();
    for number in 0.. {
        for (name, poster) in &posters {
            let session_id = format!("{name}-{number}");
            let result = poster.send(PostResult::new(&session_id, completed()).reply_when_durable());
            replies.push(async move { (session_id, result.await.unwrap().unwrap().status.call_id()) }.boxed_local());
            // The posters of all processes share these lanes.
            let text = format!("{name}:{number}");
            let comment = CreateComment::new(format!("issue-{}", number % 4), &text).reply_when_durable();
            let comment = poster.send(comment);
            replies.push(async move { (text, comment.await.unwrap().unwrap().call_id()) }.boxed_local());
        }
        while replies.len() >= 8 {
            if let Some((call, Some(_))) = replies.next().await {
                println!("durable {call}");
            }
        }
    }
}

/// Not a test by itself, but a child process of one: it posts the result that its parent kills it for, or takes it over.
#[actix_rt::test]
async fn child_process_posts_poison() {
    let Ok(url) = env::var("RESULT_POSTER_CRASH_PLATFORM") else {
        return;
    };
    let path = env::var("RESULT_POSTER_CRASH_OUTBOX").unwrap();
    let poster = start(poster_options(&url, path.as_ref(), "killed"));
    let _ = poster
        .send(PostResult::new(POISON, completed()).reply_when_durable())
        .await;
    std::future::pending::<()>().await;
}

/// Not a test by itself, but a child process of one: it reads an outbox, and ends.
#[test]
fn child_process_counts_calls() {
    if let Ok(path) = env::var("RESULT_POSTER_CRASH_LOOK_AT") {
        let connection = rusqlite::Connection::open(path).unwrap();
        let count = connection.query_row("SELECT count(*) FROM calls", (), |row| row.get::<_, u32>(0));
        println!("calls {}", count.unwrap());
    }
}

/// Prints what is logged about the outbox: nothing, unless something is wrong with it.
struct PrintLog;

impl log::Log for PrintLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        if line.starts_with("the outbox") || line.starts_with("owner ") {
            println!("logged {line}");
        }
    }

    fn flush(&self) {}
}

/// A session whose result the platform holds, so that the process that sends it can be killed.
const POISON: &str = "poison";

fn poster_options(url: &str, path: &Path, name: &str) -> OptionsBuilder {
    let delay = Duration::from_millis(10);
    let outbox = OutboxOptions::builder(path)
        .queue("crash")
        .base_delay(delay)
        .max_delay(delay);
    options(url).user_agent(name).outbox(outbox.build().unwrap())
}

fn spawn_poster(url: &str, path: &Path, name: &str) -> Child {
    child_process("outbox_crash::child_process_posts_until_it_is_killed")
        .env("RESULT_POSTER_CRASH_PLATFORM", url)
        .env("RESULT_POSTER_CRASH_OUTBOX", path)
        .env("RESULT_POSTER_CRASH_NAME", name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn count_in_child_process(path: &Path) -> String {
    let mut child = child_process("outbox_crash::child_process_counts_calls");
    let text = output_of(child.env("RESULT_POSTER_CRASH_LOOK_AT", path));
    let line = text.lines().find_map(|line| line.split_once("calls "));
    line.unwrap().1.to_owned()
}

/// Kills a process this long after its first confirmation, and returns the sessions and comments that it had confirmed by
/// then.
fn confirmed_until_killed(mut child: Child, after: Duration) -> Vec<String> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let confirmation = |line: String| {
        // The first line of the test's output has no end.
        assert!(!line.contains("logged "), "{line}");
        line.split_once("durable ").map(|(_, call)| call.to_owned())
    };
    let first = lines.by_ref().map_while(Result::ok).find_map(confirmation);
    let killer = thread::spawn(move || {
        sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let rest = lines.map_while(Result::ok).filter_map(confirmation);
    let mut confirmed: Vec<_> = first.into_iter().chain(rest).collect();
    killer.join().unwrap();
    // The last line may be cut short.
    confirmed.pop();
    confirmed
}

fn session_path(session_id: &str, route: &str) -> String {
    format!("/api/sessions/{session_id}/{route}")
}

/// The calls of these sessions and comments that were not received.
fn missing(confirmed: &[String], requests: &[Request]) -> BTreeSet<String> {
    let received: BTreeSet<_> = requests.iter().map(Request::name).collect();
    let calls = confirmed.iter().flat_map(|call| {
        if call.contains(':') {
            vec![call.clone()]
        } else {
            ["completion", "status"].map(|route| session_path(call, route)).to_vec()
        }
    });
    calls.filter(|call| !received.contains(call)).collect()
}

/// A request as the platform received it.
#[derive(Debug, Clone)]
struct Request {
    /// The name of the process that sent it.
    sender: String,
    path: String,
    key: String,
    body: Value,
}

impl Request {
    /// The path of a session call, the text of a comment: each call has its own.
    fn name(&self) -> String {
        let text = self.body["args"][1].as_str();
        text.unwrap_or(&self.path).to_owned()
    }
}

/// A platform that takes a moment over each request, records it, and answers with success.
#[derive(Default)]
struct RecordingPlatform {
    requests: Mutex<Vec<Request>>,
    in_flight: Mutex<InFlight>,
    /// Whether it answers 503, and records nothing.
    is_down: AtomicBool,
    /// Whether it never answers requests about [`POISON`].
    holds_poison: AtomicBool,
    /// Requests that were in flight together with one about [`POISON`] that it answers.
    with_poison: Mutex<Vec<String>>,
}

#[derive(Default)]
struct InFlight {
    keys: BTreeSet<String>,
    /// The highest number of keys so far.
    most: usize,
    /// Keys that came while they were in flight.
    twice_at_once: Vec<String>,
    /// How many requests about [`POISON`] there are that it answers.
    poisoned: usize,
}

impl RecordingPlatform {
    fn start() -> (String, Arc<Self>) {
        let platform = Arc::new(Self::default());
        let shared = Arc::clone(&platform);
        let server = serve(move |stream| shared.answer_all(stream));
        (server.url(), platform)
    }

    fn answer_all(&self, mut stream: TcpStream) {
        while let Some(request) = read_request(&mut stream) {
            let answer = if self.is_down.load(Ordering::Relaxed) {
                response(503, "", "")
            } else {
                let header = |name| request.header(name).unwrap_or_default().to_owned();
                self.record(Request {
                    sender: header("user-agent"),
                    path: request.path().to_owned(),
                    key: header("idempotency-key"),
                    body: request.json(),
                });
                if request.path().contains(POISON) && self.holds_poison.load(Ordering::Relaxed) {
                    // Until the client is gone.
                    let _ = read_request(&mut stream);
                    return;
                }
                success()
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn record(&self, request: Request) {
        let key = request.key.clone();
        let is_poison = request.path.contains(POISON) && !self.holds_poison.load(Ordering::Relaxed);
        {
            let in_flight = &mut *self.in_flight.lock().unwrap();
            if !in_flight.keys.insert(key.clone()) {
                in_flight.twice_at_once.push(key.clone());
            }
            in_flight.most = in_flight.keys.len().max(in_flight.most);
            in_flight.poisoned += usize::from(is_poison);
            if in_flight.poisoned > 0 && in_flight.keys.len() > 1 {
                self.with_poison.lock().unwrap().push(request.path.clone());
            }
        }
        self.requests.lock().unwrap().push(request);
        sleep(Duration::from_millis(if is_poison { 100 } else { 1 }));
        self.in_flight.lock().unwrap().poisoned -= usize::from(is_poison);
        self.in_flight.lock().unwrap().keys.remove(&key);
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn sent_twice_at_once(&self) -> Vec<String> {
        self.in_flight.lock().unwrap().twice_at_once.clone()
    }

    /// How many requests about [`POISON`] were received.
    fn poisoned(&self) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|request| request.path == session_path(POISON, "completion"))
            .count()
    }

    fn with_poison(&self) -> Vec<String> {
        self.with_poison.lock().unwrap().clone()
    }

    fn most_in_flight(&self) -> usize {
        self.in_flight.lock().unwrap().most
    }
}
