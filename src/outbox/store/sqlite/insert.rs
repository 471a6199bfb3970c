//! Inserting a message.

use rusqlite::params;

use super::super::{Inserted, NewMessage, WallTime};
use super::{
    error::sqlite_error,
    lanes::{self, LaneRow},
    owners::Owner,
    repair, rows,
    session::Session,
};
use crate::{
    call_id::CallId,
    error::{OutboxError, ParkReason},
};

pub(super) const FIND_KEY: &str = "SELECT id, state FROM calls WHERE queue = ?1 AND idempotency_key = ?2";
pub(super) const NOTE_KNOWN: &str = "UPDATE calls SET known = 1 WHERE id = ?1";
pub(super) const DELETE: &str = "DELETE FROM calls WHERE id = ?1";
pub(super) const CREATE_LANE: &str = "
    INSERT INTO lanes (queue, name, owner, claim, taken, next_seq, parked_at, reason)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (queue, name) DO NOTHING";
pub(super) const EXTEND_LANE: &str = "UPDATE lanes SET taken = ?2, next_seq = ?3 WHERE id = ?1";
pub(super) const INSERT: &str = "
    INSERT INTO calls (id, state, queue, lane, seq, home, message, kind, target_id, idempotency_key, worker_id, created_at,
        headers, body)
    VALUES (?1, 'waiting', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// Stores a message, unless it is stored already or `max_bytes` would be exceeded.
pub(super) fn insert(
    session: &Session<'_>,
    owner: &mut Owner,
    queue: &str,
    max_bytes: u64,
    message: &NewMessage,
) -> Result<Inserted, OutboxError> {
    if message.is_withdrawn() {
        return Ok(Inserted::Withdrawn);
    }
    let same = message.calls.iter();
    let same = same.map(|call| SameKey::find(session, queue, &call.idempotency_key));
    let same = same.collect::<rusqlite::Result<Vec<_>>>().map_err(sqlite_error)?;
    if let Some(ids) = known(session, queue, &same, message.now).map_err(sqlite_error)? {
        return Ok(Inserted::Known { ids });
    }
    let bodies = message.calls.iter().map(|call| call.body.len() as u64);
    let bytes = bodies.fold(0, u64::saturating_add);
    if !owner.take_room(session, bytes, max_bytes).map_err(sqlite_error)? {
        return Err(OutboxError::Full);
    }
    let Some(first) = message.calls.first().map(|call| call.id) else {
        return Ok(Inserted::Parked);
    };
    let place = place(session, owner, queue, message)?;
    for dead in same.into_iter().flat_map(|same| same.dead) {
        delete(session, dead).map_err(sqlite_error)?;
    }
    insert_calls(session, queue, message, first, &place).map_err(sqlite_error)?;
    Ok(place.claim.map_or(Inserted::Parked, |claim| Inserted::Live { claim }))
}

/// Finds a place for the calls of a message, at the end of its lane.
fn place(session: &Session<'_>, owner: &mut Owner, queue: &str, message: &NewMessage) -> Result<Place, OutboxError> {
    let find = || lanes::find(session, queue, &message.lane).map_err(sqlite_error);
    let may_be_live = message.park.is_none();
    // Most messages are the first of their lane. An owner that was never entered is entered only if it gets this lane.
    if !may_be_live || owner.file.is_some() || find()?.is_none() {
        if may_be_live {
            owner.enter(session)?;
        }
        if let Some(place) = create(session, owner, queue, message).map_err(sqlite_error)? {
            return Ok(place);
        }
    }
    let lane = find()?.ok_or_else(|| sqlite_error(rusqlite::Error::QueryReturnedNoRows))?;
    let is_live = may_be_live
        && lane.round <= message.round
        && is_all_taken_by(session, &lane, owner.id).map_err(sqlite_error)?;
    if is_live {
        owner.enter(session)?;
    }
    extend(session, &lane, message.calls.len(), is_live).map_err(sqlite_error)
}

/// Whether the owner has the lane, and nothing in it is parked.
fn is_all_taken_by(session: &Session<'_>, lane: &LaneRow, owner: i64) -> rusqlite::Result<bool> {
    Ok(lane.owner == Some(owner) && lanes::last_seq(session, lane.id)?.is_none_or(|last| last <= lane.taken))
}

/// The stored calls with the key of a call.
#[derive(Default)]
struct SameKey {
    waiting: Option<CallId>,
    dead: Vec<CallId>,
}

impl SameKey {
    fn find(session: &Session<'_>, queue: &str, key: &str) -> rusqlite::Result<Self> {
        session.with(FIND_KEY, |find| {
            let mut rows = find.query([queue, key])?;
            let mut same = Self::default();
            while let Some(row) = rows.next()? {
                let id = rows::call_id(row, "id");
                if rows::text(row, "state") == "dead" {
                    same.dead.push(id);
                } else {
                    same.waiting = Some(id);
                }
            }
            Ok(same)
        })
    }
}

/// The ids to answer, if any call of the message waits already. The others are made to wait, too, if they are dead.
fn known(session: &Session<'_>, queue: &str, same: &[SameKey], now: WallTime) -> rusqlite::Result<Option<Vec<CallId>>> {
    let Some(any) = same.iter().find_map(|same| same.waiting) else {
        return Ok(None);
    };
    let mut ids = Vec::with_capacity(same.len());
    for SameKey { waiting, dead } in same {
        let id = match (waiting, dead.first()) {
            (Some(waiting), _) => *waiting,
            (None, Some(dead)) => {
                repair::requeue(session, Some(queue), *dead, now)?;
                *dead
            }
            (None, None) => any,
        };
        session.execute(NOTE_KNOWN, [id.to_bytes()])?;
        ids.push(id);
    }
    Ok(Some(ids))
}

/// Where the calls of a message are put.
struct Place {
    lane: i64,
    first_seq: i64,
    /// The claim under which they are live.
    claim: Option<i64>,
}

fn extend(session: &Session<'_>, lane: &LaneRow, calls: usize, is_live: bool) -> rusqlite::Result<Place> {
    let next_seq = lane.next_seq.saturating_add_unsigned(calls as u64);
    let taken = if is_live {
        next_seq.saturating_sub(1)
    } else {
        lane.taken
    };
    session.execute(EXTEND_LANE, [lane.id, taken, next_seq])?;
    Ok(Place {
        lane: lane.id,
        first_seq: lane.next_seq,
        claim: is_live.then_some(lane.claim),
    })
}

/// Creates the lane of a message, unless there is one.
fn create(
    session: &Session<'_>,
    owner: &mut Owner,
    queue: &str,
    message: &NewMessage,
) -> rusqlite::Result<Option<Place>> {
    let is_live = message.park.is_none();
    let calls = 0_i64.saturating_add_unsigned(message.calls.len() as u64);
    let claim = is_live.then(|| owner.next_claim());
    let params = params![
        queue,
        message.lane,
        is_live.then_some(owner.id),
        claim.unwrap_or_default(),
        if is_live { calls } else { 0 },
        calls.saturating_add(1),
        message.now,
        message.park.unwrap_or(ParkReason::LaneParked).as_str(),
    ];
    let is_created = session.execute(CREATE_LANE, params)? > 0;
    Ok(is_created.then(|| Place {
        lane: session.last_insert_rowid(),
        first_seq: 1,
        claim,
    }))
}

fn delete(session: &Session<'_>, id: CallId) -> rusqlite::Result<()> {
    session.execute(DELETE, [id.to_bytes()])?;
    Ok(())
}

fn insert_calls(
    session: &Session<'_>,
    queue: &str,
    message: &NewMessage,
    first: CallId,
    place: &Place,
) -> rusqlite::Result<()> {
    for (call, seq) in message.calls.iter().zip(place.first_seq..) {
        let params = params![
            call.id.to_bytes(),
            queue,
            place.lane,
            seq,
            message.lane,
            first.to_bytes(),
            call.kind.as_str(),
            call.target_id,
            call.idempotency_key,
            message.worker_id,
            message.now,
            call.headers,
            call.body,
        ];
        session.execute(INSERT, params)?;
    }
    Ok(())
}
