//! Whether the platform can be reached, by the ends of a poster's attempts. Pure.

use std::time::{Duration, Instant};

/// From this many failures in a row on, the platform counts as unreachable.
const MIN_FAILURES: u32 = 5;

/// The state of the platform as the last attempts found it.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    last_answer: Option<Instant>,
    failing: Option<Failing>,
}

/// The failures since the last answer.
#[derive(Debug)]
struct Failing {
    since: Instant,
    failures: u32,
    reason: String,
}

/// The state of the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reached {
    /// There was no attempt yet, or too few of them failed to tell.
    Unknown,
    /// This is how long ago it answered last.
    Answered { ago: Duration },
    /// It has not answered for this long.
    Unreachable { outage: Duration, reason: String },
}

impl Reachability {
    /// The platform has answered.
    pub(super) fn answered(&mut self, now: Instant) {
        self.last_answer = Some(now);
        self.failing = None;
    }

    /// An attempt got no answer, or one from something in between.
    pub(super) fn failed(&mut self, reason: String, now: Instant) {
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: now,
            failures: 0,
            reason: String::new(),
        });
        failing.failures = failing.failures.saturating_add(1);
        failing.reason = reason;
    }

    pub(super) fn state(&self, now: Instant) -> Reached {
        let since = |at| now.saturating_duration_since(at);
        match (&self.failing, self.last_answer) {
            (Some(failing), _) if failing.failures >= MIN_FAILURES => Reached::Unreachable {
                outage: since(failing.since),
                reason: failing.reason.clone(),
            },
            (_, Some(at)) => Reached::Answered { ago: since(at) },
            (_, None) => Reached::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_platform_is_unreachable_after_five_failures_in_a_row_since_the_first_of_them() {
        let now = Clock::system().instant();
        let mut state = Reachability::default();
        assert_eq!(state.state(now), Reached::Unknown);
        for count in 0..4 {
            state.failed("refused".into(), now + count * SECOND);
            assert_eq!(state.state(now), Reached::Unknown);
        }
        state.failed("timed out".into(), now + 4 * SECOND);
        let expected = Reached::Unreachable {
            outage: 9 * SECOND,
            reason: "timed out".into(),
        };
        assert_eq!(state.state(now + 9 * SECOND), expected);
    }

    #[test]
    fn an_answer_ends_the_outage_and_a_few_failures_begin_none() {
        let now = Clock::system().instant();
        let mut state = Reachability::default();
        for _ in 0..9 {
            state.failed("refused".into(), now);
        }
        state.answered(now);
        for _ in 0..4 {
            state.failed("refused".into(), now);
        }
        assert_eq!(state.state(now + SECOND), Reached::Answered { ago: SECOND });
    }
}
