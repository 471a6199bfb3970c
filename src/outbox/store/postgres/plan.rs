//! What becomes of new messages, decided from what the store has. Pure.

use std::collections::{BTreeMap, HashMap};

use super::super::{Inserted, NewCall, NewMessage};
use super::lanes::LaneRow;
use crate::{
    call_id::CallId,
    error::{OutboxError, ParkReason},
};

/// The store, as far as new messages depend on it, and what has to be written.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// This owner.
    owner: i64,
    /// The number of its last claim.
    pub(super) last_claim: i64,
    /// How many bytes may still be stored.
    room: u64,
    lanes: BTreeMap<String, Lane>,
    same: HashMap<String, SameKey>,
    pub(super) rows: Vec<NewRow<'a>>,
    /// How many bytes are stored.
    pub(super) bytes: u64,
    /// Dead letters that are replaced.
    pub(super) replaced: Vec<CallId>,
    /// Calls of which another message is told.
    pub(super) known: Vec<CallId>,
    /// Dead letters that wait again. What comes later depends on where: it is left for another plan.
    pub(super) requeued: Vec<CallId>,
}

/// A lane, and what is written of it.
pub(super) struct Lane {
    pub(super) row: LaneRow,
    /// The place of its last call.
    last_seq: Option<i64>,
    /// The reason of a lane that was created.
    pub(super) reason: Option<ParkReason>,
    is_changed: bool,
}

/// A stored call with some key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SameCall {
    pub(super) id: CallId,
    /// `None`: a dead letter.
    pub(super) lane: Option<i64>,
    pub(super) seq: i64,
}

/// The stored calls with one key.
#[derive(Default)]
struct SameKey {
    waiting: Option<SameCall>,
    dead: Vec<CallId>,
}

/// A call to be written.
pub(super) struct NewRow<'a> {
    pub(super) message: &'a NewMessage,
    /// The id of the first call of the message.
    pub(super) first: CallId,
    pub(super) call: &'a NewCall,
    pub(super) lane: i64,
    pub(super) seq: i64,
}

impl<'a> Plan<'a> {
    pub(super) fn new(owner: i64, last_claim: i64, room: u64) -> Self {
        Self {
            owner,
            last_claim,
            room,
            ..Self::default()
        }
    }

    /// A lane that exists, or was just created for these messages.
    pub(super) fn add_lane(&mut self, row: LaneRow) {
        let lane = Lane {
            last_seq: None,
            reason: None,
            is_changed: false,
            row,
        };
        self.lanes.insert(lane.row.name.clone(), lane);
    }

