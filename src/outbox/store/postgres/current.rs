//! The calls that an owner has under a claim.

use super::super::LaneClaim;
use super::{
    error::PgResult,
    owner::Owner,
    params::{ids, number, optional_text, text},
    session::Transaction,
};
use crate::call_id::CallId;

const IS_CURRENT: &str = "
    SELECT count(calls.id) AS calls FROM @lanes AS lanes
    LEFT JOIN @calls AS calls ON calls.lane = lanes.id AND calls.id = ANY($4)
    WHERE owner = $1 AND claim = $2 AND name = $3 GROUP BY lanes.id";
const NOTE_SENDING: &str = "
    UPDATE @calls AS calls SET sent_under = $2 FROM @lanes AS lanes
    WHERE owner = $1 AND claim = $2 AND name = $3 AND calls.lane = lanes.id AND calls.id = ANY($4)";
const SET_WORKER: &str = "UPDATE @calls SET worker_id = $3 WHERE id = ANY($1) AND worker_id IS NOT DISTINCT FROM $2";
const RELEASE_ALL: &str = "
    UPDATE @lanes SET owner = NULL, taken = 0, parked_at = @now_ms(), wait = 0, parked_by = 0, reason = $2
    WHERE owner = $1";

/// Whether the lane is this owner's under the claim, and has these calls. Renews the lease, so that the lane stays its own.
pub(super) async fn is_current(
    transaction: &Transaction<'_>,
    owner: &mut Owner,
    lane: &LaneClaim,
    calls: &[CallId],
) -> PgResult<bool> {
    let entered = owner.enter(transaction);
    let params = [number(owner.id), number(lane.claim), text(&lane.lane), ids(calls)];
    let rows = transaction.ask(IS_CURRENT, params);
    entered.await?;
    let rows = rows.await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let found: i64 = row.try_get("calls")?;
    Ok(usize::try_from(found) == Ok(calls.len()))
}

/// Notes that the calls are sent under the claim, if the lane is this owner's under it.
pub(super) async fn note_sending(
    transaction: &Transaction<'_>,
    owner: i64,
    lane: &LaneClaim,
    calls: &[CallId],
) -> PgResult<()> {
    let params = [number(owner), number(lane.claim), text(&lane.lane), ids(calls)];
    transaction.ask(NOTE_SENDING, params).await.map(drop)
}

pub(super) async fn set_worker(
    transaction: &Transaction<'_>,
    calls: &[CallId],
    former: Option<&str>,
    worker_id: &str,
) -> PgResult<()> {
    let params = [ids(calls), optional_text(former), text(worker_id)];
    transaction.ask(SET_WORKER, params).await.map(drop)
}

/// Releases all lanes of the owner, due at once.
pub(super) async fn release_all(transaction: &Transaction<'_>, owner: i64, reason: &str) -> PgResult<()> {
    transaction
        .ask(RELEASE_ALL, [number(owner), text(reason)])
        .await
        .map(drop)
}
