//! The pauses of one group of calls, which the platform asks for. Pure.
//!
//! ```text
//!          429, or 503s of two targets               the pause is over
//!   open ──────────────────────────────▶ paused ──────────────────────▶ opening
//!     ▲                                    ▲                            │    │
//!     │                                    └────────────────────────────┘    │
//!     └──────────────────────── enough requests have succeeded ──────────────┘
//! ```

use std::time::{Duration, Instant};

use super::{ended::Ended, opening::Opening, pace::Pace};
use crate::call::Target;

#[derive(Debug, Default)]
pub(super) struct Pause {
    state: State,
    /// The number of pauses so far. A request belongs to the pauses before it.
    round: u64,
    pace: Pace,
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
        opening: Opening,
        then: u32,
    },
}

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Now. It belongs to this round.
    Now { round: u64 },
    /// Not before the end of a pause, at this time.
    Later { at: Instant },
    /// Not before this time, and after the others that wait for the same.
    InTurn { at: Instant },
    /// Once a request that is being sent has ended.
    AfterOthers,
}

impl Pause {
    pub(super) fn enter(&mut self, now: Instant) -> Entry {
        if let State::Paused { until, then } = self.state {
            if now < until {
                return Entry::Later { at: until };
            }
            self.state = State::Opening {
                opening: Opening::new(1),
                then,
            };
        }
        if self.room() == Some(0) {
            return Entry::AfterOthers;
        }
        if let Some(at) = self.pace.next(now) {
            return Entry::InTurn { at };
        }
        self.pace.begin(now);
        if let State::Opening { opening, .. } = &mut self.state {
            opening.begin();
        }
        Entry::Now { round: self.round }
    }

    /// Notes the end of a request of this round, to a target. Returns the length of the pause that begins, if one does.
    pub(super) fn leave(&mut self, round: u64, target: &Target, ended: Ended, now: Instant) -> Option<Duration> {
        let is_of_this_round = round == self.round;
        if let State::Opening { opening, .. } = &mut self.state
            && is_of_this_round
        {
            opening.end();
        }
        let was_busy = match ended {
            Ended::Unanswered | Ended::Unconnected | Ended::NotTried => return None,
            Ended::Busy(_) => self.busy.replace(target.clone()),
            Ended::Handled | Ended::RateLimited(_) | Ended::Answered | Ended::Unavailable => {
                self.busy = None;
                None
            }
        };
        match ended {
            Ended::Handled | Ended::Answered => self.pace.taken(),
            Ended::RateLimited(_)
            | Ended::Busy(_)
            | Ended::Unavailable
            | Ended::Unanswered
            | Ended::Unconnected
            | Ended::NotTried => {}
        }
        match ended {
            Ended::Handled if is_of_this_round => {
                self.succeeded();
                None
            }
            Ended::RateLimited(pause) => self.pause(pause, now),
            Ended::Busy(pause) if was_busy.is_some_and(|other| other != *target) => self.pause(pause, now),
            Ended::Handled
            | Ended::Busy(_)
            | Ended::Answered
            | Ended::Unavailable
            | Ended::Unanswered
            | Ended::Unconnected
            | Ended::NotTried => None,
        }
    }

    fn succeeded(&mut self) {
        if let State::Opening { opening, then } = &mut self.state
            && opening.succeeded(*then)
        {
            self.state = State::Open;
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
            State::Opening { opening, .. } => opening.allowed() / 2,
        };
        self.round = self.round.wrapping_add(1);
        self.state = State::Paused { until: end, then };
        self.pace.limited(now);
        Some(pause)
    }

    /// How many more requests may be sent now. `None` stands for any number.
    pub(super) fn room(&self) -> Option<u32> {
        match self.state {
            State::Open => None,
            State::Paused { .. } => Some(0),
            State::Opening { opening, .. } => Some(opening.room()),
        }
    }

