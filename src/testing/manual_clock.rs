use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use std::sync::Arc;

use actix_rt::time::timeout;
use tokio::sync::watch;

use super::WAIT_LIMIT;

/// A clock that stands still until a test moves it, so that a schedule of minutes is tested in
/// no time and without luck.
///
/// Clones are handles to the same clock. It starts on 2026-01-01, 00:00 UTC. Who sleeps by a clock that nobody moves
/// sleeps for ever.
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
/// assert_eq!(clock.sleepers(1).await, [Duration::from_secs(1)]); // the first backoff
/// clock.advance(Duration::from_secs(1));
/// assert_eq!(reply.await???.attempts, 2);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    origin: Instant,
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    elapsed: Duration,
    /// The time of day when nothing had elapsed, since 1970, if it was set.
    start: Option<Duration>,
    /// When each sleeper wakes, in time elapsed, by its number.
    wakes: BTreeMap<u64, Duration>,
    next_number: u64,
}

impl State {
    /// How long those have still to sleep who do, ascending.
    fn asleep(&self) -> Vec<Duration> {
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
    /// A new clock, which nobody sleeps by yet.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "an origin is needed; its value never shows")]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            state: Arc::new(watch::Sender::new(State::default())),
        }
    }

    /// Moves the time forward, and wakes those whose time has come.
    pub fn advance(&self, duration: Duration) {
        self.state
            .send_modify(|state| state.elapsed = state.elapsed.saturating_add(duration));
    }

    /// Waits until at least `count` sleep, and says how long each has still to sleep, ascending.
    ///
    /// Those whose time has come do not count, so that a test may wait for the next round of
    /// sleepers right after [`advance`](Self::advance). Nor does what a poster does by itself, for its outbox. After
    /// ten seconds of real time it returns whatever there is.
    pub async fn sleepers(&self, count: usize) -> Vec<Duration> {
        let mut changes = self.state.subscribe();
        let enough = changes.wait_for(|state| state.asleep().len() >= count);
        let _ = timeout(WAIT_LIMIT, enough).await;
        self.state.borrow().asleep()
    }

    /// The time of day by this clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        const START: Duration = Duration::from_secs(1_767_225_600);
        let state = self.state.borrow();
        let start = state.start.unwrap_or(START);
        UNIX_EPOCH
            .checked_add(start.saturating_add(state.elapsed))
            .unwrap_or(UNIX_EPOCH)
    }

    /// Sets the time of day, as an administrator or a time server may, and moves nothing else: nobody wakes.
    pub fn set_time_of_day(&self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.state
            .send_modify(|state| state.start = Some(now.saturating_sub(state.elapsed)));
    }

    pub(crate) fn instant(&self) -> Instant {
        let elapsed = self.state.borrow().elapsed;
        self.origin.checked_add(elapsed).unwrap_or(self.origin)
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        let mut sleeper = Sleeper { clock: self, number: 0 };
        self.state.send_modify(|state| {
            sleeper.number = state.next_number;
            state.next_number = state.next_number.wrapping_add(1);
            let wake = state.elapsed.saturating_add(duration);
            state.wakes.insert(sleeper.number, wake);
        });
        self.idle(duration).await;
    }

    /// As [`sleep`](Self::sleep), but no sleeper that counts.
    pub(crate) async fn idle(&self, duration: Duration) {
        let mut changes = self.state.subscribe();
        let wake = self.state.borrow().elapsed.saturating_add(duration);
        // An error would mean that the clock is gone, and `self` holds it.
        let _ = changes.wait_for(|state| state.elapsed >= wake).await;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes a sleeper off the list, woken or dropped.
struct Sleeper<'a> {
    clock: &'a ManualClock,
    number: u64,
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.clock.state.send_modify(|state| {
            state.wakes.remove(&self.number);
        });
    }
}
