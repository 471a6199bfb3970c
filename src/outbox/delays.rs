//! The delays that this owner has set, by its monotonic clock. Pure.
//!
//! The store keeps the delays of all owners by the host's clock, which may be wrong. An owner goes by its own monotonic
//! clock for the lanes that it has parked itself, and never claims one sooner than the delay that it chose, even if another
//! owner has parked the lane since.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::store::{LaneClaim, LaneSet, endpoint};
use crate::call::Endpoint;

/// The lanes that this owner has parked, and when each is due.
#[derive(Default)]
pub(super) struct Delays {
    lanes: HashMap<String, Delay>,
    sessions: BTreeSet<(Instant, String)>,
    issues: BTreeSet<(Instant, String)>,
    /// The names of all lanes, for the store.
    names: LaneSet,
}

#[derive(Clone, Copy)]
struct Delay {
    due_at: Instant,
    /// When the wait ends that was added to the age of the lane's first calls. The lane may be due earlier.
    wait_ends_at: Instant,
    /// The claim that has ended.
    claim: i64,
}

impl Delays {
    /// Notes that this owner has parked a lane, which it had under this claim.
    pub(super) fn set(&mut self, lane: &str, due_at: Instant, claim: i64) {
        self.insert(
            lane,
            Delay {
                due_at,
                wait_ends_at: due_at,
                claim,
            },
        );
    }

    fn insert(&mut self, lane: &str, delay: Delay) {
        // The name is not removed meanwhile: the store may be looking at it.
        self.names.insert(lane);
        let former = self.lanes.insert(lane.to_owned(), delay);
        let order = self.order_mut(endpoint(lane));
        if let Some(Delay { due_at, .. }) = former {
            order.remove(&(due_at, lane.to_owned()));
        }
        order.insert((delay.due_at, lane.to_owned()));
    }

    /// Makes a lane due earlier, if this owner has parked it.
    pub(super) fn advance(&mut self, lane: &str, due_at: Instant) {
        if let Some(&delay) = self.lanes.get(lane) {
            self.insert(lane, Delay { due_at, ..delay });
        }
    }

    /// Whether this owner has parked the lane since it had this claim. Claims ascend.
    pub(super) fn was_released(&self, lane: &LaneClaim) -> bool {
        let delay = self.lanes.get(&lane.lane);
        delay.is_some_and(|delay| lane.claim <= delay.claim)
    }

    /// Forgets a lane that was claimed, or no longer exists.
    pub(super) fn remove(&mut self, lane: &str) {
        if let Some(Delay { due_at, .. }) = self.lanes.remove(lane) {
            self.order_mut(endpoint(lane)).remove(&(due_at, lane.to_owned()));
            self.names.remove(lane);
        }
    }

    /// How much of its wait a lane has not waited for.
    pub(super) fn rest(&self, lane: &str, now: Instant) -> Duration {
        let delay = self.lanes.get(lane);
        delay.map_or(Duration::ZERO, |delay| {
            delay.wait_ends_at.saturating_duration_since(now)
        })
    }

    /// Whether this owner has parked the lane and not claimed it since.
    pub(super) fn contains(&self, lane: &str) -> bool {
        self.lanes.contains_key(lane)
    }

    /// The lanes of an endpoint that are due, the longest due first, at most `limit`.
    pub(super) fn due(&self, endpoint: Endpoint, now: Instant, limit: usize) -> Vec<String> {
        let due = self.order(endpoint).iter().take_while(|(due_at, _)| *due_at <= now);
        due.map(|(_, lane)| lane.clone()).take(limit).collect()
    }

    /// The lanes that this owner has parked and not claimed since, also later ones: the set is shared.
    pub(super) fn names(&self) -> LaneSet {
        self.names.clone()
    }

    /// How long it is until the next lane of an endpoint is due.
    pub(super) fn next(&self, endpoint: Endpoint, now: Instant) -> Option<Duration> {
        let (due_at, _) = self.order(endpoint).first()?;
        Some(due_at.saturating_duration_since(now))
    }

