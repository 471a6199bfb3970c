//! The settlements that could not be written, until they are, and the calls that are being deleted.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
};

use super::store::{Change, LaneClaim, Settlement, Then};
use crate::call_id::CallId;

/// Settlements in the order in which they failed. Each stays here until it is written.
#[derive(Default)]
pub(super) struct Unwritten {
    settlements: RefCell<BTreeMap<u64, Settlement>>,
    /// The calls that are being deleted.
    deleting: RefCell<HashSet<CallId>>,
    last_number: Cell<u64>,
}

impl Unwritten {
    /// Notes the calls that a settlement deletes, while it is being written.
    pub(super) fn begin(&self, settlement: &Settlement) {
        self.deleting.borrow_mut().extend(deleted_by(settlement));
    }

    /// The settlement was written, or was added.
    pub(super) fn end(&self, settlement: &Settlement) {
        let mut deleting = self.deleting.borrow_mut();
        for id in deleted_by(settlement) {
            deleting.remove(&id);
        }
    }

    pub(super) fn add(&self, mut settlement: Settlement) {
        // The settlement of the message's last call may be written first.
        if let Then::Stay = settlement.then {
            settlement.then = Then::Continue;
        }
        let number = self.last_number.get().saturating_add(1);
        self.last_number.set(number);
        self.settlements.borrow_mut().insert(number, settlement);
    }

    pub(super) fn all(&self) -> Vec<(u64, Settlement)> {
        let settlements = self.settlements.borrow();
        settlements
            .iter()
            .map(|(number, settlement)| (*number, settlement.clone()))
            .collect()
    }

    pub(super) fn remove(&self, number: u64) {
        self.settlements.borrow_mut().remove(&number);
    }

    /// Whether one of them releases this lane.
    pub(super) fn releases(&self, lane: &LaneClaim) -> bool {
        let settlements = self.settlements.borrow();
        let mut releases = settlements
            .values()
            .filter(|settlement| matches!(settlement.then, Then::Park { .. }));
        releases.any(|settlement| settlement.lane == *lane)
    }

    /// The calls that they delete, and those that are being deleted: in the store, these may still be there.
    pub(super) fn deleted(&self) -> HashSet<CallId> {
        let settlements = self.settlements.borrow();
        let unwritten = settlements.values().flat_map(deleted_by);
        unwritten.chain(self.deleting.borrow().iter().copied()).collect()
    }
}

fn deleted_by(settlement: &Settlement) -> impl Iterator<Item = CallId> {
    let changes = settlement.changes.iter();
    let deleted = changes.filter(|(_, change)| matches!(change, Change::Delete));
    deleted.map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settlement_that_failed_looks_whether_the_lane_has_calls_left() {
        let unwritten = Unwritten::default();
        unwritten.add(Settlement {
            lane: LaneClaim {
                lane: "lane".into(),
                claim: 1,
            },
            changes: Vec::new(),
            then: Then::Stay,
            now: 0,
        });
        let all = unwritten.all();
        assert!(
            all.iter()
                .all(|(_, settlement)| matches!(settlement.then, Then::Continue))
        );
        assert_eq!(all.len(), 1);
    }
}
