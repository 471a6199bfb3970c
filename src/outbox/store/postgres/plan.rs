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
        // A message that is stored is withdrawn by whoever waits for the answer.
        let stored = self.stored_before(message);
        let withdrawn = || message.is_withdrawn().then_some(Inserted::Withdrawn);
        let stored = stored.or_else(withdrawn).or_else(|| self.known(message));
        Some(stored.map_or_else(|| self.store(message), Ok))
    }

    /// The answer to a message that was stored already, as is found out when a lost answer is asked for again.
    fn stored_before(&self, message: &NewMessage) -> Option<Inserted> {
        let stored = message.calls.iter().find_map(|call| {
            let waiting = self.same.get(&call.idempotency_key)?.waiting?;
            (waiting.id == call.id).then_some(waiting)
        })?;
        let lane = self.lanes.get(&message.lane).map(|lane| &lane.row);
        let mine = lane
            .filter(|lane| lane.owner == Some(self.owner) && stored.lane == Some(lane.id) && stored.seq <= lane.taken);
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

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{call::CallKind, clock::Clock};

    const ME: i64 = 7;
    const OTHER: i64 = 8;

    fn message(keys: &[&str]) -> NewMessage {
        let call = |key: &&str| NewCall {
            id: CallId::new(&Clock::system()),
            kind: CallKind::Completion,
            target_id: "target".into(),
            idempotency_key: (*key).to_owned(),
            headers: None,
            body: "body".into(),
        };
        NewMessage {
            lane: "lane".into(),
            calls: keys.iter().map(call).collect(),
            worker_id: None,
            park: None,
            round: 3,
            withdrawn: None,
            now: 0,
        }
    }

    /// The lane as the transaction that has just created it finds it.
    fn new_lane() -> LaneRow {
        LaneRow {
            id: 1,
            name: "lane".into(),
            owner: None,
            claim: 0,
            round: 0,
            taken: 0,
            next_seq: 1,
        }
    }

    /// A lane with one call, which this owner has taken.
    fn my_lane() -> LaneRow {
        LaneRow {
            owner: Some(ME),
            claim: 50,
            taken: 1,
            next_seq: 2,
            ..new_lane()
        }
    }

    fn plan<'a>(lane: LaneRow, last_seq: Option<i64>) -> Plan<'a> {
        let mut plan = Plan::new(ME, 99, 1_000);
        plan.add_lane(lane);
        plan.note_last_seq("lane", last_seq);
        plan
    }

    fn live(claim: i64) -> Option<Result<Inserted, OutboxError>> {
        Some(Ok(Inserted::Live { claim }))
    }

    #[test]
    fn messages_of_one_transaction_share_the_claim_of_their_new_lane() {
        let messages = [message(&["a", "b"]), message(&["c"])];
        let mut plan = plan(new_lane(), None);
        assert_eq!(
            [0, 1].map(|index: usize| plan.add(&messages[index])),
            [live(100), live(100)]
        );
        let places: Vec<_> = plan.rows.iter().map(|row| row.seq).collect();
        assert_eq!(places, [1, 2, 3]);
        let lane = &plan.changed_lanes()[0].row;
        assert_eq!(
            (lane.owner, lane.claim, lane.taken, lane.next_seq),
            (Some(ME), 100, 3, 4)
        );
        assert!(plan.unused_lanes().is_empty());
    }

    #[test]
    fn a_message_in_a_lane_of_another_owner_is_parked() {
        let message = message(&["a"]);
        let lane = LaneRow {
            owner: Some(OTHER),
            ..my_lane()
        };
        let mut plan = plan(lane, Some(1));
        assert_eq!(plan.add(&message), Some(Ok(Inserted::Parked)));
        let lane = &plan.changed_lanes()[0].row;
        assert_eq!((lane.owner, lane.taken, lane.next_seq), (Some(OTHER), 1, 3));
    }

    #[test]
    fn the_second_message_with_a_key_is_told_of_the_first() {
        let messages = [message(&["a"]), message(&["a"])];
        let mut plan = plan(my_lane(), Some(1));
        assert_eq!(plan.add(&messages[0]), live(50));
        let ids = vec![messages[0].calls[0].id];
        assert_eq!(plan.add(&messages[1]), Some(Ok(Inserted::Known { ids: ids.clone() })));
        assert_eq!((plan.rows.len(), plan.known), (1, ids));
    }

    #[test]
    fn a_message_that_was_stored_without_an_answer_gets_that_answer() {
        let message = message(&["a"]);
        for (lane, answer) in [
            (my_lane(), Inserted::Live { claim: 50 }),
            (LaneRow { taken: 0, ..my_lane() }, Inserted::Parked),
            (
                LaneRow {
                    owner: Some(OTHER),
                    ..my_lane()
                },
                Inserted::Parked,
            ),
        ] {
            let mut plan = plan(lane, Some(1));
            let stored = SameCall {
                id: message.calls[0].id,
                lane: Some(1),
                seq: 1,
            };
            plan.add_same("a", stored);
            assert_eq!(plan.add(&message), Some(Ok(answer)));
            assert!(plan.rows.is_empty() && plan.known.is_empty());
        }
    }

    #[test]
    fn a_message_that_was_stored_before_it_was_withdrawn_is_answered_as_stored() {
        let mut message = message(&["a"]);
        let withdrawn = CancellationToken::new();
        withdrawn.cancel();
        message.withdrawn = Some(withdrawn);
        let mut plan = plan(my_lane(), Some(1));
        assert_eq!(plan.add(&message), Some(Ok(Inserted::Withdrawn)));
        let stored = SameCall {
            id: message.calls[0].id,
            lane: Some(1),
            seq: 1,
        };
        plan.add_same("a", stored);
        assert_eq!(plan.add(&message), live(50));
    }

    #[test]
    fn a_message_behind_a_dead_letter_that_waits_again_is_left_for_another_plan() {
        let messages = [message(&["a", "b"]), message(&["c"])];
        let mut plan = plan(my_lane(), Some(1));
        let [waiting, dead] = [1, 2].map(|random| CallId::from_parts(1, random));
        plan.add_same(
            "a",
            SameCall {
                id: waiting,
                lane: Some(1),
                seq: 1,
            },
        );
        plan.add_same(
            "b",
            SameCall {
                id: dead,
                lane: None,
                seq: 0,
            },
        );
        let ids = vec![waiting, dead];
        assert_eq!(plan.add(&messages[0]), Some(Ok(Inserted::Known { ids })));
        assert_eq!(plan.requeued, [dead]);
        assert_eq!(plan.add(&messages[1]), None);
    }

    #[test]
    fn a_message_without_room_is_refused_alone() {
        let messages = [message(&["a", "b"]), message(&["c"])];
        let mut plan = Plan::new(ME, 99, 7);
        plan.add_lane(my_lane());
        assert_eq!(plan.add(&messages[0]), Some(Err(OutboxError::Full)));
        assert_eq!(plan.add(&messages[1]), live(50));
        assert_eq!(plan.bytes, 4);
    }
}
