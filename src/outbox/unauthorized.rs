//! The wait for other credentials, after the platform has rejected those of a poster. Pure.
//!
//! Nothing is sent with rejected credentials, except for one probe at a time: they may be accepted again.

use std::{
    collections::BTreeSet,
    ops::Bound,
    time::{Duration, Instant},
};

use crate::error::PermanentError;

/// The delay of the first probe. It doubles from there.
const FIRST_PROBE: Duration = Duration::from_secs(5);
/// The longest delay of a probe.
const LONGEST_PROBE: Duration = Duration::from_secs(5 * 60);
/// How often a provider is asked for other credentials.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Whether the credentials of a poster are rejected.
#[derive(Debug, Default)]
pub(super) struct Unauthorized {
    rejected: Option<Rejected>,
    /// How many credentials in a row the platform has rejected.
    in_a_row: u32,
}

#[derive(Debug)]
struct Rejected {
    /// The credentials, by their generation.
    generation: Option<u64>,
    /// The platform's response.
    rejection: PermanentError,
    probes: u32,
    probe_at: Instant,
    ask_at: Instant,
    /// The lane of the probe that is being sent.
    probing: Option<String>,
    /// The lane of the last probe. The next one is of another lane.
    last_probe: Option<String>,
    /// The lanes that were parked for this reason.
    lanes: BTreeSet<String>,
}

impl Unauthorized {
    /// Why this lane must not be sent now. Other credentials than the rejected ones end the wait.
    pub(super) fn rejection(&self, lane: &str) -> Option<&PermanentError> {
        let rejected = self.rejected.as_ref()?;
        (rejected.probing.as_deref() != Some(lane)).then_some(&rejected.rejection)
    }

    /// How many messages may be claimed, of at most `room`.
    pub(super) fn room(&self, room: usize, now: Instant) -> usize {
        match &self.rejected {
            None => room,
            Some(rejected) if rejected.probing.is_none() && now >= rejected.probe_at => room.min(1),
            Some(_) => 0,
        }
    }

    /// Notes that a claimed lane is sent as a probe, if there is to be one.
    pub(super) fn probe(&mut self, lane: &str) {
        if let Some(rejected) = &mut self.rejected {
            let probing = rejected.probing.get_or_insert_with(|| lane.to_owned());
            rejected.last_probe = Some(probing.clone());
        }
    }

    /// The lane to send as a probe, if it is time for one: of those that `is_parked`, the one after the last probe's.
    pub(super) fn next_probe(&self, now: Instant, is_parked: impl Fn(&str) -> bool) -> Option<&str> {
        let rejected = self.rejected.as_ref()?;
        if rejected.probing.is_some() || now < rejected.probe_at {
            return None;
        }
        // From the last name to the first: sessions before issues.
        let end = rejected.last_probe.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = rejected.lanes.range::<str, _>((Bound::Unbounded, end)).rev();
        let mut next = next.chain(rejected.lanes.iter().rev());
        next.find(|lane| is_parked(lane)).map(String::as_str)
    }

    /// Notes that the platform has rejected these credentials for a message of this lane, whose attempts have ended.
    pub(super) fn rejected(&mut self, lane: &str, generation: Option<u64>, rejection: &PermanentError, now: Instant) {
        if self.rejected.is_none() {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        let before = self.in_a_row.saturating_sub(1);
        let rejected = self.rejected.get_or_insert_with(|| Rejected {
            generation,
            rejection: PermanentError {
                attempts: 0,
                ..rejection.clone()
            },
            probes: before,
            probe_at: after(now, probe_delay(before)),
            ask_at: after(now, ASK_INTERVAL),
            probing: None,
            last_probe: None,
            lanes: BTreeSet::new(),
        });
        rejected.generation = generation;
        rejected.lanes.insert(lane.to_owned());
        if rejected.probing.as_deref() == Some(lane) {
            rejected.probing = None;
            rejected.probes = rejected.probes.saturating_add(1);
            rejected.probe_at = after(now, probe_delay(rejected.probes));
        }
    }

    /// Notes that a message of this lane is parked without being sent.
    pub(super) fn held_back(&mut self, lane: &str) {
        if let Some(rejected) = &mut self.rejected {
            rejected.lanes.insert(lane.to_owned());
        }
    }

    /// Notes that a message of this lane has ended without an answer about its credentials.
    pub(super) fn undecided(&mut self, lane: &str, now: Instant) {
        if let Some(rejected) = &mut self.rejected
            && rejected.probing.as_deref() == Some(lane)
        {
            rejected.probing = None;
            rejected.probe_at = after(now, FIRST_PROBE);
        }
    }

    /// Notes that the platform has accepted the credentials. If it had rejected them, the wait is over: returns the lanes
    /// that were parked because of that.
    pub(super) fn accepted(&mut self) -> Option<BTreeSet<String>> {
        self.in_a_row = 0;
        self.rejected.take().map(|rejected| rejected.lanes)
    }

    /// Whether the provider is to be asked for other credentials now.
    pub(super) fn must_ask(&mut self, now: Instant, only_for_probes: bool) -> bool {
        let Some(rejected) = &mut self.rejected else {
            return false;
        };
        let at = if only_for_probes {
            rejected.ask_at.max(rejected.probe_at)
        } else {
            rejected.ask_at
        };
        let must_ask = now >= at;
        if must_ask {
            rejected.ask_at = after(now, ASK_INTERVAL);
        }
        must_ask
    }

    /// Notes the present credentials. If they are others, the wait is over: returns the lanes that were parked for it. But
    /// after others were rejected, too, only a probe is sent with each next ones, at its time: a provider may make as many as
    /// it is asked for.
    pub(super) fn present(&mut self, generation: Option<u64>) -> Option<BTreeSet<String>> {
        let rejected = self.rejected.as_mut()?;
        if rejected.generation == generation {
            return None;
        }
        if self.in_a_row > 1 {
            rejected.generation = generation;
            return None;
        }
        self.rejected.take().map(|rejected| rejected.lanes)
    }

    /// How long it is until the next probe, or the next question to the provider.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let rejected = self.rejected.as_ref()?;
        let next = rejected.ask_at.min(rejected.probe_at);
        Some(next.saturating_duration_since(now))
    }
}

