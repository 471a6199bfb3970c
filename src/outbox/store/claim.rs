//! Claiming parked calls that are due.

use std::collections::HashSet;

use rusqlite::{Connection, named_params};

use super::{ClaimedCall, Scope, StoredCall, clamped_u32, lossy_text, owners::register_owner};

/// How many calls of one lane are claimed at once, so that a long lane does not take all permits.
pub(super) const MAX_PER_LANE: u32 = 16;

/// The lanes with calls that are due.
pub(super) const DUE: &str = "SELECT lane FROM calls
     WHERE platform = :platform AND worker = :worker AND dead = 0 AND owner IS NULL AND due_at <= :now
     ORDER BY due_at";

/// The first calls of a lane.
pub(super) const LANE_HEAD: &str =
    "SELECT *, owner IS NULL AND due_at <= :now AS due, owner IS NULL AS parked FROM calls
     WHERE lane = CAST(:lane AS TEXT) AND dead = 0 AND platform = :platform AND worker = :worker
     ORDER BY message, id LIMIT :limit";

/// Claims parked calls that are due, up to about `limit`, lane by lane, the longest due first: the first calls of each
/// lane. Returns whether a lane was skipped because its first call is still being sent.
pub(in crate::outbox) fn claim(
    connection: &Connection,
    scope: &Scope,
    owner: i64,
    now: i64,
    limit: usize,
) -> rusqlite::Result<(Vec<ClaimedCall>, bool)> {
    let mut due = connection.prepare_cached(DUE)?;
    let mut due = due.query(named_params! {
        ":platform": scope.platform, ":worker": scope.worker, ":now": now,
    })?;
    let (mut lanes, mut calls, mut is_blocked) = (HashSet::<Vec<u8>>::new(), Vec::new(), false);
    while let Some(row) = due.next()?
        && calls.len() < limit
    {
        let lane = row.get_ref("lane")?.as_bytes()?;
        if !lanes.contains(lane) {
            let before = calls.len();
            claim_lane_head(connection, scope, lane, now, &mut calls)?;
            is_blocked |= calls.len() == before;
            lanes.insert(lane.to_owned());
        }
    }
    register_owner(connection, owner)?;
    let mut claim = connection.prepare_cached("UPDATE calls SET owner = ?1 WHERE id = ?2")?;
    for call in &calls {
        claim.execute((owner, call.stored.id))?;
    }
    Ok((calls, is_blocked))
}

/// Adds the first calls of a lane that are parked and due, in whole messages.
fn claim_lane_head(
    connection: &Connection,
    scope: &Scope,
    lane: &[u8],
    now: i64,
    calls: &mut Vec<ClaimedCall>,
) -> rusqlite::Result<()> {
    let mut first = connection.prepare_cached(LANE_HEAD)?;
    let mut rows = first.query(named_params! {
        ":now": now, ":lane": lane, ":platform": scope.platform, ":worker": scope.worker, ":limit": MAX_PER_LANE,
    })?;
    let mut start = calls.len();
    while let Some(row) = rows.next()? {
        let message: i64 = row.get("message")?;
        if calls.get(start).is_none_or(|first| first.message != message) {
            start = calls.len();
        }
        let (is_due, is_parked): (bool, bool) = (row.get("due")?, row.get("parked")?);
        let is_with_first = is_parked && start < calls.len();
        if !is_due && !is_with_first {
            // Part of the message is still being sent: the message is not claimed.
            if !is_parked {
                calls.truncate(start);
            }
            break;
        }
        calls.push(ClaimedCall {
            stored: StoredCall {
                id: row.get("id")?,
                idempotency_key: lossy_text(row, "idempotency_key")?,
                attempts: clamped_u32(row, "attempts")?,
                times_parked: clamped_u32(row, "rounds")?,
                expires_at: row.get("expires_at")?,
            },
            message,
            target_id: lossy_text(row, "subject")?,
            body: row.get_ref("body")?.as_bytes()?.to_owned(),
        });
    }
    Ok(())
}

/// When the next parked call in scope becomes due.
pub(in crate::outbox) fn next_due(connection: &Connection, scope: &Scope, now: i64) -> rusqlite::Result<Option<i64>> {
    let mut query = connection.prepare_cached(
        "SELECT min(due_at) FROM calls
         WHERE dead = 0 AND owner IS NULL AND due_at > :now
             AND platform = :platform AND worker = :worker",
    )?;
    let parameters = named_params! { ":now": now, ":platform": scope.platform, ":worker": scope.worker };
    query.query_row(parameters, |row| row.get(0))
}
