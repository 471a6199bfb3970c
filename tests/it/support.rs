//! What the tests share: options with no waits in them, short names for long outcomes, and a server
//! that writes raw bytes.

use std::{
    collections::VecDeque,
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use actix::Addr;
use result_poster::{
    AgentResult, CallError, CallReceipt, Options, OptionsBuilder, PostError, PostReceipt, PostResult, ResultPoster,
    SessionStatus, testing::FakePlatform,
};

pub const TOKEN: &str = "tok-s3cret";

/// A worker with a token, who never waits between attempts.
pub fn options(url: impl Into<String>) -> OptionsBuilder {
    Options::builder(url)
        .worker_id("wkr_1")
        .auth_token(TOKEN)
        .base_delay(Duration::ZERO)
}

pub fn start(options: OptionsBuilder) -> Addr<ResultPoster> {
    ResultPoster::start_supervised(options.build().unwrap())
}

/// A platform, and a poster that posts to it.
pub fn platform_and_poster() -> (FakePlatform, Addr<ResultPoster>) {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()));
    (platform, poster)
}

pub fn completed() -> AgentResult {
    AgentResult::new(SessionStatus::Completed).with_summary("Done.")
}

pub async fn post(poster: &Addr<ResultPoster>, session_id: &str) -> Result<PostReceipt, PostError> {
    poster.send(PostResult::new(session_id, completed())).await.unwrap()
}

/// The last segments of the paths that were requested, in order.
pub fn routes(platform: &FakePlatform) -> Vec<String> {
    platform
        .requests()
        .iter()
        .map(|request| request.path.rsplit('/').next().unwrap().to_owned())
        .collect()
}

/// `ok`, `permanent:404`, `transient:3`, …
pub fn outcome(reply: &Result<CallReceipt, CallError>) -> String {
    reply.as_ref().map_or_else(failure, |_| "ok".to_owned())
}

/// As [`outcome`], and for two failures both: `permanent:404;transient:3`.
pub fn post_outcome(reply: &Result<PostReceipt, PostError>) -> String {
    let Err(error) = reply else {
        return "ok".into();
    };
    if let PostError::Invalid(error) = error {
        return format!("invalid:{}", error.field);
    }
    let failures: Vec<_> = error
        .completion()
        .into_iter()
        .chain(error.status())
        .map(failure)
        .collect();
    failures.join(";")
}

fn failure(error: &CallError) -> String {
    match error {
        CallError::Permanent(error) => format!("permanent:{}", error.status_code),
        CallError::Transient(error) => format!("transient:{}", error.attempts),
        CallError::Invalid(error) => format!("invalid:{}", error.field),
        CallError::NoCredentials => "no credentials".into(),
        CallError::Cancelled { .. } => "cancelled".into(),
        CallError::Overloaded => "overloaded".into(),
        other => panic!("{other:?}"),
    }
}

/// What a [`RawPlatform`] does once it has read a request.
#[derive(Clone)]
pub enum Step {
    /// Writes these bytes and keeps the connection.
    Write(Vec<u8>),
    /// Writes these bytes and closes the connection.
    WriteAndClose(Vec<u8>),
    /// Keeps quiet, and the connection open.
    Silence,
}

/// A server that answers each request with the next step of a script, whatever that does to HTTP.
pub struct RawPlatform {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl RawPlatform {
    /// After the last step, it closes what comes.
    pub fn start(steps: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let steps = Arc::new(Mutex::new(steps.into_iter().collect::<VecDeque<_>>()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let raw = Self {
            url,
            requests: Arc::clone(&requests),
        };
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (steps, requests) = (Arc::clone(&steps), Arc::clone(&requests));
                thread::spawn(move || serve(stream.unwrap(), &steps, &requests));
            }
        });
        raw
    }

    /// The requests so far, as `<connection's port> <request line>`.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, steps: &Mutex<VecDeque<Step>>, requests: &Mutex<Vec<String>>) {
    let port = stream.peer_addr().unwrap().port();
    while let Some(line) = read_request(&mut stream) {
        requests.lock().unwrap().push(format!("{port} {line}"));
        let step = steps.lock().unwrap().pop_front();
        match step {
            Some(Step::Write(bytes)) => {
                let _ = stream.write_all(&bytes);
            }
            Some(Step::WriteAndClose(bytes)) => {
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Both);
            }
            Some(Step::Silence) => {}
            None => return,
        }
    }
}

/// Reads one request whole and returns its first line.
pub fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).ok()?;
    head.lines().next().map(str::to_owned)
}
