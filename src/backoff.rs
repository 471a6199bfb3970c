//! Retry policy: how many attempts, and how long to wait between them. Pure: the random number and the time of day are
//! parameters.

mod hint;

use std::time::Duration;

pub use self::hint::{Hint, parse_reset, parse_retry_after};

/// The default number of attempts of one call.
pub(crate) const DEFAULT_MAX_ATTEMPTS: u32 = 3;
/// The default wait before the second attempt. It doubles from there: 1 s, 2 s, 4 s, …
pub(crate) const DEFAULT_BASE_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct RetryPolicy {
    pub max_attempts: u32,
    pub base_delay: Duration,
    pub max_delay: Duration,
    /// The fraction, 0 to 1, by which the backoff is lengthened or shortened at random.
    pub jitter: f64,
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            base_delay: DEFAULT_BASE_DELAY,
            max_delay: Duration::from_secs(60),
            jitter: 0.0,
            max_retry_after: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// The same policy for a single attempt.
    pub(crate) fn once(&self) -> Self {
        Self {
            max_attempts: 1,
            ..self.clone()
        }
    }

    /// How long to wait after attempt number `attempt` failed, or `None` to give up.
    ///
    /// A hint of at most `max_retry_after` lengthens the wait. A longer one ends the attempts after a 429, and is
    /// ignored after any other response. `random`, from 0 to 1, selects the wait within the jitter.
    pub fn wait_after(&self, attempt: u32, hint: Option<Hint>, random: f64) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let backoff = self.backoff(attempt, random);
        match hint {
            Some(hint) if hint.duration() <= self.max_retry_after => Some(backoff.max(hint.duration())),
            Some(Hint::RateLimit(_)) => None,
            Some(Hint::Busy(_)) | None => Some(backoff),
        }
    }

    /// The wait after attempt number `attempt` without a hint.
    pub fn backoff(&self, attempt: u32, random: f64) -> Duration {
        let doublings = attempt.saturating_sub(1);
        let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
        let delay = self.base_delay.saturating_mul(factor);
        let spread = 1.0 + self.jitter * (2.0 * random - 1.0);
        let jittered = Duration::try_from_secs_f64(delay.as_secs_f64() * spread).unwrap_or(Duration::MAX);
        // Without jitter, the delay is not converted to a float and back. The cap is applied last.
        let delay = if self.jitter > 0.0 { jittered } else { delay };
        delay.min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 100,
            ..RetryPolicy::default()
        }
    }

    fn waits(policy: &RetryPolicy, attempts: u32) -> Vec<u64> {
        (1..=attempts)
            .map_while(|attempt| policy.wait_after(attempt, None, 0.5))
            .map(|wait| wait.as_secs())
            .collect()
    }

    #[test]
    fn waits_double_up_to_the_cap_and_never_overflow() {
        assert_eq!(waits(&policy(), 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(policy().wait_after(99, None, 0.5), Some(Duration::from_secs(60)));
        let endless = RetryPolicy {
            base_delay: Duration::MAX,
            max_delay: Duration::MAX,
            max_attempts: u32::MAX,
            jitter: 1.0,
            ..policy()
        };
        assert_eq!(endless.wait_after(u32::MAX - 1, None, 1.0), Some(Duration::MAX));
    }

    #[test]
    fn three_attempts_wait_twice() {
        assert_eq!(waits(&RetryPolicy::default(), 10), [1, 2]);
    }

    #[test]
    fn a_zero_base_delay_never_waits() {
        let policy = RetryPolicy {
            base_delay: Duration::ZERO,
            jitter: 0.5,
            ..policy()
        };
        assert!((1..100).all(|attempt| policy.wait_after(attempt, None, 0.9) == Some(Duration::ZERO)));
    }

    #[test]
    fn jitter_is_symmetrical_and_the_cap_is_applied_last() {
        let policy = RetryPolicy {
            jitter: 0.5,
            ..policy()
        };
        let millis = |attempt, random| policy.wait_after(attempt, None, random).map(|wait| wait.as_millis());
        assert_eq!(millis(1, 0.0), Some(500));
        assert_eq!(millis(1, 0.5), Some(1000));
        assert_eq!(millis(1, 1.0), Some(1500));
        assert_eq!(millis(20, 1.0), Some(60_000));
    }

    #[test]
    fn a_hint_lengthens_a_wait_and_never_shortens_it() {
        for kind in [Hint::RateLimit, Hint::Busy] {
            let wait = |hint| policy().wait_after(3, Some(kind(Duration::from_secs(hint))), 0.5);
            assert_eq!(wait(0), Some(4 * SECOND));
            assert_eq!(wait(3), Some(4 * SECOND));
            assert_eq!(wait(30), Some(30 * SECOND));
            assert_eq!(wait(60), Some(60 * SECOND));
        }
    }

    #[test]
    fn a_hint_reaches_beyond_the_cap_and_lengthens_a_zero_wait() {
        let policy = RetryPolicy {
            base_delay: Duration::ZERO,
            max_delay: SECOND,
            ..policy()
        };
        assert_eq!(
            policy.wait_after(1, Some(Hint::Busy(5 * SECOND)), 0.5),
            Some(5 * SECOND)
        );
    }

    #[test]
    fn a_hint_over_the_limit_ends_a_429_and_is_ignored_otherwise() {
        for hint in [61 * SECOND, Duration::MAX] {
            assert_eq!(policy().wait_after(1, Some(Hint::RateLimit(hint)), 0.5), None);
            assert_eq!(policy().wait_after(3, Some(Hint::Busy(hint)), 0.5), Some(4 * SECOND));
        }
    }

    #[test]
    fn a_hint_adds_no_attempt() {
        for kind in [Hint::RateLimit, Hint::Busy] {
            assert_eq!(RetryPolicy::default().wait_after(3, Some(kind(SECOND)), 0.5), None);
        }
    }
}
