//! A model of a store's content: the calls that the store has confirmed, in order.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Change, ClaimedMessage, Then, is_isolated, isolated_lane};
use super::{shorthand::LiveMessage, step::End};
use crate::call_id::CallId;

/// The calls that the store has confirmed, and nothing else.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// The calls of each lane in order.
    pub(super) lanes: BTreeMap<String, Vec<CallId>>,
    pub(super) dead: BTreeSet<CallId>,
    /// The calls whose ids another message was answered with.
    pub(super) known: BTreeSet<CallId>,
    /// The lane to which a requeued call goes.
    pub(super) homes: BTreeMap<CallId, String>,
    /// The holder of each owned lane, dead or alive.
    pub(super) holders: BTreeMap<String, Holder>,
}

/// An owner, and its claim of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) owner: usize,
    pub(super) claim: i64,
}

impl Content {
    pub(super) fn is_waiting(&self, id: CallId) -> bool {
        self.lanes.values().flatten().any(|call| *call == id)
    }

    /// The lanes of these targets, with those of isolated messages.
    pub(super) fn lanes_of(&self, targets: &[String]) -> Vec<String> {
        let is_of = |lane: &str, target: &str| lane == target || (is_isolated(lane) && lane.starts_with(target));
        let lanes = self.lanes.keys();
        let lanes = lanes.filter(|lane| targets.iter().any(|target| is_of(lane, target)));
        lanes.cloned().collect()
    }

    pub(super) fn append(&mut self, lane: &str, id: CallId) {
        self.lanes.entry(lane.to_owned()).or_default().push(id);
    }

    pub(super) fn remove(&mut self, id: CallId) {
        self.dead.remove(&id);
        for calls in self.lanes.values_mut() {
            calls.retain(|call| *call != id);
        }
        self.lanes.retain(|_, calls| !calls.is_empty());
        self.holders.retain(|lane, _| self.lanes.contains_key(lane));
    }

    /// Checks that each claimed lane was free, and that its first calls were claimed in order.
    pub(super) fn check_claim(&mut self, messages: &[ClaimedMessage], owner: usize) {
        let mut lanes = BTreeMap::<_, Vec<CallId>>::new();
        for ClaimedMessage { lane, calls } in messages {
            let ids = lanes.entry((&lane.lane, lane.claim)).or_default();
            ids.extend(calls.iter().map(|call| call.id));
        }
        for ((lane, claim), ids) in lanes {
            let stored = self.lanes.get(lane).cloned().unwrap_or_default();
            assert!(stored.starts_with(&ids), "{lane}: {ids:?} instead of {stored:?}");
            let former = self.holders.insert(lane.clone(), Holder { owner, claim });
            assert_eq!(former, None, "{lane} is claimed from its owner");
        }
    }

    pub(super) fn settle(&mut self, message: &LiveMessage, end: End, is_released: bool) {
        let name = &message.lane.lane;
        let changes = message
            .ids
            .iter()
            .enumerate()
            .map(|(index, id)| (*id, end.change(index)));
        let (mut kept, mut moved) = (Vec::new(), Vec::new());
        for (id, change) in changes {
            match change {
                Change::Withdraw if self.known.contains(&id) => {
                    if !matches!(end.then(), Then::Park { .. }) {
                        moved.push(id);
                    }
                }
                Change::Delete | Change::Withdraw => self.remove(id),
                Change::DeadLetter(_) => {
                    self.remove(id);
                    self.dead.insert(id);
                }
                Change::Keep(_) => kept.push(id),
            }
        }
        for id in moved {
            self.remove(id);
            self.append(name, id);
        }
        match end.then() {
            Then::Stay | Then::Continue => {}
            Then::Park { .. } => drop(self.holders.remove(name)),
            Then::Isolate { .. } => {
                if let Some(first) = kept.first() {
                    let own = isolated_lane(name, *first);
                    for id in &kept {
                        self.remove(*id);
                        self.append(&own, *id);
                    }
                }
            }
        }
        if is_released {
            assert!(self.lanes.contains_key(name), "{name} was released without calls");
            self.holders.remove(name);
        }
    }
}
