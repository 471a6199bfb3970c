//! The options of an outbox.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{backoff::RetryPolicy, error::OptionsError};

/// The default of [`OutboxOptionsBuilder::expires_after`].
pub(super) const EXPIRES_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest wait of a parked call, whatever the options say or the platform asks for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The smallest interval that an option may name.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// The location, retry schedule and limits of an outbox; for [`OptionsBuilder::outbox`](crate::OptionsBuilder::outbox).
///
/// ```
/// use std::time::Duration;
/// use result_poster::{Options, outbox::OutboxOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("outbox.db");
/// let outbox = OutboxOptions::builder(path)
///     .expires_after(Duration::from_secs(24 * 60 * 60))
///     .max_bytes(100 * 1024 * 1024)
///     .build()?;
/// let options = Options::builder("https://app.example.com")
///     .auth_token("token")
///     .outbox(outbox)
///     .build()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct OutboxOptions {
    path: PathBuf,
    expires_after: Duration,
    base_delay: Duration,
    max_delay: Duration,
    heartbeat_timeout: Duration,
    max_bytes: Option<u64>,
}

impl OutboxOptions {
    /// An SQLite database at this path, with the defaults of [`OutboxOptionsBuilder`]. It is created with mode 0600 if
    /// it does not exist. Several processes of one host may share it. It must not be on a network file system.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            expires_after: EXPIRES_AFTER,
            base_delay: Duration::from_secs(5),
            max_delay: Duration::from_secs(5 * 60),
            heartbeat_timeout: Duration::from_secs(30),
            max_bytes: None,
        }
    }

    /// Starts with the defaults; see [`new`](Self::new).
    pub fn builder(path: impl Into<PathBuf>) -> OutboxOptionsBuilder {
        OutboxOptionsBuilder(Self::new(path))
    }

    /// How long a call waits that was parked `times_parked` times before. `random` lies in 0 to 1.
    pub(super) fn wait(&self, times_parked: u32, retry_after: Option<Duration>, random: f64) -> Duration {
        let delays = RetryPolicy {
            max_attempts: u32::MAX,
            base_delay: self.base_delay,
            max_delay: self.max_delay,
            ..RetryPolicy::default()
        };
        let delay = delays.wait_after(times_parked.saturating_add(1), None, 0.0);
        let shortened = delay.unwrap_or(self.max_delay).mul_f64(1.0 - random / 2.0);
        shortened.max(retry_after.unwrap_or_default()).min(LONGEST_WAIT)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn expires_after(&self) -> Duration {
        self.expires_after
    }

    pub(super) fn heartbeat_timeout(&self) -> Duration {
        self.heartbeat_timeout
    }

    pub(super) fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }
}

/// Builds [`OutboxOptions`]. Nothing is checked before [`build`](Self::build), and nothing is opened.
#[derive(Debug, Clone)]
#[must_use]
pub struct OutboxOptionsBuilder(OutboxOptions);

impl OutboxOptionsBuilder {
    /// How long a call is tried, counted from when it was stored: the first attempt that fails after this time makes it a
    /// dead letter. Default: 7 days.
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.0.expires_after = time;
        self
    }

    /// The first delay of a parked call, at least 10 ms. It doubles each time the call is parked again, up to
    /// [`max_delay`](Self::max_delay), and each delay is shortened at random by up to a half. A longer pause that the
    /// platform asks for counts, up to an hour. Default: 5 s.
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.0.base_delay = delay;
        self
    }

    /// The longest delay of a parked call, at least 10 ms. More than an hour counts as an hour. Default: 5 min.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.0.max_delay = delay;
        self
    }

    /// After how long without a heartbeat a process's calls are taken over by others, at least 10 ms. Heartbeats are sent
    /// every third of this. Default: 30 s.
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.0.heartbeat_timeout = timeout;
        self
    }

    /// The largest size of the database, in bytes, without its log. Calls that do not fit are not stored, as on a full
    /// disk. Default: no limit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.0.max_bytes = Some(bytes);
        self
    }

    /// Checks the options. The file is opened by [`OptionsBuilder::build`](crate::OptionsBuilder::build).
    ///
    /// # Errors
    ///
    /// [`OptionsError`]: `outbox.base_delay`, `outbox.max_delay` or `outbox.heartbeat_timeout` is below 10 ms.
    pub fn build(self) -> Result<OutboxOptions, OptionsError> {
        for (option, value) in [
            ("outbox.base_delay", self.0.base_delay),
            ("outbox.max_delay", self.0.max_delay),
            ("outbox.heartbeat_timeout", self.0.heartbeat_timeout),
        ] {
            if value < MIN_INTERVAL {
                return Err(OptionsError::new(option, "is below 10 ms"));
            }
        }
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_delay_of_a_parked_call_doubles_up_to_its_maximum() {
        let options = OutboxOptions::new("outbox.db");
        let waits = |random| [0, 1, 2, 5, 6, u32::MAX].map(|times| options.wait(times, None, random).as_secs());
        assert_eq!(waits(0.0), [5, 10, 20, 160, 300, 300]);
        assert_eq!(waits(1.0), [2, 5, 10, 80, 150, 150]);
    }

    #[test]
    fn a_pause_of_the_platform_lengthens_the_delay_up_to_an_hour() {
        let options = OutboxOptions::new("outbox.db");
        let asked = |seconds| options.wait(0, Some(seconds * SECOND), 0.0);
        assert_eq!(
            [1, 7, 3600, 7200].map(asked),
            [5, 7, 3600, 3600].map(|seconds| seconds * SECOND)
        );
    }

    #[test]
    fn intervals_below_10_ms_are_refused() {
        let short = Duration::from_millis(9);
        let builder = || OutboxOptions::builder("outbox.db");
        for (builder, option) in [
            (builder().base_delay(short), "outbox.base_delay"),
            (builder().max_delay(short), "outbox.max_delay"),
            (builder().heartbeat_timeout(short), "outbox.heartbeat_timeout"),
        ] {
            assert_eq!(builder.build().unwrap_err().option, option);
        }
        assert_eq!(builder().build().unwrap(), OutboxOptions::new("outbox.db"));
    }
}
