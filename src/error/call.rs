//! Why one call was not delivered, and the step that follows.

use std::time::Duration;

use thiserror::Error;

use super::{
    AttemptError, FailureKind, InvalidMessageError, NextStep, ParkReason, ParkedError, PermanentError, TransientError,
};
use crate::{label::labels, util::chain};

/// When to send a message again after a transient error without a `Retry-After`.
const RETRY_LATER: Duration = Duration::from_secs(30);

/// When to send a message again that was refused because the queue was full.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// The longest time in a [`NextStep::RetryLater`], whatever the platform asks for.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why one call was not delivered: an [`UpdateIssueStatus`](crate::UpdateIssueStatus), a
/// [`CreateComment`](crate::CreateComment), or one of the two calls of a [`PostResult`](crate::PostResult).
///
/// [`next_step`](Self::next_step) says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The message was refused; nothing was sent. Fix the named field.
    #[error("the message is invalid; nothing was sent")]
    Invalid(#[from] InvalidMessageError),
    /// The shared [`CredentialActor`](crate::credentials::CredentialActor) has no token for a platform that is not on
    /// loopback. The request was not sent.
    #[error("there is no token for this platform; the request was not sent")]
    NoCredentials,
    /// The platform rejected the call.
    #[error(transparent)]
    Permanent(#[from] PermanentError),
    /// All attempts failed.
    #[error(transparent)]
    Transient(#[from] TransientError),
    /// The call is in the outbox, which will deliver it.
    #[error(transparent)]
    Parked(#[from] ParkedError),
    /// The call was cancelled before the platform acknowledged it.
    #[error("cancelled by {}; {}", .by.phrase(), if *.may_have_been_delivered { "the request may have been processed" } else { "the request was not processed" })]
    Cancelled {
        /// The source of the cancellation.
        by: CancelledBy,
        /// How many attempts were made.
        attempts: u32,
        /// Whether the platform may have processed an attempt.
        may_have_been_delivered: bool,
    },
    /// Neither the queue nor an outbox could keep the message until its turn: `max_queued` messages were waiting already and
    /// it was not stored, earlier messages of its target are parked and it was not stored, or the outbox's file was removed
    /// before its turn. The message was not sent.
    #[error("the message could not be kept until its turn; {}", if *.may_have_been_delivered { "it may have been stored, and be delivered nevertheless" } else { "it was not sent" })]
    Overloaded {
        /// Whether the message may be delivered nevertheless: the connection to the outbox's server was lost while the message was
        /// being stored, and another poster may find it there.
        may_have_been_delivered: bool,
    },
    /// The message arrived after a [`Shutdown`](crate::Shutdown). It was not sent.
    #[error("the poster is shutting down; the message was not sent")]
    ShuttingDown,
    /// A bug in this crate, or a panic in a closure that was given to it.
    #[error("internal error; the request may have been processed: {message}")]
    Internal {
        /// The message of the panic.
        message: String,
    },
}

/// The source of a cancellation. As text `token`, `discard` or `shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CancelledBy {
    /// The cancellation token of the message.
    Token,
    /// A `DiscardTarget` of the outbox for its session or issue.
    Discard,
    /// A [`Shutdown`](crate::Shutdown) whose time limit expired.
    Shutdown,
}

labels!(CancelledBy, "source of a cancellation", {
    Token => "token",
    Discard => "discard",
    Shutdown => "shutdown",
});

impl CancelledBy {
    fn phrase(self) -> &'static str {
        match self {
            Self::Token => "its token",
            Self::Discard => "a discard",
            Self::Shutdown => "a shutdown",
        }
    }
}

impl CallError {
    /// The message was neither sent nor stored.
    pub(crate) const OVERLOADED: Self = Self::Overloaded {
        may_have_been_delivered: false,
    };

    /// The kind of this error.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Invalid(_) => FailureKind::Invalid,
            Self::NoCredentials => FailureKind::NoCredentials,
            Self::Permanent(_) => FailureKind::Permanent,
            Self::Transient(_) => FailureKind::Transient,
            Self::Parked(_) => FailureKind::Parked,
            Self::Cancelled { .. } => FailureKind::Cancelled,
            Self::Overloaded { .. } => FailureKind::Overloaded,
            Self::ShuttingDown => FailureKind::ShuttingDown,
            Self::Internal { .. } => FailureKind::Internal,
        }
    }

    /// How many attempts were made, as far as the error knows.
    pub(crate) fn attempts(&self) -> u32 {
        match self {
            Self::Permanent(error) => error.attempts,
            Self::Transient(error) => error.attempts,
            Self::Parked(error) => error.attempts,
            Self::Cancelled { attempts, .. } => *attempts,
            Self::Invalid(_)
            | Self::NoCredentials
            | Self::Overloaded { .. }
            | Self::ShuttingDown
            | Self::Internal { .. } => 0,
        }
    }

    /// The runner's next step.
    ///
    /// | error | step |
    /// |---|---|
    /// | `Parked` | `RenewCredentials` if the platform rejected the credentials, otherwise `Nothing` |
    /// | `Transient` | `RetryLater` after the platform's `Retry-After`, at most a day; 30 s without it |
    /// | `Overloaded` | `RetryLater` after 1 s |
    /// | `ShuttingDown`, `Cancelled` by a shutdown | `UseNextPoster` |
    /// | `NoCredentials`, `Permanent` with 401, 302, 303 or 307 | `RenewCredentials` |
    /// | `Transient` or `Parked` whose last error is [`CredentialError::WorkerGone`](crate::CredentialError::WorkerGone) | `RenewCredentials` |
    /// | any other `Permanent`, `Invalid`, `Internal` | `GiveUp` |
    /// | `Cancelled` by the message's token or by a discard | `Nothing` |
    #[must_use]
    pub fn next_step(&self) -> NextStep {
        match self {
            Self::Parked(error) if error.reason == ParkReason::Unauthorized => NextStep::RenewCredentials,
            Self::Parked(error) if error.last.as_ref().is_some_and(AttemptError::is_worker_gone) => {
                NextStep::RenewCredentials
            }
            Self::Parked(_) => NextStep::Nothing,
            Self::Transient(error) if error.last.is_worker_gone() => NextStep::RenewCredentials,
            Self::Transient(error) => NextStep::RetryLater {
                after: error.retry_after.unwrap_or(RETRY_LATER).min(LONGEST_RETRY),
            },
            Self::Overloaded { .. } => NextStep::RetryLater { after: RETRY_SOON },
            Self::ShuttingDown => NextStep::UseNextPoster,
            Self::Cancelled { by, .. } => match by {
                CancelledBy::Shutdown => NextStep::UseNextPoster,
                CancelledBy::Token | CancelledBy::Discard => NextStep::Nothing,
            },
            Self::NoCredentials => NextStep::RenewCredentials,
            Self::Permanent(error) if error.is_unauthorized() => NextStep::RenewCredentials,
            Self::Permanent(_) | Self::Invalid(_) | Self::Internal { .. } => NextStep::GiveUp,
        }
    }

    /// The error of a call that the platform rejected.
    #[must_use]
    pub fn permanent(&self) -> Option<&PermanentError> {
        if let Self::Permanent(error) = self {
            Some(error)
        } else {
            None
        }
    }

    /// The error of a call whose attempts all failed.
    #[must_use]
    pub fn transient(&self) -> Option<&TransientError> {
        if let Self::Transient(error) = self {
            Some(error)
        } else {
            None
        }
    }

    /// The error of a call that is parked in the outbox.
    #[must_use]
    pub fn parked(&self) -> Option<&ParkedError> {
        if let Self::Parked(error) = self {
            Some(error)
        } else {
            None
        }
    }

    /// Whether the platform may have processed the call: an attempt was sent, and its response was lost or
    /// inconclusive.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        match self {
            Self::Permanent(error) => error.may_have_been_delivered,
            Self::Transient(error) => error.may_have_been_delivered,
            Self::Parked(error) => error.may_have_been_delivered,
            Self::Overloaded {
                may_have_been_delivered,
            }
            | Self::Cancelled {
                may_have_been_delivered,
                ..
            } => *may_have_been_delivered,
            Self::Internal { .. } => true,
            Self::Invalid(_) | Self::NoCredentials | Self::ShuttingDown => false,
        }
    }

    /// The error and its sources in one line, without the body of a response: for log lines.
    pub(crate) fn without_body(&self) -> String {
        match self {
            Self::Permanent(error) => error.without_body(),
            Self::Transient(error) => format!("{error}: {}", error.last.without_body()),
            Self::Parked(error) => match &error.last {
                Some(last) => format!("{error}: {}", last.without_body()),
                None => error.to_string(),
            },
            Self::Invalid(_)
            | Self::NoCredentials
            | Self::Cancelled { .. }
            | Self::Overloaded { .. }
            | Self::ShuttingDown
            | Self::Internal { .. } => chain(self),
        }
    }

    /// As [`without_body`](Self::without_body), and without the text of a credential provider, which may hold a secret
    /// that only the provider knows: for the outbox's files.
    pub(crate) fn stored_text(&self) -> String {
        let last = match self {
            Self::Transient(error) => Some(&error.last),
            Self::Parked(error) => error.last.as_ref(),
            Self::Permanent(_)
            | Self::Invalid(_)
            | Self::NoCredentials
            | Self::Cancelled { .. }
            | Self::Overloaded { .. }
            | Self::ShuttingDown
            | Self::Internal { .. } => None,
        };
        match last {
            Some(last @ AttemptError::Credentials(cause)) => {
                format!("{self}: {last}: {}", cause.without_provider_text())
            }
            Some(_) | None => self.without_body(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call_id::CallId,
        error::{AttemptPhase, CredentialError},
    };

    fn rejected(status_code: u16) -> CallError {
        PermanentError::new(status_code, "no".into()).into()
    }

    fn spent(retry_after: Option<Duration>, may_have_been_delivered: bool) -> CallError {
        TransientError::new(3, late(), retry_after, may_have_been_delivered).into()
    }

    fn late() -> AttemptError {
        AttemptError::Timeout {
            limit: Duration::from_secs(30),
            phase: AttemptPhase::Waiting,
        }
    }

    fn parked(may_have_been_delivered: bool) -> CallError {
        CallError::Parked(ParkedError {
            id: CallId::from_parts(1, 7),
            reason: ParkReason::AttemptsFailed,
            attempts: 3,
            last: Some(late()),
            may_have_been_delivered,
        })
    }

    fn cancelled(by: CancelledBy, may_have_been_delivered: bool) -> CallError {
        CallError::Cancelled {
            by,
            attempts: 0,
            may_have_been_delivered,
        }
    }

    #[test]
    fn each_error_has_a_next_step_and_tells_whether_it_may_have_been_delivered() {
        let after = |seconds| NextStep::RetryLater {
            after: Duration::from_secs(seconds),
        };
        let in_doubt = PermanentError {
            may_have_been_delivered: true,
            ..PermanentError::new(409, String::new())
        };
        let overloaded = CallError::Overloaded {
            may_have_been_delivered: true,
        };
        let internal = CallError::Internal { message: "oh".into() };
        for (error, step, delivered) in [
            (
                InvalidMessageError::new("issue_id", "is empty or blank").into(),
                NextStep::GiveUp,
                false,
            ),
            (CallError::NoCredentials, NextStep::RenewCredentials, false),
            (rejected(401), NextStep::RenewCredentials, false),
            (rejected(302), NextStep::RenewCredentials, false),
            (rejected(303), NextStep::RenewCredentials, false),
            (rejected(307), NextStep::RenewCredentials, false),
            (rejected(301), NextStep::GiveUp, false),
            (rejected(308), NextStep::GiveUp, false),
            (rejected(404), NextStep::GiveUp, false),
            (in_doubt.into(), NextStep::GiveUp, true),
            (spent(None, true), after(30), true),
            (spent(Some(Duration::from_secs(90)), false), after(90), false),
            (spent(Some(Duration::ZERO), false), after(0), false),
            (spent(Some(Duration::MAX), false), after(86_400), false),
            (parked(false), NextStep::Nothing, false),
            (parked(true), NextStep::Nothing, true),
            (cancelled(CancelledBy::Token, true), NextStep::Nothing, true),
            (cancelled(CancelledBy::Shutdown, false), NextStep::UseNextPoster, false),
            (CallError::OVERLOADED, after(1), false),
            (overloaded, after(1), true),
            (CallError::ShuttingDown, NextStep::UseNextPoster, false),
            (internal, NextStep::GiveUp, true),
        ] {
            assert_eq!(error.next_step(), step, "{error:?}");
            assert_eq!(error.may_have_been_delivered(), delivered, "{error:?}");
            assert_eq!(error.permanent().is_some(), error.kind() == FailureKind::Permanent);
            assert_eq!(error.transient().is_some(), error.kind() == FailureKind::Transient);
            assert_eq!(error.parked().is_some(), error.kind() == FailureKind::Parked);
            assert!(!error.to_string().ends_with('.') && !error.without_body().is_empty());
        }
    }

    #[test]
    fn a_call_without_its_worker_is_advised_to_renew_the_credentials() {
        let gone = AttemptError::Credentials(CredentialError::WorkerGone { status_code: 404 });
        let error = CallError::Transient(TransientError::new(3, gone, None, false));
        assert_eq!(error.next_step(), NextStep::RenewCredentials);
    }

    #[test]
    fn the_stored_text_has_no_text_of_a_credential_provider() {
        let without_credentials = |cause| {
            let last = AttemptError::Credentials(cause);
            CallError::Transient(TransientError::new(3, last, None, false)).stored_text()
        };
        let begin = "gave up after 3 attempts: credentials unavailable; the request was not sent: ";
        for (cause, expected) in [
            (
                CredentialError::Provider("s3cret".into()),
                "the credential provider failed",
            ),
            (
                CredentialError::Panicked("s3cret".into()),
                "the credential provider panicked",
            ),
            (CredentialError::NoToken, "the credential provider returned no token"),
        ] {
            assert_eq!(without_credentials(cause), format!("{begin}{expected}"));
        }
        assert_eq!(spent(None, true).stored_text(), spent(None, true).without_body());
    }

    #[test]
    fn a_body_can_neither_break_the_line_nor_steer_a_terminal() {
        let body = "one\ntwo\r\u{1b}[31mred\u{9b}\u{202e}naïve 日本";
        let error = PermanentError::new(400, body.into());
        assert!(
            error
                .to_string()
                .ends_with(r": one\ntwo\r\u{1b}[31mred\u{9b}\u{202e}naïve 日本"),
            "{error}"
        );
        assert_eq!(error.body, body);
    }

    #[test]
    fn names_are_parsed_as_they_are_displayed() {
        for kind in [
            FailureKind::Invalid,
            FailureKind::NoCredentials,
            FailureKind::ShuttingDown,
        ] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<FailureKind>(&json).unwrap(), kind);
        }
        assert_eq!(
            "".parse::<FailureKind>().unwrap_err().to_string(),
            r#"unknown kind of failure """#
        );
    }
}
