//! The outage gate of one route: whether the platform can be reached. Pure.
//!
//! ```text
//!          failures in a row              the first answer
//!   open ─────────────────────▶ closed ─────────────────────▶ opening
//!     ▲                           ▲                           │    │
//!     │                           └───────────────────────────┘    │
//!     └────────────── enough requests were answered ───────────────┘
//! ```

use std::time::{Duration, Instant};

use super::{ended::Ended, hanging::AT_LEAST, opening::Opening};
use crate::{call::Target, error::AttemptError};

/// The number of failures in a row that closes the gate.
const FAILURES: u32 = 5;
/// The time from the closing to the first probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// The mean time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// How many requests are allowed at once when the gate opens.
const FIRST_AT_ONCE: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Outage {
    state: State,
    row: Row,
    /// The number of openings so far. The failure of a request from before the last one says nothing.
    round: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Closed(Closed),
    Opening {
        opening: Opening,
        /// When one more request is let through, lest those that get no answer hold up all others.
        more_at: Option<Instant>,
        /// The number of requests that hang, if the other route of the sessions is closed and nothing was answered since.
        doubts: Option<u32>,
    },
}

#[derive(Debug)]
struct Closed {
    since: Instant,
    /// The last failure.
    cause: AttemptError,
    probe_at: Instant,
    /// When the last probe began.
    probed_at: Instant,
    /// The probes that are being sent.
    probes: usize,
}

impl State {
    fn opening(doubts: Option<u32>) -> Self {
        Self::Opening {
            opening: Opening::new(FIRST_AT_ONCE),
            more_at: None,
            doubts,
        }
    }

    fn closed(cause: AttemptError, now: Instant) -> Self {
        Self::Closed(Closed {
            since: now,
            cause,
            probe_at: after(now, FIRST_PROBE),
            probed_at: now,
            probes: 0,
        })
    }
}

/// The failures since the last answer.
#[derive(Debug, Default)]
struct Row {
    failures: u32,
    /// The last failures of these before which no request was sent.
    unconnected: u32,
    target: Option<Target>,
    has_other_target: bool,
}

impl Row {
    fn note(&mut self, target: &Target, is_unconnected: bool) {
        self.failures = self.failures.saturating_add(1);
        self.unconnected = if is_unconnected {
            self.unconnected.saturating_add(1)
        } else {
            0
        };
        self.has_other_target |= self.target.get_or_insert_with(|| target.clone()) != target;
    }

    /// A target whose requests alone get no answer may be the cause of it.
    fn is_outage(&self) -> bool {
        self.unconnected >= FAILURES || (self.failures >= FAILURES && self.has_other_target)
    }
}

/// A change of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Closed,
    Opened { closed_for: Duration },
}

impl Outage {
    /// The last failure, if the gate is closed.
    pub(super) fn cause(&self) -> Option<&AttemptError> {
        match &self.state {
            State::Closed(closed) => Some(&closed.cause),
            State::Open | State::Opening { .. } => None,
        }
    }

    /// Since when the gate is closed.
    pub(super) fn closed_since(&self) -> Option<Instant> {
        match &self.state {
            State::Closed(closed) => Some(closed.since),
            State::Open | State::Opening { .. } => None,
        }
    }

    /// How many more requests may be sent now, without probes. `None` stands for any number.
    pub(super) fn room(&self) -> Option<u32> {
        match &self.state {
            State::Open => None,
            State::Closed(_) => Some(0),
            State::Opening { opening, .. } => Some(opening.room()),
        }
    }

    /// When a request may be sent that is not let through now, at the latest.
    pub(super) fn more_at(&self) -> Option<Instant> {
        match &self.state {
            State::Opening { more_at, .. } => *more_at,
            State::Open | State::Closed(_) => None,
        }
    }

    /// Notes that a request is sent. Returns the round that it belongs to.
    pub(super) fn enter(&mut self, now: Instant) -> u64 {
        if let State::Opening { opening, more_at, .. } = &mut self.state {
            opening.begin();
            *more_at = Some(after(now, PROBE_INTERVAL));
        }
        self.round
    }

