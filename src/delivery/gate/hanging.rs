//! The requests of one route that hang: they get no answer, while later ones may be answered. Pure.
//!
//! A request that hangs gives back its permit, and goes on waiting. Otherwise a platform that swallowed as many requests as
//! there are permits would get no other one until their deadline, and nobody would notice that it answers again.

use std::time::{Duration, Instant};

/// A request hangs after this time at the earliest.
pub(super) const AT_LEAST: Duration = Duration::from_secs(5);
/// A request is overtaken by the answer to another one that was sent so much later.
const OVERTAKEN_BY: Duration = Duration::from_secs(2);
/// While there are no answers, one request gives back its permit so often.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many requests hang for each permit, at most.
const MAX_PER_PERMIT: usize = 3;

/// The number of requests that may hang beside those that have a permit.
pub(crate) fn max_hanging(max_in_flight: usize) -> usize {
    max_in_flight.saturating_mul(MAX_PER_PERMIT)
}

#[derive(Debug, Default)]
pub(super) struct Hanging {
    /// When the latest of the answered requests was sent.
    answered: Option<Instant>,
    /// When the last answer was received, or a request gave back its permit without one.
    changed: Option<Instant>,
}

impl Hanging {
    /// Notes the answer to a request that was sent at this time.
    pub(super) fn answered(&mut self, sent: Instant, now: Instant) {
        self.answered = self.answered.max(Some(sent));
        self.changed = Some(now);
    }

    /// Whether a request that was sent at this time, and has no answer, gives back its permit now.
    pub(super) fn gives_back(&mut self, sent: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(sent) < AT_LEAST {
            return false;
        }
        let overtaken_by = self.answered.map(|answered| answered.saturating_duration_since(sent));
        if overtaken_by.is_some_and(|by| by >= OVERTAKEN_BY) {
            return true;
        }
        let is_silent = (self.changed).is_none_or(|at| now.saturating_duration_since(at) >= INTERVAL);
        if is_silent {
            self.changed = Some(now);
        }
        is_silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_request_that_a_later_one_overtakes_gives_back_its_permit_after_5_s() {
        let (mut hanging, start) = (Hanging::default(), Clock::system().instant());
        for seconds in 0..7 {
            let now = start + seconds * SECOND;
            hanging.answered(now, now);
            assert_eq!(hanging.gives_back(start, now), seconds >= 5, "{seconds} s");
        }
    }

    #[test]
    fn a_request_that_is_only_slower_than_its_neighbours_keeps_its_permit() {
        let (mut hanging, start) = (Hanging::default(), Clock::system().instant());
        let now = start + 20 * SECOND;
        hanging.answered(start + SECOND, now);
        assert!(!hanging.gives_back(start, now));
    }

    #[test]
    fn without_any_answer_one_request_gives_back_its_permit_every_2_s() {
        let (mut hanging, start) = (Hanging::default(), Clock::system().instant());
        let given_back = (0..12).map(|seconds| {
            let now = start + seconds * SECOND;
            (0..64).filter(|_| hanging.gives_back(start, now)).count()
        });
        assert_eq!(given_back.collect::<Vec<_>>(), [0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn the_first_answer_after_a_silence_frees_all_that_were_sent_in_it() {
        let (mut hanging, start) = (Hanging::default(), Clock::system().instant());
        let back = start + 5 * SECOND;
        assert!(hanging.gives_back(start, back));
        assert!(!hanging.gives_back(start, back));
        hanging.answered(back, back);
        assert!((0..64).all(|_| hanging.gives_back(start, back)));
    }
}
