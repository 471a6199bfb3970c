//! Where the time comes from: the host's clock, or one that a test moves by hand.

use std::time::{Duration, Instant, SystemTime};

#[cfg(feature = "testing")]
use crate::testing::ManualClock;

/// The time that backoff, `Retry-After` dates, the expiry of tokens, receipts, a [`Shutdown`](crate::Shutdown) and the
/// outbox go by; set by [`OptionsBuilder::clock`](crate::OptionsBuilder::clock).
///
/// An attempt's deadline, a new connection's and a fetch of credentials' always run in real time, as does the window of
/// a [`Supervisor`](crate::Supervisor).
#[derive(Debug, Clone, Default)]
pub struct Clock(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    #[default]
    Host,
    #[cfg(feature = "testing")]
    Manual(ManualClock),
}

impl Clock {
    /// The host's clock: the default.
    #[must_use]
    pub fn host() -> Self {
        Self::default()
    }

    /// The time of day, which may jump.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the host's clocks; deadlines in real time go by tokio's"
    )]
    pub(crate) fn now(&self) -> SystemTime {
        match &self.0 {
            Source::Host => SystemTime::now(),
            #[cfg(feature = "testing")]
            Source::Manual(clock) => clock.now(),
        }
    }

    /// A point in time to measure from, which never goes back.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the host's clocks; deadlines in real time go by tokio's"
    )]
    pub(crate) fn instant(&self) -> Instant {
        match &self.0 {
            Source::Host => Instant::now(),
            #[cfg(feature = "testing")]
            Source::Manual(clock) => clock.instant(),
        }
    }

    /// Returns once `duration` has passed. A zero one returns at once.
    pub(crate) async fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        match &self.0 {
            Source::Host => actix_rt::time::sleep(duration).await,
            #[cfg(feature = "testing")]
            // Boxed, since each call would have room for it.
            Source::Manual(clock) => Box::pin(clock.sleep(duration)).await,
        }
    }

    /// As [`sleep`](Self::sleep), between one look of a poster's own and the next, which no test waits for.
    #[cfg(feature = "outbox")]
    pub(crate) async fn idle(&self, duration: Duration) {
        match &self.0 {
            Source::Host => actix_rt::time::sleep(duration).await,
            #[cfg(feature = "testing")]
            Source::Manual(clock) => clock.idle(duration).await,
        }
    }
}

#[cfg(feature = "testing")]
impl From<ManualClock> for Clock {
    fn from(clock: ManualClock) -> Self {
        Self(Source::Manual(clock))
    }
}
