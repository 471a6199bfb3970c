//! The schema of the database, its identity and its migrations.

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::error::sqlite_error;
use crate::error::OutboxError;

/// "rPob": marks the file as an outbox.
const APPLICATION_ID: i32 = 0x7250_6f62;

/// The version of the first model, in which an owner claimed calls. It is not supported any more.
const BASE_VERSION: i32 = 1;

/// The migrations from each version to the next. The first one starts with an empty file.
const MIGRATIONS: [&str; 3] = [
    "
    -- The posters that use the file. Each holds a lock on a file of its own while it lives.
    CREATE TABLE owners (
        id INTEGER PRIMARY KEY,           -- random: an id is never used again
        file TEXT NOT NULL UNIQUE         -- in the folder '<outbox>-owners'
    ) STRICT;

    -- The calls of one target. A lane exists while it has waiting calls. Times are in milliseconds, since 1970.
    CREATE TABLE lanes (
        id INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        name TEXT NOT NULL,
        owner INTEGER,                    -- NULL: free
        claim INTEGER NOT NULL DEFAULT 0, -- of the owner; never used again
        round INTEGER NOT NULL DEFAULT 0, -- of the owner's claims; 0 if the lane was not claimed but created
        taken INTEGER NOT NULL DEFAULT 0, -- the last call that the owner has taken
        next_seq INTEGER NOT NULL,
        parked_at INTEGER NOT NULL,       -- the lane is not due while parked_at <= now < parked_at + wait
        wait INTEGER NOT NULL DEFAULT 0,
        parked_by INTEGER,                -- this owner goes by its own monotonic clock
        reason TEXT,
        -- What the lane waits for: 0 (a session) and 1 (an issue) for its delay, 2 to 4 for the end of an outage.
        due_by INTEGER NOT NULL GENERATED ALWAYS AS (CASE reason WHEN 'completion_outage' THEN 2 WHEN 'status_outage' THEN 3
            WHEN 'tracker_outage' THEN 4 ELSE substr(name, 1, 6) = 'issue ' END) VIRTUAL,
        UNIQUE (queue, name)
    ) STRICT;
    CREATE INDEX lanes_by_due ON lanes (queue, due_by, parked_by, parked_at + wait) WHERE owner IS NULL;
    CREATE INDEX lanes_by_parked_at ON lanes (queue, due_by, parked_by, parked_at) WHERE owner IS NULL;
    CREATE INDEX lanes_by_owner ON lanes (owner, claim) WHERE owner IS NOT NULL;

    -- Bodies and headers come last: what follows a long value is slow to read.
    CREATE TABLE calls (
        id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
        state TEXT NOT NULL CHECK (state IN ('waiting', 'dead')),
        queue TEXT NOT NULL,
        lane INTEGER,                     -- NULL: a dead letter
        seq INTEGER,                      -- the place in the lane
        home TEXT NOT NULL,               -- the lane to which a requeued call returns
        message BLOB NOT NULL,            -- the id of the first call of the message
        kind TEXT NOT NULL,
        target_id TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        worker_id TEXT,
        reduced INTEGER NOT NULL DEFAULT 0,
        known INTEGER NOT NULL DEFAULT 0, -- another message was answered with this id
        attempts INTEGER NOT NULL DEFAULT 0,
        parks INTEGER NOT NULL DEFAULT 0,
        faults INTEGER NOT NULL DEFAULT 0,
        rejections INTEGER NOT NULL DEFAULT 0,
        takeovers INTEGER NOT NULL DEFAULT 0,
        sent_under INTEGER NOT NULL DEFAULT 0, -- the claim; noted for calls with takeovers only
        age INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        dead_at INTEGER,                  -- by the clock of the platform
        status_code INTEGER,
        last_error TEXT,
        headers TEXT,
        body TEXT NOT NULL,
        CHECK ((state = 'dead') = (lane IS NULL)),
        CHECK ((lane IS NULL) = (seq IS NULL))
    ) STRICT;
    CREATE INDEX calls_by_lane ON calls (lane, seq, created_at) WHERE state = 'waiting';
    CREATE INDEX calls_by_key ON calls (queue, idempotency_key);
    CREATE INDEX calls_by_death ON calls (queue, dead_at) WHERE state = 'dead';

    -- For operators.
    CREATE VIEW outbox AS SELECT
        lower(substr(hex(calls.id), 1, 8) || '-' || substr(hex(calls.id), 9, 4) || '-' || substr(hex(calls.id), 13, 4)
            || '-' || substr(hex(calls.id), 17, 4) || '-' || substr(hex(calls.id), 21)) AS id,
        CASE WHEN calls.state = 'dead' THEN 'dead_letter' WHEN calls.seq <= lanes.taken AND lanes.owner IS NOT NULL
            THEN 'live' ELSE 'parked' END AS state,
        calls.queue, kind, target_id, worker_id, lanes.owner, attempts, reason,
        CASE WHEN lanes.owner IS NULL AND lanes.due_by < 2 THEN strftime('%Y-%m-%dT%H:%M:%fZ', (parked_at + wait) / 1000.0, 'unixepoch') END
            AS next_attempt_at,
        strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') AS created_at,
        strftime('%Y-%m-%dT%H:%M:%fZ', dead_at / 1000.0, 'unixepoch') AS dead_at,
        status_code, last_error, idempotency_key, body
        FROM calls LEFT JOIN lanes ON lanes.id = calls.lane;
",
    "
    ALTER TABLE owners ADD COLUMN mark INTEGER NOT NULL DEFAULT 0; -- ascends; a lower one is of a backup
",
    "
    DROP INDEX calls_by_key;
    CREATE INDEX calls_by_key ON calls (idempotency_key); -- hardly any key is in two queues
",
];

