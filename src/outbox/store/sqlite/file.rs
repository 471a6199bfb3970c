//! The file of the outbox: an SQLite database.
//!
//! While this process has the file open, it is touched by SQLite alone: when any other descriptor of it is closed, the
//! operating system drops SQLite's locks.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, config::DbConfig};

use super::{
    error::{io_error, sqlite_error},
    schema,
};
use crate::{clock::Clock, error::OutboxError};

/// How long a statement waits for another process. It waits in short steps, since SQLite's lock is not fair.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
const BUSY_STEP: Duration = Duration::from_millis(2);

/// How long a start waits: many processes may create the file at once, and one that fails to start keeps nothing.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(15);

/// The files that this process has open.
static OPEN: Mutex<Vec<FileId>> = Mutex::new(Vec::new());

/// A file, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        path.metadata().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The open database. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    // After the connection: fields are dropped in this order.
    id: OpenId,
}

/// An entry in [`OPEN`].
#[derive(Debug)]
struct OpenId(FileId);

impl Drop for OpenId {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = open.iter().position(|id| *id == self.0) {
            open.swap_remove(index);
        }
    }
}

impl Database {
    /// Opens the outbox at `path`, which was resolved, and creates it if there is none. A file that is not an outbox is
    /// not changed.
    pub(super) fn open(path: &Path) -> Result<Self, OutboxError> {
        Self::open_within(path, BUSY_TIMEOUT)
    }

    /// As [`open`](Self::open), but waits this long for other processes.
    pub(super) fn open_within(path: &Path, timeout: Duration) -> Result<Self, OutboxError> {
        let mut database = Self::connect(path)?;
        let connection = &mut database.connection;
        set_up(connection, timeout).map_err(sqlite_error)?;
        // Before anything is read: that would create companions with the permissions of a read-only file.
        if connection.is_readonly(MAIN_DB).map_err(sqlite_error)? {
            return Err(OutboxError::ReadOnly);
        }
        schema::check(connection)?;
        make_private(path).map_err(io_error)?;
        write_ahead(connection, timeout).map_err(sqlite_error)?;
        schema::migrate(connection).map_err(sqlite_error)?;
        for suffix in ["-wal", "-shm"] {
            // There may be none.
            let _ = make_private(&with_suffix(path, suffix));
        }
        Ok(database)
    }

    fn connect(path: &Path) -> Result<Self, OutboxError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        create(path).map_err(io_error)?;
        let metadata = path.metadata().map_err(io_error)?;
        let id = FileId::from(&metadata);
        if !metadata.is_file() || (!open.contains(&id) && !may_be_database(path).map_err(io_error)?) {
            return Err(OutboxError::NotAnOutbox);
        }
        // Neither `CREATE`, which would ignore the permissions, nor `URI`, which would give a name another meaning.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sqlite_error)?;
        open.push(id);
        Ok(Self {
            connection,
            id: OpenId(id),
        })
    }

    pub(super) fn id(&self) -> FileId {
        self.id.0
    }
}

/// How many connections this process has to a file.
#[cfg(test)]
pub(super) fn count_open(path: &Path) -> usize {
    let id = FileId::of(path).ok();
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.iter().filter(|open| Some(**open) == id).count()
}

/// Creates the file, readable for its owner alone, unless it exists.
fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    match options.read(true).write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Looks at the first bytes: with a log left beside it, SQLite would turn any file into a database.
fn may_be_database(path: &Path) -> io::Result<bool> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut start = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut start)?;
    Ok(start.is_empty() || start == MAGIC)
}

/// Sets up a connection, without reading the file.
fn set_up(connection: &mut Connection, timeout: Duration) -> rusqlite::Result<()> {
    wait_when_busy(connection, timeout)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Otherwise SQLite plans a statement again for other values of its parameters: for each lane, say.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Until the file is known to be an outbox: a mere look would merge a log that was left beside it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// Sets up a file that was checked: this writes to it.
fn write_ahead(connection: &Connection, timeout: Duration) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    let clock = Clock::system();
    let since = clock.instant();
    // The busy handler does not count for this pragma, and many processes may create the file at once.
    while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || !is_within(timeout, since, &clock) {
            return Err(error);
        }
        thread::sleep(BUSY_STEP);
    }
    // A commit is on the disk when it returns; on macOS, `fsync` alone does not do that.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)
}

/// Has statements wait while another process has the file locked.
pub(super) fn wait_when_busy(connection: &mut Connection, timeout: Duration) -> rusqlite::Result<()> {
    let clock = Clock::system();
    let mut since = clock.instant();
    connection.busy_handler(Some(move |times| {
        if times == 0 {
            since = clock.instant();
        }
        thread::sleep(BUSY_STEP);
        is_within(timeout, since, &clock)
    }))
}

/// Does work that fails at once if another process has the file locked.
pub(super) fn without_waiting<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.busy_timeout(Duration::ZERO)?;
    let outcome = work(connection);
    wait_when_busy(connection, BUSY_TIMEOUT)?;
    outcome
}

fn is_within(timeout: Duration, since: Instant, clock: &Clock) -> bool {
    clock.instant().saturating_duration_since(since) < timeout
}

/// Restricts the permissions of a file that may have been created with other ones. Does not open it.
fn make_private(path: &Path) -> io::Result<()> {
    let mut permissions = path.metadata()?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(permissions.mode() & 0o700);
        fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The absolute path, with links resolved: SQLite's companions lie beside the file, and a process may change its folder.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, OutboxError> {
    let name = path.as_os_str().as_encoded_bytes();
    if name.is_empty() || name == b":memory:" || name.starts_with(b"file:") {
        return Err(OutboxError::Other(format!("{path:?} does not name a file").into()));
    }
    let mut path = std::path::absolute(path).map_err(io_error)?;
    // A link may lead to a file that does not exist yet.
    const MAX_LINKS: usize = 40;
    for _ in 0..MAX_LINKS {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            break;
        };
        let folder = folder.canonicalize().map_err(io_error)?;
        let resolved = folder.join(name);
        match fs::read_link(&resolved) {
            Ok(target) => path = folder.join(target),
            Err(_) => return Ok(resolved),
        }
    }
    Err(OutboxError::Other(format!("{path:?} does not name a file").into()))
}
