//! Settling the calls of a message, and giving lanes back.

use rusqlite::params;

use super::super::{Change, Failure, LaneClaim, Settled, Settlement, Then, WallTime, isolated_lane};
use super::{
    lanes::{self, Release},
    owners::Owner,
    rows::milliseconds,
    session::Session,
};
use crate::{call_id::CallId, error::ParkReason};

pub(super) const DELETE: &str = "DELETE FROM calls WHERE id = ?1 AND lane = ?2";
pub(super) const WITHDRAW: &str = "DELETE FROM calls WHERE id = ?1 AND lane = ?2 AND known = 0";
pub(super) const RECORD: &str = "
    UPDATE calls SET attempts = ?3, parks = ?4, faults = ?5, takeovers = ?6, age = ?7, status_code = ?8, last_error = ?9,
        worker_id = coalesce(?10, worker_id), rejections = ?11, reduced = ?12
    WHERE id = ?1 AND lane = ?2";
pub(super) const BURY: &str = "
    UPDATE calls SET state = 'dead', lane = NULL, seq = NULL, dead_at = NULL WHERE id = ?1 AND lane = ?2";
pub(super) const HAS_CALL: &str = "SELECT 1 FROM calls WHERE id = ?1 AND lane = ?2";
pub(super) const NOTE_SENDING: &str = "UPDATE calls SET sent_under = ?3 WHERE id = ?1 AND lane = ?2";
pub(super) const SET_WORKER: &str = "UPDATE calls SET worker_id = ?3 WHERE id = ?1 AND worker_id IS ?2";
pub(super) const RELEASE_ALL: &str = "
    UPDATE lanes SET owner = NULL, taken = 0, parked_at = ?2, wait = 0, parked_by = NULL, reason = ?3 WHERE owner = ?1";
pub(super) const STAMP: &str = "UPDATE calls SET dead_at = ?2 WHERE state = 'dead' AND queue = ?1 AND dead_at IS NULL";
pub(super) const PURGE: &str = "
    DELETE FROM calls
    WHERE rowid IN (SELECT rowid FROM calls WHERE state = 'dead' AND queue = ?1 AND dead_at <= ?2 LIMIT ?3)";

/// Writes what became of calls, if the lane is this owner's under the claim.
pub(super) fn settle(
    session: &Session<'_>,
    owner: &Owner,
    queue: &str,
    settlement: &Settlement,
) -> rusqlite::Result<Settled> {
    let Settlement {
        lane,
        changes,
        then,
        now,
    } = settlement;
    let name = lane.lane.as_str();
    let Some(current) = lanes::find_current(session, owner.id, lane)? else {
        return Ok(Settled::NotCurrent);
    };
    let mut known = Vec::new();
    for (id, change) in changes {
        if let Applied::StaysKnown = apply(session, current.id, *id, change)? {
            known.push(*id);
        }
    }
    if !matches!(then, Then::Park { .. }) {
        // The lane stays the owner's, which sends the earlier calls. Behind its taken calls, these are parked.
        for id in known {
            lanes::append(session, (queue, name), id, *now, ParkReason::LaneParked)?;
        }
    }
    match then {
        Then::Stay => return Ok(Settled::Done { is_released: false }),
        Then::Continue => {}
        Then::Park { wait, reason } => {
            let release = Release {
                now: *now,
                wait: milliseconds(*wait),
                by: Some(owner.id).filter(|_| !reason.is_outage()),
                reason: Some(*reason),
            };
            lanes::release(session, current.id, &release)?;
            let is_removed = lanes::remove_if_empty(session, current.id)?;
            return Ok(Settled::Done {
                is_released: !is_removed,
            });
        }
        Then::Isolate { wait, reason } => {
            let release = Release {
                now: *now,
                wait: milliseconds(*wait),
                by: Some(owner.id),
                reason: Some(*reason),
            };
            isolate(session, (queue, name), changes, *reason, &release)?;
        }
    }
    let is_released = go_on(session, current.id, current.taken, *now)?;
    Ok(Settled::Done { is_released })
}

enum Applied {
    Done,
    /// The call was withdrawn, and stays because another message was answered with its id.
    StaysKnown,
}

