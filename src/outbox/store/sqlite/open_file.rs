//! The file at the outbox's path, which is opened again when it was removed or replaced.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use log::{error, info};
use rusqlite::{Connection, Transaction, TransactionBehavior, hooks::Wal};

use super::{
    error::sqlite_error,
    file::{BUSY_TIMEOUT, Database, FileId, wait_when_busy, with_suffix},
    file_state::FileState,
    owners::Owners,
};
use crate::{
    clock::Clock,
    error::OutboxError,
    util::{chain, ignore_panic},
};

/// How often the file is opened at most.
const OPEN_EVERY: Duration = Duration::from_secs(1);

/// How long other processes may have the former file open: until they look at it, which they do every 2 s.
const OTHERS_CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// A file, as long as it exists. Its creation tells it from an earlier file: inodes are used again.
#[derive(PartialEq)]
struct Generation {
    id: FileId,
    /// `None` if the file system does not keep it.
    created: Option<SystemTime>,
}

/// The files at the path of an outbox: its database and its log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
    files: [Option<FileId>; 2],
}

impl Place {
    fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: [path, &with_suffix(path, "-wal")].map(|path| FileId::of(path).ok()),
        }
    }

    /// Whether the files were neither removed nor replaced since.
    pub(super) fn is_unchanged(&self) -> bool {
        *self == Self::of(&self.path)
    }
}

/// How long a transaction waits for another process if the last one has waited in vain.
const HELD_TIMEOUT: Duration = Duration::from_millis(200);

/// How many pages the log has when it is copied to the database: as many as by SQLite's own choice.
const CHECKPOINT_AT: i32 = 1_000;

pub(super) struct OpenFile {
    path: PathBuf,
    database: Option<Database>,
    state: Arc<FileState>,
    /// Its log, once there is one.
    log: Option<FileId>,
    /// How many pages it had after the last commit.
    log_pages: Arc<AtomicI32>,
    /// The file that was open last.
    last: Option<Generation>,
    /// Why the file is not open.
    error: Option<OutboxError>,
    tried_at: Option<Instant>,
    closed_until: Option<Instant>,
    /// Whether another process was found to hold the file.
    is_held: bool,
    clock: Clock,
}

impl OpenFile {
    pub(super) fn new(path: PathBuf, state: Arc<FileState>) -> Self {
        Self {
            path,
            database: None,
            state,
            log: None,
            log_pages: Arc::default(),
            last: None,
            error: None,
            tried_at: None,
            closed_until: None,
            is_held: false,
            clock: Clock::system(),
        }
    }

    /// The connection, if the file at the path is open.
    pub(super) fn current(&self) -> Option<&Connection> {
        let database = self.database.as_ref()?;
        (FileId::of(&self.path).ok()? == database.id()).then_some(&database.connection)
    }

    /// The connection to the file at the path. A file that is not open is opened, at most once a second.
    pub(super) fn ready(&mut self, owners: &mut Owners) -> Result<&mut Connection, OutboxError> {
        self.close_if_moved(owners);
        if self.database.is_none() {
            self.open(owners)?;
        }
        let database = self.database.as_mut().ok_or(OutboxError::Stopped)?;
        Ok(&mut database.connection)
    }

    /// Begins a change of the file at the path. Waits for another process, but while one holds the file, only the first
    /// time for long: a message that can't be stored must not wait behind other changes as well.
    pub(super) fn begin(&mut self, owners: &mut Owners) -> Result<Transaction<'_>, OutboxError> {
        self.ready(owners)?;
        let database = self.database.as_mut().ok_or(OutboxError::Stopped)?;
        let timeout = if self.is_held { HELD_TIMEOUT } else { BUSY_TIMEOUT };
        wait_when_busy(&mut database.connection, timeout).map_err(sqlite_error)?;
        let change = database
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let change = change.map_err(sqlite_error);
        self.is_held = matches!(change, Err(OutboxError::Locked));
        change
    }

    /// The files that are at the path now.
    pub(super) fn place(&self) -> Place {
        Place::of(&self.path)
    }

    /// Copies the log to the database if it has become long. SQLite would do that within a commit, for which callers wait.
    pub(super) fn checkpoint(&self) {
        if let Some(database) = &self.database
            && self.log_pages.swap(0, Ordering::Relaxed) >= CHECKPOINT_AT
        {
            // All changes are in the log. After an error, the next commit makes another try.
            let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
            let _ = database.connection.query_row(checkpoint, (), |_| Ok(()));
        }
    }

    /// Has SQLite tell the length of the log after each commit, in place of its own checkpoints.
    fn count_log_pages(&self, connection: &mut Connection) -> Result<(), OutboxError> {
        let log_pages = Arc::clone(&self.log_pages);
        let note = move |_: &mut Wal, pages| {
            log_pages.store(pages, Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(note)).map_err(sqlite_error)
    }

    fn close_if_moved(&mut self, owners: &Owners) {
        let Some(database) = &self.database else { return };
        let log = FileId::of(&with_suffix(&self.path, "-wal")).ok();
        let problem = match FileId::of(&self.path) {
            Ok(id) if id == database.id() && (log == self.log || self.log.is_none()) => {
                self.log = log;
                return;
            }
            // The checkpoint below saves the content of the log, which this process still has open.
            Ok(id) if id == database.id() => "separated from its log, which was removed or replaced",
            Ok(_) => "replaced",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "removed",
            // It may come back.
            Err(_) => "made inaccessible",
        };
        ignore_panic(|| error!("the outbox {:?} was {problem}; opening it again", self.path));
        // SQLite finds log and index by the path: those of the former file must be empty and unused before another file is
        // opened there.
        if owners.has_others(&database.connection).unwrap_or(true) {
            self.closed_until = self.clock.instant().checked_add(OTHERS_CLOSE_WITHIN);
        }
        let _ = database
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        (self.database, self.log) = (None, None);
        self.error = Some(OutboxError::NotFound);
        self.state.set_id(None);
        self.state.count_replacement();
    }

    fn open(&mut self, owners: &mut Owners) -> Result<(), OutboxError> {
        let now = self.clock.instant();
        let was_tried = self
            .tried_at
            .is_some_and(|at| now.saturating_duration_since(at) < OPEN_EVERY);
        let is_closed = self.closed_until.is_some_and(|until| now < until);
        if let Some(error) = self.error.clone().filter(|_| was_tried || is_closed) {
            return Err(error);
        }
        let is_first = self.tried_at.replace(now).is_none();
        let opened = Database::open(&self.path).and_then(|mut database| {
            self.count_log_pages(&mut database.connection)?;
            Ok(database)
        });
        match opened {
            Ok(database) => {
                let generation = Generation {
                    id: database.id(),
                    created: self.path.metadata().and_then(|metadata| metadata.created()).ok(),
                };
                if self.last.as_ref().is_some_and(|last| *last != generation) {
                    owners.rename();
                }
                self.last = Some(generation);
                if !is_first {
                    owners.start_again();
                    ignore_panic(|| info!("the outbox {:?} is open again", self.path));
                }
                // Housekeeping, which the next look at the owners repeats.
                let _ = owners.clean(&database.connection, now);
                self.state.set_id(Some(database.id()));
                (self.database, self.error) = (Some(database), None);
                Ok(())
            }
            Err(error) => {
                if self.error.as_ref() != Some(&error) {
                    ignore_panic(|| error!("the outbox {:?} can't be opened: {}", self.path, chain(&error)));
                }
                self.error = Some(error.clone());
                Err(error)
            }
        }
    }
}
