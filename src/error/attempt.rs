//! Why one attempt failed.

use std::time::Duration;

use thiserror::Error;

use super::{CredentialError, PermanentError, SharedError};
use crate::{
    label::labels,
    util::{after_colon, chain},
};

/// Why one attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// No credentials were available. The request was not sent.
    #[error("credentials unavailable; the request was not sent")]
    Credentials(#[from] CredentialError),
    /// No connection could be made: DNS, connection refused, unreachable, proxy, TLS, or `connect_timeout`. The source
    /// names the step. The request was not sent.
    #[error("could not connect; the request was not sent")]
    Connect(#[source] SharedError),
    /// The deadline of the attempt (`timeout`) expired.
    #[error("timed out after {limit:?} {}; {}", phase.activity(), phase.reach())]
    Timeout {
        /// The deadline.
        limit: Duration,
        /// The phase of the attempt when the deadline expired.
        phase: AttemptPhase,
    },
    /// The connection failed while the request was being sent or the response awaited, or the response was not HTTP.
    /// The platform may have processed the request.
    #[error("connection lost before a response; the request may have been processed")]
    ConnectionLost(#[source] SharedError),
    /// The platform refused the request before processing it, as HTTP/2 allows (a refused stream, or the end of the
    /// connection).
    #[error("the platform refused the request before processing it")]
    StreamRefused(#[source] SharedError),
    /// The platform, or the forward proxy, asked for a retry: a 5xx, a 407, 408, 425 or 429, any 4xx that says so, or the
    /// issue-tracker proxy's `success: false` with `retryable: true`.
    #[error("the platform answered {status_code}{}", after_colon(.body))]
    RetryableResponse {
        /// The HTTP status of the response.
        status_code: u16,
        /// The start of the body, as in [`PermanentError::body`](crate::PermanentError::body).
        body: String,
    },
    /// A response that the platform itself does not give: an HTML page, no envelope from the issue-tracker proxy, a 300
    /// or 304, a 1xx as the final response. It may come from an intermediary.
    #[error("unexpected response with status {status_code}: {reason}{}", after_colon(.body))]
    UnexpectedResponse {
        /// The HTTP status of the response.
        status_code: u16,
        /// The reason why the response is unexpected.
        reason: &'static str,
        /// The start of the body, as in [`PermanentError::body`](crate::PermanentError::body).
        body: String,
    },
    /// The platform rejected the request, and the call is tried again: with other credentials, or from the outbox.
    #[error(transparent)]
    Rejected(PermanentError),
}

/// The phase of an attempt. As text `connecting`, `sending` or `waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AttemptPhase {
    /// There was no connection yet. The request was not sent.
    Connecting,
    /// The request was being sent.
    Sending,
    /// The request was sent, as far as the client knows; the response was awaited.
    Waiting,
}

labels!(AttemptPhase, "phase of an attempt", {
    Connecting => "connecting",
    Sending => "sending",
    Waiting => "waiting",
});

impl AttemptPhase {
    /// The phase, for an error text.
    fn activity(self) -> &'static str {
        match self {
            Self::Connecting => "while connecting",
            Self::Sending => "while sending the request",
            Self::Waiting => "while waiting for the response",
        }
    }

    /// Whether the request may have been processed, for an error text.
    fn reach(self) -> &'static str {
        match self {
            Self::Connecting => "the request was not sent",
            Self::Sending | Self::Waiting => "the request may have been processed",
        }
    }
}

impl AttemptError {
    /// Whether the platform may have processed the request of this attempt.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        match self {
            Self::Credentials(_) | Self::Connect(_) | Self::StreamRefused(_) => false,
            // A 4xx or a refusal of the proxy says that nothing was done.
            Self::RetryableResponse { status_code, .. } => *status_code >= 500,
            Self::Timeout { phase, .. } => *phase != AttemptPhase::Connecting,
            Self::ConnectionLost(_) | Self::UnexpectedResponse { .. } => true,
            Self::Rejected(rejection) => rejection.may_have_been_delivered,
        }
    }

    /// Whether there were no credentials because the platform no longer knows the worker.
    pub(crate) fn is_worker_gone(&self) -> bool {
        matches!(self, Self::Credentials(CredentialError::WorkerGone { .. }))
    }

    /// The error and its sources in one line, without the body of a response: for log lines.
    pub(crate) fn without_body(&self) -> String {
        match self {
            Self::RetryableResponse { status_code, .. } => format!("the platform answered {status_code}"),
            Self::UnexpectedResponse {
                status_code, reason, ..
            } => format!("unexpected response with status {status_code}: {reason}"),
            Self::Rejected(rejection) => rejection.without_body(),
            Self::Credentials(_)
            | Self::Connect(_)
            | Self::Timeout { .. }
            | Self::ConnectionLost(_)
            | Self::StreamRefused(_) => chain(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_attempt_may_have_been_delivered_unless_the_error_excludes_it() {
        let broken = || io::Error::other("broken").into();
        let timeout = |phase| AttemptError::Timeout {
            limit: Duration::from_secs(30),
            phase,
        };
        let answered = |status_code| AttemptError::RetryableResponse {
            status_code,
            body: String::new(),
        };
        let unexpected = AttemptError::UnexpectedResponse {
            status_code: 200,
            reason: "an HTML page",
            body: String::new(),
        };
        for (error, expected) in [
            (AttemptError::Credentials(CredentialError::NoToken), false),
            (AttemptError::Connect(broken()), false),
            (timeout(AttemptPhase::Connecting), false),
            (timeout(AttemptPhase::Sending), true),
            (timeout(AttemptPhase::Waiting), true),
            (AttemptError::ConnectionLost(broken()), true),
            (AttemptError::StreamRefused(broken()), false),
            (answered(200), false),
            (answered(429), false),
            (answered(500), true),
            (answered(503), true),
            (unexpected, true),
        ] {
            assert_eq!(error.may_have_been_delivered(), expected, "{error:?}");
        }
    }
}
