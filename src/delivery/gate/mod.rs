//! The gates between the retry loop and the permits: they hold calls back while the platform asks for a pause, or can't be
//! reached.
//!
//! `pause` and `outage` decide, and are pure: the time is passed in, and nothing waits. `gates` waits.

mod gates;
mod opening;
mod outage;
mod pass;
mod passage;
mod pause;

use std::time::Duration;

pub(super) use self::passage::Admission;
pub(crate) use self::{gates::Gates, outage::Change, passage::Passage};

/// The end of an attempt, as far as it concerns the gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
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
