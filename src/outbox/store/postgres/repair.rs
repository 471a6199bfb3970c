//! Requeuing and discarding calls that are not live.

use super::{
    error::PgResult,
    lanes::{self, Park},
    params::{id, ids, optional_text},
    session::Transaction,
};
use crate::{call_id::CallId, error::ParkReason};

/// Locks a call that is not live, and its lane, lest an owner claims it meanwhile. The lane comes first, as in all
/// transactions.
const LOCK_LANE: &str = "
    SELECT id FROM @lanes WHERE id = (SELECT lane FROM @calls WHERE id = $1) FOR UPDATE";
const FIND: &str = "
    SELECT calls.queue, calls.lane, home, known FROM @calls AS calls LEFT JOIN @lanes AS lanes ON lanes.id = calls.lane
    WHERE calls.id = $1 AND ($2 IS NULL OR calls.queue = $2)
        AND NOT coalesce(lanes.owner IS NOT NULL AND calls.seq <= lanes.taken, false)
    FOR UPDATE OF calls";
const RENEW: &str = "
    UPDATE @calls SET attempts = 0, parks = 0, faults = 0, rejections = 0, takeovers = 0, reduced = false, age = 0,
        dead_at = NULL WHERE id = $1";
const DISCARD: &str = "DELETE FROM @calls WHERE id = ANY($1)";

/// A call that is not live.
struct Idle {
    queue: String,
    lane: Option<i64>,
    home: String,
    is_known: bool,
}

async fn find_idle(transaction: &Transaction<'_>, queue: Option<&str>, call: CallId) -> PgResult<Option<Idle>> {
    let row = loop {
        let locked = transaction.ask(LOCK_LANE, [id(call)]);
        let found = transaction.ask(FIND, [id(call), optional_text(queue)]);
        let locked = lanes::read_ids(&locked.await?)?;
        let Some(row) = found.await?.into_iter().next() else {
            return Ok(None);
        };
        // It may have changed its lane meanwhile.
        if row
            .try_get::<_, Option<i64>>("lane")?
            .is_none_or(|lane| locked.contains(&lane))
        {
            break row;
        }
    };
    Ok(Some(Idle {
        queue: row.try_get("queue")?,
        lane: row.try_get("lane")?,
        home: row.try_get("home")?,
        is_known: row.try_get("known")?,
    }))
}

/// Makes a parked call or a dead letter the last of its lane, which is due now if it has no owner.
pub(super) async fn requeue(transaction: &Transaction<'_>, queue: Option<&str>, call: CallId) -> PgResult<bool> {
    let Some(idle) = find_idle(transaction, queue, call).await? else {
        return Ok(false);
    };
    let (home, reason) = ((idle.queue.as_str(), idle.home.as_str()), ParkReason::Requeued);
    let park = Park {
        reason: Some(reason),
        ..Park::default()
    };
    let renewed = transaction.ask(RENEW, [id(call)]);
    let appended = lanes::append(transaction, home, call, reason);
    let parked = lanes::park_free(transaction, home, park);
    let removed = lanes::remove_empty(transaction, idle.lane.as_slice());
    for answer in [renewed, appended, parked, removed] {
        answer.await?;
    }
    Ok(true)
}

/// Deletes the parked calls of a message that its caller has withdrawn: all, or none if one is not parked or another message
/// was answered with its id.
pub(super) async fn withdraw(transaction: &Transaction<'_>, queue: &str, calls: &[CallId]) -> PgResult<bool> {
    let mut idle = Vec::with_capacity(calls.len());
    for call in calls {
        match find_idle(transaction, Some(queue), *call).await? {
            Some(found) if !found.is_known => idle.push(found),
            Some(_) | None => return Ok(false),
        }
    }
    delete(transaction, calls, &idle).await?;
    Ok(true)
}

/// Deletes a parked call or a dead letter.
pub(super) async fn discard(transaction: &Transaction<'_>, queue: Option<&str>, call: CallId) -> PgResult<bool> {
    let Some(idle) = find_idle(transaction, queue, call).await? else {
        return Ok(false);
    };
    delete(transaction, &[call], &[idle]).await?;
    Ok(true)
}

async fn delete(transaction: &Transaction<'_>, calls: &[CallId], idle: &[Idle]) -> PgResult<()> {
    let lanes: Vec<_> = idle.iter().filter_map(|idle| idle.lane).collect();
    let deleted = transaction.ask(DISCARD, [ids(calls)]);
    let removed = lanes::remove_empty(transaction, &lanes);
    deleted.await?;
    removed.await.map(drop)
}
