//! The durable outbox: a call is on disk before its first attempt, and leaves it when the platform has it.
//!
//! Its public types are here. A message's place in it is in `entry`, what the process does by itself in `ledger`, the
//! file in `file`, what is done in that in `store`, the thread that owns it in `writer`.

mod entry;
mod file;
mod inspect;
mod ledger;
mod store;
mod writer;

use std::{
    fmt, io,
    num::ParseIntError,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::ErrorCode;
use serde::Serialize;
use thiserror::Error;

pub use self::inspect::{Discard, ListDeadLetters, ListParked, OutboxFile, Page, Requeue};
#[cfg(any(test, fuzzing))]
pub(crate) use self::store::written_and_read;
pub(crate) use self::{
    entry::{Entry, Note},
    ledger::{Claimed, Outbox, Settings},
    store::ClaimedCall,
};
use crate::retry::RetryPolicy;

/// How long a call is tried, by default.
const EXPIRES_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest time that a parked call waits, whatever the options say or the platform asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// Where the outbox is, and how long it tries.
///
/// ```
/// use std::time::Duration;
///
/// use result_poster::{Options, OutboxOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("outbox.db");
/// let options = Options::builder("https://app.example.com")
///     .auth_token("token")
///     .outbox(OutboxOptions::at(path).expires_after(Duration::from_secs(24 * 60 * 60)))
///     .build()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct OutboxOptions {
    path: PathBuf,
    expires_after: Duration,
    first_delay: Duration,
    max_delay: Duration,
    lease: Duration,
    max_bytes: Option<u64>,
}

impl OutboxOptions {
    /// An SQLite database at this path, made with mode 0600 if there is none. Several processes may share it, on one
    /// host; the folder must not be on a network's file system.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            expires_after: EXPIRES_AFTER,
            first_delay: Duration::from_secs(5),
            max_delay: Duration::from_secs(5 * 60),
            lease: Duration::from_secs(30),
            max_bytes: None,
        }
    }

    /// How long a call is tried, from the moment that it was handed over: the first attempt that fails after this time
    /// makes it a dead letter. Default: 7 days.
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.expires_after = time;
        self
    }

    /// How long a parked call waits before it is tried again: so long at first, then twice as long each time, up to
    /// `max`, and never more than an hour; each wait is shortened at random by up to a half. A longer pause that the
    /// platform asks for counts, within that hour. Both at least 10 ms. Default: 5 s, up to 5 min.
    pub fn delays(mut self, first: Duration, max: Duration) -> Self {
        self.first_delay = first;
        self.max_delay = max;
        self
    }

    /// How long a process that shares the file must have shown no sign of life before its calls are taken over, at
    /// least 10 ms. It shows one three times as often. Default: 30 s.
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time;
        self
    }

    /// How long a call waits that was parked so many times before. `random` lies in 0 to 1.
    fn wait(&self, rounds: u32, retry_after: Option<Duration>, random: f64) -> Duration {
        let delays = RetryPolicy {
            max_attempts: u32::MAX,
            base_delay: self.first_delay,
            max_delay: self.max_delay,
            ..RetryPolicy::default()
        };
        let delay = delays.wait_after(rounds.saturating_add(1), None, 0.0);
        let shortened = delay.unwrap_or(self.max_delay).mul_f64(1.0 - random / 2.0);
        shortened.max(retry_after.unwrap_or_default()).min(LONGEST_WAIT)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with them, if anything.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        const LEAST: Duration = Duration::from_millis(10);
        if self.lease < LEAST {
            Some("has a lease below 10 ms")
        } else if self.first_delay.min(self.max_delay) < LEAST {
            Some("has delays below 10 ms")
        } else {
            None
        }
    }

    /// The largest size of the database, in bytes (its log comes on top of that). What does not fit is not kept, as on
    /// a disk that is full. Default: none.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }
}

