//! The changes of a call whose attempts have ended.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::{FailureRecord, StoredCall};

/// Deletes a call that was delivered or withdrawn.
pub(in crate::outbox) fn delete(connection: &Connection, call: &StoredCall) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("DELETE FROM calls WHERE id = ?1 AND idempotency_key = ?2")?
        .execute((call.id, &call.idempotency_key))
}

/// The owner of the call, if the call exists: `None` inside if it is parked.
pub(in crate::outbox) fn owner(connection: &Connection, call: &StoredCall) -> rusqlite::Result<Option<Option<i64>>> {
    connection
        .prepare_cached("SELECT owner FROM calls WHERE id = ?1 AND idempotency_key = ?2")?
        .query_row((call.id, &call.idempotency_key), |row| row.get(0))
        .optional()
}

/// Parks the call until `due_at`, and with it the calls that are parked behind it.
pub(in crate::outbox) fn park(
    connection: &Connection,
    call: &StoredCall,
    owner: i64,
    due_at: i64,
    failure: &FailureRecord,
) -> rusqlite::Result<usize> {
    let mut park = connection.prepare_cached(
        "UPDATE calls SET owner = NULL, due_at = :due_at, attempts = :attempts, rounds = :times_parked,
             status_code = :status_code, error = :error
         WHERE id = :id AND idempotency_key = :key AND owner = :owner",
    )?;
    let parked = park.execute(named_params! {
        ":id": call.id,
        ":key": call.idempotency_key,
        ":owner": owner,
        ":due_at": due_at,
        ":attempts": call.attempts,
        ":times_parked": call.times_parked,
        ":status_code": failure.status_code,
        ":error": failure.error,
    })?;
    if parked > 0 {
        let mut hold_back = connection.prepare_cached(
            "UPDATE calls SET due_at = :due_at FROM (SELECT * FROM calls WHERE id = :id) AS first
             WHERE calls.lane = first.lane AND calls.dead = 0 AND calls.message > first.message
                 AND calls.platform = first.platform AND calls.worker = first.worker
                 AND calls.owner IS NULL AND calls.due_at < :due_at",
        )?;
        hold_back.execute(named_params! { ":id": call.id, ":due_at": due_at })?;
    }
    Ok(parked)
}

/// Releases the call unchanged, due at `due_at` at the earliest.
pub(in crate::outbox) fn release(
    connection: &Connection,
    call: &StoredCall,
    owner: i64,
    due_at: i64,
) -> rusqlite::Result<usize> {
    let mut give_back = connection.prepare_cached(
        "UPDATE calls SET owner = NULL, due_at = max(due_at, ?4)
         WHERE id = ?1 AND idempotency_key = ?2 AND owner = ?3",
    )?;
    give_back.execute((call.id, &call.idempotency_key, owner, due_at))
}

/// Makes the call a dead letter.
pub(in crate::outbox) fn dead_letter(
    connection: &Connection,
    call: &StoredCall,
    failure: &FailureRecord,
) -> rusqlite::Result<usize> {
    let mut bury = connection.prepare_cached(
        "UPDATE calls SET dead = 1, owner = NULL, attempts = :attempts, rounds = :times_parked, status_code = :status_code,
             error = :error
         WHERE id = :id AND idempotency_key = :key",
    )?;
    bury.execute(named_params! {
        ":id": call.id,
        ":key": call.idempotency_key,
        ":attempts": call.attempts,
        ":times_parked": call.times_parked,
        ":status_code": failure.status_code,
        ":error": failure.error,
    })
}
