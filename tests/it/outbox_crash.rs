//! The outbox and processes that are killed: what was confirmed as durable arrives, and nothing is sent by two at once.
//!
//! `CRASHES=200 cargo test outbox_crash` kills as many processes as that.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
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
use result_poster::{CreateComment, OptionsBuilder, OutboxFile, OutboxOptions, PostResult, Shutdown};
use serde_json::Value;

use crate::support::{completed, options, read_body, read_head, start};

/// How many processes are killed, unless the environment says otherwise.
const CRASHES: usize = 15;

/// A request as the platform read it whole.
#[derive(Debug, Clone)]
struct Seen {
    /// The process that sent it.
    sender: String,
    path: String,
    key: String,
    body: Value,
}

/// Takes a moment over each request, notes it, and answers well.
#[derive(Default)]
struct Platform {
    seen: Mutex<Vec<Seen>>,
    /// The keys of the requests that are being handled, and how many there were at most.
    handling: Mutex<(BTreeSet<String>, usize)>,
    /// Whether a key was handled twice at once.
    doubled: Mutex<Vec<String>>,
    /// Whether it answers 503, and notes nothing.
    is_down: AtomicBool,
}

impl Platform {
    fn start() -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let platform = Arc::new(Self::default());
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
        while let Some(head) = read_head(&mut stream) {
            let Some(body) = read_body(&mut stream, &head) else {
                return;
            };
            let header = |name: &str| {
                let mut lines = head.lines();
                let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                line.unwrap_or_default().to_owned()
            };
            let seen = Seen {
                sender: header("user-agent"),
                path: head.split(' ').nth(1).unwrap().to_owned(),
                key: header("idempotency-key"),
                body: serde_json::from_slice(&body).unwrap(),
            };
            if self.is_down.load(Ordering::Relaxed) {
                let _ = stream.write_all(b"HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n");
                continue;
            }
            {
                let (keys, most) = &mut *self.handling.lock().unwrap();
                if !keys.insert(seen.key.clone()) {
                    self.doubled.lock().unwrap().push(seen.key.clone());
                }
                *most = keys.len().max(*most);
            }
            self.seen.lock().unwrap().push(seen.clone());
            sleep(Duration::from_millis(1));
            self.handling.lock().unwrap().0.remove(&seen.key);
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"success\":true}";
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn poster_options(url: &str, path: &Path, name: &str) -> OptionsBuilder {
    let delay = Duration::from_millis(10);
    // Long enough that nobody is taken for dead who is only slow.
    let outbox = OutboxOptions::at(path)
        .delays(delay, delay)
        .lease(Duration::from_secs(2));
    options(url).user_agent(name).outbox(outbox)
}

/// Not a test of its own: a process that posts results until it is killed, and says of each that it is durable.
#[actix_rt::test]
async fn posts_until_it_is_killed() {
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
        let session = format!("{name}-{number}");
        let message = PostResult::new(&session, completed()).reply_when_durable();
        let reply = poster.send(message);
        replies.push(async move { (session, reply.await) });
        while replies.len() >= 8 {
            let (session, reply) = replies.next().await.unwrap();
            if reply.unwrap().unwrap().status.queued().is_some() {
                println!("durable {session}");
            }
        }
    }
}

fn spawn(url: &str, path: &Path, name: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["outbox_crash::posts_until_it_is_killed", "--exact", "--nocapture"])
        .env("RESULT_POSTER_CRASH_PLATFORM", url)
        .env("RESULT_POSTER_CRASH_OUTBOX", path)
        .env("RESULT_POSTER_CRASH_NAME", name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills it at some moment after it has begun, and returns what it had confirmed by then.
fn confirmed_until_killed(mut child: Child, after: Duration) -> Vec<String> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let session = |line: String| line.strip_prefix("durable ").map(str::to_owned);
    // A line may be cut short at the end; it has its number's last digit or it is not counted.
    let first = lines.by_ref().map_while(Result::ok).find_map(session);
    let killer = thread::spawn(move || {
        sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let rest = lines.map_while(Result::ok).filter_map(session);
    let mut confirmed: Vec<_> = first.into_iter().chain(rest).collect();
    killer.join().unwrap();
    confirmed.pop();
    confirmed
}

#[actix_rt::test]
async fn what_was_confirmed_arrives_however_often_the_process_is_killed() {
    let crashes = env::var("CRASHES").map_or(CRASHES, |crashes| crashes.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (url, platform) = Platform::start();
    let mut confirmed = Vec::new();
    for crash in 0..crashes {
        let child = spawn(&url, &path, &format!("child-{crash}"));
        let after = Duration::from_micros(rand::random_range(0..60_000));
        confirmed.extend(confirmed_until_killed(child, after));
    }
    // One that is not killed delivers what they have left.
    let poster = start(poster_options(&url, &path, "last").max_in_flight(8));
    let connection = rusqlite::Connection::open(&path).unwrap();
    let left = || connection.query_row("SELECT count(*) FROM calls", (), |row| row.get::<_, u32>(0));
    for _ in 0..3000 {
        if left().unwrap() == 0 {
            break;
        }
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(left().unwrap(), 0);
    poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();

    let mut requests: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for seen in platform.seen() {
        requests.entry(seen.path.clone()).or_default().push(seen);
    }
    assert!(confirmed.len() >= crashes, "{}", confirmed.len());
    for session in &confirmed {
        for route in ["completion", "status"] {
            assert!(
                requests.contains_key(&format!("/api/sessions/{session}/{route}")),
                "{session} {route}"
            );
        }
    }
    let mut doubles = 0;
    for (path, seen) in &requests {
        assert!(seen.iter().all(|other| other.key == seen[0].key), "{path}");
        // An acknowledgement is lost with its process only.
        let senders: BTreeSet<_> = seen.iter().map(|seen| &seen.sender).collect();
        assert_eq!(senders.len(), seen.len(), "{path}: {seen:?}");
        doubles += seen.len() - 1;
    }
    // What each process had on its way, or acknowledged and not yet noted.
    assert!(doubles <= crashes * 64, "{doubles} doubles in {crashes} crashes");
    let order: BTreeMap<_, _> = platform
        .seen()
        .into_iter()
        .rev()
        .enumerate()
        .map(|(index, seen)| (seen.path, index))
        .collect();
    for (path, first) in &order {
        if let Some(completion) = path.strip_suffix("status").map(|start| format!("{start}completion")) {
            // From the end, so that the greater comes first.
            assert!(order[&completion] > *first, "{path}");
        }
    }
    assert_eq!(*platform.doubled.lock().unwrap(), Vec::<String>::new());
    println!(
        "{} confirmed, {} requests, {doubles} doubles",
        confirmed.len(),
        platform.seen().len()
    );
}

#[actix_rt::test]
async fn two_processes_share_a_file_and_one_takes_over_when_the_other_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (url, platform) = Platform::start();
    let poster = start(poster_options(&url, &path, "mine"));
    let child = spawn(&url, &path, "child");
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
    let is_there = |session: &String| {
        platform
            .seen()
            .iter()
            .any(|seen| seen.path.ends_with(&format!("/{session}/status")))
    };
    for _ in 0..1000 {
        if confirmed.iter().all(is_there) {
            break;
        }
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!confirmed.is_empty() && confirmed.iter().all(is_there));
    // Each was sent by the one that it came to, but for what the killed one has left.
    let by_other = |seen: &Seen| !seen.path.contains(&format!("/{}-", seen.sender));
    let taken_over: Vec<_> = platform.seen().into_iter().filter(by_other).collect();
    assert!(taken_over.iter().all(|seen| seen.sender == "mine"));
    assert_eq!(*platform.doubled.lock().unwrap(), Vec::<String>::new());
    drop(poster);
}

#[actix_rt::test]
async fn thousands_that_are_parked_go_out_in_order_and_not_all_at_once() {
    const ISSUES: usize = 500;
    const COMMENTS: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let (url, platform) = Platform::start();
    // An outage: each issue's first comment is tried and parked, and the others are parked behind it.
    platform.is_down.store(true, Ordering::Relaxed);
    let poster = start(poster_options(&url, &path, "delivers").max_attempts(1).max_in_flight(8));
    let sends = (0..COMMENTS).flat_map(|comment| (0..ISSUES).map(move |issue| (issue, comment)));
    let mut replies: FuturesUnordered<_> = sends
        .map(|(issue, comment)| poster.send(CreateComment::new(format!("issue-{issue}"), comment.to_string())))
        .collect();
    while let Some(reply) = replies.next().await {
        assert!(reply.unwrap().unwrap_err().transient().unwrap().is_parked());
    }
    assert!(platform.seen().is_empty());
    platform.is_down.store(false, Ordering::Relaxed);
    for _ in 0..3000 {
        if platform.seen.lock().unwrap().len() == ISSUES * COMMENTS {
            break;
        }
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
    let mut comments: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for seen in platform.seen() {
        let args = &seen.body["args"];
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
    assert!(platform.handling.lock().unwrap().1 <= 8);
}

/// Not a test of its own: a process that looks into an outbox, and ends.
#[test]
fn looks_in() {
    if let Ok(path) = env::var("RESULT_POSTER_CRASH_LOOK_AT") {
        let connection = rusqlite::Connection::open(path).unwrap();
        let count: u32 = connection
            .query_row("SELECT count(*) FROM calls", (), |row| row.get(0))
            .unwrap();
        println!("calls {count}");
    }
}

#[actix_rt::test]
async fn those_who_look_in_do_no_harm_in_this_process_or_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let look = || {
        let output = Command::new(env::current_exe().unwrap())
            .args(["outbox_crash::looks_in", "--exact", "--nocapture"])
            .env("RESULT_POSTER_CRASH_LOOK_AT", &path)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.split_once("calls "));
        line.unwrap().1.to_owned()
    };
    // A platform that nobody answers for, and delays that nothing comes back from meanwhile.
    let hour = Duration::from_secs(60 * 60);
    let outbox = OutboxOptions::at(&path).delays(hour, hour);
    let poster = start(options("http://127.0.0.1:1").max_attempts(1).outbox(outbox));
    for number in 1..=4 {
        let comment = CreateComment::new(format!("issue-{number}"), "Done.");
        let error = poster.send(comment).await.unwrap().unwrap_err();
        assert!(error.transient().unwrap().is_parked());
        drop(OutboxFile::open(&path).unwrap());
        assert_eq!(look(), number.to_string());
    }
}
