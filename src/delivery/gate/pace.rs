//! The pace of requests to a platform that limits their rate. Pure.
//!
//! A platform that answers 429 has taken requests at some rate since its last 429. That rate is kept, and grows slowly at
//! first and then ever faster, until the next 429. So few requests are refused, and a limit that is gone is soon forgotten.

use std::time::{Duration, Instant};

/// The time after which the rate has doubled.
const DOUBLED: f64 = 10.0;
/// The time without a 429 after which there is no limit.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// The number of requests that a measurement needs.
const ENOUGH: u32 = 8;
/// How far a request may be behind the pace and not slow down those after it.
const SLACK: Duration = Duration::from_millis(10);
/// The longest span of the measurement.
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Pace {
    limit: Option<Limit>,
    present: Option<Span>,
    /// The span before the present one, so that the rate is never that of a moment.
    former: Option<Span>,
}

/// The requests that the platform has taken in a span of time.
#[derive(Debug, Clone, Copy)]
struct Span {
    since: Instant,
    taken: u32,
}

#[derive(Debug)]
struct Limit {
    /// Requests per second, at first.
    rate: f64,
    since: Instant,
    next: Instant,
}

impl Pace {
    /// When the next request may be sent; `None` stands for now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let limit = self.limit.as_ref()?;
        if now.saturating_duration_since(limit.since) >= FORGOTTEN {
            self.limit = None;
            return None;
        }
        Some(limit.next).filter(|next| *next > now)
    }

    /// Notes that a request is sent.
    pub(super) fn begin(&mut self, now: Instant) {
        match &mut self.limit {
            Some(limit) => {
                let interval = Duration::try_from_secs_f64(1.0 / limit.rate_at(now)).unwrap_or_default();
                let last = now.checked_sub(SLACK).map_or(now, |earliest| limit.next.max(earliest));
                limit.next = last.checked_add(interval).unwrap_or(now);
            }
            // Without a limit, the rate is that of the last seconds.
            None if (self.present).is_none_or(|span| now.saturating_duration_since(span.since) > LONGEST) => {
                self.former = self.present.replace(Span { since: now, taken: 0 });
            }
            None => {}
        }
    }

    /// Notes that the platform has taken a request.
    pub(super) fn taken(&mut self) {
        if let Some(span) = &mut self.present {
            span.taken = span.taken.saturating_add(1);
        }
    }

    /// Notes that the platform has answered 429.
    pub(super) fn limited(&mut self, now: Instant) {
        let spans = self.former.into_iter().chain(self.present);
        let taken = spans
            .clone()
            .fold(0_u32, |taken, span| taken.saturating_add(span.taken));
        let since = spans.map(|span| span.since).min().unwrap_or(now);
        // At least a second: a burst says little about the rate.
        let seconds = now.saturating_duration_since(since).as_secs_f64().max(1.0);
        self.limit = (taken >= ENOUGH).then(|| Limit {
            rate: f64::from(taken) / seconds,
            since: now,
            next: now,
        });
        self.former = self.present.replace(Span { since: now, taken: 0 });
    }
}

impl Limit {
    fn rate_at(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.since).as_secs_f64();
        self.rate * (1.0 + (age / DOUBLED).powi(3))
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the durations are small constants")]
mod tests {
    use super::*;
    use crate::clock::Clock;

    /// How many requests are sent in so many milliseconds, by a poster that sends them as soon as it may.
    fn send(pace: &mut Pace, now: &mut Instant, milliseconds: u32) -> u32 {
        let mut sent = 0_u32;
        for _ in 0..milliseconds {
            while sent < 10_000 && pace.next(*now).is_none() {
                pace.begin(*now);
                pace.taken();
                sent += 1;
            }
            *now += Duration::from_millis(1);
        }
        sent
    }

    #[test]
    fn there_is_no_pace_without_a_limit() {
        let (mut pace, mut now) = (Pace::default(), Clock::system().instant());
        assert_eq!(send(&mut pace, &mut now, 1), 10_000);
    }

    #[test]
    fn the_pace_is_the_rate_until_the_limit_and_grows_ever_faster() {
        let (mut pace, mut now) = (Pace::default(), Clock::system().instant());
        pace.begin(now);
        (0..200).for_each(|_| pace.taken());
        now += Duration::from_secs(2);
        pace.limited(now);
        let sent: Vec<_> = (0..4).map(|_| send(&mut pace, &mut now, 5_000)).collect();
        // 100 a second; after 10 s twice and after 20 s nine times as many.
        let expected = [515, 734, 1515, 3234];
        for (sent, expected) in sent.iter().zip(expected) {
            assert!(sent.abs_diff(expected) <= expected / 10, "{sent} instead of {expected}");
        }
    }

    #[test]
    fn a_limit_is_forgotten_after_a_minute() {
        let (mut pace, mut now) = (Pace::default(), Clock::system().instant());
        pace.begin(now);
        (0..ENOUGH).for_each(|_| pace.taken());
        pace.limited(now);
        assert!(send(&mut pace, &mut now, 1) < 10);
        now += FORGOTTEN;
        assert_eq!(send(&mut pace, &mut now, 1), 10_000);
    }

    #[test]
    fn few_requests_are_no_measurement() {
        let (mut pace, mut now) = (Pace::default(), Clock::system().instant());
        pace.begin(now);
        (1..ENOUGH).for_each(|_| pace.taken());
        pace.limited(now);
        assert_eq!(send(&mut pace, &mut now, 1), 10_000);
    }

    #[test]
    fn after_another_limit_the_pause_counts_in_the_rate() {
        let (mut pace, mut now) = (Pace::default(), Clock::system().instant());
        pace.begin(now);
        (0..100).for_each(|_| pace.taken());
        pace.limited(now);
        now += Duration::from_secs(1);
        let sent = send(&mut pace, &mut now, 1_000);
        pace.limited(now);
        // 100 at once, and about as many in 2 s, since one of them was a pause.
        let then = send(&mut pace, &mut now, 2_000);
        let expected = 100 + sent;
        assert!(then.abs_diff(expected) <= expected / 10, "{then} instead of {expected}");
    }
}
