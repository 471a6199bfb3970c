//! The wait that a response asks for. Pure: the time is a parameter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From this number on, a reset is a Unix time in seconds; a smaller number is a wait.
const FIRST_UNIX_TIME: u64 = 1_000_000_000;
/// From this number on, a reset is a Unix time in milliseconds.
const FIRST_UNIX_MILLISECONDS: u64 = 1_000_000_000_000;

/// How long the platform asks a client to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Of a 429: an earlier request would be rejected.
    RateLimit(Duration),
    /// Of any other response.
    Busy(Duration),
}

impl Hint {
    pub fn duration(self) -> Duration {
        match self {
            Self::RateLimit(duration) | Self::Busy(duration) => duration,
        }
    }
}

/// The wait of a `Retry-After`: a number of seconds, whose fraction is rounded up, or a date. A date in the past means
/// zero. Of several values in a list, the first applies. Any other value is `None`.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let first = value.split(',').next().unwrap_or_default();
    // A date has a comma as well.
    seconds(first.trim())
        .map(Duration::from_secs)
        .or_else(|| until(value.trim(), now))
}

/// The wait of an `X-RateLimit-Reset` or `RateLimit-Reset`: as a `Retry-After`, or a Unix time.
pub fn parse_reset(value: &str, now: SystemTime) -> Option<Duration> {
    let first = value.split(',').next().unwrap_or_default();
    let at = match seconds(first.trim()) {
        Some(time @ FIRST_UNIX_MILLISECONDS..) => Duration::from_millis(time),
        Some(time @ FIRST_UNIX_TIME..) => Duration::from_secs(time),
        Some(wait) => return Some(Duration::from_secs(wait)),
        None => return until(value.trim(), now),
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(at.saturating_sub(now))
}

/// A number of seconds, rounded up. One that is too large becomes the largest.
fn seconds(value: &str) -> Option<u64> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let seconds: u64 = whole.parse().unwrap_or(u64::MAX);
    Some(seconds.saturating_add(fraction.bytes().any(|digit| digit != b'0').into()))
}

fn until(date: &str, now: SystemTime) -> Option<Duration> {
    let date = httpdate::parse_http_date(date).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the durations are small constants")]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: u64 = 784_111_777;

    fn assert_hints(parse: fn(&str, SystemTime) -> Option<Duration>, now: u64, rows: &[(&str, Option<u64>)]) {
        let now = UNIX_EPOCH + Duration::from_secs(now);
        for (value, expected) in rows {
            assert_eq!(parse(value, now), expected.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let rows = [
            ("0", Some(0)),
            ("120", Some(120)),
            ("  7 ", Some(7)),
            ("1.5", Some(2)),
            ("0.001", Some(1)),
            ("3.000", Some(3)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("18446744073709551615.5", Some(u64::MAX)),
            ("1795766000", Some(1_795_766_000)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            ("Sun Nov  6 08:50:07 1994", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
        ];
        assert_hints(parse_retry_after, NOW, &rows);
    }

    #[test]
    fn the_first_of_several_values_applies() {
        assert_hints(
            parse_retry_after,
            NOW,
            &[("5, 60", Some(5)), ("1.5,9", Some(2)), ("soon, 5", None)],
        );
        assert_hints(parse_reset, NOW, &[("5, 60", Some(5)), ("5;w=60", None)]);
    }

    #[test]
    fn a_value_that_is_neither_is_no_hint() {
        let values = [
            "",
            " ",
            "-1",
            "+1",
            "1.",
            ".5",
            "1.5.0",
            "1s",
            "1e3",
            "0x1",
            "soon",
            "NaN",
            "inf",
            "٣",
            ",",
            "5;w=60",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "06 Nov 1994 08:50:07",
            "1994-11-06T08:50:07Z",
        ];
        let rows = values.map(|value| (value, None));
        assert_hints(parse_retry_after, NOW, &rows);
        assert_hints(parse_reset, NOW, &rows);
    }

    #[test]
    fn a_reset_is_seconds_or_a_unix_time() {
        let now = 1_795_766_000;
        let rows = [
            ("2", Some(2)),
            ("0.2", Some(1)),
            ("999999999", Some(999_999_999)),
            ("1795766002", Some(2)),
            ("1795765000", Some(0)),
            ("1795766002000", Some(2)),
            ("99999999999999999999999999", Some(u64::MAX / 1000 - now)),
        ];
        let now = UNIX_EPOCH + Duration::from_secs(now);
        for (value, seconds) in rows {
            assert_eq!(parse_reset(value, now).map(|wait| wait.as_secs()), seconds, "{value:?}");
        }
        assert_hints(parse_reset, NOW, &[("Sun, 06 Nov 1994 08:50:07 GMT", Some(30))]);
    }
}