/// Refuses a file that is neither empty nor an outbox of a supported version, without changing it.
pub(super) fn check(connection: &mut Connection) -> Result<(), OutboxError> {
    let identity = identity(connection).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OutboxError::NotAnOutbox,
        _ => sqlite_error(error),
    })?;
    match identity {
        (APPLICATION_ID, version, _) if version > BASE_VERSION && version <= current_version() => Ok(()),
        (APPLICATION_ID, ..) => Err(OutboxError::UnsupportedVersion),
        (0, 0, 0) => Ok(()),
        _ => Err(OutboxError::NotAnOutbox),
    }
}

/// The application id, the version and the number of tables, in one read transaction: another process may be creating
/// the file.
fn identity(connection: &mut Connection) -> rusqlite::Result<(i32, i32, i64)> {
    let read = connection.transaction()?;
    let tables = read.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    let application_id = read.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok((application_id, version(&read)?, tables))
}

/// Brings a file that was checked to the current version.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    if version(connection)? == current_version() {
        return Ok(());
    }
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated it meanwhile.
    let done = usize::try_from(version(&change)?.saturating_sub(BASE_VERSION)).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        change.execute_batch(migration)?;
    }
    change.pragma_update(None, "application_id", APPLICATION_ID)?;
    change.pragma_update(None, "user_version", current_version())?;
    change.commit()
}

/// The size of the database, without free pages.
pub(super) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let value = |pragma| -> rusqlite::Result<u64> {
        let value: i64 = connection.prepare_cached(pragma)?.query_row((), |row| row.get(0))?;
        Ok(u64::try_from(value).unwrap_or_default())
    };
    let pages = value("PRAGMA page_count")?.saturating_sub(value("PRAGMA freelist_count")?);
    Ok(pages.saturating_mul(value("PRAGMA page_size")?))
}

fn current_version() -> i32 {
    BASE_VERSION.saturating_add(i32::try_from(MIGRATIONS.len()).unwrap_or_default())
}

fn version(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
