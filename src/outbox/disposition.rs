//! The decision about a failed call: it is deleted, parked, or made a dead letter.

use std::time::Instant;

use super::{
    owner::Inner,
    store::History,
    stored::{Origin, Stored, StoredRow},
};
use crate::error::{CallError, CancelledBy, ParkReason};

/// How many rejections a replayed call of another worker gets before it is a dead letter.
const MAX_FOREIGN_REJECTIONS: u32 = 10;

pub(super) enum Disposition {
    Delete,
    DeadLetter { history: History, is_expired: bool },
    Keep { reason: ParkReason, history: History },
}

/// Decides about a call that failed with this error.
pub(super) fn disposition(
    inner: &Inner,
    stored: &Stored,
    row: &StoredRow,
    error: &CallError,
    now: Instant,
) -> Disposition {
    let mut history = row.history.clone();
    let keep = |reason, history| Disposition::Keep { reason, history };
    let dead = |history, is_expired| Disposition::DeadLetter { history, is_expired };
    match error {
        CallError::Cancelled {
            by: CancelledBy::Token, ..
        } => return Disposition::Delete,
        CallError::Cancelled {
            by: CancelledBy::Shutdown,
            ..
        } => return keep(ParkReason::Shutdown, history),
        CallError::Transient(error) => history.attempts = history.attempts.saturating_add(error.attempts),
        CallError::Permanent(error) => history.attempts = history.attempts.saturating_add(error.attempts),
        CallError::Invalid(_)
        | CallError::NoCredentials
        | CallError::Parked(_)
        | CallError::Overloaded
        | CallError::ShuttingDown
        | CallError::Internal { .. } => {}
    }
    let tried = now.saturating_duration_since(stored.since);
    history.age = history.age.saturating_add(tried);
    history.parks = history.parks.saturating_add(1);
    if inner.witnesses.borrow().blame(&stored.target, error, now) {
        history.faults = history.faults.saturating_add(1);
    }
    if is_foreign_rejection(error, stored.origin) {
        history.rejections = history.rejections.saturating_add(1);
    }
    let reason = match error {
        CallError::Permanent(rejection) => match park_reason(rejection.status_code, stored.origin, &history) {
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
        | CallError::Overloaded
        | CallError::ShuttingDown => ParkReason::AttemptsFailed,
    };
    if history.age >= inner.options.expires_after() {
        return dead(history, true);
    }
    keep(reason, history)
}

/// Why a rejected call is parked; `None` makes it a dead letter.
fn park_reason(status_code: u16, origin: Origin, history: &History) -> Option<ParkReason> {
    match status_code {
        401 | 302 | 303 | 307 => Some(ParkReason::Unauthorized),
        301 | 308 | 407 | 408 | 425 | 429 => Some(ParkReason::AttemptsFailed),
        _ if is_foreign_status(status_code, origin) && history.rejections < MAX_FOREIGN_REJECTIONS => {
            Some(ParkReason::AttemptsFailed)
        }
        _ => None,
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
