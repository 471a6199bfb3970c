//! The error of a `PostResult`.

use thiserror::Error;

use super::{CallError, InvalidMessageError, NextStep, ParkedError, PermanentError, TransientError};
use crate::util::chain;

/// The error of a [`PostResult`](crate::PostResult): which of its two calls failed, and why.
///
/// A message that ends before its first call (a full queue, a shutdown, a cancellation) fails as
/// [`Both`](Self::Both).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PostError {
    /// The message was refused; nothing was sent. Fix the named field.
    #[error("the result is invalid; nothing was sent")]
    Invalid(#[from] InvalidMessageError),
    /// The completion failed, the status was delivered: the session's lock is released, the issue has no comment.
    #[error("the completion failed, the status was delivered")]
    Completion(#[source] CallError),
    /// The completion was delivered, the status failed: the session's lock may still be held.
    #[error("the completion was delivered, the status failed")]
    Status(#[source] CallError),
    /// Both calls failed, or neither was sent. `Display` prints the chains of both causes, and `source()` is `None`.
    #[error("the completion failed: {}; the status failed: {}", chain(.completion), chain(.status))]
    Both {
        /// Why the completion failed.
        completion: CallError,
        /// Why the status failed.
        status: CallError,
    },
}

impl PostError {
    pub(crate) fn internal(message: String) -> Self {
        Self::Both {
            completion: CallError::Internal {
                message: message.clone(),
            },
            status: CallError::Internal { message },
        }
    }

    /// Why the completion failed, if it did.
    #[must_use]
    pub fn completion(&self) -> Option<&CallError> {
        match self {
            Self::Completion(error) | Self::Both { completion: error, .. } => Some(error),
            Self::Invalid(_) | Self::Status(_) => None,
        }
    }

    /// Why the status call failed, if it did. The HTTP status of a rejection is `status_code` of
    /// [`permanent`](Self::permanent).
    #[must_use]
    pub fn status(&self) -> Option<&CallError> {
        match self {
            Self::Status(error) | Self::Both { status: error, .. } => Some(error),
            Self::Invalid(_) | Self::Completion(_) => None,
        }
    }

    /// The errors of the calls that failed: the completion's, then the status's.
    fn calls(&self) -> impl Iterator<Item = &CallError> {
        self.completion().into_iter().chain(self.status())
    }

    /// The runner's next step. If both calls failed, the first of their two steps in this order: `UseNextPoster`,
    /// `RenewCredentials`, `RetryLater` (with the longer of two times), `GiveUp`, `Nothing`.
    #[must_use]
    pub fn next_step(&self) -> NextStep {
        let steps = self.calls().map(CallError::next_step);
        let first = steps.reduce(|first, second| match (first, second) {
            (NextStep::RetryLater { after: one }, NextStep::RetryLater { after: other }) => {
                NextStep::RetryLater { after: one.max(other) }
            }
            (first, second) => first.min(second),
        });
        // An invalid result has no calls.
        first.unwrap_or(NextStep::GiveUp)
    }

    /// The platform's rejection of the completion, or else of the status.
    #[must_use]
    pub fn permanent(&self) -> Option<&PermanentError> {
        self.calls().find_map(CallError::permanent)
    }

    /// The transient error of the completion, or else of the status.
    #[must_use]
    pub fn transient(&self) -> Option<&TransientError> {
        self.calls().find_map(CallError::transient)
    }

    /// The error of a call that is parked in the outbox: of the completion, or else of the status.
    #[must_use]
    pub fn parked(&self) -> Option<&ParkedError> {
        self.calls().find_map(CallError::parked)
    }

    /// Whether the platform may have processed a call that failed.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        self.calls().any(CallError::may_have_been_delivered)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;
    use crate::{
        call_id::CallId,
        error::{AttemptError, CancelledBy, ParkReason},
    };

    fn spent(retry_after: Option<u64>) -> CallError {
        let last = AttemptError::Connect(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        TransientError::new(3, last, retry_after.map(Duration::from_secs), false).into()
    }

    fn rejected(status_code: u16) -> CallError {
        PermanentError::new(status_code, "no".into()).into()
    }

    fn parked() -> CallError {
        CallError::Parked(ParkedError {
            id: CallId::from_parts(1, 7),
            reason: ParkReason::AttemptsFailed,
            attempts: 3,
            last: None,
            may_have_been_delivered: false,
        })
    }

    #[test]
    fn each_cause_is_printed_once_along_the_sources() {
        assert_eq!(
            chain(&PostError::Status(spent(None))),
            "the completion was delivered, the status failed: gave up after 3 attempts: could not connect; the request was \
             not sent: connection refused"
        );
    }

    #[test]
    fn the_text_of_two_failures_contains_both_chains() {
        let error = PostError::Both {
            completion: rejected(422),
            status: spent(None),
        };
        assert_eq!(
            chain(&error),
            "the completion failed: the platform rejected the call with status 422: no; the status failed: gave up after 3 \
             attempts: could not connect; the request was not sent: connection refused"
        );
        assert_eq!(error.permanent().map(|error| error.status_code), Some(422));
        assert_eq!(error.transient().map(|error| error.attempts), Some(3));
    }

    #[test]
    fn the_parked_call_of_a_result_is_found() {
        let errors = |completion, status| PostError::Both { completion, status };
        for error in [
            PostError::Completion(parked()),
            PostError::Status(parked()),
            errors(parked(), rejected(401)),
            errors(rejected(401), parked()),
        ] {
            assert_eq!(
                error.parked().map(|parked| parked.id),
                Some(CallId::from_parts(1, 7)),
                "{error:?}"
            );
        }
        assert_eq!(errors(rejected(401), rejected(401)).parked(), None);
    }

    #[test]
    fn the_next_step_of_two_failures_is_the_first_in_order() {
        let after = |seconds| NextStep::RetryLater {
            after: Duration::from_secs(seconds),
        };
        let cancelled = |by| CallError::Cancelled {
            by,
            attempts: 0,
            may_have_been_delivered: false,
        };
        for (completion, status, step) in [
            (rejected(422), CallError::ShuttingDown, NextStep::UseNextPoster),
            (rejected(401), cancelled(CancelledBy::Shutdown), NextStep::UseNextPoster),
            (rejected(401), spent(None), NextStep::RenewCredentials),
            (parked(), rejected(401), NextStep::RenewCredentials),
            (parked(), rejected(404), NextStep::GiveUp),
            (parked(), parked(), NextStep::Nothing),
            (spent(None), rejected(404), after(30)),
            (spent(Some(90)), spent(Some(40)), after(90)),
            (spent(Some(40)), spent(Some(90)), after(90)),
            (cancelled(CancelledBy::Token), rejected(404), NextStep::GiveUp),
            (
                cancelled(CancelledBy::Token),
                cancelled(CancelledBy::Token),
                NextStep::Nothing,
            ),
        ] {
            let error = PostError::Both { completion, status };
            assert_eq!(error.next_step(), step, "{error:?}");
        }
        assert_eq!(
            PostError::Completion(rejected(401)).next_step(),
            NextStep::RenewCredentials
        );
        let invalid = InvalidMessageError::new("session_id", "is empty or blank");
        assert_eq!(PostError::Invalid(invalid).next_step(), NextStep::GiveUp);
    }
}
