//! Claiming lanes that are due.

use rusqlite::Connection;

use super::super::{ClaimRequest, Claimed, ClaimedMessage, LaneClaim};
use super::{
    due::{self, Candidate},
    error::sqlite_error,
    lanes,
    owners::Owner,
    rows,
};
use crate::error::OutboxError;

pub(super) const OUTLINE: &str = "
    SELECT seq, message, octet_length(body) AS bytes FROM calls WHERE lane = ?1 AND state = 'waiting' ORDER BY seq";
pub(super) const CALLS: &str = concat!(
    "SELECT message, ",
    rows::stored_call_columns!(),
    " FROM calls WHERE lane = ?1 AND state = 'waiting' AND seq <= ?2 ORDER BY seq"
);
pub(super) const TAKE: &str = "UPDATE lanes SET owner = ?2, claim = ?3, round = ?4, taken = ?5 WHERE id = ?1";

/// Claims lanes that are due, the longest due first.
pub(super) fn claim(
    connection: &Connection,
    owner: &mut Owner,
    queue: &str,
    request: &ClaimRequest,
) -> Result<Claimed, OutboxError> {
    let parkers = due::parkers(connection, (queue, request.endpoint), owner.id).map_err(sqlite_error)?;
    let mut candidates = due::candidates(connection, owner.id, queue, &parkers, request).map_err(sqlite_error)?;
    candidates.sort_by(|one, other| (one.due, &one.name).cmp(&(other.due, &other.name)));
    if !candidates.is_empty() {
        owner.enter(connection)?;
    }
    let mut room = Room {
        calls: request.max_calls,
        bytes: request.max_bytes,
        per_lane: request.max_per_lane(candidates.len()),
    };
    let mut claimed = Claimed::default();
    for candidate in candidates {
        if room.calls == 0 || room.bytes == 0 {
            claimed.is_limited = true;
            break;
        }
        let messages = take(connection, owner, request.round, candidate, &mut room).map_err(sqlite_error)?;
        claimed.messages.extend(messages);
    }
    claimed.next_due =
        due::next_due(connection, (queue, request.endpoint), &parkers, request.now).map_err(sqlite_error)?;
    Ok(claimed)
}

/// The calls and bytes that may still be claimed.
struct Room {
    calls: usize,
    bytes: usize,
    /// The calls of each lane.
    per_lane: usize,
}

/// Takes the first messages of a lane. Only the rows of these are read.
fn take(
    connection: &Connection,
    owner: &mut Owner,
    round: i64,
    candidate: Candidate,
    room: &mut Room,
) -> rusqlite::Result<Vec<ClaimedMessage>> {
    let head = head(connection, candidate.lane, room)?;
    let Some(taken) = head.last else {
        // The file was changed externally.
        lanes::remove_if_empty(connection, candidate.lane)?;
        return Ok(Vec::new());
    };
    room.calls = room.calls.saturating_sub(head.calls);
    room.bytes = room.bytes.saturating_sub(head.bytes);
    let lane = LaneClaim {
        lane: candidate.name,
        claim: owner.next_claim(),
    };
    connection
        .prepare_cached(TAKE)?
        .execute([candidate.lane, owner.id, lane.claim, round, taken])?;
    let mut messages: Vec<ClaimedMessage> = Vec::new();
    let mut last_message = None;
    let mut calls = connection.prepare_cached(CALLS)?;
    let mut calls = calls.query([candidate.lane, taken])?;
    while let Some(row) = calls.next()? {
        let message = Some(rows::call_id(row, "message"));
        if message != last_message {
            last_message = message;
            messages.push(ClaimedMessage {
                lane: lane.clone(),
                calls: Vec::new(),
            });
        }
        if let Some(message) = messages.last_mut() {
            message.calls.push(rows::stored_call(row));
        }
    }
    Ok(messages)
}

/// The first calls of a lane.
#[derive(Clone, Copy, Default)]
struct FirstCalls {
    /// The place of the last one.
    last: Option<i64>,
    calls: usize,
    bytes: usize,
}

/// The first messages of a lane for which there is room. There is room for the first one in any case.
fn head(connection: &Connection, lane: i64, room: &Room) -> rusqlite::Result<FirstCalls> {
    let mut outline = connection.prepare_cached(OUTLINE)?;
    let mut outline = outline.query([lane])?;
    let mut head = FirstCalls::default();
    // With the message that is being read.
    let mut next = FirstCalls::default();
    let mut message = None;
    loop {
        let row = outline.next()?;
        let this_message = row.map(|row| rows::call_id(row, "message"));
        if this_message.is_none() || this_message != message {
            if head.calls > 0 && next.calls > room.per_lane {
                return Ok(head);
            }
            head = next;
            let is_full = head.calls >= room.per_lane || head.bytes >= room.bytes;
            if head.calls > 0 && is_full {
                return Ok(head);
            }
            message = this_message;
        }
        let Some(row) = row else { return Ok(head) };
        let bytes = usize::try_from(rows::count(row, "bytes")).unwrap_or(usize::MAX);
        next = FirstCalls {
            last: Some(rows::number(row, "seq")),
            calls: next.calls.saturating_add(1),
            bytes: next.bytes.saturating_add(bytes),
        };
    }
}
