//! Listing and repairing calls.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::{clamped_u32, from_milliseconds, lossy_text};
use crate::{
    call_id::CallId,
    outbox::{EntryQuery, EntryState, OutboxEntry},
};

/// The calls that match the query, of all owners.
pub(in crate::outbox) fn list(connection: &Connection, query: EntryQuery) -> rusqlite::Result<Vec<OutboxEntry>> {
    let mut list = connection.prepare_cached(
        "SELECT * FROM calls WHERE id > :after AND dead = :dead AND (dead = 1 OR owner IS NULL) ORDER BY id LIMIT :limit",
    )?;
    let parameters = named_params! {
        ":after": query.after.map_or(0, |id| id.0),
        ":dead": query.state == EntryState::DeadLetter,
        ":limit": query.limit,
    };
    list.query_map(parameters, entry)?.collect()
}

pub(in crate::outbox) fn get(connection: &Connection, id: CallId) -> rusqlite::Result<Option<OutboxEntry>> {
    let mut one = connection.prepare_cached("SELECT * FROM calls WHERE id = ?1 AND (dead = 1 OR owner IS NULL)")?;
    one.query_row([id.0], entry).optional()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<OutboxEntry> {
    let time = |name| -> rusqlite::Result<SystemTime> { Ok(from_milliseconds(row.get(name)?)) };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let is_dead: bool = row.get("dead")?;
    let created_at = time("created_at")?;
    let (next_attempt_at, expires_at) = (time("due_at")?.max(created_at), time("expires_at")?);
    Ok(OutboxEntry {
        id: CallId(row.get("id")?),
        state: if is_dead {
            EntryState::DeadLetter
        } else {
            EntryState::Parked
        },
        kind: lossy_text(row, "name")?,
        target_id: lossy_text(row, "subject")?,
        platform_url: lossy_text(row, "platform")?,
        worker_id: some(lossy_text(row, "worker")?),
        idempotency_key: lossy_text(row, "idempotency_key")?,
        body: lossy_text(row, "body")?,
        attempts: clamped_u32(row, "attempts")?,
        created_at,
        next_attempt_at: (!is_dead).then_some(next_attempt_at),
        expires_at: (!is_dead).then_some(expires_at),
        status_code: row
            .get::<_, Option<i64>>("status_code")?
            .and_then(|code| u16::try_from(code).ok()),
        last_error: some(lossy_text(row, "error")?),
    })
}

/// Parks the call, due now with a fresh expiry; the parked calls of its lane become due as well. Returns whether there is
/// such a parked call or dead letter.
pub(in crate::outbox) fn requeue(connection: &Connection, id: CallId, expires_at: i64) -> rusqlite::Result<bool> {
    let mut requeue = connection.prepare_cached(
        "UPDATE calls SET dead = 0, rounds = 0, due_at = 0, expires_at = max(:expires_at, created_at)
         WHERE id = :id AND (dead = 1 OR owner IS NULL)",
    )?;
    let changed = requeue.execute(named_params! { ":id": id.0, ":expires_at": expires_at })?;
    if changed > 0 {
        make_lane_due(connection, id)?;
    }
    Ok(changed > 0)
}

/// Makes the parked calls of a parked call's lane due now.
fn make_lane_due(connection: &Connection, id: CallId) -> rusqlite::Result<()> {
    let mut due = connection.prepare_cached(
        "UPDATE calls INDEXED BY calls_by_lane_and_owner SET due_at = 0
         FROM (SELECT * FROM calls WHERE id = ?1 AND dead = 0 AND owner IS NULL) AS this
         WHERE calls.lane = this.lane AND calls.dead = 0 AND calls.owner IS NULL
             AND calls.platform = this.platform AND calls.worker = this.worker",
    )?;
    due.execute([id.0])?;
    Ok(())
}

/// Deletes a parked call or a dead letter, and makes the calls that are parked behind it due now. Returns whether there
/// was one.
pub(in crate::outbox) fn discard(connection: &Connection, id: CallId) -> rusqlite::Result<bool> {
    make_lane_due(connection, id)?;
    let mut discard = connection.prepare_cached("DELETE FROM calls WHERE id = ?1 AND (dead = 1 OR owner IS NULL)")?;
    Ok(discard.execute([id.0])? > 0)
}

/// A call with these texts in its row, as it is claimed and as it is listed: a door for the fuzzer.
#[cfg(feature = "__bridge")]
pub fn written_and_read(
    [lane, target_id, key, body]: [&[u8]; 4],
) -> rusqlite::Result<(Vec<super::ClaimedCall>, Vec<OutboxEntry>)> {
    let mut connection = Connection::open_in_memory()?;
    crate::outbox::file::migrate(&mut connection)?;
    connection.execute(
        "INSERT INTO calls (message, platform, worker, lane, name, subject, idempotency_key, body, created_at, due_at, expires_at)
         VALUES (1, '', '', CAST(?1 AS TEXT), 'status', CAST(?2 AS TEXT), CAST(?3 AS TEXT), CAST(?4 AS TEXT), 0, 0, 0)",
        (lane, target_id, key, body),
    )?;
    let scope = super::Scope {
        platform: String::new(),
        worker: String::new(),
    };
    let listed = list(&connection, EntryQuery::parked())?;
    Ok((super::claim(&connection, &scope, 1, 0, 1)?.0, listed))
}
