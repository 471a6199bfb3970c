//! A clock that a test moves by hand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix_rt::time::timeout;
use tokio::sync::Notify;

/// How long [`ManualClock::wait_for_sleepers`] waits, in real time.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// A clock that stands still until a test advances it: a schedule of minutes is tested instantly and
/// deterministically.
///
/// Clones are handles to the same clock. The clock starts at 2026-01-01, 00:00 UTC. A sleeper wakes only when the clock
/// is advanced.
///
/// ```
/// use std::time::Duration;
/// use result_poster::{Options, ResultPoster, UpdateIssueStatus};
/// use result_poster::testing::{FakePlatform, ManualClock, Reply};
///
/// # actix_rt::System::new().block_on(async {
/// let platform = FakePlatform::start()?;
/// platform.script("issue-tracker-proxy", [Reply::status(503), Reply::ok()]);
/// let clock = ManualClock::new();
/// let options = Options::builder(platform.url()).clock(clock.clone()).build()?;
/// let poster = ResultPoster::start_supervised(options);
///
/// let reply = actix_rt::spawn(poster.send(UpdateIssueStatus::new("issue-1", "Finished")));
/// assert_eq!(clock.wait_for_sleepers(1).await, [Duration::from_secs(1)]); // the first backoff
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(reply.await???.attempts(), Some(2));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    origin: Instant,
    shared: Arc<Shared>,
}

/// Waiters are woken in the order in which they came, so that a simulation can be repeated; `tokio::sync::watch` wakes
/// them at random.
#[derive(Debug, Default)]
struct Shared {
    time: Mutex<ManualTime>,
    has_changed: Notify,
}

impl Shared {
    fn time(&self) -> MutexGuard<'_, ManualTime> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut ManualTime) -> T) -> T {
        let output = change(&mut self.time());
        self.has_changed.notify_waiters();
        output
    }

    /// Waits until a condition holds.
    async fn wait_until(&self, condition: impl Fn(&ManualTime) -> bool) {
        loop {
            // It notices changes from here on.
            let has_changed = self.has_changed.notified();
            if condition(&self.time()) {
                return;
            }
            has_changed.await;
        }
    }
}

#[derive(Debug, Default)]
struct ManualTime {
    elapsed: Duration,
    /// The time of day at `elapsed` zero, since 1970, if a test has set it.
    start: Option<Duration>,
    /// When each sleeper wakes, as elapsed time, by the sleeper's number.
    wakes: BTreeMap<u64, Duration>,
    next_number: u64,
}

impl ManualTime {
    /// The remaining time of each sleeper, ascending.
    fn remaining(&self) -> Vec<Duration> {
        let mut left: Vec<_> = self
            .wakes
            .values()
            .filter_map(|wake| wake.checked_sub(self.elapsed))
            .filter(|left| !left.is_zero())
            .collect();
        left.sort();
        left
    }
}

impl ManualClock {
    /// A new clock without sleepers.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "an origin for `instant`; its value is never visible"
    )]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            shared: Arc::default(),
        }
    }

    /// Moves the time forward and wakes the sleepers that are due.
    pub fn advance(&self, duration: Duration) {
        self.shared
            .change(|time| time.elapsed = time.elapsed.saturating_add(duration));
    }

    /// Waits until there are at least `count` sleepers and returns the remaining time of each, ascending.
    ///
    /// Sleepers that are due do not count, so a test may wait for the next round of sleepers right after
    /// [`advance`](Self::advance). The background work of a poster's outbox does not count either, nor do parked calls; the
    /// wait between two attempts does, with an outbox too, and so does a pause after a 429. After ten seconds of real time the method returns the sleepers that there are.
    pub async fn wait_for_sleepers(&self, count: usize) -> Vec<Duration> {
        let enough = self.shared.wait_until(|time| time.remaining().len() >= count);
        let _ = timeout(WAIT_LIMIT, enough).await;
        self.shared.time().remaining()
    }

    /// The time of day by this clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        const START: Duration = Duration::from_secs(1_767_225_600);
        let time = self.shared.time();
        let start = time.start.unwrap_or(START);
        UNIX_EPOCH
            .checked_add(start.saturating_add(time.elapsed))
            .unwrap_or(UNIX_EPOCH)
    }

    /// Sets the time of day, as an administrator or a time server would. Sleepers are not affected.
    pub fn set_time_of_day(&self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.shared
            .change(|time| time.start = Some(now.saturating_sub(time.elapsed)));
    }

    pub(crate) fn instant(&self) -> Instant {
        let elapsed = self.shared.time().elapsed;
        self.origin.checked_add(elapsed).unwrap_or(self.origin)
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        let number = self.shared.change(|time| {
            let number = time.next_number;
            time.next_number = number.wrapping_add(1);
            time.wakes.insert(number, time.elapsed.saturating_add(duration));
            number
        });
        let _sleeper = Sleeper { clock: self, number };
        self.idle(duration).await;
    }

    /// Sleeps without being counted as a sleeper.
    pub(crate) async fn idle(&self, duration: Duration) {
        let wake = self.shared.time().elapsed.saturating_add(duration);
        self.shared.wait_until(|time| time.elapsed >= wake).await;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

/// An entry in the list of sleepers, removed on drop.
struct Sleeper<'a> {
    clock: &'a ManualClock,
    number: u64,
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.clock.shared.change(|time| time.wakes.remove(&self.number));
    }
}
