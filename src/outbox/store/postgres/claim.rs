//! Claiming lanes that are due.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::Row;

use super::super::{
    ClaimRequest, Claimed, ClaimedMessage, LaneClaim, MAX_PER_LANE,
    room::{CallOutline, Room, first_calls},
};
use super::{
    due::{self, Candidate},
    error::PgResult,
    lanes,
    owner::Owner,
    params::{number, numbers},
    rows,
    session::Transaction,
};
use crate::call_id::CallId;

/// Locks the lanes that have not changed since they were seen, and that no other owner is claiming.
pub(super) const LOCK: &str = "
    SELECT lanes.id FROM unnest($1, $2) AS seen (id, parked_at) JOIN @lanes AS lanes ON lanes.id = seen.id
    WHERE lanes.owner IS NULL AND lanes.parked_at = seen.parked_at FOR UPDATE OF lanes SKIP LOCKED";
pub(super) const OUTLINE: &str = "
    SELECT lane.id AS lane, seq, message, bytes FROM unnest($1) AS lane (id) CROSS JOIN LATERAL (
        SELECT seq, message, octet_length(body)::bigint AS bytes FROM @calls AS calls
        WHERE calls.lane = lane.id ORDER BY seq LIMIT $2
    ) AS call ORDER BY lane.id, seq";
const TAKE: &str = "
    UPDATE @lanes AS lanes SET owner = $1, claim = new.claim, round = $2, taken = new.taken
    FROM unnest($3, $4, $5) AS new (id, claim, taken) WHERE lanes.id = new.id";
pub(super) const CALLS: &str = concat!(
    "SELECT calls.lane, calls.message, ",
    rows::stored_call_columns!(),
    " FROM unnest($1, $2) WITH ORDINALITY AS lane (id, taken, place)
    JOIN @calls AS calls ON calls.lane = lane.id AND calls.seq <= lane.taken ORDER BY place, seq"
);

/// Claims lanes that are due, the longest due first.
pub(super) async fn claim(
    transaction: &Transaction<'_>,
    owner: &mut Owner,
    request: &ClaimRequest,
) -> PgResult<Claimed> {
    let (candidates, next_due) = due::candidates(transaction, owner, request).await?;
    if candidates.is_empty() {
        return Ok(Claimed {
            next_due,
            ..Claimed::default()
        });
    }
    let room = Room {
        calls: request.max_calls,
        bytes: request.max_bytes,
        per_lane: request.max_per_lane(candidates.len()),
    };
    let (locked, outlines) = lock(transaction, owner, &candidates, room).await?;
    let is_contended = locked.len() < candidates.len();
    let free = candidates.into_iter().filter(|lane| locked.contains(&lane.id));
    let choice = choose(free, &outlines, room);
    let taken: Vec<_> = (choice.lanes.into_iter())
        .map(|(lane, last)| Taken {
            lane,
            last,
            claim: owner.next_claim(),
        })
        .collect();
    owner.claiming.extend(taken.iter().map(|lane| lane.claim));
    let messages = take(transaction, owner.id, request.round, &taken).await?;
    if !choice.empty.is_empty() {
        // The tables were changed externally.
        lanes::remove_empty(transaction, &choice.empty).await?;
    }
    Ok(Claimed {
        messages,
        is_limited: choice.is_limited || is_contended,
        next_due,
    })
}

/// Locks the lanes, and reads the first calls of each.
async fn lock(
    transaction: &Transaction<'_>,
    owner: &mut Owner,
    candidates: &[Candidate],
    room: Room,
) -> PgResult<(HashSet<i64>, Outlines)> {
    // No message has so many calls that its first ones do not tell how many.
    let limit = room.per_lane.max(2 * MAX_PER_LANE).saturating_add(1);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let ids = || numbers(candidates.iter().map(|lane| lane.id));
    let parked_at = numbers(candidates.iter().map(|lane| lane.parked_at));
    let entered = owner.enter(transaction);
    let locked = transaction.ask(LOCK, [ids(), parked_at]);
    let outline = transaction.ask(OUTLINE, [ids(), number(limit)]);
    entered.await?;
    let locked = locked.await?;
    let locked = locked
        .iter()
        .map(|row| rows::number(row, "id"))
        .collect::<PgResult<_>>()?;
    let mut outlines = Outlines::new();
    for row in &outline.await? {
        let lane = outlines.entry(rows::number(row, "lane")?).or_default();
        lane.push(CallOutline {
            seq: rows::number(row, "seq")?,
            message: rows::call_id(row, "message")?,
            bytes: usize::try_from(rows::count(row, "bytes")?).unwrap_or(usize::MAX),
        });
    }
    Ok((locked, outlines))
}

/// The first calls of each lane.
type Outlines = HashMap<i64, Vec<CallOutline>>;

/// The lanes that are claimed, each up to its last call that is taken.
#[derive(Default)]
struct Choice {
    lanes: Vec<(Candidate, i64)>,
    empty: Vec<i64>,
    /// Whether there was no room for others.
    is_limited: bool,
}

/// Takes the first messages of each lane, as long as there is room. Pure.
fn choose(candidates: impl Iterator<Item = Candidate>, outlines: &Outlines, mut room: Room) -> Choice {
    let mut choice = Choice::default();
    for lane in candidates {
        if room.is_over() {
            choice.is_limited = true;
            break;
        }
        let calls = outlines.get(&lane.id).into_iter().flatten().copied();
        let Ok(first) = first_calls(calls.map(Ok::<_, std::convert::Infallible>), &room);
        room.take(first);
        match first.last {
            Some(last) => choice.lanes.push((lane, last)),
            None => choice.empty.push(lane.id),
        }
    }
    choice
}

/// A lane that is claimed.
struct Taken {
    lane: Candidate,
    last: i64,
    claim: i64,
}

async fn take(transaction: &Transaction<'_>, owner: i64, round: i64, lanes: &[Taken]) -> PgResult<Vec<ClaimedMessage>> {
    let ids = || numbers(lanes.iter().map(|taken| taken.lane.id));
    let last = || numbers(lanes.iter().map(|taken| taken.last));
    let claims = numbers(lanes.iter().map(|taken| taken.claim));
    let taken = transaction.ask(TAKE, [number(owner), number(round), ids(), claims, last()]);
    let calls = transaction.ask(CALLS, [ids(), last()]);
    taken.await?;
    let claims: BTreeMap<i64, LaneClaim> = (lanes.iter())
        .map(|taken| {
            let claim = LaneClaim {
                lane: taken.lane.name.clone(),
                claim: taken.claim,
            };
            (taken.lane.id, claim)
        })
        .collect();
    messages(&calls.await?, &claims)
}

/// The calls of lanes in order, by their messages.
fn messages(calls: &[Row], claims: &BTreeMap<i64, LaneClaim>) -> PgResult<Vec<ClaimedMessage>> {
    let mut messages: Vec<ClaimedMessage> = Vec::new();
    let mut last: Option<(i64, CallId)> = None;
    for row in calls {
        let this = (rows::number(row, "lane")?, rows::call_id(row, "message")?);
        if last != Some(this) {
            last = Some(this);
            messages.extend(claims.get(&this.0).map(|lane| ClaimedMessage {
                lane: lane.clone(),
                calls: Vec::new(),
            }));
        }
        if let Some(message) = messages.last_mut() {
            message.calls.push(rows::stored_call(row)?);
        }
    }
    Ok(messages)
}
