//! The column `due_by`: what a free lane waits for.

use crate::{call::Endpoint, error::ParkReason};

/// Of the lanes of an endpoint that wait for their delay.
pub(super) fn due_by(endpoint: Endpoint) -> i64 {
    match endpoint {
        Endpoint::Session => 0,
        Endpoint::Proxy => 1,
    }
}

/// Of the lanes that wait for the end of an outage.
pub(super) fn due_by_outage(reason: ParkReason) -> Option<i64> {
    match reason {
        ParkReason::CompletionOutage => Some(2),
        ParkReason::StatusOutage => Some(3),
        ParkReason::TrackerOutage => Some(4),
        ParkReason::AttemptsFailed
        | ParkReason::LaneParked
        | ParkReason::QueueFull
        | ParkReason::NoCredentials
        | ParkReason::Unauthorized
        | ParkReason::TrackerUnauthorized
        | ParkReason::Shutdown
        | ParkReason::AlreadyStored
        | ParkReason::Requeued => None,
    }
}