    /// Notes that a request of this round makes room for another one: it has ended, or it hangs.
    pub(super) fn make_room(&mut self, round: u64) {
        if let State::Opening { opening, .. } = &mut self.state
            && round == self.round
        {
            opening.end();
        }
    }

    /// Notes the end of a request of this round, which has made room before.
    pub(super) fn leave(
        &mut self,
        round: u64,
        target: &Target,
        ended: Ended,
        error: Option<&AttemptError>,
        now: Instant,
    ) -> Option<Change> {
        let is_of_this_round = round == self.round;
        let is_unconnected = match ended {
            Ended::Handled | Ended::RateLimited(_) | Ended::Answered => return self.answered(is_of_this_round, now),
            Ended::Busy(_) | Ended::Unavailable | Ended::Unanswered => false,
            Ended::Unconnected => true,
            Ended::NotTried => return None,
        };
        let error = error.filter(|_| is_of_this_round)?;
        if let State::Closed(closed) = &mut self.state {
            closed.cause = error.clone();
            return None;
        }
        if let State::Opening { opening, .. } = &mut self.state {
            opening.failed();
        }
        self.row.note(target, is_unconnected);
        self.row.is_outage().then(|| {
            self.state = State::closed(error.clone(), now);
            Change::Closed
        })
    }

    fn answered(&mut self, is_of_this_round: bool, now: Instant) -> Option<Change> {
        self.row = Row::default();
        if let State::Opening { opening, doubts, .. } = &mut self.state {
            *doubts = None;
            if is_of_this_round && opening.succeeded(0) {
                self.state = State::Open;
            }
        }
        self.open(now)
    }

    /// Lets few requests through at once until they succeed: the platform can't be reached by the other route of its
    /// sessions.
    pub(super) fn doubt(&mut self) {
        if let State::Open = self.state {
            self.state = State::opening(Some(0));
        }
    }

    /// Notes that a request of this round hangs, while the other route is closed because of `cause`. If nothing was answered
    /// since, the fifth one closes the gate, before any of them times out.
    pub(super) fn hangs(&mut self, round: u64, cause: &AttemptError, now: Instant) -> Option<Change> {
        let State::Opening { doubts, .. } = &mut self.state else {
            return None;
        };
        let doubts = doubts.as_mut().filter(|_| round == self.round)?;
        *doubts = doubts.saturating_add(1);
        (*doubts >= FAILURES).then(|| {
            self.state = State::closed(cause.clone(), now);
            Change::Closed
        })
    }

    /// Opens the gate if it is closed.
    pub(super) fn open(&mut self, now: Instant) -> Option<Change> {
        let since = self.closed_since()?;
        self.state = State::opening(None);
        self.row = Row::default();
        self.round = self.round.wrapping_add(1);
        let closed_for = now.saturating_duration_since(since);
        Some(Change::Opened { closed_for })
    }

    /// When the next probe is due. While so many are being sent, it is once the last one hangs: a platform that is silent
    /// for a while may swallow all of them, and answer others.
    pub(super) fn probe_at(&self, max_probes: usize) -> Option<Instant> {
        match &self.state {
            State::Closed(closed) if closed.probes < max_probes => Some(closed.probe_at),
            State::Closed(closed) => Some(after(closed.probed_at, AT_LEAST)),
            State::Open | State::Opening { .. } => None,
        }
    }

    /// Notes that a probe begins, and returns its round. `chance` is a random number from 0 to 1.
    pub(super) fn begin_probe(&mut self, now: Instant, chance: f64) -> u64 {
        if let State::Closed(closed) = &mut self.state {
            closed.probes = closed.probes.saturating_add(1);
            closed.probed_at = now;
            closed.probe_at = after(now, PROBE_INTERVAL.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0));
        }
        self.round
    }

    /// Notes that a probe of this round has ended.
    pub(super) fn end_probe(&mut self, round: u64) {
        if let State::Closed(closed) = &mut self.state
            && round == self.round
        {
            closed.probes = closed.probes.saturating_sub(1);
        }
    }
}

fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, error::AttemptPhase};

    const SECOND: Duration = Duration::from_secs(1);
    const MAX_PROBES: usize = 3;

    /// A gate with its clock.
    struct Test {
        outage: Outage,
        now: Instant,
    }

    impl Test {
        fn new() -> Self {
            Self {
                outage: Outage::default(),
                now: Clock::system().instant(),
            }
        }

        fn closed() -> Self {
            let mut test = Self::new();
            test.fail(5, Ended::Unconnected);
            test
        }

        fn leave(&mut self, round: u64, target: &str, ended: Ended) -> Option<Change> {
            let error = AttemptError::Timeout {
                limit: SECOND,
                phase: AttemptPhase::Waiting,
            };
            let target = Target::Session(target.into());
            self.outage.make_room(round);
            self.outage.leave(round, &target, ended, Some(&error), self.now)
        }

        /// One request, with this end.
        fn end(&mut self, target: &str, ended: Ended) -> Option<Change> {
            let round = self.outage.enter(self.now);
            self.leave(round, target, ended)
        }

        /// So many requests of two targets in turn, with this end. Returns the last change.
        fn fail(&mut self, count: usize, ended: Ended) -> Option<Change> {
            let targets = ["a", "b"].iter().cycle().take(count);
            targets.map(|target| self.end(target, ended)).last().flatten()
        }

        fn is_closed(&self) -> bool {
            self.outage.cause().is_some()
        }

        fn is_probe_due(&self) -> bool {
            self.outage.probe_at(MAX_PROBES).is_some_and(|at| at <= self.now)
        }
    }

    #[test]
    fn five_requests_that_hang_close_a_gate_in_doubt() {
        let cause = AttemptError::Timeout {
            limit: SECOND,
            phase: AttemptPhase::Waiting,
        };
        let hang = |test: &mut Test, count| {
            let rounds: Vec<_> = (0..count).map(|_| test.outage.enter(test.now)).collect();
            let hang = |round| test.outage.hangs(round, &cause, test.now);
            rounds.into_iter().map(hang).last().flatten()
        };
        let mut sure = Test::new();
        assert_eq!(hang(&mut sure, 9), None);
        let mut doubted = Test::new();
        doubted.outage.doubt();
        assert_eq!(hang(&mut doubted, 4), None);
        assert_eq!(hang(&mut doubted, 1), Some(Change::Closed));
        assert!(doubted.is_closed() && hang(&mut doubted, 1).is_none());
        // One answer says that the route is another matter.
        let mut answered = Test::new();
        answered.outage.doubt();
        hang(&mut answered, 4);
        answered.end("a", Ended::Handled);
        assert_eq!(hang(&mut answered, 9), None);
        // A request from before an outage says nothing.
        let mut reopened = Test::closed();
        let before = reopened.outage.round;
        reopened.outage.open(reopened.now);
        reopened.outage.state = State::Open;
        reopened.outage.doubt();
        assert!((0..9).all(|_| reopened.outage.hangs(before, &cause, reopened.now).is_none()));
    }

    #[test]
    fn five_failures_in_a_row_close_the_gate() {
        use Ended::{Answered, Busy, Handled, NotTried, RateLimited, Unanswered, Unavailable, Unconnected};
        let times = |count, target, ended| std::iter::repeat_n((target, ended), count).collect::<Vec<_>>();
        for (name, ends, expected) in [
            ("no connection, of one target", times(5, "a", Unconnected), true),
            ("too few", times(4, "a", Unconnected), false),
            ("no answer, of one target", times(9, "a", Unanswered), false),
            ("503, of one target", times(9, "a", Busy(SECOND)), false),
            (
                "no answer, of two targets",
                [times(4, "a", Unanswered), times(1, "b", Unanswered)].concat(),
                true,
            ),
            (
                "502 and 503, of two targets",
                [times(4, "a", Unavailable), times(1, "b", Busy(SECOND))].concat(),
                true,
            ),
            (
                "no connection and no answer, of two targets",
                [times(4, "a", Unconnected), times(1, "b", Unanswered)].concat(),
                true,
            ),
            (
                "no connection and no answer in turn, of one target",
                [
                    times(4, "a", Unconnected),
                    times(1, "a", Unanswered),
                    times(4, "a", Unconnected),
                ]
                .concat(),
                false,
            ),
            (
                "an answer in between",
                [
                    times(4, "a", Unconnected),
                    times(1, "b", Answered),
                    times(4, "a", Unconnected),
                ]
                .concat(),
                false,
            ),
            (
                "a 429 in between",
                [
                    times(4, "a", Unanswered),
                    times(1, "b", RateLimited(SECOND)),
                    times(1, "b", Unanswered),
                ]
                .concat(),
                false,
            ),
            (
                "a delivery in between",
                [
                    times(4, "a", Unanswered),
                    times(1, "b", Handled),
                    times(4, "b", Unanswered),
                ]
                .concat(),
                false,
            ),
            (
                "no credentials in between",
                [
                    times(4, "a", Unconnected),
                    times(9, "b", NotTried),
                    times(1, "a", Unconnected),
                ]
                .concat(),
                true,
            ),
            ("no credentials", times(9, "a", NotTried), false),
        ] {
            let mut test = Test::new();
            for (target, ended) in ends {
                test.end(target, ended);
            }
            assert_eq!(test.is_closed(), expected, "{name}");
        }
    }

    #[test]
    fn the_first_answer_opens_the_gate() {
        for ended in [Ended::Handled, Ended::Answered, Ended::RateLimited(SECOND)] {
            let mut test = Test::closed();
            assert_eq!(test.outage.room(), Some(0));
            test.now += 7 * SECOND;
            let closed_for = 7 * SECOND;
            assert_eq!(test.end("a", ended), Some(Change::Opened { closed_for }), "{ended:?}");
            assert!(!test.is_closed());
        }
    }

    #[test]
    fn a_failure_in_an_outage_changes_nothing_but_the_cause() {
        let mut test = Test::closed();
        for ended in [
            Ended::Unconnected,
            Ended::Unanswered,
            Ended::Unavailable,
            Ended::NotTried,
        ] {
            assert_eq!(test.end("b", ended), None);
            assert!(test.is_closed());
        }
    }

    #[test]
    fn the_requests_at_once_double_with_success_from_eight_on() {
        let mut test = Test::closed();
        test.end("a", Ended::Answered);
        for expected in [8, 16, 32] {
            assert_eq!(test.outage.room(), Some(expected));
            let rounds: Vec<_> = (0..expected).map(|_| test.outage.enter(test.now)).collect();
            assert_eq!(test.outage.room(), Some(0));
            for round in rounds {
                test.leave(round, "a", Ended::Handled);
            }
        }
        assert_eq!(test.outage.room(), None);
    }

    #[test]
    fn a_failure_while_few_are_allowed_lets_no_other_request_through() {
        let mut test = Test::new();
        test.outage.doubt();
        let rounds: Vec<_> = (0..8).map(|_| test.outage.enter(test.now)).collect();
        for (round, target) in rounds.into_iter().zip(["a", "b"].into_iter().cycle()) {
            assert_eq!(test.outage.room(), Some(0));
            test.leave(round, target, Ended::Unanswered);
        }
        assert!(test.is_closed());
        // A gate that is not open is not opened by doubt.
        test.outage.doubt();
        assert!(test.is_closed());
    }

    #[test]
    fn requests_that_hang_hold_up_no_other() {
        let mut test = Test::new();
        test.outage.doubt();
        let rounds: Vec<_> = (0..8).map(|_| test.outage.enter(test.now)).collect();
        assert_eq!(test.outage.room(), Some(0));
        for round in rounds {
            test.outage.make_room(round);
        }
        assert_eq!(test.outage.room(), Some(8));
    }

    #[test]
    fn requests_without_an_answer_hold_up_the_others_for_2_s() {
        let mut test = Test::closed();
        test.end("a", Ended::Answered);
        (0..8).for_each(|_| {
            test.outage.enter(test.now);
        });
        assert_eq!(
            (test.outage.room(), test.outage.more_at()),
            (Some(0), Some(test.now + 2 * SECOND))
        );
        test.now += 2 * SECOND;
        let round = test.outage.enter(test.now);
        test.leave(round, "a", Ended::Handled);
        assert_eq!(test.outage.room(), Some(1));
    }

    #[test]
    fn a_failure_from_before_the_opening_says_nothing() {
        let mut test = Test::new();
        let before: Vec<_> = (0..20).map(|_| test.outage.enter(test.now)).collect();
        test.fail(5, Ended::Unconnected);
        test.end("a", Ended::Answered);
        for round in before {
            assert_eq!(test.leave(round, "b", Ended::Unanswered), None);
        }
        assert_eq!(test.outage.room(), Some(8));
        assert_eq!(test.fail(5, Ended::Unanswered), Some(Change::Closed));
    }

    #[test]
    fn an_answer_to_a_request_from_before_the_closing_opens_the_gate() {
        let mut test = Test::new();
        let before = test.outage.enter(test.now);
        test.fail(5, Ended::Unconnected);
        assert!(test.leave(before, "a", Ended::Handled).is_some());
    }

    #[test]
    fn a_probe_is_due_after_1_s_and_then_every_2_s_with_jitter() {
        let mut test = Test::closed();
        assert!(!test.is_probe_due());
        test.now += SECOND;
        for (chance, wait) in [(0.0, 1500), (0.5, 2000), (1.0, 2500)] {
            assert!(test.is_probe_due());
            let round = test.outage.begin_probe(test.now, chance);
            test.outage.end_probe(round);
            test.now += Duration::from_millis(wait - 1);
            assert!(!test.is_probe_due(), "{chance}");
            test.now += Duration::from_millis(1);
        }
        test.end("a", Ended::Answered);
        assert_eq!(test.outage.probe_at(MAX_PROBES), None);
    }

    #[test]
    fn probes_overlap_up_to_a_limit_and_then_as_they_hang() {
        let mut test = Test::closed();
        let mut rounds = Vec::new();
        for _ in 0..MAX_PROBES {
            test.now += 3 * SECOND;
            assert!(test.is_probe_due());
            rounds.push(test.outage.begin_probe(test.now, 0.5));
        }
        test.now += 3 * SECOND;
        assert!(!test.is_probe_due());
        test.now += 2 * SECOND;
        assert!(test.is_probe_due());
        test.outage.begin_probe(test.now, 0.5);
        test.now += 4 * SECOND;
        assert!(!test.is_probe_due());
        test.outage.end_probe(rounds[0]);
        test.outage.end_probe(rounds[2]);
        assert!(test.is_probe_due());
        // Probes of an earlier outage do not count in the next one.
        test.end("a", Ended::Answered);
        test.fail(5, Ended::Unconnected);
        test.outage.begin_probe(test.now, 0.5);
        test.outage.end_probe(rounds[1]);
        assert_eq!(test.outage.probe_at(1), Some(test.now + 5 * SECOND));
    }

    #[test]
    fn a_gate_that_is_opened_closes_again_after_five_failures() {
        let mut test = Test::closed();
        assert!(test.outage.open(test.now).is_some());
        assert_eq!(test.outage.open(test.now), None);
        assert_eq!(test.fail(4, Ended::Unconnected), None);
        assert_eq!(test.fail(1, Ended::Unconnected), Some(Change::Closed));
    }
}
