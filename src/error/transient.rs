//! A call whose attempts all failed.

use std::time::Duration;

use thiserror::Error;

use super::{AttemptError, OutboxError};

/// All attempts of a call failed, or the platform asked for a longer pause than `max_retry_after` allows.
/// [`source`](std::error::Error::source) is the error of the last attempt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("gave up after {attempts} attempt{}", if *.attempts == 1 { "" } else { "s" })]
#[non_exhaustive]
pub struct TransientError {
    /// How many attempts were made, at least one.
    pub attempts: u32,
    /// Why the last attempt failed.
    #[source]
    pub last: AttemptError,
    /// The pause that the platform asked for in its last response, if it did.
    pub retry_after: Option<Duration>,
    pub(crate) may_have_been_delivered: bool,
    pub(crate) outbox_error: Option<OutboxError>,
}

impl TransientError {
    pub(crate) fn new(
        attempts: u32,
        last: AttemptError,
        retry_after: Option<Duration>,
        may_have_been_delivered: bool,
    ) -> Self {
        Self {
            attempts,
            last,
            retry_after,
            may_have_been_delivered,
            outbox_error: None,
        }
    }

    /// Whether the platform may have processed one of the attempts.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        self.may_have_been_delivered
    }

    /// Why the outbox could not store the call. `None` without an outbox, or if the call was stored.
    #[must_use]
    pub fn outbox_error(&self) -> Option<&OutboxError> {
        self.outbox_error.as_ref()
    }
}
