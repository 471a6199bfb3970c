//! The rows of lanes: found, extended, released and removed.

use std::collections::HashSet;

use rusqlite::params;

use super::super::{LaneClaim, WallTime};
use super::{rows, session::Session};
use crate::{call_id::CallId, error::ParkReason};

pub(super) const FIND: &str =
    "SELECT id, owner, claim, round, taken, next_seq FROM lanes WHERE queue = ?1 AND name = ?2";
pub(super) const FIND_CURRENT: &str = "SELECT id, taken FROM lanes WHERE owner = ?1 AND claim = ?2 AND name = ?3";
pub(super) const EXTEND: &str = "
    INSERT INTO lanes (queue, name, next_seq, parked_at, reason) VALUES (?1, ?2, 2, ?3, ?4)
    ON CONFLICT (queue, name) DO UPDATE SET next_seq = next_seq + 1
    RETURNING id, owner, next_seq - 1 AS seq";
pub(super) const PLACE: &str = "UPDATE calls SET state = 'waiting', lane = ?2, seq = ?3 WHERE id = ?1";
pub(super) const RELEASE: &str = "
    UPDATE lanes SET owner = NULL, taken = 0, parked_at = ?2, wait = ?3, parked_by = ?4, reason = ?5 WHERE id = ?1";
pub(super) const CALLS: &str = "SELECT id FROM calls WHERE lane = ?1 AND state = 'waiting'";
pub(super) const FIRST_SEQ: &str = "SELECT min(seq) AS seq FROM calls WHERE lane = ?1 AND state = 'waiting'";
pub(super) const LAST_SEQ: &str = "SELECT max(seq) AS seq FROM calls WHERE lane = ?1 AND state = 'waiting'";
pub(super) const REMOVE_IF_EMPTY: &str = "
    DELETE FROM lanes WHERE id = ?1
    AND NOT EXISTS (SELECT 1 FROM calls WHERE lane = ?1 AND state = 'waiting')";

/// A lane as it is before a change.
pub(super) struct LaneRow {
    pub(super) id: i64,
    pub(super) owner: Option<i64>,
    pub(super) claim: i64,
    pub(super) round: i64,
    pub(super) taken: i64,
    pub(super) next_seq: i64,
}

pub(super) fn find(session: &Session<'_>, queue: &str, name: &str) -> rusqlite::Result<Option<LaneRow>> {
    session.first(FIND, [queue, name], |row| LaneRow {
        id: rows::number(row, "id"),
        owner: rows::optional_number(row, "owner"),
        claim: rows::number(row, "claim"),
        round: rows::number(row, "round"),
        taken: rows::number(row, "taken"),
        next_seq: rows::number(row, "next_seq"),
    })
}

/// A lane that an owner has under a claim.
pub(super) struct CurrentLane {
    pub(super) id: i64,
    pub(super) taken: i64,
}

/// The lane, if this owner has it under this claim. An owner uses the number of a claim once.
pub(super) fn find_current(
    session: &Session<'_>,
    owner: i64,
    claim: &LaneClaim,
) -> rusqlite::Result<Option<CurrentLane>> {
    session.first(FIND_CURRENT, params![owner, claim.claim, claim.lane], |row| {
        CurrentLane {
            id: rows::number(row, "id"),
            taken: rows::number(row, "taken"),
        }
    })
}

/// A lane that has got one more call.
pub(super) struct Extended {
    pub(super) lane: i64,
    pub(super) is_owned: bool,
}

/// Puts a stored call at the end of a lane, which is created, free and due, if it does not exist.
pub(super) fn append(
    session: &Session<'_>,
    (queue, name): (&str, &str),
    call: CallId,
    now: WallTime,
    reason: ParkReason,
) -> rusqlite::Result<Extended> {
    let (extended, seq) = session.with(EXTEND, |extend| {
        extend.query_row(params![queue, name, now, reason.as_str()], |row| {
            let extended = Extended {
                lane: rows::number(row, "id"),
                is_owned: rows::optional_number(row, "owner").is_some(),
            };
            Ok((extended, rows::number(row, "seq")))
        })
    })?;
    session.execute(PLACE, params![call.to_bytes(), extended.lane, seq])?;
    Ok(extended)
}

/// When a released lane is due, and why.
#[derive(Default)]
pub(super) struct Release {
    pub(super) now: WallTime,
    pub(super) wait: WallTime,
    pub(super) by: Option<i64>,
    pub(super) reason: Option<ParkReason>,
}

pub(super) fn release(session: &Session<'_>, lane: i64, release: &Release) -> rusqlite::Result<()> {
    let Release { now, wait, by, reason } = release;
    let reason = reason.map(ParkReason::as_str);
    session.execute(RELEASE, params![lane, now, wait, by, reason])?;
    Ok(())
}

/// Whether there was nothing left in the lane.
pub(super) fn remove_if_empty(session: &Session<'_>, lane: i64) -> rusqlite::Result<bool> {
    Ok(session.execute(REMOVE_IF_EMPTY, [lane])? > 0)
}

/// Whether a lane has calls that have not ended.
pub(super) fn has_calls(
    session: &Session<'_>,
    queue: &str,
    name: &str,
    ended: &HashSet<CallId>,
) -> rusqlite::Result<bool> {
    let Some(lane) = find(session, queue, name)? else {
        return Ok(false);
    };
    session.with(CALLS, |calls| {
        let mut calls = calls.query([lane.id])?;
        while let Some(row) = calls.next()? {
            if !ended.contains(&rows::call_id(row, "id")) {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// The last waiting call of a lane.
pub(super) fn last_seq(session: &Session<'_>, lane: i64) -> rusqlite::Result<Option<i64>> {
    let last = session.first(LAST_SEQ, [lane], |row| rows::optional_number(row, "seq"))?;
    Ok(last.flatten())
}

/// The first waiting call of a lane.
pub(super) fn first_seq(session: &Session<'_>, lane: i64) -> rusqlite::Result<Option<i64>> {
    let first = session.first(FIRST_SEQ, [lane], |row| rows::optional_number(row, "seq"))?;
    Ok(first.flatten())
}
