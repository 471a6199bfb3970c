//! Moving calls from one outbox to another.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::WallTime;
use super::{inspect::state, repair, rows, session::Session};
use crate::{
    call_id::CallId,
    outbox::{
        entry::EntryState,
        record::{CallRecord, Imported, JsonText},
    },
};

pub(super) const RECORD: &str = concat!(
    "SELECT calls.id, ",
    state!(),
    " AS entry_state, calls.queue, home, message, kind, target_id, idempotency_key, worker_id, reduced, created_at,
        status_code, last_error, headers, body
    FROM calls LEFT JOIN lanes ON lanes.id = calls.lane WHERE calls.id = ?1"
);
pub(super) const IS_STORED: &str = "
    SELECT 1 FROM calls WHERE id = ?1
    UNION ALL SELECT 1 FROM calls WHERE queue = ?2 AND idempotency_key = ?3 AND state = 'waiting'";
/// As a dead letter, which has no lane.
pub(super) const STORE: &str = "
    INSERT INTO calls (id, state, queue, home, message, kind, target_id, idempotency_key, worker_id, reduced, created_at,
        status_code, last_error, headers, body)
    VALUES (?1, 'dead', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

/// The calls with these ids that are still stored.
pub(super) fn export(connection: &Connection, ids: &[CallId]) -> rusqlite::Result<Vec<CallRecord>> {
    let mut find = connection.prepare_cached(RECORD)?;
    let mut records = Vec::with_capacity(ids.len());
    for id in ids {
        records.extend(find.query_row([id.to_bytes()], |row| Ok(record(row))).optional()?);
    }
    Ok(records)
}

fn record(row: &Row<'_>) -> CallRecord {
    CallRecord {
        id: rows::call_id(row, "id"),
        state: rows::text(row, "entry_state").parse().unwrap_or(EntryState::Parked),
        queue: rows::text(row, "queue"),
        lane: rows::text(row, "home"),
        message: rows::call_id(row, "message"),
        kind: rows::text(row, "kind"),
        target_id: rows::text(row, "target_id"),
        idempotency_key: rows::text(row, "idempotency_key"),
        worker_id: rows::optional_text(row, "worker_id"),
        reduced: rows::number(row, "reduced") != 0,
        created_at: rows::number(row, "created_at"),
        status_code: rows::optional_number(row, "status_code"),
        last_error: rows::optional_text(row, "last_error"),
        headers: rows::optional_text(row, "headers").map(JsonText),
        body: JsonText(rows::text(row, "body")),
    }
}

/// Stores records that are not stored yet: each at the end of its lane, due now, or as the dead letter that it was.
pub(super) fn import(session: &Session<'_>, records: &[CallRecord], now: WallTime) -> rusqlite::Result<Imported> {
    let mut imported = Imported::default();
    for record in records {
        let key = params![record.id.to_bytes(), record.queue, record.idempotency_key];
        if session.exists(IS_STORED, key)? {
            imported.skipped = imported.skipped.saturating_add(1);
            continue;
        }
        let params = params![
            record.id.to_bytes(),
            record.queue,
            record.lane,
            record.message.to_bytes(),
            record.kind,
            record.target_id,
            record.idempotency_key,
            record.worker_id,
            record.reduced,
            record.created_at,
            record.status_code,
            record.last_error,
            record.headers.as_ref().map(|headers| &headers.0),
            record.body.0,
        ];
        session.execute(STORE, params)?;
        if record.state != EntryState::DeadLetter {
            repair::requeue(session, None, record.id, now)?;
        }
        imported.stored = imported.stored.saturating_add(1);
    }
    Ok(imported)
}
