//! Which lanes are due.
//!
//! The cost does not depend on how many lanes are not due: the indexes of free lanes are ordered by the owner that has
//! parked a lane, and by when it is due.

use std::{collections::HashSet, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::{
    ClaimRequest, WallTime, Which,
    due_by::{due_by, due_by_outage},
};
use super::rows;
use crate::{call::Endpoint, error::ParkReason};

pub(super) const NEXT_PARKER: &str = "
    SELECT parked_by FROM lanes WHERE owner IS NULL AND queue = ?1 AND due_by = ?2 AND parked_by > ?3
    ORDER BY parked_by LIMIT 1";
/// The lanes that an owner, or nobody, has parked and that are due.
pub(super) const DUE: &str = "
    SELECT id, name, parked_at + wait AS due FROM lanes
    WHERE owner IS NULL AND queue = ?1 AND due_by = ?2 AND parked_by IS ?3 AND parked_at + wait <= ?4
    ORDER BY parked_at + wait";
/// Lanes that were parked ahead of this host's clock are due, lest that clock hides them.
pub(super) const AHEAD: &str = "
    SELECT id, name, parked_at + wait AS due FROM lanes
    WHERE owner IS NULL AND queue = ?1 AND due_by = ?2 AND parked_by IS ?3 AND parked_at > ?4
    ORDER BY parked_at";
pub(super) const NOT_DUE: &str = "
    SELECT parked_at + wait AS due FROM lanes
    WHERE owner IS NULL AND queue = ?1 AND due_by = ?2 AND parked_by IS ?3 AND parked_at + wait > ?4 AND parked_at <= ?4
    ORDER BY parked_at + wait LIMIT 1";
pub(super) const PARKED_BY: &str = "
    SELECT id, name, parked_at + wait AS due FROM lanes
    WHERE queue = ?1 AND name = ?2 AND owner IS NULL AND parked_by = ?3";
/// The lanes that were parked because of an outage. Nobody goes by a clock for them.
pub(super) const BY_OUTAGE: &str = "
    SELECT id, name, parked_at + wait AS due FROM lanes
    WHERE owner IS NULL AND queue = ?1 AND due_by = ?2 AND parked_by IS NULL ORDER BY parked_at LIMIT ?3";
/// A lane that may be claimed.
pub(super) struct Candidate {
    pub(super) due: WallTime,
    pub(super) name: String,
    pub(super) lane: i64,
}

/// The other owners that have parked lanes which are free now. `None` stands for lanes that no owner has parked.
pub(super) fn parkers(
    connection: &Connection,
    (queue, endpoint): (&str, Endpoint),
    owner: i64,
) -> rusqlite::Result<Vec<Option<i64>>> {
    let mut parkers = vec![None];
    let mut next = connection.prepare_cached(NEXT_PARKER)?;
    let mut last = i64::MIN;
    while let Some(parker) = next
        .query_row(params![queue, due_by(endpoint), last], |row| row.get(0))
        .optional()?
    {
        last = parker;
        if parker != owner {
            parkers.push(Some(parker));
        }
    }
    Ok(parkers)
}

/// The lanes that are due: at least as many as can be claimed, and one more, if there are.
pub(super) fn candidates(
    connection: &Connection,
    owner: i64,
    queue: &str,
    parkers: &[Option<i64>],
    request: &ClaimRequest,
) -> rusqlite::Result<Vec<Candidate>> {
    let enough = request.max_calls.saturating_add(1);
    let outages = match &request.which {
        Which::Due { outages } => outages.as_slice(),
        Which::Probe { outage } => return by_outage(connection, queue, *outage, 1),
    };
    let mut candidates = Vec::new();
    for outage in outages {
        candidates.extend(by_outage(connection, queue, *outage, enough)?);
    }
    let mut scan = |sql, parker: Option<i64>, may_be_claimed: &dyn Fn(&str) -> bool| -> rusqlite::Result<()> {
        let mut lanes = connection.prepare_cached(sql)?;
        let mut lanes = lanes.query(params![queue, due_by(request.endpoint), parker, request.now])?;
        let mut found = 0;
        while found < enough
            && let Some(row) = lanes.next()?
        {
            let candidate = Candidate::from(row);
            if may_be_claimed(&candidate.name) {
                candidates.push(candidate);
                found = found.saturating_add(1);
            }
        }
        Ok(())
    };
    for parker in parkers {
        // A lane that was released, freed from a dead owner or requeued has `parked_by` NULL.
        let may_be_claimed = |name: &str| parker.is_none() || !request.is_delayed(name);
        scan(DUE, *parker, &may_be_claimed)?;
        scan(AHEAD, *parker, &may_be_claimed)?;
    }
    // The lanes that this owner has parked. By the host's clock most of them are due, too, in this order.
    let due: HashSet<&str> = request.due.iter().map(String::as_str).collect();
    if !due.is_empty() {
        scan(DUE, Some(owner), &|name| due.contains(name))?;
    }
    let mut missing: HashSet<&str> = due;
    for candidate in &candidates {
        missing.remove(candidate.name.as_str());
    }
    let mut find = connection.prepare_cached(PARKED_BY)?;
    for name in missing {
        if candidates.len() >= enough {
            break;
        }
        let found = find.query_row(params![queue, name, owner], |row| Ok(Candidate::from(row)));
        candidates.extend(found.optional()?);
    }
    Ok(candidates)
}

/// The first lanes that were parked because of this outage.
fn by_outage(
    connection: &Connection,
    queue: &str,
    outage: ParkReason,
    limit: usize,
) -> rusqlite::Result<Vec<Candidate>> {
    let Some(due_by) = due_by_outage(outage) else {
        return Ok(Vec::new());
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut lanes = connection.prepare_cached(BY_OUTAGE)?;
    let lanes = lanes.query_map(params![queue, due_by, limit], |row| Ok(Candidate::from(row)))?;
    lanes.collect()
}

impl From<&rusqlite::Row<'_>> for Candidate {
    fn from(row: &rusqlite::Row<'_>) -> Self {
        Self {
            due: rows::number(row, "due"),
            name: rows::text(row, "name"),
            lane: rows::number(row, "id"),
        }
    }
}

/// When the next lane is due that this owner has not parked.
pub(super) fn next_due(
    connection: &Connection,
    (queue, endpoint): (&str, Endpoint),
    parkers: &[Option<i64>],
    now: WallTime,
) -> rusqlite::Result<Option<Duration>> {
    let mut not_due = connection.prepare_cached(NOT_DUE)?;
    let mut next: Option<WallTime> = None;
    for parker in parkers {
        let due = not_due
            .query_row(params![queue, due_by(endpoint), parker, now], |row| {
                Ok(rows::number(row, "due"))
            })
            .optional()?;
        next = next.into_iter().chain(due).min();
    }
    let wait = next.and_then(|due| u64::try_from(due.saturating_sub(now)).ok());
    Ok(wait.map(Duration::from_millis))
}
