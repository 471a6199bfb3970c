//! Which processes are alive, by their heartbeat counters. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How often a counter must have been observed unchanged: after a suspend of the host, the first process to wake must not
/// take the others for dead.
const MIN_OBSERVATIONS: u32 = 3;

/// The observed heartbeat counters of other processes.
pub(super) struct Liveness {
    timeout: Duration,
    owners: BTreeMap<i64, Heartbeat>,
}

struct Heartbeat {
    counter: i64,
    unchanged_since: Instant,
    observations: u32,
}

/// The result of one observation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// The dead processes, with their last counters.
    pub(super) dead: Vec<(i64, i64)>,
    /// Whether a process is no longer registered.
    pub(super) has_left: bool,
}

impl Liveness {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            owners: BTreeMap::new(),
        }
    }

    /// Compares the counters of the other processes with the earlier ones.
    pub(super) fn observe(&mut self, counters: &[(i64, i64)], now: Instant) -> Observed {
        let before = self.owners.len();
        self.owners
            .retain(|owner, _| counters.iter().any(|(other, _)| other == owner));
        let has_left = self.owners.len() < before;
        let mut dead = Vec::new();
        for &(owner, counter) in counters {
            let first = Heartbeat {
                counter,
                unchanged_since: now,
                observations: 0,
            };
            let heartbeat = self.owners.entry(owner).or_insert(first);
            if heartbeat.counter != counter {
                *heartbeat = Heartbeat {
                    counter,
                    unchanged_since: now,
                    observations: 0,
                };
            }
            heartbeat.observations = heartbeat.observations.saturating_add(1);
            let silent_for = now.saturating_duration_since(heartbeat.unchanged_since);
            if heartbeat.observations > MIN_OBSERVATIONS && silent_for >= self.timeout {
                dead.push((owner, counter));
            }
        }
        Observed { dead, has_left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn an_owner_without_heartbeats_expires_except_after_a_host_suspend() {
        let start = Clock::system().instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(Duration::from_secs(30));
        let mut observe = |counters: &[(i64, i64)], seconds| {
            let observed = liveness.observe(counters, at(seconds));
            (observed.dead, observed.has_left)
        };
        assert_eq!(observe(&[(1, 5), (2, 5)], 0), (vec![], false));
        assert_eq!(observe(&[(1, 6), (2, 5)], 10), (vec![], false));
        assert_eq!(observe(&[(1, 7), (2, 5)], 20), (vec![], false));
        assert_eq!(observe(&[(1, 8), (2, 5)], 30), (vec![(2, 5)], false));
        assert_eq!(observe(&[(1, 9)], 40), (vec![], true));
        // The host was suspended for an hour.
        for (seconds, dead) in [(3640, vec![]), (3650, vec![]), (3660, vec![(1, 9)])] {
            assert_eq!(observe(&[(1, 9)], seconds), (dead, false));
        }
        // A process that sends heartbeats again is alive again.
        assert_eq!(observe(&[(1, 10)], 3670), (vec![], false));
        assert_eq!(observe(&[(1, 10), (3, 1)], 3680), (vec![], false));
    }
}
