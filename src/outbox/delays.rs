//! The delays that this owner has set, by its monotonic clock. Pure.
//!
//! The store keeps the delays of all owners by the host's clock, which may be wrong. An owner goes by its own monotonic
//! clock for the lanes that it has parked itself, and never claims one sooner than the delay that it chose, even if another
//! owner has parked the lane since.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// The lanes that this owner has parked, and when each is due.
#[derive(Default)]
pub(super) struct Delays {
    due_at: HashMap<String, Instant>,
    order: BTreeSet<(Instant, String)>,
}

impl Delays {
    /// Notes that this owner has parked a lane.
    pub(super) fn set(&mut self, lane: &str, due_at: Instant) {
        self.remove(lane);
        self.due_at.insert(lane.to_owned(), due_at);
        self.order.insert((due_at, lane.to_owned()));
    }

    /// Forgets a lane that was claimed, or no longer exists.
    pub(super) fn remove(&mut self, lane: &str) {
        if let Some(due_at) = self.due_at.remove(lane) {
            self.order.remove(&(due_at, lane.to_owned()));
        }
    }

    /// Whether this owner has parked the lane and not claimed it since.
    pub(super) fn contains(&self, lane: &str) -> bool {
        self.due_at.contains_key(lane)
    }

    /// The lanes that are due, the longest due first, at most `limit`.
    pub(super) fn due(&self, now: Instant, limit: usize) -> Vec<String> {
        let due = self.order.iter().take_while(|(due_at, _)| *due_at <= now);
        due.map(|(_, lane)| lane.clone()).take(limit).collect()
    }

    /// The lanes that are not due.
    pub(super) fn not_due(&self, now: Instant) -> Vec<String> {
        let waiting = self.order.iter().filter(|(due_at, _)| *due_at > now);
        waiting.map(|(_, lane)| lane.clone()).collect()
    }

    /// How long it is until the next lane is due.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let (due_at, _) = self.order.first()?;
        Some(due_at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn lanes_are_due_in_the_order_of_their_delays() {
        let start = Clock::system().instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut delays = Delays::default();
        for (lane, seconds) in [("a", 3), ("b", 1), ("c", 2), ("b", 5)] {
            delays.set(lane, at(seconds));
        }
        assert_eq!(delays.next(at(0)), Some(Duration::from_secs(2)));
        assert_eq!(delays.due(at(1), 9), Vec::<String>::new());
        assert_eq!(delays.due(at(3), 1), ["c"]);
        assert_eq!(delays.due(at(3), 9), ["c", "a"]);
        assert_eq!(delays.not_due(at(3)), ["b"]);
        delays.remove("a");
        delays.remove("c");
        assert!(delays.contains("b") && !delays.contains("a"));
        delays.remove("b");
        assert_eq!(delays.next(at(9)), None);
    }
}
