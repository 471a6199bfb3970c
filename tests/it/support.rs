//! What the tests share: options with no waits in them, short names for long outcomes, and a server
//! that writes raw bytes.

use std::{
    collections::VecDeque,
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix::Addr;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::future::LocalBoxFuture;
use result_poster::{
    AgentResult, CallError, CallReceipt, CredentialProvider, Options, OptionsBuilder, PostError, PostReceipt,
    PostResult, ProviderError, ResultPoster, RuntimeCredentials, SessionStatus, testing::FakePlatform,
};

pub const TOKEN: &str = "tok-s3cret";

/// Whatever the tests' own environment says of proxies: there is none.
pub fn builder(url: impl Into<String>) -> OptionsBuilder {
    Options::builder(url).proxy("")
}

/// A worker with a token, who never waits between attempts.
pub fn options(url: impl Into<String>) -> OptionsBuilder {
    builder(url)
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
        CallError::ShuttingDown => "shutting down".into(),
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
    /// Answers with this status and the request's own head, tokens and all.
    Echo(u16),
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
    while let Some(head) = read_request(&mut stream) {
        requests
            .lock()
            .unwrap()
            .push(format!("{port} {}", head.lines().next().unwrap()));
        let step = steps.lock().unwrap().pop_front();
        match step {
            Some(Step::Write(bytes)) => {
                let _ = stream.write_all(&bytes);
            }
            Some(Step::WriteAndClose(bytes)) => {
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Both);
            }
            Some(Step::Echo(status)) => {
                let length = head.len();
                let _ = stream
                    .write_all(format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n\r\n{head}").as_bytes());
            }
            Some(Step::Silence) => {}
            None => return,
        }
    }
}

/// Reads the head of a request.
pub fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Reads one request whole and returns its head.
pub fn read_request(stream: &mut impl Read) -> Option<String> {
    let head = read_head(stream)?;
    read_body(stream, &head)?;
    Some(head)
}

/// Reads the body that belongs to the head of a request.
pub fn read_body(stream: &mut impl Read, head: &str) -> Option<Vec<u8>> {
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
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

/// A JWT that says when it expires, and is otherwise told apart by `name`.
pub fn jwt(name: &str, expires_at: SystemTime) -> String {
    let exp = expires_at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#));
    format!("e30.{claims}.{name}")
}

/// What a [`ScriptedProvider`] does when it is asked.
#[derive(Clone)]
pub enum Ask {
    Give(RuntimeCredentials),
    Fail,
    /// Fails, with a message that is found in the log again.
    FailSaying(&'static str),
    Hang,
    Panic,
}

/// A provider that follows a script, whose last step repeats, and counts how often it was asked.
#[derive(Clone)]
pub struct ScriptedProvider(Arc<(Mutex<VecDeque<Ask>>, AtomicUsize)>);

impl ScriptedProvider {
    pub fn new(steps: impl IntoIterator<Item = Ask>) -> Self {
        Self(Arc::new((Mutex::new(steps.into_iter().collect()), AtomicUsize::new(0))))
    }

    /// Gives these tokens in turn, each for the worker `wkr_<token>`.
    pub fn tokens<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        let give = |token: &str| Ask::Give(RuntimeCredentials::new(format!("wkr_{token}"), token));
        Self::new(tokens.into_iter().map(give))
    }

    pub fn asked(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }
}

impl CredentialProvider for ScriptedProvider {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, ProviderError>> {
        self.0.1.fetch_add(1, Ordering::Relaxed);
        let step = {
            let mut steps = self.0.0.lock().unwrap();
            if steps.len() > 1 {
                steps.pop_front()
            } else {
                steps.front().cloned()
            }
        };
        Box::pin(async move {
            match step.unwrap() {
                Ask::Give(credentials) => {
                    actix_rt::task::yield_now().await;
                    Ok(credentials)
                }
                Ask::Fail => Err("the vault is sealed".into()),
                Ask::FailSaying(message) => Err(message.into()),
                Ask::Hang => std::future::pending().await,
                Ask::Panic => panic!("the vault is on fire"),
            }
        })
    }
}

/// Everything that was logged in this process so far, at any level, as `<level> <target> <line> <key>=<value> …`.
pub fn logged() -> Vec<String> {
    LOG.0.lock().unwrap().clone()
}

/// Begins to keep what is logged. To be called first.
pub fn keep_log() {
    let _ = log::set_logger(&LOG);
    log::set_max_level(log::LevelFilter::Trace);
}

/// Whatever is logged about this panics.
pub const LOG_PANICS: &str = "log-panics";

static LOG: KeptLog = KeptLog(Mutex::new(Vec::new()));

struct KeptLog(Mutex<Vec<String>>);

impl log::Log for KeptLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Pairs(String);
        impl<'a> log::kv::VisitSource<'a> for Pairs {
            fn visit_pair(&mut self, key: log::kv::Key<'a>, value: log::kv::Value<'a>) -> Result<(), log::kv::Error> {
                self.0.push_str(&format!(" {key}={value}"));
                Ok(())
            }
        }
        let mut pairs = Pairs(String::new());
        record.key_values().visit(&mut pairs).unwrap();
        let line = format!("{} {} {}{}", record.level(), record.target(), record.args(), pairs.0);
        assert!(!line.contains(LOG_PANICS), "the log is full");
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}
