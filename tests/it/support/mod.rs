//! Shared helpers. A test module uses only these, never another test module.

use std::time::Duration;

use actix::Addr;
use result_poster::{
    AgentResult, CallError, CallReceipt, Options, OptionsBuilder, PostError, PostReceipt, PostResult, ResultPoster,
    SessionStatus, UpdateIssueStatus,
    credentials::{CredentialActor, GetCredentialActor},
    events::GetStats,
    testing::FakePlatform,
};

pub(crate) mod cases;
pub(crate) mod child;
pub(crate) mod errors;
pub(crate) mod http2;
pub(crate) mod log;
pub(crate) mod outbox;
pub(crate) mod provider;
pub(crate) mod proxy;
pub(crate) mod raw_server;
pub(crate) mod requests;
pub(crate) mod tls;
pub(crate) mod wait;

/// The fixed token of [`options`].
pub(crate) const TOKEN: &str = "tok-s3cret";

/// The delay before a message is sent again after a transient error without a usable `Retry-After`.
pub(crate) const RETRY_LATER: Duration = Duration::from_secs(30);

/// Options without credentials, for a poster that ignores the proxies of the tests' environment.
pub(crate) fn builder(url: impl Into<String>) -> OptionsBuilder {
    Options::builder(url).without_proxy()
}

/// Options of a worker with a fixed token and no backoff.
pub(crate) fn options(url: impl Into<String>) -> OptionsBuilder {
    builder(url)
        .worker_id("wkr_1")
        .auth_token(TOKEN)
        .base_delay(Duration::ZERO)
}

pub(crate) fn start(options: OptionsBuilder) -> Addr<ResultPoster> {
    ResultPoster::start_supervised(options.build().unwrap())
}

/// A platform, and a poster that posts to it.
pub(crate) fn platform_and_poster() -> (FakePlatform, Addr<ResultPoster>) {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()));
    (platform, poster)
}

/// The credential actor of a poster without a token, which only a platform on loopback permits.
pub(crate) async fn actor_without_token() -> Addr<CredentialActor> {
    let poster = start(builder("http://127.0.0.1:1"));
    poster.send(GetCredentialActor).await.unwrap()
}

pub(crate) fn completed() -> AgentResult {
    AgentResult::new(SessionStatus::Completed).with_summary("Done.")
}

/// Posts a result.
pub(crate) async fn post(poster: &Addr<ResultPoster>, session_id: &str) -> Result<PostReceipt, PostError> {
    poster.send(PostResult::new(session_id, completed())).await.unwrap()
}

/// A message of one call.
pub(crate) fn status_update(issue_id: impl Into<String>) -> UpdateIssueStatus {
    UpdateIssueStatus::new(issue_id, "Finished")
}

/// Sends a message of one call.
pub(crate) async fn send_update(poster: &Addr<ResultPoster>, issue_id: &str) -> Result<CallReceipt, CallError> {
    poster.send(status_update(issue_id)).await.unwrap()
}

/// Waits until the poster has accepted every message that was sent to it before, and has begun to work on it: with an
/// outbox, the insert is queued.
///
/// The reply to a later message proves this, since the mailbox and the tasks of an arbiter are processed in order.
pub(crate) async fn messages_are_accepted(poster: &Addr<ResultPoster>) {
    poster.send(GetStats).await.unwrap();
}

/// The outcome of a call, in short: `ok`, `permanent:404`, `transient:3`, `parked:3`, …
pub(crate) fn outcome(reply: &Result<CallReceipt, CallError>) -> String {
    reply.as_ref().map_or_else(failure, |_| "ok".to_owned())
}

/// The outcome of a result, in short: as [`outcome`], and both failures if there are two: `permanent:404;transient:3`.
pub(crate) fn post_outcome(reply: &Result<PostReceipt, PostError>) -> String {
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
        CallError::Parked(error) => format!("parked:{}", error.attempts),
        CallError::Invalid(error) => format!("invalid:{}", error.field),
        CallError::NoCredentials => "no credentials".into(),
        CallError::Cancelled { by, .. } => format!("cancelled by {by}"),
        CallError::Overloaded { .. } => "overloaded".into(),
        CallError::ShuttingDown => "shutting down".into(),
        other => panic!("{other:?}"),
    }
}
