//! The outbox and killed processes: a result that was confirmed as durable is delivered, and no call is sent by two
//! processes at once.
//!
//! `CRASHES=200 cargo test outbox_crash` sets how many processes are killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use result_poster::{
    CreateComment, OptionsBuilder, PostResult, Shutdown,
    outbox::{OutboxInspector, OutboxOptions},
};
use serde_json::Value;

use crate::support::{
    completed, options,
    outbox::count_calls,
    raw_server::{read_request, response, serve, success},
    start,
    wait::wait_until,
};

/// How many processes are killed, unless the environment says otherwise.
const CRASHES: usize = 15;

#[actix_rt::test]
async fn confirmed_results_are_delivered_after_process_kills() {
    let crashes = env::var("CRASHES").map_or(CRASHES, |crashes| crashes.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (url, platform) = RecordingPlatform::start();
    let mut confirmed = Vec::new();
    for crash in 0..crashes {
        let child = spawn_poster(&url, &path, &format!("child-{crash}"));
        let after = Duration::from_micros(rand::random_range(0..60_000));
        confirmed.extend(confirmed_until_killed(child, after));
    }
    // A poster that is not killed delivers the calls that they left.
    let poster = start(poster_options(&url, &path, "last").max_in_flight(8));
    wait_until(|| count_calls(&path) == 0).await;
    poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();

    let requests = platform.requests();
    assert!(confirmed.len() >= crashes, "{}", confirmed.len());
    assert_delivered(&confirmed, &requests);
    let repeated = count_repeated(&requests);
    // At most the calls that each process was sending, or whose settlement was not yet in the file.
    assert!(repeated <= crashes * 64, "{repeated} repeated in {crashes} crashes");
    assert_status_after_completion(&requests);
    assert_eq!(platform.sent_twice_at_once(), Vec::<String>::new());
    println!(
        "{} confirmed, {} requests, {repeated} repeated",
        confirmed.len(),
        requests.len()
    );
}

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
    wait_until(|| {
        let requests = platform.requests();
        let paths: BTreeSet<_> = requests.iter().map(|request| request.path.as_str()).collect();
        confirmed
            .iter()
            .all(|session_id| paths.contains(session_path(session_id, "status").as_str()))
    })
    .await;
    // A call is sent by the process that accepted it, unless that was killed.
    let by_other = |request: &Request| !request.path.contains(&format!("/{}-", request.sender));
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
    wait_until(|| platform.requests.lock().unwrap().len() == ISSUES * COMMENTS).await;
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

/// Not a test by itself, but a child process of one: it posts results until it is killed, and prints each that is
/// durable.
#[actix_rt::test]
async fn child_process_posts_until_it_is_killed() {
    let Ok(url) = env::var("RESULT_POSTER_CRASH_PLATFORM") else {
        return;
    };
    let (path, name) = (
        env::var("RESULT_POSTER_CRASH_OUTBOX").unwrap(),
        env::var("RESULT_POSTER_CRASH_NAME").unwrap(),
    );
    let poster = start(poster_options(&url, path.as_ref(), &name).max_in_flight(8));
    let mut replies = FuturesUnordered::new();
    for number in 0.. {
        let session_id = format!("{name}-{number}");
        let message = PostResult::new(&session_id, completed()).reply_when_durable();
        let reply = poster.send(message);
        replies.push(async move { (session_id, reply.await) });
        while replies.len() >= 8 {
            let (session_id, reply) = replies.next().await.unwrap();
            if reply.unwrap().unwrap().status.call_id().is_some() {
                println!("durable {session_id}");
            }
        }
    }
}

/// Not a test by itself, but a child process of one: it reads an outbox, and ends.
#[test]
fn child_process_counts_calls() {
    if let Ok(path) = env::var("RESULT_POSTER_CRASH_LOOK_AT") {
        println!("calls {}", count_calls(path.as_ref()));
    }
}

fn poster_options(url: &str, path: &Path, name: &str) -> OptionsBuilder {
    let delay = Duration::from_millis(10);
    // Long enough that a slow process is not taken for dead.
    let heartbeat_timeout = Duration::from_secs(2);
    let outbox = OutboxOptions::builder(path)
        .base_delay(delay)
        .max_delay(delay)
        .heartbeat_timeout(heartbeat_timeout);
    options(url).user_agent(name).outbox(outbox.build().unwrap())
}

fn spawn_poster(url: &str, path: &Path, name: &str) -> Child {
    child_process("child_process_posts_until_it_is_killed")
        .env("RESULT_POSTER_CRASH_PLATFORM", url)
        .env("RESULT_POSTER_CRASH_OUTBOX", path)
        .env("RESULT_POSTER_CRASH_NAME", name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn count_in_child_process(path: &Path) -> String {
    let output = child_process("child_process_counts_calls")
        .env("RESULT_POSTER_CRASH_LOOK_AT", path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("calls "));
    line.unwrap().1.to_owned()
}

/// This program, with nothing to run but one test of this module.
fn child_process(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([&format!("outbox_crash::{test}"), "--exact", "--nocapture"]);
    command
}

/// Kills a process this long after its first confirmation, and returns the sessions that it had confirmed by then.
fn confirmed_until_killed(mut child: Child, after: Duration) -> Vec<String> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let session_id = |line: String| line.strip_prefix("durable ").map(str::to_owned);
    let first = lines.by_ref().map_while(Result::ok).find_map(session_id);
    let killer = thread::spawn(move || {
        sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let rest = lines.map_while(Result::ok).filter_map(session_id);
    let mut confirmed: Vec<_> = first.into_iter().chain(rest).collect();
    killer.join().unwrap();
    // The last line may be cut short.
    confirmed.pop();
    confirmed
}

fn session_path(session_id: &str, route: &str) -> String {
    format!("/api/sessions/{session_id}/{route}")
}

/// Both calls of each of these sessions were received.
fn assert_delivered(session_ids: &[String], requests: &[Request]) {
    let paths: BTreeSet<_> = requests.iter().map(|request| request.path.as_str()).collect();
    for session_id in session_ids {
        for route in ["completion", "status"] {
            assert!(
                paths.contains(session_path(session_id, route).as_str()),
                "{session_id} {route}"
            );
        }
    }
}

/// The number of repeated requests. Asserts that a repetition has the same key and another sender: an acknowledgement
/// is lost only if its process is killed.
fn count_repeated(requests: &[Request]) -> usize {
    let mut by_path: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        by_path.entry(&request.path).or_default().push(request);
    }
    for (path, requests) in &by_path {
        assert!(requests.iter().all(|other| other.key == requests[0].key), "{path}");
        let senders: BTreeSet<_> = requests.iter().map(|request| &request.sender).collect();
        assert_eq!(senders.len(), requests.len(), "{path}: {requests:?}");
    }
    requests.len() - by_path.len()
}

/// The first completion of each session was received before its first status.
fn assert_status_after_completion(requests: &[Request]) {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, request) in requests.iter().enumerate() {
        first.entry(&request.path).or_insert(index);
    }
    for (path, status) in &first {
        if let Some(session) = path.strip_suffix("status") {
            let completion = first[format!("{session}completion").as_str()];
            assert!(completion < *status, "{path}");
        }
    }
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

/// A platform that takes a moment over each request, records it, and answers with success.
#[derive(Default)]
struct RecordingPlatform {
    requests: Mutex<Vec<Request>>,
    in_flight: Mutex<InFlight>,
    /// Whether it answers 503, and records nothing.
    is_down: AtomicBool,
}

#[derive(Default)]
struct InFlight {
    keys: BTreeSet<String>,
    /// The highest number of keys so far.
    most: usize,
    /// Keys that came while they were in flight.
    twice_at_once: Vec<String>,
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
                success()
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn record(&self, request: Request) {
        let key = request.key.clone();
        {
            let in_flight = &mut *self.in_flight.lock().unwrap();
            if !in_flight.keys.insert(key.clone()) {
                in_flight.twice_at_once.push(key.clone());
            }
            in_flight.most = in_flight.keys.len().max(in_flight.most);
        }
        self.requests.lock().unwrap().push(request);
        sleep(Duration::from_millis(1));
        self.in_flight.lock().unwrap().keys.remove(&key);
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn sent_twice_at_once(&self) -> Vec<String> {
        self.in_flight.lock().unwrap().twice_at_once.clone()
    }

    fn most_in_flight(&self) -> usize {
        self.in_flight.lock().unwrap().most
    }
}
