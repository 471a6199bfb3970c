//! Retry policy: how many attempts, and how long to wait between them. Pure: the random number and the time of day are
//! parameters.

use std::time::{Duration, SystemTime};

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
    /// A single attempt.
    pub(crate) fn once() -> Self {
        Self {
            max_attempts: 1,
            ..Self::default()
        }
    }

    /// How long to wait after attempt number `attempt` failed, or `None` to give up.
    ///
    /// `random`, from 0 to 1, selects the wait within the jitter.
    pub fn wait_after(&self, attempt: u32, retry_after: Option<Duration>, random: f64) -> Option<Duration> {
        let retry_after = retry_after.unwrap_or_default();
        if attempt >= self.max_attempts || retry_after > self.max_retry_after {
            return None;
        }
        Some(self.backoff(attempt, random).max(retry_after))
    }

    fn backoff(&self, attempt: u32, random: f64) -> Duration {
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

/// The pause that a `Retry-After` header asks for: a number of seconds, or a date. A date in the past means zero;
/// any other value means `None`.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit into u64 becomes the longest pause.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

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
    fn retry_after_lengthens_a_wait_and_never_shortens_it() {
        let policy = policy();
        let wait = |retry_after| policy.wait_after(3, Some(Duration::from_secs(retry_after)), 0.5);
        assert_eq!(wait(0), Some(4 * SECOND));
        assert_eq!(wait(3), Some(4 * SECOND));
        assert_eq!(wait(30), Some(30 * SECOND));
    }

    #[test]
    fn retry_after_reaches_beyond_the_cap_and_lengthens_a_zero_wait() {
        let policy = RetryPolicy {
            base_delay: Duration::ZERO,
            max_delay: SECOND,
            ..policy()
        };
        assert_eq!(policy.wait_after(1, Some(5 * SECOND), 0.5), Some(5 * SECOND));
    }

    #[test]
    fn retry_after_over_the_limit_gives_up_and_never_adds_an_attempt() {
        assert_eq!(policy().wait_after(1, Some(60 * SECOND), 0.5), Some(60 * SECOND));
        assert_eq!(policy().wait_after(1, Some(61 * SECOND), 0.5), None);
        assert_eq!(policy().wait_after(1, Some(Duration::MAX), 0.5), None);
        assert_eq!(RetryPolicy::default().wait_after(3, Some(SECOND), 0.5), None);
    }

    #[test]
    fn retry_after_is_parsed_in_both_forms() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let rows = [
            ("0", Some(0)),
            ("120", Some(120)),
            ("  7 ", Some(7)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            ("Sun Nov  6 08:50:07 1994", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("٣", None),
        ];
        for (value, seconds) in rows {
            assert_eq!(
                parse_retry_after(value, now),
                seconds.map(Duration::from_secs),
                "{value:?}"
            );
        }
    }
}
