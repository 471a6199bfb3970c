//! The processes that share the file.

use rusqlite::{Connection, named_params};

use super::Scope;

/// Registers an owner, so that others notice when it dies.
pub(super) fn register_owner(connection: &Connection, owner: i64) -> rusqlite::Result<()> {
    let mut register_owner = connection.prepare_cached("INSERT OR IGNORE INTO owners (id, beat) VALUES (?1, 0)")?;
    register_owner.execute([owner])?;
    Ok(())
}

pub(super) const REASSIGN_WORKER: &str = "UPDATE calls SET worker = ?3 WHERE platform = ?1 AND worker = ?2";

/// Repairs times that a wrong clock wrote: a call due later than any wait is due now; a call stored later than that, or
/// expired for more than a year, gets a fresh expiry.
pub(in crate::outbox) fn repair_timestamps(
    connection: &Connection,
    scope: &Scope,
    now: i64,
    longest_wait: i64,
) -> rusqlite::Result<()> {
    const YEAR: i64 = 365 * 24 * 60 * 60 * 1000;
    let horizon = now.saturating_add(longest_wait);
    let mut due = connection.prepare_cached(
        "UPDATE calls SET due_at = :now
         WHERE platform = :platform AND worker = :worker AND dead = 0 AND owner IS NULL AND due_at > :horizon",
    )?;
    due.execute(named_params! {
        ":now": now, ":horizon": horizon, ":platform": scope.platform, ":worker": scope.worker,
    })?;
    let mut expires = connection.prepare_cached(
        "UPDATE calls SET created_at = :now, expires_at = :now + (expires_at - created_at)
         WHERE platform = :platform AND worker = :worker AND dead = 0 AND owner IS NULL
             AND (created_at > :horizon OR expires_at < :past)",
    )?;
    expires.execute(named_params! {
        ":now": now, ":horizon": horizon, ":past": now.saturating_sub(YEAR),
        ":platform": scope.platform, ":worker": scope.worker,
    })?;
    Ok(())
}

/// Moves one worker's calls to another worker.
pub(in crate::outbox) fn reassign_worker(
    connection: &Connection,
    platform: &str,
    former: &str,
    worker: &str,
) -> rusqlite::Result<()> {
    let mut reassign_worker = connection.prepare_cached(REASSIGN_WORKER)?;
    reassign_worker.execute([platform, former, worker])?;
    Ok(())
}

/// Sends a heartbeat, and returns the heartbeat counters of the other owners.
pub(in crate::outbox) fn heartbeat(connection: &Connection, owner: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut beat = connection.prepare_cached(
        "INSERT INTO owners (id, beat) VALUES (?1, 1) ON CONFLICT (id) DO UPDATE SET beat = beat + 1",
    )?;
    beat.execute([owner])?;
    let mut others = connection.prepare_cached("SELECT id, beat FROM owners WHERE id <> ?1")?;
    others
        .query_map([owner], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Releases the calls in scope of a dead owner, unless its heartbeat has changed. Returns how many.
pub(in crate::outbox) fn take_over(
    connection: &Connection,
    scope: &Scope,
    gone: i64,
    sign: i64,
) -> rusqlite::Result<usize> {
    let mut free = connection.prepare_cached(
        "UPDATE calls INDEXED BY calls_by_owner SET owner = NULL
         WHERE owner = :gone AND EXISTS (SELECT 1 FROM owners WHERE id = :gone AND beat = :sign) AND platform = :platform AND worker = :worker",
    )?;
    let freed = free.execute(named_params! {
        ":gone": gone, ":sign": sign, ":platform": scope.platform, ":worker": scope.worker,
    })?;
    let mut forget = connection.prepare_cached(
        "DELETE FROM owners WHERE id = ?1 AND beat = ?2 AND NOT EXISTS (SELECT 1 FROM calls WHERE owner = ?1)",
    )?;
    forget.execute([gone, sign])?;
    Ok(freed)
}

/// Releases all calls of this owner, and removes it.
pub(in crate::outbox) fn release_all(connection: &Connection, owner: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE calls SET owner = NULL WHERE owner = ?1")?
        .execute([owner])?;
    connection
        .prepare_cached("DELETE FROM owners WHERE id = ?1")?
        .execute([owner])?;
    Ok(())
}