    pub(super) fn note_last_seq(&mut self, lane: &str, last_seq: Option<i64>) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.last_seq = last_seq;
        }
    }

    /// A stored call with the key of one of the messages.
    pub(super) fn add_same(&mut self, key: &str, call: SameCall) {
        let same = self.same.entry(key.to_owned()).or_default();
        if call.lane.is_some() {
            same.waiting = Some(call);
        } else {
            same.dead.push(call.id);
        }
    }

    pub(super) fn changed_lanes(&self) -> Vec<&Lane> {
        self.lanes.values().filter(|lane| lane.is_changed).collect()
    }

    /// Lanes that were created and have got no call.
    pub(super) fn unused_lanes(&self) -> Vec<i64> {
        let unused = self.lanes.values().filter(|lane| lane.row.is_new());
        unused.map(|lane| lane.row.id).collect()
    }

    /// Decides what becomes of a message. `None`: that can't be told in this plan.
    pub(super) fn add(&mut self, message: &'a NewMessage) -> Option<Result<Inserted, OutboxError>> {
        if !self.requeued.is_empty() {
            return None;
        }
        if message.is_withdrawn() {
            return Some(Ok(Inserted::Withdrawn));
        }
        let stored = self.stored_before(message).or_else(|| self.known(message));
        Some(stored.map_or_else(|| self.store(message), Ok))
    }

    /// The answer to a message that was stored already, as is found out when a lost answer is asked for again.
    fn stored_before(&self, message: &NewMessage) -> Option<Inserted> {
        let stored = message.calls.iter().find_map(|call| {
            let waiting = self.same.get(&call.idempotency_key)?.waiting?;
            (waiting.id == call.id).then_some(waiting)
        })?;
        let lane = self.lanes.get(&message.lane).map(|lane| &lane.row);
        let mine = lane.filter(|lane| {
            lane.owner == Some(self.owner) && stored.lane == Some(lane.id) && stored.seq <= lane.taken
        });
        Some(mine.map_or(Inserted::Parked, |lane| Inserted::Live { claim: lane.claim }))
    }

    /// The answer to a message of which any call waits already. The others are made to wait, too, if they are dead.
    fn known(&mut self, message: &NewMessage) -> Option<Inserted> {
        let same: Vec<_> = (message.calls.iter())
            .map(|call| self.same.get(&call.idempotency_key))
            .collect();
        let any = same.iter().flatten().find_map(|same| same.waiting)?.id;
        let mut ids = Vec::with_capacity(same.len());
        for same in same {
            let waiting = same.and_then(|same| same.waiting).map(|call| call.id);
            let dead = same.and_then(|same| same.dead.first()).filter(|_| waiting.is_none());
            self.requeued.extend(dead);
            ids.push(waiting.or(dead.copied()).unwrap_or(any));
        }
        self.known.extend(&ids);
        Some(Inserted::Known { ids })
    }

    fn store(&mut self, message: &'a NewMessage) -> Result<Inserted, OutboxError> {
        let bodies = message.calls.iter().map(|call| call.body.len() as u64);
        let bytes = bodies.fold(0, u64::saturating_add);
        self.room = self.room.checked_sub(bytes).ok_or(OutboxError::Full)?;
        self.bytes = self.bytes.saturating_add(bytes);
        let first = message.calls.first().map(|call| call.id);
        let (Some(first), Some(lane)) = (first, self.lanes.get_mut(&message.lane)) else {
            return Ok(Inserted::Parked);
        };
        let next_seq = lane.row.next_seq;
        let claim = lane.extend(message, self.owner, &mut self.last_claim);
        let lane = lane.row.id;
        for (call, seq) in message.calls.iter().zip(next_seq..) {
            let same = self.same.entry(call.idempotency_key.clone()).or_default();
            self.replaced.append(&mut same.dead);
            same.waiting = Some(SameCall {
                id: call.id,
                lane: Some(lane),
                seq,
            });
            self.rows.push(NewRow {
                message,
                first,
                call,
                lane,
                seq,
            });
        }
        Ok(claim.map_or(Inserted::Parked, |claim| Inserted::Live { claim }))
    }
}

impl Lane {
    /// Puts the calls of a message at the end. Returns the claim under which they are live, if they are.
    fn extend(&mut self, message: &NewMessage, owner: i64, last_claim: &mut i64) -> Option<i64> {
        let is_new = self.row.is_new();
        let lane = &mut self.row;
        let is_all_taken = lane.owner == Some(owner) && self.last_seq.is_none_or(|last| last <= lane.taken);
        let may_be_live = is_new || (is_all_taken && lane.round <= message.round);
        let is_live = message.park.is_none() && may_be_live;
        if is_new {
            self.reason = Some(message.park.unwrap_or(ParkReason::LaneParked));
            if is_live {
                *last_claim = last_claim.saturating_add(1);
                (lane.owner, lane.claim) = (Some(owner), *last_claim);
            }
        }
        lane.next_seq = lane.next_seq.saturating_add_unsigned(message.calls.len() as u64);
        let last_seq = lane.next_seq.saturating_sub(1);
        if is_live {
            lane.taken = last_seq;
        }
        self.last_seq = Some(last_seq);
        self.is_changed = true;
        is_live.then_some(lane.claim)
    }
}