    /// Whether any lane is due.
    pub(super) fn is_any_due(&self, now: Instant) -> bool {
        let is_due = |endpoint| self.next(endpoint, now).is_some_and(|wait| wait.is_zero());
        is_due(Endpoint::Session) || is_due(Endpoint::Proxy)
    }

    fn order(&self, endpoint: Endpoint) -> &BTreeSet<(Instant, String)> {
        match endpoint {
            Endpoint::Session => &self.sessions,
            Endpoint::Proxy => &self.issues,
        }
    }

    fn order_mut(&mut self, endpoint: Endpoint) -> &mut BTreeSet<(Instant, String)> {
        match endpoint {
            Endpoint::Session => &mut self.sessions,
            Endpoint::Proxy => &mut self.issues,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_lane_is_released_for_the_claims_until_it_was_parked() {
        let mut delays = Delays::default();
        delays.set("a", Clock::system().instant(), 7);
        let is_released = |lane: &str, claim| {
            delays.was_released(&LaneClaim {
                lane: lane.into(),
                claim,
            })
        };
        assert!(is_released("a", 6) && is_released("a", 7) && !is_released("a", 8) && !is_released("b", 7));
    }

    #[test]
    fn lanes_are_due_in_the_order_of_their_delays() {
        let start = Clock::system().instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut delays = Delays::default();
        for (lane, seconds) in [("a", 3), ("b", 1), ("c", 2), ("b", 5)] {
            delays.set(lane, at(seconds), 1);
        }
        assert_eq!(delays.next(Endpoint::Session, at(0)), Some(Duration::from_secs(2)));
        assert_eq!(delays.due(Endpoint::Session, at(1), 9), Vec::<String>::new());
        assert_eq!(delays.due(Endpoint::Session, at(3), 1), ["c"]);
        assert_eq!(delays.due(Endpoint::Session, at(3), 9), ["c", "a"]);
        delays.remove("a");
        delays.remove("c");
        assert!(delays.contains("b") && !delays.contains("a"));
        delays.remove("b");
        assert_eq!(delays.next(Endpoint::Session, at(9)), None);
    }

    #[test]
    fn a_lane_that_is_advanced_has_a_rest_of_its_wait() {
        let now = Clock::system().instant();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut delays = Delays::default();
        delays.set("a", at(300), 1);
        delays.advance("a", at(10));
        assert_eq!(delays.due(Endpoint::Session, at(10), 9), ["a"]);
        assert_eq!(delays.rest("a", at(20)), Duration::from_secs(280));
        assert_eq!(delays.rest("a", at(400)), Duration::ZERO);
        assert_eq!(delays.rest("b", at(0)), Duration::ZERO);
    }

    #[test]
    fn the_names_are_shared() {
        let now = Clock::system().instant();
        let mut delays = Delays::default();
        let names = delays.names();
        delays.set("a", now, 1);
        delays.set("b", now, 1);
        delays.advance("a", now);
        assert!(names.contains("a") && names.contains("b"));
        delays.remove("b");
        assert!(names.contains("a") && !names.contains("b"));
    }

    #[test]
    fn the_lanes_of_each_endpoint_have_their_own_order() {
        let now = Clock::system().instant();
        let mut delays = Delays::default();
        delays.set("issue a", now, 1);
        delays.set("session a", now + Duration::from_secs(1), 1);
        assert_eq!(delays.due(Endpoint::Proxy, now, 9), ["issue a"]);
        assert_eq!(delays.due(Endpoint::Session, now, 9), [""; 0]);
        assert_eq!(delays.next(Endpoint::Session, now), Some(Duration::from_secs(1)));
        assert!(delays.is_any_due(now));
        delays.remove("issue a");
        assert_eq!(
            (delays.next(Endpoint::Proxy, now), delays.is_any_due(now)),
            (None, false)
        );
    }
}
