//! The next step of a runner after an error.

use std::time::Duration;

use serde::Serialize;

/// The next step of a runner after an error. A message that is sent again must be a clone, so that its calls keep their
/// idempotency keys.
///
/// A result can't be sent in part: a clone has both of its calls. The outbox recognises a call that it holds
/// ([`PostError::parked`](crate::PostError::parked)) by its key, and does not store the clone again.
///
/// The variants are in order of precedence: if both calls of a result failed, the first of their two steps is the step
/// of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum NextStep {
    /// Give the message to the next poster: this one has been shut down.
    UseNextPoster,
    /// Renew the worker's credentials, then send the message again.
    RenewCredentials,
    /// Send the message again after this time.
    RetryLater {
        /// How long to wait: at most a day, even if the platform asks for a longer pause.
        after: Duration,
    },
    /// Report the error: the same message would fail again.
    GiveUp,
    /// No action is needed: the call is parked in the outbox, or was cancelled by the message's token.
    Nothing,
}
