//! The decision about a failed call: it is deleted, parked, or made a dead letter.

use std::time::{Duration, Instant};

use super::{
    owner::Inner,
    store::History,
    stored::{Origin, Stored, StoredRow},
};
use crate::{
    call::PlatformRoute,
    error::{CallError, CancelledBy, ParkReason, PermanentError, RejectionCause},
};

/// How many rejections a replayed call of another worker gets before it is a dead letter.
const MAX_FOREIGN_REJECTIONS: u32 = 10;

/// How long a call is tried whose issue tracker rejects the platform's authorization.
const TRACKER_EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) enum Disposition {
    Delete,
    DeadLetter { history: History, is_expired: bool },
    Keep { reason: ParkReason, history: History },
}

/// The reason for parking a call while the platform can't be reached by this route.
pub(super) fn outage_reason(route: PlatformRoute) -> ParkReason {
    match route {
        PlatformRoute::Completion => ParkReason::CompletionOutage,
        PlatformRoute::Status => ParkReason::StatusOutage,
        PlatformRoute::Tracker => ParkReason::TrackerOutage,
    }
}

/// Decides about a call that failed with this error. Its message is tried since `since`. `outage` is the reason for
/// parking if the platform can't be reached.
pub(super) fn disposition(
    inner: &Inner,
    stored: &Stored,
    row: &StoredRow,
    error: &CallError,
    outage: Option<ParkReason>,
    since: Instant,
    now: Instant,
) -> Disposition {
    let mut history = row.history.clone();
    let keep = |reason, history| Disposition::Keep { reason, history };
    let dead = |history, is_expired| Disposition::DeadLetter { history, is_expired };
    match error {
        CallError::Cancelled {
            by: CancelledBy::Token | CancelledBy::Discard,
            ..
        } => return Disposition::Delete,
        CallError::Cancelled {
            by: CancelledBy::Shutdown,
            attempts,
            ..
        } => {
            history.attempts = history.attempts.saturating_add(*attempts);
            return keep(ParkReason::Shutdown, history);
        }
        CallError::Transient(error) => history.attempts = history.attempts.saturating_add(error.attempts),
        CallError::Permanent(error) => history.attempts = history.attempts.saturating_add(error.attempts),
        CallError::Invalid(_)
        | CallError::NoCredentials
        | CallError::Parked(_)
        | CallError::Overloaded { .. }
        | CallError::ShuttingDown
        | CallError::Internal { .. } => {}
    }
    let tried = now.saturating_duration_since(since);
    history.age = history.age.saturating_add(tried);
    if let (CallError::Transient(_), Some(reason)) = (error, outage) {
        // The failure is the platform's, and the call is not tried until the outage is over.
        return keep(reason, history);
    }
    // A message that was held back was not tried.
    let was_held_back = error.permanent().is_some_and(|rejection| rejection.attempts == 0);
    if !was_held_back {
        history.parks = history.parks.saturating_add(1);
    }
    if inner.witnesses.borrow().blame(&stored.target, error, now) {
        history.faults = history.faults.saturating_add(1);
    }
    if is_foreign_rejection(error, stored.origin) {
        history.rejections = history.rejections.saturating_add(1);
    }
    let reason = match error {
        CallError::Permanent(rejection) => match park_reason(rejection, stored.origin, &history) {
            Some(reason) => reason,
            None => return dead(history, false),
        },
        // A panic would only repeat itself.
        CallError::Internal { .. } => return dead(history, false),
        CallError::NoCredentials => ParkReason::NoCredentials,
        CallError::Transient(_)
        | CallError::Invalid(_)
        | CallError::Parked(_)
        | CallError::Cancelled { .. }
        | CallError::Overloaded { .. }
        | CallError::ShuttingDown => ParkReason::AttemptsFailed,
    };
    let expires_after = match reason {
        ParkReason::TrackerUnauthorized => inner.options.expires_after().min(TRACKER_EXPIRY),
        ParkReason::AttemptsFailed
        | ParkReason::LaneParked
        | ParkReason::QueueFull
        | ParkReason::NoCredentials
        | ParkReason::Unauthorized
        | ParkReason::CompletionOutage
        | ParkReason::StatusOutage
        | ParkReason::TrackerOutage
        | ParkReason::Shutdown
        | ParkReason::AlreadyStored
        | ParkReason::Requeued => inner.options.expires_after(),
    };
    if history.age >= expires_after && !was_held_back {
        return dead(history, true);
    }
    keep(reason, history)
}

/// Why a rejected call is parked; `None` makes it a dead letter.
fn park_reason(rejection: &PermanentError, origin: Origin, history: &History) -> Option<ParkReason> {
    match rejection.cause {
        RejectionCause::Credentials => Some(ParkReason::Unauthorized),
        RejectionCause::TrackerAuthorization => Some(ParkReason::TrackerUnauthorized),
        RejectionCause::Moved { .. } => Some(ParkReason::AttemptsFailed),
        RejectionCause::Call | RejectionCause::Tracker => {
            let is_foreign = is_foreign_status(rejection.status_code, origin);
            (is_foreign && history.rejections < MAX_FOREIGN_REJECTIONS).then_some(ParkReason::AttemptsFailed)
        }
    }
}

/// Whether the platform has rejected a replayed call of another worker: the session's owner may be a worker that this one
/// has replaced.
fn is_foreign_rejection(error: &CallError, origin: Origin) -> bool {
    error
        .permanent()
        .is_some_and(|rejection| is_foreign_status(rejection.status_code, origin))
}

fn is_foreign_status(status_code: u16, origin: Origin) -> bool {
    matches!(status_code, 403 | 404) && origin == (Origin::Replay { is_own_worker: false })
}
