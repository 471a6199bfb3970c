//! Which lanes are due.
//!
//! The cost does not depend on how many lanes are not due: an index of the free lanes is ordered by the owner that has
//! parked a lane, and by when it is due.

use std::time::Duration;

use tokio_postgres::Row;

use super::super::{
    ClaimRequest, Which,
    due_by::{due_by, due_by_outage},
};
use super::{
    error::PgResult,
    owner::Owner,
    params::{number, numbers, text, texts},
    rows,
    session::{Answer, Transaction},
};
use crate::error::ParkReason;

/// The owners that have parked free lanes of the queue $1, by what those wait for ($2), each with the first of its lanes to be
/// due, found by one step in the index each. 0 stands for lanes that no owner has parked. $3 is this owner, which is left out.
macro_rules! parkers {
    ($select:literal) => {
        concat!(
            "WITH RECURSIVE owners(due_by, id, due, parked_at) AS (
                SELECT due_by::integer, -1::bigint, NULL::bigint, NULL::bigint FROM unnest($2) AS due_by
                UNION ALL SELECT first.* FROM owners CROSS JOIN LATERAL (
                    SELECT lanes.due_by, lanes.parked_by, lanes.due, lanes.parked_at FROM @lanes AS lanes
                    WHERE owner IS NULL AND queue = $1 AND lanes.due_by = owners.due_by AND parked_by > owners.id
                    ORDER BY parked_by, due LIMIT 1
                ) AS first
            ), parkers AS MATERIALIZED (SELECT * FROM owners WHERE id NOT IN (-1, $3))
            ",
            $select
        )
    };
}

/// The lanes that others have parked and that are due, and those of this owner that it names; the longest due first.
/// Lanes that were parked ahead of the server's clock, which was set back, are due, too. And, in a row without a lane, how
/// long it is until the next lane is due that this owner has not parked.
///
/// The indexes alone tell which; only those that are wanted are read.
pub(super) const DUE: &str = parkers!(
    ", next AS (
        SELECT min(CASE WHEN parkers.due > @now_ms() AND parkers.parked_at <= @now_ms() THEN parkers.due ELSE (
            SELECT lanes.due FROM @lanes AS lanes
            WHERE owner IS NULL AND queue = $1 AND lanes.due_by = parkers.due_by AND parked_by = parkers.id
                AND lanes.due > @now_ms() AND lanes.parked_at <= @now_ms()
            ORDER BY lanes.due LIMIT 1
        ) END) - @now_ms() AS wait FROM parkers
    ), due AS MATERIALIZED (
        SELECT lanes.* FROM parkers CROSS JOIN LATERAL (
            SELECT id, due FROM @lanes AS lanes
            WHERE owner IS NULL AND queue = $1 AND lanes.due_by = parkers.due_by AND parked_by = parkers.id
                AND due <= @now_ms() AND id <> ALL($4)
            ORDER BY due LIMIT $5
        ) AS lanes WHERE parkers.due <= @now_ms()
        UNION ALL SELECT lanes.* FROM unnest($2) AS wanted (due_by) CROSS JOIN LATERAL (
            SELECT id, due FROM @lanes AS lanes
            WHERE owner IS NULL AND queue = $1 AND lanes.due_by = wanted.due_by AND parked_at > @now_ms()
                AND parked_by <> $3 AND id <> ALL($4)
            ORDER BY parked_at LIMIT $5
        ) AS lanes
        UNION ALL SELECT id, due FROM @lanes AS lanes
            WHERE owner IS NULL AND queue = $1 AND name = ANY($6) AND parked_by = $3
        ORDER BY due LIMIT $5
    ) SELECT id, name, due, parked_at, parked_by, NULL::bigint AS wait FROM due JOIN @lanes AS lanes USING (id, due)
    UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, wait FROM next"
);
/// The lanes that were parked first because of outages. Nobody goes by a clock for them.
pub(super) const BY_OUTAGE: &str = "
    SELECT lanes.* FROM unnest($2) AS outage (due_by) CROSS JOIN LATERAL (
        SELECT id, name, due, parked_at, parked_by FROM @lanes AS lanes
        WHERE owner IS NULL AND queue = $1 AND lanes.due_by = outage.due_by AND parked_by = 0
        ORDER BY parked_at LIMIT $3
    ) AS lanes";
/// Whether any lane may be due that this owner has not parked.
pub(super) const IS_ANY_DUE: &str = parkers!(
    "SELECT EXISTS (SELECT 1 FROM @lanes AS lanes WHERE owner IS NULL AND queue = $1 AND lanes.due_by IN (2, 3, 4))
        OR EXISTS (SELECT 1 FROM parkers WHERE due <= @now_ms())
        OR EXISTS (SELECT 1 FROM unnest($2) AS wanted (due_by) CROSS JOIN LATERAL (
            SELECT 1 FROM @lanes AS lanes
            WHERE owner IS NULL AND queue = $1 AND lanes.due_by = wanted.due_by AND parked_at > @now_ms()
                AND parked_by <> $3 LIMIT 1
        ) AS lanes) AS is_due"
);

