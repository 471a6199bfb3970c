//! The gate of one group of calls: whether a request may be sent now. Pure: the time is passed in, and nothing waits.
//!
//! ```text
//!          429, or 503s of two targets               the pause is over
//!   open ──────────────────────────────▶ paused ──────────────────────▶ opening
//!     ▲                                    ▲                            │    │
//!     │                                    └────────────────────────────┘    │
//!     └──────────────────────── enough requests have succeeded ──────────────┘
//! ```

use std::time::{Duration, Instant};

use crate::call::Target;

/// So many requests at once need no gate.
const WIDE_OPEN: u32 = 64;

#[derive(Debug, Default)]
pub(super) struct Gate {
    state: State,
    /// The number of pauses so far. A request belongs to the pauses before it.
    round: u64,
    /// The target of the last response, if that was a 503 with a hint.
    busy: Option<Target>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Paused {
        until: Instant,
        /// How many requests are allowed at once after the first success.
        then: u32,
    },
    Opening {
        /// How many requests are allowed at once.
        allowed: u32,
        /// How many are being sent.
        running: u32,
        then: u32,
    },
}

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Now. It belongs to this round.
    Now { round: u64 },
    /// Not before this time.
    Later { at: Instant },
    /// Once a request that is being sent has ended.
    AfterOthers,
}

/// The end of a request, as far as it concerns the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended<'a> {
    /// The platform carried out or rejected the call.
    Handled,
    /// A 429: the group has to pause for this long.
    RateLimited(Duration),
    /// A 503 to a call of this target, with this hint.
    Busy(&'a Target, Duration),
    /// Any other response.
    Answered,
    /// There was no response.
    Unanswered,
}

impl Gate {
    pub(super) fn enter(&mut self, now: Instant) -> Entry {
        if let State::Paused { until, then } = self.state {
            if now < until {
                return Entry::Later { at: until };
            }
            self.state = State::Opening {
                allowed: 1,
                running: 0,
                then,
            };
        }
        if let State::Opening { allowed, running, .. } = &mut self.state {
            if *running >= *allowed {
                return Entry::AfterOthers;
            }
            *running = running.saturating_add(1);
        }
        Entry::Now { round: self.round }
    }

    /// Notes the end of a request of this round. Returns the length of the pause that begins, if one does.
    pub(super) fn leave(&mut self, round: u64, ended: Ended<'_>, now: Instant) -> Option<Duration> {
        let is_of_this_round = round == self.round;
        if let State::Opening { running, .. } = &mut self.state
            && is_of_this_round
        {
            *running = running.saturating_sub(1);
        }
        let was_busy = match ended {
            Ended::Unanswered => return None,
            Ended::Busy(target, _) => self.busy.replace(target.clone()),
            Ended::Handled | Ended::RateLimited(_) | Ended::Answered => {
                self.busy = None;
                None
            }
        };
        match ended {
            Ended::Handled if is_of_this_round => {
                self.succeeded();
                None
            }
            Ended::RateLimited(pause) => self.pause(pause, now),
            Ended::Busy(target, pause) if was_busy.is_some_and(|other| other != *target) => self.pause(pause, now),
            Ended::Handled | Ended::Busy(..) | Ended::Answered | Ended::Unanswered => None,
        }
    }

    fn succeeded(&mut self) {
        if let State::Opening { allowed, then, .. } = &mut self.state {
            *allowed = allowed.saturating_add(1).max(*then);
            if *allowed >= WIDE_OPEN {
                self.state = State::Open;
            }
        }
    }

    /// Begins a pause, or lengthens the present one.
    fn pause(&mut self, pause: Duration, now: Instant) -> Option<Duration> {
        // A pause that the clock can't express is none.
        let end = now.checked_add(pause).filter(|_| !pause.is_zero())?;
        let then = match &mut self.state {
            State::Paused { until, .. } => {
                *until = end.max(*until);
                return None;
            }
            State::Open => 1,
            State::Opening { allowed, .. } => *allowed / 2,
        };
        self.round = self.round.wrapping_add(1);
        self.state = State::Paused { until: end, then };
        Some(pause)
    }

