//! The outbox's file: an SQLite database, made and checked.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, MAIN_DB, TransactionBehavior};

use super::{Fault, OutboxError};

/// "rPob": whose file it is.
const APPLICATION_ID: i32 = 0x7250_6f62;

/// What leads from each version of the schema to the next. The version is in `user_version`.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        message INTEGER NOT NULL,              -- the first call of the same message
        platform TEXT NOT NULL,
        worker TEXT NOT NULL,
        lane TEXT NOT NULL,                    -- whose calls go out in order
        name TEXT NOT NULL,
        subject TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        body TEXT NOT NULL,
        dead INTEGER NOT NULL DEFAULT 0,
        owner INTEGER,                         -- who delivers it now; NULL: it is parked
        attempts INTEGER NOT NULL DEFAULT 0,
        rounds INTEGER NOT NULL DEFAULT 0,     -- times that it was parked after an attempt
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

/// How long another process may hold the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the outbox at `path`, and makes it if there is none. What is not an outbox is not touched.
pub(super) fn open(path: &Path, max_bytes: Option<u64>) -> Result<Connection, Fault> {
    let mut connection = open_checked(path)?;
    // After the checks, since it writes.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is on disk when it returns.
    connection.pragma_update(None, "synchronous", "FULL")?;
    if let Some(bytes) = max_bytes {
        let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        // Zero would be no limit.
        let pages = i64::try_from(bytes)
            .unwrap_or(i64::MAX)
            .checked_div(page)
            .unwrap_or_default()
            .max(1);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    migrate(&mut connection)?;
    for companion in ["-wal", "-shm"] {
        let mut companion_path = path.as_os_str().to_owned();
        companion_path.push(companion);
        // There need not be one.
        let _ = make_private(Path::new(&companion_path));
    }
    Ok(connection)
}

fn open_checked(path: &Path) -> Result<Connection, Fault> {
    let mut private = OpenOptions::new();
    private.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut private, 0o600);
    match private.open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    if !may_be_database(path)? {
        return Err(OutboxError::Foreign.into());
    }
    let connection = Connection::open(path)?;
    // Before it is read, which would leave files with its rights beside it.
    if connection.is_readonly(MAIN_DB)? {
        return Err(OutboxError::ReadOnly.into());
    }
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let (id, version) = identity(&connection).map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => OutboxError::Foreign.into(),
        _ => Fault::from(error),
    })?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    if id != APPLICATION_ID && (id != 0 || tables > 0) {
        return Err(OutboxError::Foreign.into());
    }
    if usize::try_from(version).is_ok_and(|version| version > MIGRATIONS.len()) {
        return Err(OutboxError::TooNew.into());
    }
    let health: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    if health != "ok" {
        return Err(OutboxError::Corrupt(health).into());
    }
    make_private(path)?;
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection)
}

/// By its first bytes, since a log that is left beside a file makes a database of whatever that is.
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

pub(super) fn migrate(connection: &mut Connection) -> Result<(), Fault> {
    let (_, version) = identity(connection)?;
    if usize::try_from(version).is_ok_and(|version| version >= MIGRATIONS.len()) {
        return Ok(());
    }
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have done it since the first look.
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
    Ok(change.commit()?)
}

/// A file that was there already may have been made with other rights.
fn make_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mut rights = fs::metadata(path)?.permissions();
        if rights.mode() & 0o077 != 0 {
            rights.set_mode(rights.mode() & 0o700);
            fs::set_permissions(path, rights)?;
        }
    }
    let _ = path;
    Ok(())
}
