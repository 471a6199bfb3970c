//! A call that the outbox will deliver.

use thiserror::Error;

use super::AttemptError;
use crate::{call_id::CallId, label::labels};

/// The call is not delivered yet. It is in the outbox, which will deliver it: do not send the message again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("parked in the outbox as {id}: {}", .reason.description())]
#[non_exhaustive]
pub struct ParkedError {
    /// The id of the call in the outbox.
    pub id: CallId,
    /// Why the call was parked.
    pub reason: ParkReason,
    /// How many attempts were made before the call was parked. 0 if it was parked without an attempt.
    pub attempts: u32,
    /// Why the last attempt failed: a rejection is [`AttemptError::Rejected`]. For a call that was parked without an attempt
    /// because of other calls' failures, the last of those. `None` for any other call that was parked without an attempt,
    /// and after a shutdown.
    #[source]
    pub last: Option<AttemptError>,
    pub(crate) may_have_been_delivered: bool,
}

impl ParkedError {
    /// Whether the platform may have carried the call out in one of the attempts.
    #[must_use]
    pub fn may_have_been_delivered(&self) -> bool {
        self.may_have_been_delivered
    }
}

/// Why a call was parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ParkReason {
    /// All of its attempts failed.
    AttemptsFailed,
    /// An earlier message of the same session or issue is parked, or belongs to another process.
    LaneParked,
    /// `max_queued` messages were waiting already.
    QueueFull,
    /// There was no token for the platform.
    NoCredentials,
    /// The platform rejected the credentials.
    Unauthorized,
    /// The issue tracker rejected the platform's authorization.
    TrackerUnauthorized,
    /// The platform can't be reached for completions.
    CompletionOutage,
    /// The platform can't be reached for statuses.
    StatusOutage,
    /// The platform can't be reached for calls to the issue tracker.
    TrackerOutage,
    /// The poster shut down.
    Shutdown,
    /// The same message is in the outbox already.
    AlreadyStored,
    /// An operator requeued or imported the call.
    Requeued,
}

labels!(ParkReason, "reason for parking", {
    AttemptsFailed => "attempts_failed",
    LaneParked => "lane_parked",
    QueueFull => "queue_full",
    NoCredentials => "no_credentials",
    Unauthorized => "unauthorized",
    TrackerUnauthorized => "tracker_unauthorized",
    CompletionOutage => "completion_outage",
    StatusOutage => "status_outage",
    TrackerOutage => "tracker_outage",
    Shutdown => "shutdown",
    AlreadyStored => "already_stored",
    Requeued => "requeued",
});

impl ParkReason {
    /// Whether the call is sent once the platform can be reached, and not after a delay.
    #[must_use]
    pub fn is_outage(self) -> bool {
        match self {
            Self::CompletionOutage | Self::StatusOutage | Self::TrackerOutage => true,
            Self::AttemptsFailed
            | Self::LaneParked
            | Self::QueueFull
            | Self::NoCredentials
            | Self::Unauthorized
            | Self::TrackerUnauthorized
            | Self::Shutdown
            | Self::AlreadyStored
            | Self::Requeued => false,
        }
    }

    /// The reason in a few words, for a log line.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::AttemptsFailed => "all attempts failed",
            Self::LaneParked => "an earlier message of its lane is parked",
            Self::QueueFull => "the queue is full",
            Self::NoCredentials => "there is no token for the platform",
            Self::Unauthorized => "the platform rejected the credentials",
            Self::TrackerUnauthorized => "the issue tracker rejected the platform's authorization",
            Self::CompletionOutage => "the platform can't be reached for completions",
            Self::StatusOutage => "the platform can't be reached for statuses",
            Self::TrackerOutage => "the platform can't be reached for calls to the issue tracker",
            Self::Shutdown => "the poster shut down",
            Self::AlreadyStored => "the same message is in the outbox already",
            Self::Requeued => "it was requeued",
        }
    }
}
