//! How long this owner counts as alive. Pure.
//!
//! The lease is kept by the server's clock. The owner measures it from when it *sent* its last renewal: the server's lease
//! ends later.

use std::time::{Duration, Instant};

/// The lease of an owner, by its own monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(in crate::outbox) struct Lease {
    length: Duration,
    /// When the last renewal was sent that the server has answered.
    renewed_at: Option<Instant>,
    /// When the owner last found out that it may have been taken for dead meanwhile.
    lapsed_at: Option<Instant>,
}

impl Lease {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            renewed_at: None,
            lapsed_at: None,
        }
    }

    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// A renewal that was sent then was answered.
    pub(super) fn renewed(&mut self, sent_at: Instant, answered_at: Instant) {
        if !self.covers(answered_at, Duration::ZERO) {
            self.lapsed_at = Some(answered_at);
        }
        self.renewed_at = self.renewed_at.max(Some(sent_at));
    }

    /// Whether an idle owner has to renew it: often enough that three renewals may fail.
    pub(super) fn is_renewal_due(&self, now: Instant) -> bool {
        let interval = self.length.saturating_mul(2).checked_div(9).unwrap_or_default();
        self.renewed_at
            .is_some_and(|at| now.saturating_duration_since(at) >= interval)
    }

    /// Whether the owner counts as alive without a break since that time, and does so until a request has ended that begins
    /// now: it takes at most a third of the lease.
    pub(super) fn holds_since(&self, since: Instant, now: Instant) -> bool {
        self.lapsed_at.is_none_or(|at| at < since) && self.covers(now, self.length.checked_div(3).unwrap_or_default())
    }

    /// Whether something that begins now and takes this long at most ends with the lease. `true` if the owner never had one.
    fn covers(&self, now: Instant, duration: Duration) -> bool {
        self.renewed_at.is_none_or(|at| {
            let over = now.saturating_duration_since(at).saturating_add(duration);
            over < self.length
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_attempt_that_could_end_after_the_lease_is_not_covered() {
        let start = Clock::system().instant();
        let mut lease = Lease::new(90 * SECOND);
        assert!(lease.covers(start, 30 * SECOND));
        lease.renewed(start, start);
        assert!(lease.covers(start + 59 * SECOND, 30 * SECOND));
        assert!(!lease.covers(start + 60 * SECOND, 30 * SECOND));
        lease.renewed(start + 20 * SECOND, start + 21 * SECOND);
        assert!(lease.covers(start + 60 * SECOND, 30 * SECOND));
    }

    #[test]
    fn after_a_lapse_of_the_lease_earlier_lanes_are_no_longer_certain() {
        let start = Clock::system().instant();
        let mut lease = Lease::new(90 * SECOND);
        lease.renewed(start, start);
        assert!(lease.holds_since(start, start + 59 * SECOND));
        let later = start + 89 * SECOND;
        lease.renewed(later, later + SECOND);
        let now = later + 2 * SECOND;
        assert!(!lease.holds_since(start, now));
        assert!(lease.holds_since(now, now));
    }

    #[test]
    fn a_renewal_is_due_three_times_before_the_lease_is_over() {
        let start = Clock::system().instant();
        let mut lease = Lease::new(90 * SECOND);
        assert!(!lease.is_renewal_due(start));
        lease.renewed(start, start);
        assert!(!lease.is_renewal_due(start + 19 * SECOND));
        assert!(lease.is_renewal_due(start + 20 * SECOND));
    }
}
