//! The rejection of a call.

use std::fmt;

use thiserror::Error;

use crate::util::{after_colon, printable};

/// The error of a call that the platform rejected. The call is not retried, since the response would be the same.
///
/// The response was a 401 or a redirect, another 4xx (except for 407, 408, 425, 429, an HTML page with 403, 404 or 421,
/// and one that asks for a retry), or a `success: false` of the issue-tracker proxy, whose HTTP status may be a 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the platform rejected the call with status {status_code}{cause}{}", after_colon(.body))]
#[non_exhaustive]
pub struct PermanentError {
    /// The HTTP status of the response.
    pub status_code: u16,
    /// The first 4 KiB of the body at most, trimmed, with the token and the credentials of a forward proxy scrubbed.
    /// For a `success: false` of the issue-tracker proxy: the code and message of its error.
    pub body: String,
    /// How many attempts were made, including the rejected one.
    pub attempts: u32,
    /// Whether the platform may have processed an earlier attempt, whose response was lost or inconclusive.
    pub(crate) may_have_been_delivered: bool,
    pub(crate) cause: RejectionCause,
}

/// The thing that the platform rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RejectionCause {
    /// The call.
    Call,
    /// The worker's credentials: a 401, or a redirect that may lead to a login page.
    Credentials,
    /// The platform is at another address.
    Moved { location: Option<String> },
    /// The call, by the issue tracker.
    Tracker,
    /// The platform's own authorization, by the issue tracker.
    TrackerAuthorization,
}

impl fmt::Display for RejectionCause {
    /// The end of the phrase "rejected the call with status 301".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved {
                location: Some(location),
            } => write!(f, ", moved to {}", printable(location)),
            Self::TrackerAuthorization => f.write_str(" of the issue tracker"),
            Self::Moved { location: None } | Self::Call | Self::Credentials | Self::Tracker => Ok(()),
        }
    }
}

impl PermanentError {
    pub(crate) fn new(status_code: u16, body: String) -> Self {
        Self {
            status_code,
            body,
            attempts: 1,
            may_have_been_delivered: false,
            cause: match status_code {
                401 | 302 | 303 | 307 => RejectionCause::Credentials,
                301 | 308 => RejectionCause::Moved { location: None },
                200..=299 => RejectionCause::Tracker,
                _ => RejectionCause::Call,
            },
        }
    }

    pub(crate) fn with_cause(self, cause: RejectionCause) -> Self {
        Self { cause, ..self }
    }

    /// The new address of the platform, if the response was a 301 or 308 that names it: set it as the platform URL.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        match &self.cause {
            RejectionCause::Moved { location } => location.as_deref(),
            RejectionCause::Call
            | RejectionCause::Credentials
            | RejectionCause::Tracker
            | RejectionCause::TrackerAuthorization => None,
        }
    }

    /// Whether the platform may have processed an earlier attempt, whose response was lost or inconclusive.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        self.may_have_been_delivered
    }

    /// A short hint for an operator: what to check or change.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match (&self.cause, self.status_code) {
            (RejectionCause::Credentials, 401) => "check or renew the worker's token",
            (RejectionCause::Credentials, _) => {
                "redirects are not followed, since they may lead to a login page: check the token and the platform URL"
            }
            (RejectionCause::Moved { .. }, _) => "redirects are not followed: set the platform URL to the new address",
            (RejectionCause::TrackerAuthorization, _) => {
                "renew the platform's connection to the issue tracker; the worker's token is not affected"
            }
            (RejectionCause::Tracker | RejectionCause::Call, _) if !self.body.is_empty() => {
                "the body of the response says why"
            }
            (RejectionCause::Tracker, _) => "the issue tracker gave no reason",
            (RejectionCause::Call, 403) => "check the worker id, and its organization",
            (RejectionCause::Call, 404 | 410) => "check the session or issue id, and the platform URL",
            (RejectionCause::Call, 413) => "shorten the texts of the message",
            (RejectionCause::Call, _) => "the platform gave no reason",
        }
    }

    /// The error without the body of the response: for log lines.
    pub(crate) fn without_body(&self) -> String {
        let Self { status_code, cause, .. } = self;
        let advice = self.advice();
        format!("the platform rejected the call with status {status_code}{cause} ({advice})")
    }

    /// Whether the platform rejected the credentials rather than the call.
    pub(crate) fn is_unauthorized(&self) -> bool {
        self.cause == RejectionCause::Credentials
    }
}
