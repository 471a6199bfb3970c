//! `result-poster post`.

use std::{
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use actix::{Actor, Context, Handler};
use result_poster::{
    AgentResult, CallError, CallReceipt, NextStep, OutboxError, PostError, PostReceipt, PostResult, ResultPoster,
    Shutdown,
    events::{DeliveryEvent, DeliveryEventKind},
};
use serde_json::{Value, json};

use crate::{
    arguments::Post,
    configuration::{self, of_options},
    failure::{Failure, chain},
    output::{Output, counted, printable},
};

/// How long the other parked calls of the outbox may take once the result has ended.
const SHUTDOWN: Duration = Duration::from_secs(10);

pub(crate) fn run(config: Option<&Path>, post: Post, output: &mut Output) -> Result<(), Failure> {
    let file = post.file.display();
    let result = AgentResult::from_json(&configuration::read(&post.file)?)
        .map_err(|error| Failure::usage(format!("{file} is not a result: {}", chain(&error))))?;
    let mut config = configuration::load(config)?;
    if let Some(url) = post.platform {
        config = config.with_platform_url(url);
    }
    if let Some(location) = post.outbox {
        config = config.with_outbox(location);
    }
    let mut message = PostResult::new(post.session, result);
    if let Some(worker_id) = post.worker_id {
        message = message.with_worker_id(worker_id);
    }
    if let Some(run) = post.run {
        message = message.with_run(run);
    }
    let reply = actix_rt::System::new().block_on(send(config, message))?;
    report(reply, output)
}

async fn send(
    config: result_poster::OptionsConfig,
    message: PostResult,
) -> Result<Result<PostReceipt, PostError>, Failure> {
    let builder = config.into_builder().map_err(|error| Failure::usage(chain(&error)))?;
    let attempts = Attempts {
        session: message.session_id().to_owned(),
    };
    let options = builder.subscriber(attempts.start().recipient()).build();
    let poster = ResultPoster::start_supervised(options.map_err(|error| of_options(&error))?);
    let stopped = |error: actix::MailboxError| Failure::failed(format!("the poster has stopped: {error}"));
    let reply = poster.send(message).await.map_err(stopped)?;
    poster.send(Shutdown::within(SHUTDOWN)).await.map_err(stopped)?;
    Ok(reply)
}

/// Reports the failed attempts that are followed by another one. The last one is part of the error.
struct Attempts {
    session: String,
}

impl Actor for Attempts {
    type Context = Context<Self>;
}

impl Handler<DeliveryEvent> for Attempts {
    type Result = ();

    fn handle(&mut self, event: DeliveryEvent, _: &mut Context<Self>) {
        let Some(call) = event.call.filter(|call| call.target_id == self.session) else {
            return;
        };
        if let DeliveryEventKind::AttemptFailed {
            attempt,
            reason,
            retry_in: Some(wait),
            ..
        } = event.event
        {
            let (kind, reason) = (call.kind, printable(&reason));
            let line = format!("{kind}: attempt {attempt} failed: {reason}; retrying in {wait:.0?}");
            let _ = writeln!(io::stderr(), "result-poster: {line}");
        }
    }
}

fn report(reply: Result<PostReceipt, PostError>, output: &mut Output) -> Result<(), Failure> {
    let calls = match &reply {
        Ok(receipt) => [call(Ok(&receipt.completion)), call(Ok(&receipt.status))],
        Err(PostError::Invalid(_)) => [Value::Null, Value::Null],
        Err(error) => [
            error
                .completion()
                .map_or_else(|| json!({"state": "delivered"}), |error| call(Err(error))),
            error
                .status()
                .map_or_else(|| json!({"state": "delivered"}), |error| call(Err(error))),
        ],
    };
    let [completion, status] = &calls;
    if output.is_json {
        output.json(&json!({ "completion": completion, "status": status }))?;
    } else {
        for (name, call) in [("completion", completion), ("status", status)] {
            if let Some(state) = call["state"].as_str() {
                output.line(format!("{name}: {}", text(state, call)))?;
            }
        }
    }
    output.flush()?;
    let unstored = outbox_error(&reply).map(|error| format!("the outbox could not store it: {}", chain(error)));
    let error = match reply {
        Ok(receipt) => {
            if let Some(reason) = unstored {
                let _ = writeln!(io::stderr(), "result-poster: warning: {}", printable(&reason));
            }
            for warning in receipt.warnings() {
                let _ = writeln!(io::stderr(), "result-poster: warning: {warning}");
            }
            return Ok(());
        }
        Err(error) => error,
    };
    let line = printable(&chain(&error));
    if matches!(error, PostError::Invalid(_)) {
        return Err(Failure::Usage(line));
    }
    let mut failures = [error.completion(), error.status()].into_iter().flatten();
    if failures.all(|error| matches!(error, CallError::Parked(_))) {
        return Err(Failure::Parked(format!("{line}; {}", next_step(&error))));
    }
    let unstored = unstored.map_or_else(String::new, |reason| format!("; {}", printable(&reason)));
    Err(Failure::Failed(format!("{line}{unstored}; {}", next_step(&error))))
}

/// Why a call of the result was sent without being stored.
fn outbox_error(reply: &Result<PostReceipt, PostError>) -> Option<&OutboxError> {
    match reply {
        Ok(receipt) => [&receipt.completion, &receipt.status]
            .into_iter()
            .find_map(CallReceipt::outbox_error),
        Err(error) => [error.completion(), error.status()]
            .into_iter()
            .flatten()
            .find_map(|error| {
                let CallError::Transient(error) = error else {
                    return None;
                };
                error.outbox_error()
            }),
    }
}

fn call(outcome: Result<&CallReceipt, &CallError>) -> Value {
    match outcome {
        Ok(receipt) => json!({
            "state": "delivered",
            "attempts": receipt.attempts(),
            "elapsedSeconds": receipt.elapsed().map(|elapsed| elapsed.as_secs_f64()),
        }),
        Err(CallError::Parked(parked)) => json!({ "state": "parked", "id": parked.id }),
        Err(error) => json!({ "state": "not delivered", "error": chain(error) }),
    }
}

fn text(state: &str, call: &Value) -> String {
    let attempts = call["attempts"].as_u64().map(|attempts| counted(attempts, "attempt"));
    match (attempts, call["elapsedSeconds"].as_f64(), call["id"].as_str()) {
        (Some(attempts), Some(seconds), _) => format!("{state} after {attempts} in {seconds:.3} s"),
        (_, _, Some(id)) => format!("{state} as {id}"),
        (_, _, None) => state.to_owned(),
    }
}

fn next_step(error: &PostError) -> String {
    match error.next_step() {
        NextStep::Nothing => "the outbox delivers it when a poster uses the outbox".to_owned(),
        NextStep::RetryLater { after } => format!("post the result again after {after:?}"),
        NextStep::RenewCredentials => match error.parked() {
            Some(_) => "renew the credentials; the outbox then delivers it".to_owned(),
            None => "renew the credentials, then post the result again".to_owned(),
        },
        NextStep::UseNextPoster => "post the result again".to_owned(),
        NextStep::GiveUp => "the same result would fail again".to_owned(),
    }
}
