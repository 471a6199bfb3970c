//! The file of the outbox: an SQLite database, created, checked and migrated.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, MAIN_DB, TransactionBehavior, config::DbConfig};

use super::error::{io_error, sqlite_error};
use crate::error::OutboxError;

/// "rPob": marks the file as an outbox.
const APPLICATION_ID: i32 = 0x7250_6f62;

/// The migrations from each version of the schema to the next. The version is in `user_version`.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        message INTEGER NOT NULL,              -- the first call of the same message
        platform TEXT NOT NULL,
        worker TEXT NOT NULL,
        lane TEXT NOT NULL,                    -- the session or issue, whose calls are sent in order
        name TEXT NOT NULL,
        subject TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        body TEXT NOT NULL,
        dead INTEGER NOT NULL DEFAULT 0,
        owner INTEGER,                         -- the process that sends it; NULL: parked
        attempts INTEGER NOT NULL DEFAULT 0,
        rounds INTEGER NOT NULL DEFAULT 0,     -- how often it was parked after an attempt
        created_at INTEGER NOT NULL,           -- milliseconds since 1970, all three
        due_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        status_code INTEGER,
        error TEXT
    ) STRICT;
    CREATE INDEX calls_by_lane ON calls (lane, message) WHERE dead = 0;
    CREATE INDEX calls_by_lane_and_owner ON calls (lane, owner, message) WHERE dead = 0;
    CREATE INDEX calls_by_due ON calls (platform, worker, dead, owner, due_at);
    CREATE INDEX calls_by_owner ON calls (owner) WHERE owner IS NOT NULL;
    CREATE TABLE owners (id INTEGER PRIMARY KEY, beat INTEGER NOT NULL) STRICT;
"];

/// How long another process may keep the file locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the outbox at `path`, and creates it if there is none. A file that is not an outbox is not changed.
pub(super) fn open(path: &Path, max_bytes: Option<u64>) -> Result<Connection, OutboxError> {
    let mut connection = open_checked(path)?;
    configure(&connection, max_bytes).map_err(sqlite_error)?;
    migrate(&mut connection).map_err(sqlite_error)?;
    for companion in ["-wal", "-shm"] {
        let mut companion_path = path.as_os_str().to_owned();
        companion_path.push(companion);
        // There may be none.
        let _ = make_private(Path::new(&companion_path));
    }
    Ok(connection)
}

/// Sets up a file that was checked: this writes to it.
fn configure(connection: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is on the disk when it returns.
    connection.pragma_update(None, "synchronous", "FULL")?;
    if let Some(bytes) = max_bytes {
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        // Zero would mean no limit.
        let pages = i64::try_from(bytes)
            .unwrap_or(i64::MAX)
            .checked_div(page)
            .unwrap_or_default()
            .max(1);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    Ok(())
}

fn open_checked(path: &Path) -> Result<Connection, OutboxError> {
    let mut private = OpenOptions::new();
    private.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut private, 0o600);
    match private.open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_error(error)),
    }
    if !may_be_database(path).map_err(io_error)? {
        return Err(OutboxError::NotAnOutbox);
    }
    let connection = Connection::open(path).map_err(sqlite_error)?;
    check(&connection)?;
    make_private(path).map_err(io_error)?;
    // Closing the connection may merge the log from here on: the file is ours.
    let merge_on_close = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
    merge_on_close.map_err(sqlite_error)?;
    Ok(connection)
}

/// Refuses a file that is not a healthy outbox of a known version, without changing it.
fn check(connection: &Connection) -> Result<(), OutboxError> {
    let prepare = || -> rusqlite::Result<bool> {
        // Before anything is read: reading would create files with the permissions of a read-only file beside it.
        let is_read_only = connection.is_readonly(MAIN_DB)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(is_read_only)
    };
    if prepare().map_err(sqlite_error)? {
        return Err(OutboxError::ReadOnly);
    }
    let (id, version) = identity(connection).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OutboxError::NotAnOutbox,
        _ => sqlite_error(error),
    })?;
    let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get::<_, u32>(0));
    if id != APPLICATION_ID && (id != 0 || tables.map_err(sqlite_error)? > 0) {
        return Err(OutboxError::NotAnOutbox);
    }
    if usize::try_from(version).is_ok_and(|version| version > MIGRATIONS.len()) {
        return Err(OutboxError::UnsupportedVersion);
    }
    let health = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get::<_, String>(0));
    match health.map_err(sqlite_error)? {
        health if health == "ok" => Ok(()),
        damage => Err(OutboxError::Corrupt(damage.into())),
    }
}

/// Looks at the first bytes: with a log left beside it, SQLite would turn any file into a database.
fn may_be_database(path: &Path) -> io::Result<bool> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    let mut start = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut start)?;
    Ok(start.is_empty() || start == MAGIC)
}

fn identity(connection: &Connection) -> rusqlite::Result<(i32, i32)> {
    let value = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((value("application_id")?, value("user_version")?))
}

pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let (_, version) = identity(connection)?;
    if usize::try_from(version).is_ok_and(|version| version >= MIGRATIONS.len()) {
        return Ok(());
    }
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated it meanwhile.
    let (_, version) = identity(&change)?;
    let missing = MIGRATIONS
        .get(usize::try_from(version).unwrap_or_default()..)
        .unwrap_or_default();
    if !missing.is_empty() {
        for migration in missing {
            change.execute_batch(migration)?;
        }
        change.pragma_update(None, "application_id", APPLICATION_ID)?;
        change.pragma_update(
            None,
            "user_version",
            i32::try_from(MIGRATIONS.len()).unwrap_or_default(),
        )?;
    }
    change.commit()
}

/// Restricts the permissions of a file that may have been created with other ones.
fn make_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mut permissions = fs::metadata(path)?.permissions();
        if permissions.mode() & 0o077 != 0 {
            permissions.set_mode(permissions.mode() & 0o700);
            fs::set_permissions(path, permissions)?;
        }
    }
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_on_the_disk_when_it_returns() {
        let folder = tempfile::tempdir().unwrap();
        let connection = open(&folder.path().join("outbox.db"), None).unwrap();
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
        assert_eq!(pragma("journal_mode").unwrap(), "wal".to_owned().into());
        // FULL
        assert_eq!(pragma("synchronous").unwrap(), 2.into());
    }
}
