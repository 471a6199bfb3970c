//! How many bytes a poster stores per second. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The time over which the rate is the mean.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// The time that is counted together.
const STEP: Duration = Duration::from_secs(30);

/// The bytes of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    /// The beginning of each step in which something was stored, and its bytes.
    steps: VecDeque<(Instant, u64)>,
    first: Option<Instant>,
}

impl Inflow {
    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.first.get_or_insert(now);
        match self.steps.back_mut() {
            Some((begin, sum)) if now.saturating_duration_since(*begin) < STEP => *sum = sum.saturating_add(bytes),
            Some(_) | None => self.steps.push_back((now, bytes)),
        }
        while let Some((begin, _)) = self.steps.front()
            && now.saturating_duration_since(*begin) > WINDOW
        {
            self.steps.pop_front();
        }
    }

    /// The bytes per second, rounded up.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        let is_recent = |begin: Instant| now.saturating_duration_since(begin) <= WINDOW;
        let recent = self.steps.iter().filter(|(begin, _)| is_recent(*begin));
        let bytes = recent.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let time = self.first.map_or(STEP, |first| now.saturating_duration_since(first));
        let seconds = time.clamp(STEP, WINDOW).as_secs();
        bytes.div_ceil(seconds.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_rate_is_the_mean_of_the_last_ten_minutes() {
        let start = Clock::system().instant();
        let mut inflow = Inflow::default();
        assert_eq!(inflow.rate(start), 0);
        for minute in 0..30 {
            inflow.add(if minute < 20 { 60_000 } else { 600 }, start + minute * MINUTE);
        }
        assert_eq!(inflow.rate(start + 30 * MINUTE), 10);
        assert_eq!(inflow.rate(start + 45 * MINUTE), 0);
        assert!(inflow.steps.len() <= 11);
    }

    #[test]
    fn a_first_burst_counts_for_half_a_minute_at_least() {
        let start = Clock::system().instant();
        let mut inflow = Inflow::default();
        inflow.add(3_000, start);
        inflow.add(3_000, start);
        assert_eq!(inflow.rate(start), 200);
        assert_eq!(inflow.rate(start + MINUTE), 100);
        assert_eq!(inflow.steps.len(), 1);
    }
}