fn probe_delay(probes: u32) -> Duration {
    FIRST_PROBE
        .saturating_mul(2u32.saturating_pow(probes))
        .min(LONGEST_PROBE)
}

fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn rejection() -> PermanentError {
        PermanentError::new(401, "expired".into())
    }

    /// The state after a message of lane `a` was rejected, and that time.
    fn rejected() -> (Unauthorized, Instant) {
        let now = Clock::system().instant();
        let mut state = Unauthorized::default();
        state.rejected("a", Some(1), &rejection(), now);
        (state, now)
    }

    #[test]
    fn nothing_is_held_back_while_credentials_are_accepted() {
        let state = Unauthorized::default();
        let now = Clock::system().instant();
        assert_eq!(
            (state.rejection("a"), state.room(9, now), state.next(now)),
            (None, 9, None)
        );
    }

    #[test]
    fn one_probe_is_sent_after_5_s_then_10_s_up_to_5_min() {
        let (mut state, mut now) = rejected();
        for wait in [5, 10, 20, 40, 80, 160, 300, 300] {
            let wait = Duration::from_secs(wait);
            assert_eq!(state.room(9, now + wait - SECOND), 0, "{wait:?}");
            now += wait;
            assert_eq!(state.room(9, now), 1, "{wait:?}");
            state.probe("a");
            assert_eq!(state.room(9, now), 0);
            assert!(state.rejection("a").is_none() && state.rejection("b").is_some());
            state.rejected("a", Some(1), &rejection(), now);
        }
    }

    #[test]
    fn a_message_that_was_in_flight_does_not_delay_the_probe() {
        let (mut state, now) = rejected();
        state.rejected("b", Some(1), &rejection(), now + 4 * SECOND);
        assert_eq!(state.room(9, now + 5 * SECOND), 1);
    }

    #[test]
    fn a_probe_without_an_answer_is_repeated() {
        let (mut state, now) = rejected();
        state.probe("a");
        state.undecided("a", now);
        assert_eq!((state.room(9, now), state.room(9, now + 5 * SECOND)), (0, 1));
    }

    #[test]
    fn the_next_probe_is_of_a_parked_lane_and_each_time_of_another() {
        let (mut state, now) = rejected();
        state.held_back("b");
        state.held_back("c");
        let is_parked = |lane: &str| lane != "c";
        assert_eq!(state.next_probe(now + 4 * SECOND, is_parked), None);
        let mut now = now + 5 * SECOND;
        for lane in ["b", "a", "b"] {
            assert_eq!(state.next_probe(now, is_parked), Some(lane));
            state.probe(lane);
            assert_eq!(state.next_probe(now, is_parked), None);
            state.undecided(lane, now);
            now += 5 * SECOND;
        }
        assert_eq!(state.next_probe(now, |_| false), None);
    }

    #[test]
    fn other_credentials_end_the_wait_and_name_the_lanes() {
        let (mut state, now) = rejected();
        state.rejected("b", Some(1), &rejection(), now);
        assert_eq!(state.present(Some(1)), None);
        let lanes = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(state.present(Some(2)), Some(lanes));
        assert_eq!((state.room(9, now), state.present(Some(2))), (9, None));
    }

    #[test]
    fn after_two_rejected_credentials_others_are_only_probed() {
        let (mut state, now) = rejected();
        assert!(state.present(Some(2)).is_some());
        state.rejected("a", Some(2), &rejection(), now);
        assert_eq!(state.present(Some(3)), None);
        assert_eq!(
            (state.room(9, now + 9 * SECOND), state.room(9, now + 10 * SECOND)),
            (0, 1)
        );
        state.probe("a");
        state.accepted();
        state.rejected("a", Some(3), &rejection(), now);
        assert!(state.present(Some(4)).is_some());
    }

    #[test]
    fn a_provider_is_asked_every_5_s_and_an_endpoint_at_each_probe() {
        let (mut state, now) = rejected();
        assert!(!state.must_ask(now + 4 * SECOND, false));
        assert!(state.must_ask(now + 5 * SECOND, false));
        assert!(!state.must_ask(now + 6 * SECOND, false));
        assert!(state.must_ask(now + 10 * SECOND, false));
        state.probe("a");
        state.rejected("a", Some(1), &rejection(), now + 10 * SECOND);
        assert!(!state.must_ask(now + 19 * SECOND, true));
        assert!(state.must_ask(now + 20 * SECOND, true));
    }
}
