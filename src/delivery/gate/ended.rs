//! The end of an attempt, as far as it concerns the gates.

use std::time::Duration;

/// The end of an attempt, as far as it concerns the gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Ended {
    /// The platform carried out or rejected the call.
    Handled,
    /// A 429: the group has to pause for this long.
    RateLimited(Duration),
    /// A 503 with this hint.
    Busy(Duration),
    /// Any other response of the platform.
    Answered,
    /// A 502, 503 or 504, or a response that the platform itself does not give.
    Unavailable,
    /// The request was sent, and there was no response.
    Unanswered,
    /// The request was not sent, since there was no connection.
    Unconnected,
    /// The request was not sent, for another reason.
    NotTried,
}
