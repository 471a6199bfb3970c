//! The last count of a store's content.
//!
//! A store with many calls takes long to count, so that it is not counted for each question: at most a twentieth of the
//! time is spent on it, and a question waits for it only briefly.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix_rt::{spawn, time::timeout};
use tokio::{sync::Notify, time::Instant};

use super::{entry::OutboxStats, store::StoreFuture};

/// The shortest time between two counts.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The least interval between the beginnings of two counts, as a multiple of the time that the last one took.
const INTERVAL_PER_COUNT: u32 = 20;
/// How long a question waits for a count.
const MAX_WAIT: Duration = Duration::from_millis(200);

/// Counts in real time: a clock that a test moves by hand must not stop it.
#[derive(Default)]
pub(super) struct Counted(Rc<State>);

#[derive(Default)]
struct State {
    last: RefCell<Option<Count>>,
    begun_at: RefCell<Option<Instant>>,
    ended: Notify,
}

struct Count {
    stats: OutboxStats,
    ended_at: Instant,
    took: Duration,
}

impl Counted {
    /// Counts, if it is time to, and waits for it briefly.
    pub(super) async fn refresh(&self, count: impl FnOnce() -> StoreFuture<OutboxStats>) {
        let now = Instant::now();
        if !self.0.begin(now) {
            return;
        }
        let (state, count) = (Rc::clone(&self.0), count());
        spawn(async move {
            let counted = count.await;
            state.end(counted.ok(), now);
        });
        // Otherwise the answer has the last count.
        let _ = timeout(MAX_WAIT, self.0.ended.notified()).await;
    }

    /// The last count, and how long ago it was.
    pub(super) fn last(&self) -> Option<(OutboxStats, Duration)> {
        let last = self.0.last.borrow();
        last.as_ref()
            .map(|count| (count.stats.clone(), count.ended_at.elapsed()))
    }
}

impl State {
    /// Whether it is time for a count, and none is running.
    fn begin(&self, now: Instant) -> bool {
        let interval = self.last.borrow().as_ref().map_or(Duration::ZERO, |count| {
            count.took.saturating_mul(INTERVAL_PER_COUNT).max(MIN_INTERVAL)
        });
        let ended_at = self.last.borrow().as_ref().map(|count| count.ended_at);
        let is_early = ended_at.is_some_and(|at| now.saturating_duration_since(at) < interval);
        if self.begun_at.borrow().is_some() || is_early {
            return false;
        }
        self.begun_at.replace(Some(now));
        true
    }

    fn end(&self, stats: Option<OutboxStats>, begun_at: Instant) {
        self.begun_at.take();
        // A store that fails keeps its last count.
        if let Some(stats) = stats {
            let ended_at = Instant::now();
            let took = ended_at.saturating_duration_since(begun_at);
            self.last.replace(Some(Count { stats, ended_at, took }));
        }
        self.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use super::*;
    use crate::error::OutboxError;

    const SECOND: Duration = Duration::from_secs(1);

    /// A count that takes this long.
    fn counting(parked: u64, takes: Duration) -> StoreFuture<OutboxStats> {
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            Ok(OutboxStats {
                parked,
                ..OutboxStats::default()
            })
        })
    }

    async fn advance(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn parked(counted: &Counted) -> Option<u64> {
        counted.last().map(|(stats, _)| stats.parked)
    }

    async fn in_paused_time(test: impl AsyncFnOnce()) {
        tokio::time::pause();
        test().await;
    }

    #[actix_rt::test]
    async fn a_quick_count_is_waited_for_and_lasts_a_second() {
        in_paused_time(async || {
            let counted = Counted::default();
            counted.refresh(|| counting(1, Duration::ZERO)).await;
            assert_eq!(parked(&counted), Some(1));
            counted.refresh(|| counting(9, Duration::ZERO)).await;
            assert_eq!(parked(&counted), Some(1));
            advance(SECOND).await;
            counted.refresh(|| counting(2, Duration::ZERO)).await;
            assert_eq!(parked(&counted), Some(2));
        })
        .await;
    }

    #[actix_rt::test]
    async fn a_slow_count_is_not_waited_for_and_is_seldom_repeated() {
        in_paused_time(async || {
            let (counted, counts) = (Counted::default(), Cell::new(0));
            let ask = async || {
                let count = || {
                    counts.update(|count: u64| count.saturating_add(1));
                    counting(counts.get(), Duration::from_secs(3))
                };
                counted.refresh(count).await;
            };
            for _ in 0..10 {
                ask().await;
            }
            assert_eq!((parked(&counted), counts.get()), (None, 1));
            advance(Duration::from_secs(3)).await;
            assert_eq!(parked(&counted), Some(1));
            advance(Duration::from_secs(59)).await;
            ask().await;
            assert_eq!(counts.get(), 1);
            advance(SECOND).await;
            ask().await;
            assert_eq!(counts.get(), 2);
        })
        .await;
    }

    #[actix_rt::test]
    async fn a_failed_count_keeps_the_last_one() {
        in_paused_time(async || {
            let counted = Counted::default();
            counted.refresh(|| counting(1, Duration::ZERO)).await;
            advance(SECOND).await;
            counted.refresh(|| Box::pin(async { Err(OutboxError::Locked) })).await;
            let (stats, ago) = counted.last().unwrap();
            assert!(stats.parked == 1 && ago >= SECOND);
            counted.refresh(|| Box::pin(pending())).await;
            assert_eq!(parked(&counted), Some(1));
        })
        .await;
    }
}
