//! Requeuing and discarding calls that are not live.

use rusqlite::params;

use super::super::WallTime;
use super::{
    inspect::state,
    lanes::{self, Release},
    rows,
    session::Session,
};
use crate::{call_id::CallId, error::ParkReason};

pub(super) const FIND: &str = concat!(
    "SELECT calls.queue, calls.lane, home FROM calls LEFT JOIN lanes ON lanes.id = calls.lane
    WHERE calls.id = ?1 AND (?2 IS NULL OR calls.queue = ?2) AND ",
    state!(),
    " <> 'live'"
);
pub(super) const RENEW: &str = "
    UPDATE calls SET attempts = 0, parks = 0, faults = 0, rejections = 0, takeovers = 0, reduced = 0, age = 0, dead_at = NULL WHERE id = ?1";
pub(super) const IS_KNOWN: &str = "SELECT 1 FROM calls WHERE id = ?1 AND known = 1";
pub(super) const DISCARD: &str = "DELETE FROM calls WHERE id = ?1";

/// A call that is not live.
struct Idle {
    queue: String,
    lane: Option<i64>,
    home: String,
}

fn find_idle(session: &Session<'_>, queue: Option<&str>, id: CallId) -> rusqlite::Result<Option<Idle>> {
    session.first(FIND, params![id.to_bytes(), queue], |row| Idle {
        queue: rows::text(row, "queue"),
        lane: rows::optional_number(row, "lane"),
        home: rows::text(row, "home"),
    })
}

/// Makes a parked call or a dead letter the last of its lane, which is due now if it has no owner.
pub(super) fn requeue(session: &Session<'_>, queue: Option<&str>, id: CallId, now: WallTime) -> rusqlite::Result<bool> {
    let Some(idle) = find_idle(session, queue, id)? else {
        return Ok(false);
    };
    let reason = ParkReason::Requeued;
    session.execute(RENEW, [id.to_bytes()])?;
    let extended = lanes::append(session, (&idle.queue, &idle.home), id, now, reason)?;
    if !extended.is_owned {
        let release = Release {
            now,
            reason: Some(reason),
            ..Release::default()
        };
        lanes::release(session, extended.lane, &release)?;
    }
    if let Some(former) = idle.lane {
        lanes::remove_if_empty(session, former)?;
    }
    Ok(true)
}

/// Deletes the parked calls of a message that its caller has withdrawn: all, or none if one is not parked or another message
/// was answered with its id.
pub(super) fn withdraw(session: &Session<'_>, queue: &str, ids: &[CallId]) -> rusqlite::Result<bool> {
    for id in ids {
        let is_known = session.exists(IS_KNOWN, [id.to_bytes()])?;
        if is_known || find_idle(session, Some(queue), *id)?.is_none() {
            return Ok(false);
        }
    }
    for id in ids {
        discard(session, Some(queue), *id)?;
    }
    Ok(true)
}

/// Deletes a parked call or a dead letter.
pub(super) fn discard(session: &Session<'_>, queue: Option<&str>, id: CallId) -> rusqlite::Result<bool> {
    let Some(idle) = find_idle(session, queue, id)? else {
        return Ok(false);
    };
    session.execute(DISCARD, [id.to_bytes()])?;
    if let Some(lane) = idle.lane {
        lanes::remove_if_empty(session, lane)?;
    }
    Ok(true)
}
