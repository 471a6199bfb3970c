//! The rows of lanes: locked, extended, released and removed.

use std::collections::HashSet;

use tokio_postgres::Row;

use super::{
    error::PgResult,
    params::{id, ids, number, numbers, optional_text, optional_texts, text, texts},
    rows,
    session::{Answer, Transaction},
};
use crate::{call_id::CallId, error::ParkReason};

/// Creates the lanes that do not exist, and locks all: in the order of their names, lest two posters wait for each other.
const LOCK: &str = "
    INSERT INTO @lanes AS lanes (queue, name, parked_at)
    SELECT $1, name, @now_ms() FROM unnest($2) AS name ORDER BY name COLLATE \"C\"
    ON CONFLICT (queue, name) DO UPDATE SET next_seq = lanes.next_seq
    RETURNING id, name, owner, claim, round, taken, next_seq";
/// After a lock: what was committed while it was waited for is seen by the next statement only.
const LAST_SEQS: &str = "
    SELECT lanes.name, (SELECT max(seq) FROM @calls AS calls WHERE calls.lane = lanes.id) AS seq
    FROM unnest($2) AS wanted (name) JOIN @lanes AS lanes ON lanes.queue = $1 AND lanes.name = wanted.name";
const APPEND: &str = "
    WITH lane AS (
        INSERT INTO @lanes AS lanes (queue, name, next_seq, parked_at, reason) VALUES ($1, $2, 2, @now_ms(), $4)
        ON CONFLICT (queue, name) DO UPDATE SET next_seq = lanes.next_seq + 1
        RETURNING id, next_seq - 1 AS seq
    ) UPDATE @calls AS calls SET lane = lane.id, seq = lane.seq FROM lane WHERE calls.id = $3";
const PARK_FREE: &str = "
    UPDATE @lanes SET taken = 0, parked_at = @now_ms(), wait = $3, parked_by = $4, reason = $5
    WHERE queue = $1 AND name = $2 AND owner IS NULL";
const PARK: &str = "
    UPDATE @lanes AS lanes SET owner = NULL, taken = 0, parked_at = @now_ms(), wait = new.wait, parked_by = new.parked_by,
        reason = new.reason
    FROM unnest($1, $2, $3, $4) AS new (id, wait, parked_by, reason) WHERE lanes.id = new.id";
const REMOVE_EMPTY: &str = "
    DELETE FROM @lanes AS lanes
    WHERE id = ANY($1) AND NOT EXISTS (SELECT 1 FROM @calls AS calls WHERE calls.lane = lanes.id) RETURNING id";
const RELEASE_UNTAKEN: &str = "
    UPDATE @lanes AS lanes SET owner = NULL, taken = 0, parked_at = @now_ms(), wait = 0, parked_by = 0, reason = NULL
    WHERE id = ANY($1) AND owner IS NOT NULL
        AND taken < (SELECT min(seq) FROM @calls AS calls WHERE calls.lane = lanes.id) RETURNING id";
const HAS_CALLS: &str = "
    SELECT 1 FROM @lanes AS lanes JOIN @calls AS calls ON calls.lane = lanes.id
    WHERE lanes.queue = $1 AND lanes.name = $2 AND calls.id <> ALL($3) LIMIT 1";

/// A lane as it is before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LaneRow {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) owner: Option<i64>,
    pub(super) claim: i64,
    pub(super) round: i64,
    pub(super) taken: i64,
    /// 1 in a lane that was just created.
    pub(super) next_seq: i64,
}

impl LaneRow {
    /// Whether it was created by this transaction and has never had a call.
    pub(super) fn is_new(&self) -> bool {
        self.next_seq == 1
    }

    pub(super) fn read(row: &Row) -> PgResult<Self> {
        Ok(Self {
            id: rows::number(row, "id")?,
            name: row.try_get("name")?,
            owner: row.try_get("owner")?,
            claim: rows::number(row, "claim")?,
            round: rows::number(row, "round")?,
            taken: rows::number(row, "taken")?,
            next_seq: rows::number(row, "next_seq")?,
        })
    }
}

/// Creates the lanes that do not exist, and locks all.
pub(super) fn lock<'a>(transaction: &'a Transaction<'_>, queue: &str, names: &[&str]) -> Answer<'a, Vec<Row>> {
    transaction.ask(LOCK, [text(queue), texts(names.iter().copied())])
}

/// The places of the last calls of lanes that were locked before.
pub(super) fn last_seqs<'a>(transaction: &'a Transaction<'_>, queue: &str, names: &[&str]) -> Answer<'a, Vec<Row>> {
    transaction.ask(LAST_SEQS, [text(queue), texts(names.iter().copied())])
}

/// Puts a stored call at the end of a lane, which is created, free and due, if it does not exist.
pub(super) fn append<'a>(
    transaction: &'a Transaction<'_>,
    (queue, name): (&str, &str),
    call: CallId,
    reason: ParkReason,
) -> Answer<'a, Vec<Row>> {
    transaction.ask(APPEND, [text(queue), text(name), id(call), text(reason.as_str())])
}

/// When a free lane is due, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Park {
    pub(super) wait: i64,
    /// The owner that goes by its own clock; 0: nobody.
    pub(super) by: i64,
    pub(super) reason: Option<ParkReason>,
}

/// Updates when a lane is due, if it has no owner.
pub(super) fn park_free<'a>(
    transaction: &'a Transaction<'_>,
    (queue, name): (&str, &str),
    park: Park,
) -> Answer<'a, Vec<Row>> {
    let reason = optional_text(park.reason.map(ParkReason::as_str));
    transaction.ask(
        PARK_FREE,
        [text(queue), text(name), number(park.wait), number(park.by), reason],
    )
}

/// Releases lanes, each due as it says.
pub(super) fn park<'a>(transaction: &'a Transaction<'_>, lanes: &[(i64, Park)]) -> Answer<'a, Vec<Row>> {
    let parks = || lanes.iter().map(|(_, park)| park);
    transaction.ask(
        PARK,
        [
            numbers(lanes.iter().map(|(lane, _)| *lane)),
            numbers(parks().map(|park| park.wait)),
            numbers(parks().map(|park| park.by)),
            optional_texts(parks().map(|park| park.reason.map(ParkReason::as_str))),
        ],
    )
}

/// Removes those of the lanes that have no calls. The rows are their ids.
pub(super) fn remove_empty<'a>(transaction: &'a Transaction<'_>, lanes: &[i64]) -> Answer<'a, Vec<Row>> {
    transaction.ask(REMOVE_EMPTY, [numbers(lanes.iter().copied())])
}

/// Releases those of the lanes of which the owner has taken none of the calls that are left. The rows are their ids.
pub(super) fn release_untaken<'a>(transaction: &'a Transaction<'_>, lanes: &[i64]) -> Answer<'a, Vec<Row>> {
    transaction.ask(RELEASE_UNTAKEN, [numbers(lanes.iter().copied())])
}

/// Whether a lane has calls that have not ended.
pub(super) async fn has_calls(
    transaction: &Transaction<'_>,
    queue: &str,
    name: &str,
    ended: &HashSet<CallId>,
) -> PgResult<bool> {
    let rows = transaction
        .ask(HAS_CALLS, [text(queue), text(name), ids(ended)])
        .await?;
    Ok(!rows.is_empty())
}

/// The ids of lanes.
pub(super) fn read_ids(rows: &[Row]) -> PgResult<Vec<i64>> {
    rows.iter().map(|row| rows::number(row, "id")).collect()
}
