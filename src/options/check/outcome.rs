//! The outcome of each step, from the answer to the request or from its error.

use std::{
    error::Error as _,
    time::{Duration, SystemTime},
};

use super::step::{CheckOutcome, CheckStep, CheckedStep};
use crate::{
    call::Endpoint,
    error::{AttemptError, AttemptPhase, PermanentError},
    transport::{ConnectStep, Upstream},
    util::chain,
    verdict::{Alternatives, Answer, Verdict, classify},
};

/// The statuses with which a platform refuses the request after it has accepted the credentials.
const EXPECTED: [u16; 5] = [400, 404, 409, 410, 422];

/// How far the clock of the host may be off.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(5 * 60);

/// The sender of the request.
pub(super) struct Identity<'a> {
    pub(super) worker_id: Option<&'a str>,
    pub(super) has_token: bool,
    pub(super) is_token_required: bool,
    /// Why there are no credentials.
    pub(super) fault: Option<String>,
}

impl Identity<'_> {
    /// Before the platform has answered.
    fn outcome(&self) -> CheckOutcome {
        let worker = self
            .worker_id
            .map_or("no worker".to_owned(), |id| format!("worker {id:?}"));
        match (&self.fault, self.has_token, self.is_token_required) {
            (Some(fault), ..) => CheckOutcome::Failed(fault.clone()),
            (None, true, _) => CheckOutcome::Passed(format!("{worker}, with a token")),
            (None, false, true) => CheckOutcome::Failed(format!("{worker}, without a token")),
            (None, false, false) => CheckOutcome::Passed(format!("{worker}, without a token, on loopback")),
        }
    }
}

/// The steps up to a connection.
pub(super) fn connection_steps(upstream: &Upstream, error: Option<&AttemptError>) -> Vec<CheckedStep> {
    let (host, port) = (&upstream.host, upstream.port);
    let mut steps = Vec::new();
    match &upstream.proxy {
        Some(proxy) => steps.push((
            ConnectStep::Proxy,
            CheckStep::Proxy,
            format!("{}:{} is the proxy", proxy.host, proxy.port),
        )),
        None => steps.extend([
            (ConnectStep::Name, CheckStep::Name, format!("{host}")),
            (ConnectStep::Tcp, CheckStep::Connection, format!("port {port}")),
        ]),
    }
    if upstream.tls.is_some() {
        steps.push((
            ConnectStep::Tls,
            CheckStep::Tls,
            "the certificate is trusted".to_owned(),
        ));
    }
    let failed_at = error.and_then(|error| failed_step(upstream, error));
    let mut checked = Vec::new();
    for (connect_step, step, text) in steps {
        let outcome = match (failed_at, error) {
            (Some(failed), Some(error)) if connect_step == failed => CheckOutcome::Failed(cause(error)),
            (Some(failed), Some(_)) if connect_step > failed => {
                CheckOutcome::Skipped("there was no connection".to_owned())
            }
            (Some(_) | None, _) => CheckOutcome::Passed(text),
        };
        checked.push(CheckedStep { step, outcome });
    }
    checked
}

/// The step in which the connection failed. `None` if there was a connection.
fn failed_step(upstream: &Upstream, error: &AttemptError) -> Option<ConnectStep> {
    let unknown = match (&upstream.proxy, &upstream.tls) {
        (_, Some(_)) => ConnectStep::Tls,
        (Some(_), None) => ConnectStep::Proxy,
        (None, None) => ConnectStep::Tcp,
    };
    match error {
        AttemptError::Connect(cause) => Some(cause.downcast_ref().and_then(ConnectStep::of).unwrap_or(unknown)),
        AttemptError::Timeout { phase, .. } if *phase == AttemptPhase::Connecting => Some(unknown),
        AttemptError::RetryableResponse { status_code: 407, .. } => Some(ConnectStep::Proxy),
        AttemptError::Timeout { .. }
        | AttemptError::Credentials(_)
        | AttemptError::ConnectionLost(_)
        | AttemptError::StreamRefused(_)
        | AttemptError::RetryableResponse { .. }
        | AttemptError::UnexpectedResponse { .. }
        | AttemptError::Rejected(_) => None,
    }
}