    /// When the present pause is over.
    pub(super) fn until(&self) -> Option<Instant> {
        match self.state {
            State::Paused { until, .. } => Some(until),
            State::Open | State::Opening { .. } => None,
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
        gate: Pause,
        now: Instant,
        running: Vec<u64>,
    }

    impl Test {
        fn new() -> Self {
            Self {
                gate: Pause::default(),
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
        fn end(&mut self, ended: Ended) -> Option<Duration> {
            self.end_of("a", ended)
        }

        /// Ends the oldest request, to this target.
        fn end_of(&mut self, target: &str, ended: Ended) -> Option<Duration> {
            let round = self.running.remove(0);
            self.gate.leave(round, &Target::Session(target.into()), ended, self.now)
        }

        fn end_all(&mut self, ended: Ended) {
            while !self.running.is_empty() {
                self.end(ended);
            }
        }

        fn wait(&mut self, duration: Duration) {
            self.now += duration;
        }
    }

    #[test]
    fn an_open_gate_holds_nothing_back() {
        let mut test = Test::new();
        for ended in [Ended::Handled, Ended::Answered, Ended::Unanswered, Ended::Busy(SECOND)] {
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
        let mut test = Test::new();
        test.send(5);
        test.end(Ended::RateLimited(SECOND));
        test.wait(SECOND);
        assert_eq!(test.send(9), 1);
        // Four requests from before the pause.
        for _ in 0..4 {
            test.end(Ended::Handled);
        }
        assert_eq!(test.send(9), 0);
        for ended in [Ended::Unanswered, Ended::Answered, Ended::Busy(SECOND)] {
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
        const BUSY: Ended = Ended::Busy(Duration::from_secs(3));
        for (name, ends, expected) in [
            ("one target", vec![("a", BUSY), ("a", BUSY)], None),
            ("two targets", vec![("a", BUSY), ("b", BUSY)], Some(3 * SECOND)),
            (
                "another answer in between",
                vec![("a", BUSY), ("b", Ended::Answered), ("b", BUSY)],
                None,
            ),
            (
                "a success in between",
                vec![("a", BUSY), ("b", Ended::Handled), ("b", BUSY)],
                None,
            ),
            (
                "no answer in between",
                vec![("a", BUSY), ("b", Ended::Unanswered), ("b", BUSY)],
                Some(3 * SECOND),
            ),
        ] {
            let mut test = Test::new();
            test.send(ends.len());
            let pauses: Vec<_> = (ends.into_iter())
                .map(|(target, ended)| test.end_of(target, ended))
                .collect();
            assert_eq!(pauses.last(), Some(&expected), "{name}");
        }
    }

    /// A platform that takes 10 requests a second, and answers each after 5 ms.
    struct Limiter {
        taken_in_this_second: u32,
        requests: u32,
        limited: u32,
    }

    impl Limiter {
        fn answer(&mut self) -> Ended {
            self.requests += 1;
            self.taken_in_this_second += 1;
            if self.taken_in_this_second > 10 {
                self.limited += 1;
                Ended::RateLimited(SECOND)
            } else {
                Ended::Handled
            }
        }
    }

    #[test]
    fn a_limit_of_10_a_second_rejects_few_of_2000_calls_and_none_more_than_twice() {
        let (mut gate, start) = (Pause::default(), Clock::system().instant());
        let mut platform = Limiter {
            taken_in_this_second: 0,
            requests: 0,
            limited: 0,
        };
        // How often each of the waiting calls was answered 429.
        let mut waiting = std::collections::VecDeque::from([0_u32; 2000]);
        let mut running = std::collections::VecDeque::<(Instant, u64, Ended, u32)>::new();
        let mut after_a_second = None;
        let mut milliseconds = 0;
        while !(waiting.is_empty() && running.is_empty()) {
            let now = start + Duration::from_millis(milliseconds);
            if milliseconds % 1000 == 0 {
                platform.taken_in_this_second = 0;
            }
            if milliseconds == 1000 {
                after_a_second = Some((platform.requests, platform.limited));
            }
            while running.front().is_some_and(|(end, ..)| *end <= now) {
                let (_, round, ended, limited) = running.pop_front().unwrap();
                gate.leave(round, &Target::Session("a".into()), ended, now);
                if let Ended::RateLimited(_) = ended {
                    assert!(limited < 2, "a third 429 for a call");
                    waiting.push_front(limited + 1);
                }
            }
            while running.len() < 64
                && !waiting.is_empty()
                && let Entry::Now { round } = gate.enter(now)
            {
                let end = now + Duration::from_millis(5);
                running.push_back((end, round, platform.answer(), waiting.pop_front().unwrap()));
            }
            milliseconds += 1;
        }
        // The limit is known only after a first burst.
        let (first_requests, first_limited) = after_a_second.unwrap();
        assert_eq!((first_requests, first_limited), (64, 54));
        let Limiter { requests, limited, .. } = platform;
        let later = (requests - first_requests, limited - first_limited);
        assert!(later.1 * 40 <= later.0, "{later:?} after the first second");
        assert!(limited * 20 < requests, "{limited} of {requests}");
        assert!(milliseconds < 300_000, "{milliseconds} ms for 2000 calls");
    }
}
