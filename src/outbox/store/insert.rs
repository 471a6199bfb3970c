//! Storing a message.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::{NewMessage, Scope, owners::register_owner};

/// Stores a message. If an earlier message of its lane is parked or belongs to another process, it is parked behind that:
/// then it has no owner. Returns the id of the first call, and whether the message is parked.
pub(in crate::outbox) fn insert(
    connection: &Connection,
    scope: &Scope,
    owner: Option<i64>,
    message: &NewMessage,
    is_first: bool,
) -> rusqlite::Result<(i64, bool)> {
    // Calls of this process that the first message of a lane finds there are claimed: they are about to be replayed.
    let except_owner = owner.filter(|_| !is_first);
    let ahead = blocked_until(connection, scope, except_owner, &message.lane, i64::MAX)?;
    let owner = owner.filter(|_| ahead.is_none());
    if let Some(owner) = owner {
        register_owner(connection, owner)?;
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO calls (message, platform, worker, lane, name, subject, idempotency_key, body, owner, created_at,
             due_at, expires_at)
         VALUES (:message, :platform, :worker, :lane, :name, :subject, :idempotency_key, :body, :owner, :now, :due_at,
             :expires_at)",
    )?;
    let mut first = None;
    for call in &message.calls {
        let id = insert.insert(named_params! {
            ":message": first.unwrap_or_default(),
            ":platform": scope.platform,
            ":worker": scope.worker,
            ":lane": message.lane,
            ":name": call.kind.as_str(),
            ":subject": call.target_id,
            ":idempotency_key": call.idempotency_key,
            ":body": call.body,
            ":owner": owner,
            ":now": message.now,
            ":due_at": ahead.unwrap_or_default().max(message.now),
            ":expires_at": message.expires_at,
        })?;
        if first.is_none() {
            first = Some(id);
            let mut number = connection.prepare_cached("UPDATE calls SET message = id WHERE id = ?1")?;
            number.execute([id])?;
        }
    }
    Ok((first.unwrap_or_default(), owner.is_none()))
}

/// When the last call of the lane before `message` is due, if there is one that does not belong to this owner.
pub(in crate::outbox) fn blocked_until(
    connection: &Connection,
    scope: &Scope,
    except_owner: Option<i64>,
    lane: &str,
    message: i64,
) -> rusqlite::Result<Option<i64>> {
    let last = |calls: &str, condition: &str| {
        let mut last = connection.prepare_cached(&format!(
            "SELECT due_at FROM {calls}
             WHERE lane = :lane AND dead = 0 AND message < :message AND {condition}
                 AND platform = :platform AND worker = :worker
             ORDER BY message DESC LIMIT 1",
        ))?;
        let parameters = named_params! {
            ":lane": lane, ":message": message, ":owner": except_owner, ":platform": scope.platform, ":worker": scope.worker,
        };
        last.query_row(parameters, |row| row.get(0)).optional()
    };
    if except_owner.is_none() {
        return last("calls", ":owner IS NULL");
    }
    // Three ranges of an index skip the owner's own calls, of which there may be thousands.
    for others in [
        "owner IS NULL AND :owner IS NOT NULL",
        "owner < :owner",
        "owner > :owner",
    ] {
        if let Some(due_at) = last("calls INDEXED BY calls_by_lane_and_owner", others)? {
            return Ok(Some(due_at));
        }
    }
    Ok(None)
}
