//! Claiming lanes that are due.

use super::super::{
    ClaimRequest, Claimed, ClaimedMessage, LaneClaim, StoredCall,
    room::{CallOutline, Room, first_calls},
};
use super::{
    due::{self, Candidate},
    error::sqlite_error,
    lanes,
    owners::Owner,
    rows,
    session::Session,
};
use crate::error::OutboxError;

pub(super) const CALLS: &str = concat!(
    "SELECT seq, message, ",
    rows::stored_call_columns!(),
    " FROM calls WHERE lane = ?1 AND state = 'waiting' ORDER BY seq"
);
pub(super) const TAKE: &str = "UPDATE lanes SET owner = ?2, claim = ?3, round = ?4, taken = ?5 WHERE id = ?1";

/// Claims lanes that are due, the longest due first.
pub(super) fn claim(
    session: &Session<'_>,
    owner: &mut Owner,
    queue: &str,
    request: &ClaimRequest,
) -> Result<Claimed, OutboxError> {
    let parkers = due::parkers(session, (queue, request.endpoint), owner.id).map_err(sqlite_error)?;
    let mut candidates = due::candidates(session, owner.id, queue, &parkers, request).map_err(sqlite_error)?;
    candidates.sort_by(|one, other| (one.due, &one.name).cmp(&(other.due, &other.name)));
    if !candidates.is_empty() {
        owner.enter(session)?;
    }
    let mut room = Room {
        calls: request.max_calls,
        bytes: request.max_bytes,
        per_lane: request.max_per_lane(candidates.len()),
    };
    let mut claimed = Claimed::default();
    for candidate in candidates {
        if room.is_over() {
            claimed.is_limited = true;
            break;
        }
        let messages = take(session, owner, request.round, candidate, &mut room).map_err(sqlite_error)?;
        claimed.messages.extend(messages);
    }
    claimed.next_due =
        due::next_due(session, (queue, request.endpoint), &parkers, request.now).map_err(sqlite_error)?;
    Ok(claimed)
}

/// Takes the first messages of a lane. Only their rows are read, and those of the message behind them.
fn take(
    session: &Session<'_>,
    owner: &mut Owner,
    round: i64,
    candidate: Candidate,
    room: &mut Room,
) -> rusqlite::Result<Vec<ClaimedMessage>> {
    let mut calls: Vec<(CallOutline, StoredCall)> = Vec::new();
    let first = {
        let mut waiting = session.prepare_cached(CALLS)?;
        let outline = waiting.query_map([candidate.lane], |row| {
            let call = rows::stored_call(row);
            let outline = CallOutline {
                seq: rows::number(row, "seq"),
                message: rows::call_id(row, "message"),
                bytes: call.body.len(),
            };
            calls.push((outline, call));
            Ok(outline)
        })?;
        first_calls(outline, room)?
    };
    let Some(taken) = first.last else {
        // The file was changed externally.
        lanes::remove_if_empty(session, candidate.lane)?;
        return Ok(Vec::new());
    };
    room.take(first);
    let lane = LaneClaim {
        lane: candidate.name,
        claim: owner.next_claim(),
    };
    session.execute(TAKE, [candidate.lane, owner.id, lane.claim, round, taken])?;
    let mut messages: Vec<ClaimedMessage> = Vec::new();
    let mut last_message = None;
    for (outline, call) in calls.into_iter().take_while(|(outline, _)| outline.seq <= taken) {
        if last_message.replace(outline.message) != Some(outline.message) {
            messages.push(ClaimedMessage {
                lane: lane.clone(),
                calls: Vec::new(),
            });
        }
        if let Some(message) = messages.last_mut() {
            message.calls.push(call);
        }
    }
    Ok(messages)
}
