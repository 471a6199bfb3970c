//! The options of an outbox.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "outbox-postgres")]
use super::location::PostgresOptions;
use super::{
    dead_letter::{DeadLetter, OnDeadLetter},
    location::Location,
};
use crate::{backoff::RetryPolicy, error::OptionsError};

/// The default of [`OutboxOptionsBuilder::expires_after`].
pub(super) const EXPIRES_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest wait of a parked call, whatever the options say or the platform asks for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The default of [`OutboxOptionsBuilder::keep_dead_letters`].
const KEEP_DEAD_LETTERS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The default of [`OutboxOptionsBuilder::max_bytes`]: 1 GiB.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

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
    location: Location,
    expires_after: Duration,
    base_delay: Duration,
    max_delay: Duration,
    keep_dead_letters: Duration,
    max_bytes: u64,
    queue: Option<String>,
    on_dead_letter: OnDeadLetter,
}

impl OutboxOptions {
    /// An SQLite database at this path, with the defaults of [`OutboxOptionsBuilder`]. It is created with mode 0600 if
    /// it does not exist. Several processes of one host may share it. It must not be on a network file system.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::at(Location::File(path.into()))
    }

    fn at(location: Location) -> Self {
        Self {
            location,
            expires_after: EXPIRES_AFTER,
            base_delay: Duration::from_secs(5),
            max_delay: Duration::from_secs(5 * 60),
            keep_dead_letters: KEEP_DEAD_LETTERS,
            max_bytes: MAX_BYTES,
            queue: None,
            on_dead_letter: OnDeadLetter::default(),
        }
    }

    /// Starts with the defaults; see [`new`](Self::new).
    pub fn builder(path: impl Into<PathBuf>) -> OutboxOptionsBuilder {
        OutboxOptionsBuilder(Self::new(path))
    }

    /// A schema of a PostgreSQL database, which the posters of many hosts may share. Starts with the defaults of
    /// [`PostgresOptions`] and [`OutboxOptionsBuilder`]; a URL may stand for the former.
    ///
    /// ```
    /// use result_poster::outbox::OutboxOptions;
    ///
    /// let outbox = OutboxOptions::postgres("postgres://runner@localhost/runner").build()?;
    /// # Ok::<_, result_poster::OptionsError>(())
    /// ```
    #[cfg(feature = "outbox-postgres")]
    pub fn postgres(server: impl Into<PostgresOptions>) -> OutboxOptionsBuilder {
        OutboxOptionsBuilder(Self::at(Location::Postgres(server.into())))
    }

    /// The path of the file. `None` if the outbox is on a server.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.location {
            Location::File(path) => Some(path),
            #[cfg(feature = "outbox-postgres")]
            Location::Postgres(_) => None,
        }
    }

    /// The location for a log line or an error: the path, or the URL without its password.
    #[must_use]
    pub fn location_text(&self) -> String {
        self.location.to_string()
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

    pub(super) fn location(&self) -> &Location {
        &self.location
    }

    /// The longest time limit of a request: on a server, an attempt has to end within the lease.
    pub(crate) fn longest_timeout(&self) -> Option<Duration> {
        self.location.longest_timeout()
    }

    pub(super) fn expires_after(&self) -> Duration {
        self.expires_after
    }

    pub(super) fn keep_dead_letters(&self) -> Duration {
        self.keep_dead_letters
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// The longest delay of a parked call.
    pub(super) fn longest_delay(&self) -> Duration {
        self.max_delay.min(LONGEST_WAIT)
    }

    pub(super) fn on_dead_letter(&self) -> &OnDeadLetter {
        &self.on_dead_letter
    }

    /// The queue of a poster with this platform and organization.
    pub(super) fn queue(&self, platform_url: &str, organization_id: Option<&str>) -> String {
        match (&self.queue, organization_id) {
            (Some(queue), _) => queue.clone(),
            (None, Some(organization_id)) => format!("{platform_url} {organization_id}"),
            (None, None) => platform_url.to_owned(),
        }
    }
}

/// Builds [`OutboxOptions`]. Nothing is checked before [`build`](Self::build), and nothing is opened.
///
/// | option | default |
/// |---|---|
/// | `expires_after` | 7 days |
/// | `base_delay`, `max_delay` | 5 s, 5 min |
/// | `keep_dead_letters` | 30 days |
/// | `max_bytes` | 1 GiB |
/// | `queue` | the platform's URL and the organization id |
/// | `on_dead_letter` | none |
///
/// ```
/// use result_poster::outbox::OutboxOptions;
///
/// let outbox = OutboxOptions::builder("/var/lib/runner/outbox.db")
///     .queue("production") // stays the same if the platform's URL changes
///     .on_dead_letter(|letter| eprintln!("{}: {}", letter.target_id, letter.reason))
///     .build()?;
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct OutboxOptionsBuilder(OutboxOptions);

impl OutboxOptionsBuilder {
    /// How long a call is tried: the first attempt that fails after this time makes it a dead letter. The time of the
    /// call's attempts and delays counts; a time without a running process, or behind an earlier call, does not.
    /// Default: 7 days.
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

    /// How long a dead letter is kept, by the `Date` of the platform's acknowledgements. Default: 30 days.
    pub fn keep_dead_letters(mut self, time: Duration) -> Self {
        self.0.keep_dead_letters = time;
        self
    }

    /// The size of the outbox ([`OutboxStats::bytes`](super::OutboxStats::bytes)) beyond which no more calls are stored. Stored calls are claimed and settled
    /// nevertheless, so a full outbox drains. Default: 1 GiB.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.0.max_bytes = bytes;
        self
    }

    /// The name that separates the calls of one deployment from those of others in the same store. A poster delivers the
    /// calls of its own queue only. Default: the platform's URL and the organization id.
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.0.queue = Some(name.into());
        self
    }

    /// Calls this closure with each call that becomes a dead letter in this process, for a runner that has to release
    /// something then. It is called once for each, when the dead letter is durable: if the outbox can't be written, that is
    /// later than the reply to the call's message. It runs on the poster's arbiter, and must not block. Its panic is caught,
    /// and has no effect. If the process ends between the write and the call, no other process calls it: such a runner lists
    /// the [dead letters](super::EntryQuery::dead_letters) at its start, too. Default: none.
    pub fn on_dead_letter(mut self, call: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        self.0.on_dead_letter = OnDeadLetter::new(call);
        self
    }

    /// Checks the options. The file is opened by [`OptionsBuilder::build`](crate::OptionsBuilder::build).
    ///
    /// # Errors
    ///
    /// [`OptionsError`]: `outbox.base_delay` or `outbox.max_delay` is below 10 ms; `outbox.max_delay` is shorter than
    /// `outbox.base_delay`; `outbox.path` or `outbox.queue` is empty; `outbox.path` is a URL; `outbox.expires_after` or
    /// `outbox.max_bytes` is zero. On PostgreSQL: `outbox.url` is not a usable URL; `outbox.schema` is not a plain name; `outbox.statement_timeout` or
    /// `outbox.connect_timeout` is not from 100 ms to 20 s; `outbox.password_file` can't be read; a certificate of
    /// `outbox.add_root_certificates_pem` is not valid. No error holds the password.
    pub fn build(self) -> Result<OutboxOptions, OptionsError> {
        for (option, value) in [
            ("outbox.base_delay", self.0.base_delay),
            ("outbox.max_delay", self.0.max_delay),
        ] {
            if value < MIN_INTERVAL {
                return Err(OptionsError::new(option, "is below 10 ms"));
            }
        }
        for (option, is_wrong, reason) in [
            (
                "outbox.max_delay",
                self.0.max_delay < self.0.base_delay,
                "is shorter than `base_delay`",
            ),
            ("outbox.expires_after", self.0.expires_after.is_zero(), "is zero"),
            ("outbox.max_bytes", self.0.max_bytes == 0, "is zero"),
            ("outbox.queue", self.0.queue.as_deref() == Some(""), "is empty"),
        ] {
            if is_wrong {
                return Err(OptionsError::new(option, reason));
            }
        }
        self.0.location.check()?;
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
        ] {
            assert_eq!(builder.build().unwrap_err().option, option);
        }
        assert_eq!(builder().build().unwrap(), OutboxOptions::new("outbox.db"));
    }

    #[test]
    fn options_that_can_not_work_are_refused() {
        let builder = || OutboxOptions::builder("outbox.db");
        for (builder, option) in [
            (OutboxOptions::builder(""), "outbox.path"),
            (OutboxOptions::builder("postgres://u:s3cret@h/d"), "outbox.path"),
            (builder().base_delay(2 * SECOND).max_delay(SECOND), "outbox.max_delay"),
            (builder().expires_after(Duration::ZERO), "outbox.expires_after"),
            (builder().max_bytes(0), "outbox.max_bytes"),
            (builder().queue(""), "outbox.queue"),
        ] {
            assert_eq!(builder.build().unwrap_err().option, option);
        }
    }
}
