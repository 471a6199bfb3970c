//! Posts a result from a file to a platform, and prints each attempt as it happens.
//!
//! `cargo run --example post_result -- examples/data/completed.json`

mod common;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use actix::{Actor, Context, Handler};
use clap::Parser;
use common::{Failure, chain, say};
use result_poster::{
    AgentResult, NextStep, OptionsConfig, PostError, PostResult, ResultPoster, Shutdown,
    events::{DeliveryEvent, DeliveryEventKind},
    testing::FakePlatform,
};

/// Posts the result of a session to a platform: the completion, then the status.
///
/// Without --platform, the program starts a platform on loopback, and prints the requests that it receives. The token and
/// other options are in the environment: RESULT_POSTER_AUTH_TOKEN, RESULT_POSTER_WORKER_ID, RESULT_POSTER_OUTBOX_PATH,
/// and so on.
#[derive(Parser)]
#[command(after_help = "Exit status: 0 delivered; 1 not delivered; 2 invalid arguments, file or options")]
struct Arguments {
    /// The result as JSON, such as examples/data/completed.json
    file: PathBuf,
    /// The URL of the platform
    #[arg(long, value_name = "URL")]
    platform: Option<String>,
    /// The id of the session
    #[arg(long, value_name = "ID", default_value = "sess-1")]
    session: String,
}

/// Prints what happens to each call.
struct Printer;

impl Actor for Printer {
    type Context = Context<Self>;
}

impl Handler<DeliveryEvent> for Printer {
    type Result = ();

    fn handle(&mut self, event: DeliveryEvent, _: &mut Context<Self>) {
        let Some(kind) = event.call.map(|call| call.kind) else {
            return;
        };
        if let DeliveryEventKind::AttemptFailed {
            attempt,
            reason,
            retry_in,
            ..
        } = event.event
        {
            let next = retry_in.map_or("no attempts left".to_owned(), |wait| format!("next in {wait:?}"));
            say(format!("{kind}: attempt {attempt} failed: {reason}; {next}"));
        } else if let DeliveryEventKind::Delivered { attempts, elapsed, .. } = event.event {
            say(format!("{kind}: delivered in {elapsed:.1?}, attempts: {attempts}"));
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    common::exit_code(actix_rt::System::new().block_on(post(arguments)))
}

async fn post(arguments: Arguments) -> Result<(), Failure> {
    let invalid = |error: &dyn std::error::Error| Failure::new(2, chain(error));
    let unreadable = |error| Failure::new(2, format!("{}: {error}", arguments.file.display()));
    let json = fs::read(&arguments.file).map_err(unreadable)?;
    let result = AgentResult::from_json(&json).map_err(|error| invalid(&error))?;

    let mut config = OptionsConfig::from_env("RESULT_POSTER_").map_err(|error| invalid(&error))?;
    let mut own_platform = None;
    config = match arguments.platform {
        Some(url) => config.with_platform_url(url),
        None => {
            let platform = own_platform.insert(FakePlatform::start().map_err(|error| invalid(&error))?);
            config.with_platform_url(platform.url()).with_worker_id("wkr_1")
        }
    };
    let builder = config.into_builder().map_err(|error| invalid(&error))?;
    let options = builder.subscriber(Printer.start().recipient()).build();
    let poster = ResultPoster::start_supervised(options.map_err(|error| invalid(&error))?);

    let stopped = |error| Failure::new(1, error);
    let reply = poster
        .send(PostResult::new(arguments.session, result))
        .await
        .map_err(stopped)?;
    poster
        .send(Shutdown::within(Duration::from_secs(10)))
        .await
        .map_err(stopped)?;
    for request in own_platform.iter().flat_map(FakePlatform::requests) {
        let body = request.json().and_then(|body| serde_json::to_string_pretty(&body));
        say(format!("the platform received {} {}", request.method, request.path));
        say(body.unwrap_or_default());
    }
    // The reasons of failed attempts are printed already.
    reply.map(drop).map_err(|error| match error.next_step() {
        NextStep::Nothing => Failure::new(1, "not delivered yet; the outbox will deliver the result"),
        NextStep::RetryLater { after } => Failure::new(1, format!("not delivered; post it again after {after:?}")),
        NextStep::RenewCredentials => Failure::new(1, "not delivered; renew the token, then post it again"),
        NextStep::UseNextPoster => Failure::new(1, "not delivered; post it again with another poster"),
        NextStep::GiveUp if matches!(error, PostError::Invalid(_)) => invalid(&error),
        NextStep::GiveUp => Failure::new(1, chain(&error)),
    })
}