/// Why the outbox could not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The options name none.
    #[error("there is no outbox: set `OptionsBuilder::outbox`")]
    NotConfigured,
    /// There is no file, or no folder for one.
    #[error("there is no such file, or no folder for it: make the folder, or name another path")]
    NotFound,
    /// No room on the disk, or within `max_bytes`.
    #[error("there is no room for it: make some on the disk, or raise `max_bytes`")]
    Full,
    /// Another process held the file for longer than 5 s.
    #[error("another process holds the file: look for one that hangs, or a tool that has it open")]
    Locked,
    /// The file, or its folder, can't be written.
    #[error("the file can't be written: check the rights of the file and its folder")]
    ReadOnly,
    /// The file is damaged. It was not changed.
    #[error(
        "the file is damaged ({0}): move it away together with the -wal and -shm beside it, and save what is in it with `sqlite3 … .recover`"
    )]
    Corrupt(String),
    /// The file is something else. It was not changed.
    #[error("the file is not an outbox: name another path")]
    Foreign,
    /// The file was written by a newer version of this crate. It was not changed.
    #[error("the file was made by a newer version: update this program, or name another path")]
    TooNew,
    /// The call was in the file, and somebody has deleted it, or the file.
    #[error("it is no longer in the file, which somebody has changed or deleted")]
    Gone,
    /// The outbox's thread is gone.
    #[error("the outbox has stopped")]
    Stopped,
    /// Anything else, as the operating system or SQLite puts it.
    #[error("{0}")]
    Other(String),
}

/// An [`OutboxError`] within this module: SQLite's errors become one by `?`, and are no part of the public interface.
#[derive(Debug)]
pub(crate) struct Fault(OutboxError);

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self(match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => OutboxError::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OutboxError::Locked,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => OutboxError::ReadOnly,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OutboxError::Corrupt(error.to_string()),
            _ => OutboxError::Other(error.to_string()),
        })
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "all other kinds say enough themselves")]
        Self(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OutboxError::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OutboxError::ReadOnly,
            io::ErrorKind::NotFound => OutboxError::NotFound,
            _ => OutboxError::Other(error.to_string()),
        })
    }
}

impl From<OutboxError> for Fault {
    fn from(error: OutboxError) -> Self {
        Self(error)
    }
}

impl From<Fault> for OutboxError {
    fn from(Fault(error): Fault) -> Self {
        error
    }
}

/// Which call of an outbox: a number that is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeliveryId(i64);

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DeliveryId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A call in the outbox that is parked, or dead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxEntry {
    /// Its number.
    pub id: DeliveryId,
    /// `completion`, `status`, `updateIssueStatus` or `createComment`.
    pub call: String,
    /// The id of its session or issue.
    pub subject: String,
    /// The platform that it is for.
    pub platform_url: String,
    /// The worker that it is from.
    pub worker_id: String,
    /// What tells the platform that it has it already.
    pub idempotency_key: String,
    /// What it says, as JSON; not quite as it is sent.
    pub body: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was handed over.
    pub created_at: SystemTime,
    /// When it is tried again, if it is parked; not before those that are parked before it about the same session or
    /// issue.
    pub due_at: SystemTime,
    /// When its time is over, if it is parked: the first attempt that fails after that makes it a dead letter.
    pub expires_at: SystemTime,
    /// The HTTP status that the platform refused it with.
    pub status_code: Option<u16>,
    /// Why it was not delivered, without the body of an answer. Empty if it was not attempted yet.
    pub error: String,
    /// Whether it is never sent again by itself.
    pub is_dead: bool,
}

fn milliseconds(time: SystemTime) -> i64 {
    milliseconds_of(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn milliseconds_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn from_milliseconds(milliseconds: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_parked_call_waits_longer_each_time_and_never_for_ever() {
        let options = OutboxOptions::at("outbox.db");
        let waits = |random| [0, 1, 2, 5, 6, u32::MAX].map(|rounds| options.wait(rounds, None, random).as_secs());
        assert_eq!(waits(0.0), [5, 10, 20, 160, 300, 300]);
        assert_eq!(waits(1.0), [2, 5, 10, 80, 150, 150]);
        // The platform's own wish may lengthen it, up to an hour.
        let asked = |seconds| options.wait(0, Some(seconds * SECOND), 0.0);
        assert_eq!(
            [1, 7, 3600, 7200].map(asked),
            [5, 7, 3600, 3600].map(|seconds| seconds * SECOND)
        );
    }

    #[test]
    fn a_commit_is_on_the_disk_when_it_returns() {
        let folder = tempfile::tempdir().unwrap();
        let connection = file::open(&folder.path().join("outbox.db"), None).unwrap();
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
        assert_eq!(pragma("journal_mode").unwrap(), "wal".to_owned().into());
        // FULL
        assert_eq!(pragma("synchronous").unwrap(), 2.into());
    }
}
