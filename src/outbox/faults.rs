//! Whether a failure is the call's own fault, or the platform's. Pure.

use std::time::{Duration, Instant};

use crate::{
    call::Target,
    error::{AttemptError, CallError},
};

/// From this many faults of its own on, a message no longer blocks its lane.
pub(super) const MAX_FAULTS: u32 = 10;

/// From this many deaths of its owner on, a message is tried alone.
pub(super) const MAX_TAKEOVERS: u32 = 3;

/// How recent a delivery to another target must be to show that the platform works.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// The last targets that were attempted and delivered, two of each, so that one of them is always another one.
#[derive(Default)]
pub(super) struct Witnesses {
    attempted: Recent,
    delivered: Recent,
}

#[derive(Default)]
struct Recent([Option<(Target, Instant)>; 2]);

impl Recent {
    fn note(&mut self, target: &Target, now: Instant) {
        let [first, second] = &mut self.0;
        if first.as_ref().is_some_and(|(known, _)| known != target) {
            *second = first.take();
        }
        *first = Some((target.clone(), now));
    }

    fn has_other(&self, target: &Target, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) <= WINDOW;
        let mut all = self.0.iter().flatten();
        all.any(|(known, at)| known != target && is_recent(at))
    }
}

impl Witnesses {
    /// Notes how a call of this target ended.
    pub(super) fn note(&mut self, target: &Target, is_delivered: bool, now: Instant) {
        self.attempted.note(target, now);
        if is_delivered {
            self.delivered.note(target, now);
        }
    }

    /// Whether an answer of 5xx, or HTML instead of the platform's answer, is the fault of this target's call: the platform
    /// works for others, or there are no others.
    pub(super) fn blame(&self, target: &Target, error: &CallError, now: Instant) -> bool {
        let is_answer = match error {
            CallError::Transient(error) => matches!(
                error.last,
                AttemptError::RetryableResponse { status_code: 500.., .. } | AttemptError::UnexpectedResponse { .. }
            ),
            CallError::Invalid(_)
            | CallError::NoCredentials
            | CallError::Permanent(_)
            | CallError::Parked(_)
            | CallError::Cancelled { .. }
            | CallError::Overloaded { .. }
            | CallError::ShuttingDown
            | CallError::Internal { .. } => false,
        };
        is_answer && (self.delivered.has_other(target, now) || !self.attempted.has_other(target, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, error::TransientError};

    fn session(id: &str) -> Target {
        Target::Session(id.into())
    }

    fn answered(status_code: u16) -> CallError {
        CallError::Transient(TransientError {
            attempts: 1,
            last: AttemptError::RetryableResponse {
                status_code,
                body: String::new(),
            },
            retry_after: None,
            may_have_been_delivered: false,
            outbox_error: None,
        })
    }

    #[test]
    fn a_5xx_is_the_calls_fault_if_the_platform_works_for_others() {
        let start = Clock::system().instant();
        let mut witnesses = Witnesses::default();
        witnesses.note(&session("a"), false, start);
        witnesses.note(&session("b"), true, start);
        assert!(witnesses.blame(&session("a"), &answered(500), start));
        assert!(!witnesses.blame(&session("b"), &answered(500), start));
        // An outage: nothing was delivered for a while.
        let later = start + Duration::from_secs(11 * 60);
        witnesses.note(&session("c"), false, later);
        assert!(!witnesses.blame(&session("a"), &answered(500), later));
    }

    #[test]
    fn a_5xx_is_the_calls_fault_if_there_is_no_other_target() {
        let start = Clock::system().instant();
        let mut witnesses = Witnesses::default();
        witnesses.note(&session("a"), false, start);
        assert!(witnesses.blame(&session("a"), &answered(503), start));
        assert!(!witnesses.blame(&session("a"), &answered(429), start));
        assert!(!witnesses.blame(&session("a"), &CallError::NoCredentials, start));
    }
}
