//! The source of time: the system clock, or a clock that a test moves by hand.

mod deadline;
#[cfg(feature = "testing")]
mod manual;

#[cfg(feature = "testing")]
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

#[cfg(feature = "testing")]
use futures_util::future::{Either, select};

pub(crate) use self::deadline::{after, until, within};
#[cfg(feature = "testing")]
pub use self::manual::ManualClock;

/// The source of time for backoff, `Retry-After`, token expiry, receipts, [`Shutdown`](crate::Shutdown) and the outbox;
/// set with [`OptionsBuilder::clock`](crate::OptionsBuilder::clock).
///
/// Where a socket is involved, deadlines always run in real time: those of an attempt's request and of a connection. So does
/// the restart window of a [`Supervisor`](crate::Supervisor).
#[derive(Debug, Clone, Default)]
pub struct Clock(TimeSource);

#[derive(Debug, Clone, Default)]
enum TimeSource {
    #[default]
    System,
    #[cfg(feature = "testing")]
    Manual(ManualClock),
}

impl Clock {
    /// The system clock: the default.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The time of day, which may jump.
    #[expect(
        clippy::disallowed_methods,
        reason = "the only place that reads the system clock; real-time deadlines use tokio's"
    )]
    pub(crate) fn now(&self) -> SystemTime {
        match &self.0 {
            TimeSource::System => SystemTime::now(),
            #[cfg(feature = "testing")]
            TimeSource::Manual(clock) => clock.now(),
        }
    }

    /// The monotonic time, to measure durations with.
    #[expect(
        clippy::disallowed_methods,
        reason = "the only place that reads the system clock; real-time deadlines use tokio's"
    )]
    pub(crate) fn instant(&self) -> Instant {
        match &self.0 {
            TimeSource::System => Instant::now(),
            #[cfg(feature = "testing")]
            TimeSource::Manual(clock) => clock.instant(),
        }
    }

    /// Sleeps for `duration`; zero returns at once.
    pub(crate) async fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        match &self.0 {
            TimeSource::System => actix_rt::time::sleep(duration).await,
            #[cfg(feature = "testing")]
            // Boxed: otherwise every waiting call would reserve room for it.
            TimeSource::Manual(clock) => Box::pin(clock.sleep(duration)).await,
        }
    }

    /// The output of `work`, or `None` if it takes longer than `limit`. A [`ManualClock`] does not count it as a sleeper.
    pub(crate) async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        match &self.0 {
            TimeSource::System => within(limit, work).await,
            #[cfg(feature = "testing")]
            TimeSource::Manual(clock) => match select(pin!(work), pin!(clock.idle(limit))).await {
                Either::Left((output, _)) => Some(output),
                Either::Right(_) => None,
            },
        }
    }

    /// Sleeps between two rounds of background work. A [`ManualClock`] does not count it as a sleeper.
    pub(crate) async fn idle(&self, duration: Duration) {
        match &self.0 {
            TimeSource::System => actix_rt::time::sleep(duration).await,
            #[cfg(feature = "testing")]
            TimeSource::Manual(clock) => clock.idle(duration).await,
        }
    }
}

#[cfg(feature = "testing")]
impl From<ManualClock> for Clock {
    fn from(clock: ManualClock) -> Self {
        Self(TimeSource::Manual(clock))
    }
}