/// A lane that may be claimed.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) id: i64,
    pub(super) name: String,
    /// Tells whether the lane is still as it was seen.
    pub(super) parked_at: i64,
    due: i64,
    /// 0: nobody.
    parked_by: i64,
}

impl Candidate {
    fn read(row: &Row) -> PgResult<Self> {
        Ok(Self {
            id: rows::number(row, "id")?,
            name: row.try_get("name")?,
            parked_at: rows::number(row, "parked_at")?,
            due: rows::number(row, "due")?,
            parked_by: rows::number(row, "parked_by")?,
        })
    }

    /// Whether the owner that claims has parked the lane, and its delay is not over. A lane that was released, freed from a
    /// dead owner or requeued is claimed nevertheless.
    fn is_delayed(&self, request: &ClaimRequest) -> bool {
        self.parked_by != 0 && request.is_delayed(&self.name)
    }
}

/// The lanes that are due, the longest due first: at least as many as can be claimed, and one more, if there are. And how
/// long it is until the next lane is due that this owner has not parked; a probe does not ask for that.
pub(super) async fn candidates(
    transaction: &Transaction<'_>,
    owner: &Owner,
    request: &ClaimRequest,
) -> PgResult<(Vec<Candidate>, Option<Duration>)> {
    let enough = i64::try_from(request.max_calls).unwrap_or(i64::MAX).saturating_add(1);
    let outages = match &request.which {
        Which::Due { outages } => outages.as_slice(),
        Which::Probe { outage } => {
            let first = read(by_outage(transaction, owner, [*outage].as_slice(), 1)).await?;
            return Ok((first, None));
        }
    };
    let ask_due = |delayed: &[i64]| {
        transaction.ask(
            DUE,
            [
                text(&owner.queue),
                numbers([due_by(request.endpoint)]),
                number(owner.id),
                numbers(delayed.iter().copied()),
                number(enough),
                texts(request.due.iter().map(String::as_str)),
            ],
        )
    };
    let by_outage = by_outage(transaction, owner, outages, enough);
    let mut delayed: Vec<i64> = Vec::new();
    let mut due = ask_due(&delayed);
    let mut candidates = read(by_outage).await?;
    let next_due = loop {
        let (mut found, next_due) = read_due(due).await?;
        let is_limited = i64::try_from(found.len()).unwrap_or(i64::MAX) >= enough;
        let before = delayed.len();
        let removed = found.extract_if(.., |lane| lane.is_delayed(request));
        delayed.extend(removed.map(|lane| lane.id));
        if delayed.len() == before || !is_limited {
            candidates.extend(found);
            break next_due;
        }
        due = ask_due(&delayed);
    };
    candidates.sort_by(|one, other| (one.due, &one.name).cmp(&(other.due, &other.name)));
    candidates.truncate(usize::try_from(enough).unwrap_or(usize::MAX));
    Ok((candidates, next_due))
}

fn by_outage<'a>(
    transaction: &'a Transaction<'_>,
    owner: &Owner,
    outages: &[ParkReason],
    limit: i64,
) -> Answer<'a, Vec<Row>> {
    let outages = outages.iter().filter_map(|outage| due_by_outage(*outage));
    transaction.ask(BY_OUTAGE, [text(&owner.queue), numbers(outages), number(limit)])
}

async fn read(lanes: Answer<'_, Vec<Row>>) -> PgResult<Vec<Candidate>> {
    lanes.await?.iter().map(Candidate::read).collect()
}

/// The lanes of [`DUE`], and how long it is until the next one is due.
async fn read_due(rows: Answer<'_, Vec<Row>>) -> PgResult<(Vec<Candidate>, Option<Duration>)> {
    let (mut lanes, mut next) = (Vec::new(), None);
    for row in &rows.await? {
        if row.try_get::<_, Option<i64>>("id")?.is_some() {
            lanes.push(Candidate::read(row)?);
        } else {
            next = row.try_get::<_, Option<i64>>("wait")?;
        }
    }
    let wait = next.and_then(|wait| u64::try_from(wait).ok());
    Ok((lanes, wait.map(Duration::from_millis)))
}

/// Asks whether any lane may be due that this owner has not parked.
pub(super) fn ask_whether_due<'a>(transaction: &'a Transaction<'_>, owner: &Owner) -> Answer<'a, Vec<Row>> {
    transaction.ask(IS_ANY_DUE, [text(&owner.queue), numbers([0, 1]), number(owner.id)])
}
