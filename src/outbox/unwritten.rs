//! The settlements that could not be written, until they are.

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
    last_number: Cell<u64>,
}

impl Unwritten {
    pub(super) fn add(&self, settlement: Settlement) {
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

    /// The calls that they delete: in the store, these are still there.
    pub(super) fn deleted(&self) -> HashSet<CallId> {
        let settlements = self.settlements.borrow();
        let changes = settlements.values().flat_map(|settlement| &settlement.changes);
        let deleted = changes.filter(|(_, change)| matches!(change, Change::Delete));
        deleted.map(|(id, _)| *id).collect()
    }
}