    /// How many more requests may be sent now.
    pub(super) fn room(&self) -> usize {
        match self.state {
            State::Open => usize::MAX,
            State::Paused { .. } => 0,
            State::Opening { allowed, running, .. } => {
                usize::try_from(allowed.saturating_sub(running)).unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the durations are small constants")]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    /// A gate with its clock and the requests that are being sent.
    struct Test {
        gate: Gate,
        now: Instant,
        running: Vec<u64>,
    }

    impl Test {
        fn new() -> Self {
            Self {
                gate: Gate::default(),
                now: Clock::system().instant(),
                running: Vec::new(),
            }
        }

        /// Sends as many of `count` requests as may be sent now, and returns how many those are.
        fn send(&mut self, count: usize) -> usize {
            let before = self.running.len();
            for _ in 0..count {
                if let Entry::Now { round } = self.gate.enter(self.now) {
                    self.running.push(round);
                }
            }
            self.running.len() - before
        }

        /// Ends the oldest request.
        fn end(&mut self, ended: Ended<'_>) -> Option<Duration> {
            let round = self.running.remove(0);
            self.gate.leave(round, ended, self.now)
        }

        fn end_all(&mut self, ended: Ended<'_>) {
            while !self.running.is_empty() {
                self.end(ended);
            }
        }

        fn wait(&mut self, duration: Duration) {
            self.now += duration;
        }
    }

    fn session(id: &str) -> Target {
        Target::Session(id.into())
    }

    #[test]
    fn an_open_gate_holds_nothing_back() {
        let (mut test, a) = (Test::new(), session("a"));
        for ended in [
            Ended::Handled,
            Ended::Answered,
            Ended::Unanswered,
            Ended::Busy(&a, SECOND),
        ] {
            assert_eq!(test.send(1000), 1000);
            test.end_all(ended);
        }
    }

    #[test]
    fn a_429_pauses_until_its_hint_is_over() {
        let mut test = Test::new();
        test.send(1);
        assert_eq!(test.end(Ended::RateLimited(2 * SECOND)), Some(2 * SECOND));
        let at = test.now + 2 * SECOND;
        assert_eq!(test.gate.enter(test.now), Entry::Later { at });
        test.wait(2 * SECOND - Duration::from_nanos(1));
        assert_eq!(test.gate.enter(test.now), Entry::Later { at });
        test.wait(Duration::from_nanos(1));
        assert_eq!(test.send(9), 1);
    }

    #[test]
    fn further_429s_lengthen_the_pause_and_never_shorten_it() {
        let mut test = Test::new();
        test.send(3);
        assert_eq!(test.end(Ended::RateLimited(5 * SECOND)), Some(5 * SECOND));
        assert_eq!(test.end(Ended::RateLimited(SECOND)), None);
        let at = test.now + 5 * SECOND;
        assert_eq!(test.gate.enter(test.now), Entry::Later { at });
        assert_eq!(test.end(Ended::RateLimited(9 * SECOND)), None);
        let at = test.now + 9 * SECOND;
        assert_eq!(test.gate.enter(test.now), Entry::Later { at });
    }

    #[test]
    fn a_pause_of_zero_is_none() {
        let mut test = Test::new();
        test.send(1);
        assert_eq!(test.end(Ended::RateLimited(Duration::ZERO)), None);
        assert_eq!(test.send(9), 9);
    }

    #[test]
    fn after_a_pause_the_requests_at_once_double_with_success() {
        let mut test = Test::new();
        test.send(1);
        test.end(Ended::RateLimited(SECOND));
        test.wait(SECOND);
        for expected in [1, 2, 4, 8, 16, 32] {
            assert_eq!(test.send(1000), expected);
            assert_eq!(test.gate.enter(test.now), Entry::AfterOthers);
            test.end_all(Ended::Handled);
        }
        assert_eq!(test.send(1000), 1000);
    }

    #[test]
    fn only_success_after_the_pause_opens_the_gate() {
        let (mut test, a) = (Test::new(), session("a"));
        test.send(5);
        test.end(Ended::RateLimited(SECOND));
        test.wait(SECOND);
        assert_eq!(test.send(9), 1);
        // Four requests from before the pause.
        for _ in 0..4 {
            test.end(Ended::Handled);
        }
        assert_eq!(test.send(9), 0);
        for ended in [Ended::Unanswered, Ended::Answered, Ended::Busy(&a, SECOND)] {
            test.end_all(ended);
            assert_eq!(test.send(9), 1, "{ended:?}");
        }
    }

    #[test]
    fn a_429_while_opening_halves_the_requests_at_once() {
        let mut test = Test::new();
        test.send(1);
        test.end(Ended::RateLimited(SECOND));
        test.wait(SECOND);
        for expected in [1, 2, 4] {
            assert_eq!(test.send(9), expected);
            test.end_all(Ended::Handled);
        }
        assert_eq!(test.send(9), 8);
        assert_eq!(test.end(Ended::RateLimited(SECOND)), Some(SECOND));
        test.end_all(Ended::Handled);
        test.wait(SECOND);
        // One goes first, then half as many as before.
        assert_eq!(test.send(9), 1);
        test.end_all(Ended::Handled);
        assert_eq!(test.send(9), 4);
    }

    #[test]
    fn a_503_pauses_if_another_target_has_just_had_one() {
        let (a, b) = (session("a"), session("b"));
        let busy = |target| Ended::Busy(target, 3 * SECOND);
        for (name, ends, expected) in [
            ("one target", vec![busy(&a), busy(&a)], None),
            ("two targets", vec![busy(&a), busy(&b)], Some(3 * SECOND)),
            (
                "another answer in between",
                vec![busy(&a), Ended::Answered, busy(&b)],
                None,
            ),
            ("a success in between", vec![busy(&a), Ended::Handled, busy(&b)], None),
            (
                "no answer in between",
                vec![busy(&a), Ended::Unanswered, busy(&b)],
                Some(3 * SECOND),
            ),
        ] {
            let mut test = Test::new();
            test.send(ends.len());
            let pauses: Vec<_> = ends.into_iter().map(|ended| test.end(ended)).collect();
            assert_eq!(pauses.last(), Some(&expected), "{name}");
        }
    }
}