fn apply(session: &Session<'_>, lane: i64, id: CallId, change: &Change) -> rusqlite::Result<Applied> {
    match change {
        Change::Withdraw => {
            let key = params![id.to_bytes(), lane];
            let is_deleted = session.execute(WITHDRAW, key)? > 0;
            if !is_deleted && session.exists(HAS_CALL, key)? {
                return Ok(Applied::StaysKnown);
            }
        }
        Change::Delete => {
            session.execute(DELETE, params![id.to_bytes(), lane])?;
        }
        Change::Keep(failure) => record(session, lane, id, failure)?,
        Change::DeadLetter(failure) => {
            record(session, lane, id, failure)?;
            session.execute(BURY, params![id.to_bytes(), lane])?;
        }
    }
    Ok(Applied::Done)
}

fn record(session: &Session<'_>, lane: i64, id: CallId, failure: &Failure) -> rusqlite::Result<()> {
    let history = &failure.history;
    let params = params![
        id.to_bytes(),
        lane,
        history.attempts,
        history.parks,
        history.faults,
        history.takeovers,
        milliseconds(history.age),
        failure.status_code,
        failure.error,
        failure.worker_id,
        history.rejections,
        history.is_reduced,
    ];
    session.execute(RECORD, params)?;
    Ok(())
}

/// Moves the calls that were kept to a lane of their own, which is parked unless it has an owner.
fn isolate(
    session: &Session<'_>,
    (queue, name): (&str, &str),
    changes: &[(CallId, Change)],
    reason: ParkReason,
    release: &Release,
) -> rusqlite::Result<()> {
    let mut kept = changes
        .iter()
        .filter(|(_, change)| matches!(change, Change::Keep(_)))
        .map(|(id, _)| *id)
        .peekable();
    let Some(own) = kept.peek().map(|first| isolated_lane(name, *first)) else {
        return Ok(());
    };
    for id in kept {
        let extended = lanes::append(session, (queue, &own), id, release.now, reason)?;
        if !extended.is_owned {
            lanes::release(session, extended.lane, release)?;
        }
    }
    Ok(())
}

/// Removes the lane if it has no calls left, and releases it if the owner has taken none of those left. Returns whether it
/// was released.
fn go_on(session: &Session<'_>, lane: i64, taken: i64, now: WallTime) -> rusqlite::Result<bool> {
    if lanes::remove_if_empty(session, lane)? {
        return Ok(false);
    }
    let is_parked = lanes::first_seq(session, lane)?.is_some_and(|first| taken < first);
    if is_parked {
        let release = Release {
            now,
            ..Release::default()
        };
        lanes::release(session, lane, &release)?;
    }
    Ok(is_parked)
}

/// Whether the lane is this owner's under the claim, and has these calls.
pub(super) fn is_current(
    session: &Session<'_>,
    owner: i64,
    lane: &LaneClaim,
    ids: &[CallId],
) -> rusqlite::Result<bool> {
    let Some(lane) = lanes::find_current(session, owner, lane)? else {
        return Ok(false);
    };
    for id in ids {
        if !session.exists(HAS_CALL, params![id.to_bytes(), lane.id])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes that the calls are sent under the claim, if the lane is this owner's under it.
pub(super) fn note_sending(
    session: &Session<'_>,
    owner: i64,
    claim: &LaneClaim,
    ids: &[CallId],
) -> rusqlite::Result<()> {
    if let Some(lane) = lanes::find_current(session, owner, claim)? {
        for id in ids {
            session.execute(NOTE_SENDING, params![id.to_bytes(), lane.id, claim.claim])?;
        }
    }
    Ok(())
}

pub(super) fn set_worker(
    session: &Session<'_>,
    ids: &[CallId],
    former: Option<&str>,
    worker_id: &str,
) -> rusqlite::Result<()> {
    for id in ids {
        session.execute(SET_WORKER, params![id.to_bytes(), former, worker_id])?;
    }
    Ok(())
}

pub(super) fn release_all(session: &Session<'_>, owner: i64, now: WallTime) -> rusqlite::Result<()> {
    let reason = ParkReason::Shutdown.as_str();
    session.execute(RELEASE_ALL, params![owner, now, reason])?;
    Ok(())
}

/// Deletes at most `limit` dead letters of the queue that died before `until`. Returns how many. One that was not dated is dated now.
pub(super) fn purge(
    session: &Session<'_>,
    queue: &str,
    platform_now: WallTime,
    until: WallTime,
    limit: u32,
) -> rusqlite::Result<usize> {
    session.execute(STAMP, params![queue, platform_now])?;
    session.execute(PURGE, params![queue, until, limit])
}
