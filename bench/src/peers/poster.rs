//! The poster.

use std::io;

use actix::Addr;
use result_poster::{
    AgentResult, CallError, Cost, Options, OptionsBuilder, PostResult, ResultPoster, SessionStatus, UpdateIssueStatus,
    events::GetStats, outbox::OutboxOptions,
};

use super::{SUMMARY, WORKER_ID};
use crate::arguments::LoadArguments;

pub(crate) fn options(url: &str, token: String) -> OptionsBuilder {
    Options::builder(url).worker_id(WORKER_ID).auth_token(token)
}

pub(crate) fn start(arguments: &LoadArguments, url: &str, token: String) -> io::Result<Addr<ResultPoster>> {
    let mut options = options(url, token)
        .base_delay(arguments.base_delay_ms)
        .max_queued(arguments.concurrency.saturating_mul(2).max(10_000));
    if let Some(limit) = arguments.max_in_flight {
        options = options.max_in_flight(limit);
    }
    if let Some(path) = &arguments.outbox {
        options = options.outbox(OutboxOptions::new(path));
    }
    Ok(ResultPoster::start_supervised(
        options.build().map_err(io::Error::other)?,
    ))
}

pub(crate) fn message(number: u64) -> PostResult {
    let cost = Cost::default()
        .with_total_cost_usd(0.25)
        .with_input_tokens(12_000)
        .with_output_tokens(3_400);
    let result = AgentResult::new(SessionStatus::Completed)
        .with_summary(SUMMARY)
        .with_provider_session_id("prov-1")
        .with_cost(cost);
    PostResult::new(format!("sess-{number}"), result).with_worker_id(WORKER_ID)
}

pub(crate) async fn send(poster: Addr<ResultPoster>, number: u64) -> Result<(), String> {
    let error = match poster.send(message(number)).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error,
        Err(error) => return Err(error.to_string()),
    };
    Err(error.completion().or(error.status()).map_or("invalid".into(), kind))
}

/// Sends a message with a single call.
pub(crate) async fn send_status(poster: Addr<ResultPoster>, number: u64) -> Result<(), String> {
    let message = UpdateIssueStatus::new(format!("issue-{number}"), "Finished");
    match poster.send(message).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(kind(&error)),
        Err(error) => Err(error.to_string()),
    }
}

/// The error without what is different for each call.
fn kind(error: &CallError) -> String {
    match error {
        CallError::Parked(_) => "parked".into(),
        CallError::Transient(error) => error.last.to_string(),
        other => other.to_string(),
    }
}

pub(crate) async fn attempts(poster: &Addr<ResultPoster>) -> Option<u64> {
    poster.send(GetStats).await.ok().map(|stats| stats.attempts)
}
