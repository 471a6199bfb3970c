//! Posts a result from a file to a platform and prints the outcome of each call.
//!
//! `cargo run --example post_result -- examples/data/completed.json`

mod common;

use std::{env, fs, process::ExitCode, time::Duration};

use common::{Failure, chain, say};
use result_poster::{
    AgentResult, CallError, CallReceipt, NextStep, Options, PostError, PostResult, ResultPoster, Shutdown,
    outbox::OutboxOptions,
    testing::{FakePlatform, RecordedRequest},
};

const HELP: &str = "\
Posts the result of a session to a platform: the completion, then the status.

Usage: post_result [OPTIONS] <FILE>

Arguments:
  <FILE>            The result as JSON, such as examples/data/completed.json

Options:
  --platform <URL>  The URL of the platform. Default: a platform on loopback that
                    the program starts, and whose requests it prints
  --outbox <FILE>   Stores the result in this file until it is delivered, and
                    delivers the parked calls of the same platform and worker
  --session <ID>    The id of the session [default: sess-1]
  -h, --help        Prints this text

Environment:
  RESULT_POSTER_TOKEN      The worker's token. It is not an option, since other
                           users of the host can read command lines
  RESULT_POSTER_WORKER_ID  The worker's id [default without --platform: wkr_1]
  RUST_LOG                 The log filter, such as result_poster=debug

Exit status: 0 delivered; 1 not delivered; 2 invalid arguments, file or settings,
and nothing was sent";

struct Arguments {
    file: String,
    platform: Option<String>,
    outbox: Option<String>,
    session: String,
}

impl Arguments {
    /// `None` for `--help`.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, Failure> {
        let (mut file, mut platform, mut outbox, mut session) = (None, None, None, "sess-1".to_owned());
        while let Some(word) = words.next() {
            let missing_value = || Failure::usage(format!("missing value for {word}"));
            let mut value = || words.next().ok_or_else(missing_value);
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--platform" => platform = Some(value()?),
                "--outbox" => outbox = Some(value()?),
                "--session" => session = value()?,
                option if option.starts_with('-') => return Err(Failure::usage(format!("unknown option {option}"))),
                _ if file.is_some() => return Err(Failure::usage(format!("unexpected argument {word}"))),
                _ => file = Some(word),
            }
        }
        let file = file.ok_or_else(|| Failure::usage("missing <FILE>"))?;
        Ok(Some(Self {
            file,
            platform,
            outbox,
            session,
        }))
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    common::exit_code(run())
}

fn run() -> Result<(), Failure> {
    match Arguments::parse(common::arguments()?)? {
        Some(arguments) => actix_rt::System::new().block_on(post(arguments)),
        None => {
            say(HELP);
            Ok(())
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
    let json = fs::read(&file).map_err(|error| Failure::new(2, format!("cannot read {file}: {error}")))?;
    let result = AgentResult::from_json(&json)
        .map_err(|error| Failure::new(2, format!("{file} is not a valid result: {error}")))?;
    say(format!("Read {file}: the session {}.", result.status));

    let (url, embedded) = match platform {
        Some(url) => (url, None),
        None => {
            let platform =
                FakePlatform::start().map_err(|error| Failure::new(2, format!("cannot start a platform: {error}")))?;
            (platform.url(), Some(platform))
        }
    };
    let default_worker = embedded.is_some().then(|| "wkr_1".to_owned());
    let worker_id = variable("RESULT_POSTER_WORKER_ID")?.or(default_worker);
    let options = options(&url, outbox)?;
    say(format!(
        "Posting the result of session {session} to {url}; retries may take minutes."
    ));

    let poster = ResultPoster::start_supervised(options);
    let mut message = PostResult::new(session, result);
    if let Some(worker_id) = worker_id {
        message = message.with_worker_id(worker_id);
    }
    let reply = poster.send(message).await.map_err(|error| Failure::new(1, error))?;
    match &reply {
        Ok(receipt) => {
            say(format!("1. Completion: {}.", delivered(&receipt.completion)));
            say(format!("2. Status: {}.", delivered(&receipt.status)));
            for warning in receipt.warnings() {
                say(format!("Warning: {warning}."));
            }
        }
        Err(error @ PostError::Invalid(_)) => return Err(Failure::new(2, chain(error))),
        Err(error) => {
            say(format!("1. Completion: {}.", state(error.completion())));
            say(format!("2. Status: {}.", state(error.status())));
            say(format!("Next step: {}.", next_step(error)));
            if let Some(rejection) = error.permanent() {
                say(format!("Advice: {}.", rejection.advice()));
            }
        }
    }
    poster
        .send(Shutdown::within(Duration::from_secs(10)))
        .await
        .map_err(|error| Failure::new(1, error))?;
    for request in embedded.iter().flat_map(FakePlatform::requests) {
        show(&request);
    }
    reply.map(|_| ()).map_err(|error| Failure::new(1, chain(&error)))
}

fn options(url: &str, outbox: Option<String>) -> Result<Options, Failure> {
    let mut options = Options::builder(url);
    if let Some(token) = variable("RESULT_POSTER_TOKEN")? {
        options = options.auth_token(token);
    }
    if let Some(path) = outbox {
        options = options.outbox(OutboxOptions::new(path));
    }
    options.build().map_err(|error| match error.option {
        "auth_token" => Failure::new(2, format!("RESULT_POSTER_TOKEN {}", error.reason)),
        _ => Failure::new(2, chain(&error)),
    })
}

/// A variable of the environment, if it is set.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::new(2, format!("{name} is not Unicode"))),
    }
}

fn delivered(receipt: &CallReceipt) -> String {
    match (receipt.attempts(), receipt.elapsed()) {
        (Some(1), Some(elapsed)) => format!("delivered after 1 attempt in {elapsed:.1?}"),
        (Some(attempts), Some(elapsed)) => format!("delivered after {attempts} attempts in {elapsed:.1?}"),
        // Only with `reply_when_durable`.
        _ => "stored in the outbox".to_owned(),
    }
}

/// The state of one call of a result that was not fully delivered.
fn state(error: Option<&CallError>) -> &'static str {
    match error {
        None => "delivered",
        Some(CallError::Parked(_)) => "parked in the outbox",
        Some(_) => "not delivered",
    }
}

fn next_step(error: &PostError) -> String {
    match error.next_step() {
        NextStep::Nothing => "none; the outbox will deliver the result".to_owned(),
        NextStep::RetryLater { after } => format!("post the result again after {after:?}"),
        NextStep::RenewCredentials => {
            "renew RESULT_POSTER_TOKEN, then post the result again unless it is parked".to_owned()
        }
        NextStep::UseNextPoster => "post the result again with another poster".to_owned(),
        NextStep::GiveUp => "report the error; the same result would fail again".to_owned(),
    }
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