/// The reason of a failed connection, without the words about the request.
fn cause(error: &AttemptError) -> String {
    match error {
        AttemptError::Connect(_) => error.source().map_or_else(|| chain(error), chain),
        AttemptError::Timeout { .. }
        | AttemptError::Credentials(_)
        | AttemptError::ConnectionLost(_)
        | AttemptError::StreamRefused(_)
        | AttemptError::RetryableResponse { .. }
        | AttemptError::UnexpectedResponse { .. }
        | AttemptError::Rejected(_) => chain(error),
    }
}

pub(super) type Outcomes = [(CheckStep, CheckOutcome); 3];

pub(super) fn steps_without_answer(identity: &Identity<'_>, error: &AttemptError) -> Outcomes {
    let response = match error {
        AttemptError::Connect(_) => CheckOutcome::Skipped("there was no connection".to_owned()),
        AttemptError::Timeout { .. }
        | AttemptError::Credentials(_)
        | AttemptError::ConnectionLost(_)
        | AttemptError::StreamRefused(_)
        | AttemptError::RetryableResponse { .. }
        | AttemptError::UnexpectedResponse { .. }
        | AttemptError::Rejected(_) => CheckOutcome::Failed(chain(error)),
    };
    [
        (CheckStep::Credentials, identity.outcome()),
        (CheckStep::Response, response),
        (
            CheckStep::Clock,
            CheckOutcome::Skipped("there was no response".to_owned()),
        ),
    ]
}

pub(super) fn steps_of_answer(identity: &Identity<'_>, answer: &Answer<'_>, now: SystemTime) -> Outcomes {
    let status = answer.status;
    let none_left = Alternatives::default();
    let (credentials, response) = match classify(Endpoint::Session, answer, none_left, now) {
        Verdict::Delivered { .. } => (identity.outcome(), CheckOutcome::Passed(format!("status {status}"))),
        Verdict::Unauthorized(_) if !identity.has_token => (
            identity.outcome(),
            CheckOutcome::Skipped(format!("status {status}, since there is no token")),
        ),
        Verdict::Unauthorized(rejection) => (
            CheckOutcome::Failed(format!("the platform rejects the token: {}", answered(&rejection))),
            CheckOutcome::Skipped("the token is rejected".to_owned()),
        ),
        Verdict::Permanent(rejection) if EXPECTED.contains(&status) => (
            identity.outcome(),
            CheckOutcome::Passed(format!(
                "{}, as expected for a session that does not exist",
                answered(&rejection)
            )),
        ),
        Verdict::Permanent(rejection) if status == 403 => {
            let worker = identity.worker_id.unwrap_or_default();
            let text = format!("the platform refuses worker {worker:?}: {}", answered(&rejection));
            (identity.outcome(), CheckOutcome::Failed(text))
        }
        Verdict::Permanent(rejection) => {
            let location = rejection.location().map(|to| format!(", moved to {to}"));
            let text = format!("{}{}", answered(&rejection), location.unwrap_or_default());
            (identity.outcome(), CheckOutcome::Failed(text))
        }
        Verdict::Transient { error, .. } => (identity.outcome(), CheckOutcome::Failed(chain(&error))),
        // Not without alternatives.
        Verdict::Resend(_) => (identity.outcome(), CheckOutcome::Failed(format!("status {status}"))),
    };
    [
        (CheckStep::Credentials, credentials),
        (CheckStep::Response, response),
        (CheckStep::Clock, clock_outcome(answer.date.as_deref(), now)),
    ]
}

fn answered(rejection: &PermanentError) -> String {
    let PermanentError { status_code, body, .. } = rejection;
    match body.as_str() {
        "" => format!("status {status_code}"),
        body => format!("status {status_code}: {body}"),
    }
}

fn clock_outcome(date: Option<&str>, now: SystemTime) -> CheckOutcome {
    let Some(platform) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return CheckOutcome::Skipped("the response has no date".to_owned());
    };
    let (off, direction) = match now.duration_since(platform) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let text = format!("{} s {direction} the platform's", off.as_secs());
    if off > MAX_CLOCK_ERROR {
        CheckOutcome::Failed(text)
    } else {
        CheckOutcome::Passed(text)
    }
}
