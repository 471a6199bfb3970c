//! Posts a runner's result file and tells, step by step, what happened.
//!
//! `cargo run --example post_result -- examples/data/completed.json`

use std::{
    env,
    ffi::OsString,
    fmt::Display,
    fs,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use result_poster::{
    AgentResult, CallError, CallReceipt, Options, OutboxOptions, PostError, PostResult, ResultPoster, Shutdown,
    testing::{FakePlatform, RecordedRequest},
};

const HELP: &str = "\
Posts a runner's result to a platform: the completion, then the status.

Usage: post_result [OPTIONS] <FILE>

Arguments:
  <FILE>            A result as JSON, such as examples/data/completed.json

Options:
  --platform <URL>  The platform to post to. Without it, one is started here,
                    and what it received is shown
  --outbox <FILE>   Keeps the result in this file until it is delivered; what an
                    earlier call left there for the same platform and worker
                    is delivered too
  --session <ID>    The session that the result belongs to [default: sess-1]
  -h, --help        Shows this text

Environment:
  RESULT_POSTER_TOKEN      The worker's token. A token has no place on a command
                           line, where every user of the host can read it
  RESULT_POSTER_WORKER_ID  The worker's id [default, without --platform: wkr_1]
  RUST_LOG                 Log lines on stderr, such as result_poster=debug

Exit status: 0 delivered, 1 not delivered, 2 the arguments, the file or the
settings are wrong, and nothing was sent";

/// What ends the program early: one line, and the exit status.
struct Failure(String, u8);

/// Nothing was sent: the arguments, the file or the options are wrong.
fn wrong(message: impl Display) -> Failure {
    Failure(message.to_string(), 2)
}

struct Arguments {
    file: String,
    platform: Option<String>,
    outbox: Option<String>,
    session: String,
}

impl Arguments {
    /// `None`: the help was asked for.
    fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Option<Self>, Failure> {
        let (mut file, mut platform, mut outbox, mut session) = (None, None, None, "sess-1".to_owned());
        while let Some(word) = words.next() {
            let word = text(word)?;
            let mut value = || text(words.next().ok_or_else(|| wrong(format!("{word} needs a value")))?);
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--platform" => platform = Some(value()?),
                "--outbox" => outbox = Some(value()?),
                "--session" => session = value()?,
                flag if flag.starts_with('-') => return Err(wrong(format!("there is no option {flag}, see --help"))),
                _ if file.is_some() => return Err(wrong("more than one file was named, see --help")),
                _ => file = Some(word),
            }
        }
        let file = file.ok_or_else(|| wrong("no file was named, see --help"))?;
        Ok(Some(Self {
            file,
            platform,
            outbox,
            session,
        }))
    }
}

fn text(word: OsString) -> Result<String, Failure> {
    word.into_string()
        .map_err(|word| wrong(format!("{} is not Unicode", word.display())))
}

fn variable(name: &str, default: &str) -> Result<String, Failure> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(env::VarError::NotPresent) => Ok(default.to_owned()),
        Err(env::VarError::NotUnicode(_)) => Err(wrong(format!("{name} is not Unicode"))),
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let done = match Arguments::parse(env::args_os().skip(1)) {
        Ok(Some(arguments)) => actix_rt::System::new().block_on(post(arguments)),
        Ok(None) => {
            say(HELP);
            Ok(())
        }
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message, status)) => {
            let _ = writeln!(io::stderr(), "post_result: {message}");
            ExitCode::from(status)
        }
    }
}

async fn post(arguments: Arguments) -> Result<(), Failure> {
    let Arguments {
        file,
        platform,
        outbox,
        session,
    } = arguments;
    let json = fs::read(&file).map_err(|error| wrong(format!("{file} can't be read: {error}")))?;
    let result: AgentResult =
        serde_json::from_slice(&json).map_err(|error| wrong(format!("{file} is not a result: {error}")))?;
    say(format!("Read {file}: the session ended as {}.", result.status));

    // Without a platform, one of our own.
    let embedded = match platform {
        Some(_) => None,
        None => Some(FakePlatform::start().map_err(|error| wrong(format!("no platform can be started: {error}")))?),
    };
    let url = platform
        .or(embedded.as_ref().map(FakePlatform::url))
        .unwrap_or_default();
    let stand_in = if embedded.is_some() { "wkr_1" } else { "" };
    let mut options = Options::builder(&url)
        .worker_id(variable("RESULT_POSTER_WORKER_ID", stand_in)?)
        .auth_token(variable("RESULT_POSTER_TOKEN", "")?);
    if let Some(path) = outbox {
        options = options.outbox(OutboxOptions::at(path));
    }
    let options = options.build().map_err(wrong)?;
    say(format!(
        "Posting it for session {session} to {url}; this takes a while if it has to be tried again."
    ));

    let poster = ResultPoster::start_supervised(options);
    let reply = poster
        .send(PostResult::new(session, result))
        .await
        .map_err(|error| Failure(error.to_string(), 1))?;
    match &reply {
        Ok(receipt) => {
            say(format!("1. Completion: {}.", delivered(&receipt.completion)));
            say(format!("2. Status: {}.", delivered(&receipt.status)));
        }
        Err(PostError::Invalid(error)) => return Err(wrong(error)),
        Err(error) if matches!(error.completion(), Some(CallError::NoCredentials)) => {
            return Err(wrong("this platform needs a token: set RESULT_POSTER_TOKEN"));
        }
        Err(error) => {
            let call = |failure: Option<&CallError>| match failure {
                None => "delivered",
                Some(CallError::Transient(error)) if error.is_parked() => "in the outbox, not delivered yet",
                Some(_) => "not delivered",
            };
            say(format!("1. Completion: {}.", call(error.completion())));
            say(format!("2. Status: {}.", call(error.status())));
        }
    }
    poster
        .send(Shutdown::within(Duration::from_secs(10)))
        .await
        .map_err(|error| Failure(error.to_string(), 1))?;
    for request in embedded.iter().flat_map(FakePlatform::requests) {
        show(&request);
    }
    reply.map(|_| ()).map_err(|error| Failure(error.to_string(), 1))
}

fn delivered(receipt: &CallReceipt) -> String {
    let attempts = match receipt.attempts {
        1 => "the first attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    };
    format!("delivered with {attempts}, in {:.1?}", receipt.elapsed)
}

fn show(request: &RecordedRequest) {
    say(format!("\nThe platform received {} {}", request.method, request.path));
    if let Some(key) = request.header("idempotency-key") {
        say(format!("  idempotency-key: {key}"));
    }
    let body = request.json().and_then(|body| serde_json::to_string_pretty(&body));
    for line in body.unwrap_or_default().lines() {
        say(format!("  {line}"));
    }
}

/// As `println!`, which panics once nobody reads any more.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
