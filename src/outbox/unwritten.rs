//! Writing settlements, also those that could not be written at first.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
};

use futures_util::future::join_all;

use super::{
    failures::Operation,
    owner::Inner,
    store::{Change, LaneClaim, Settled, Settlement, Then, isolated_lane},
};
use crate::{call_id::CallId, error::OutboxError};

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

impl Inner {
    /// Writes a settlement; one that fails is retried.
    pub(super) async fn settle(&self, settlement: Settlement) -> Result<Settled, OutboxError> {
        let written = self.write(&settlement).await;
        if written.is_err() {
            self.unwritten.add(settlement);
        }
        written
    }

    async fn write(&self, settlement: &Settlement) -> Result<Settled, OutboxError> {
        let started = self.failures.start(Operation::Settle);
        let settled = self.store.settle(settlement.clone()).await;
        started.end(&settled);
        match settled? {
            Settled::NotCurrent => {
                // The lane was released before. Calls that have ended must not be sent again from there.
                for (id, change) in &settlement.changes {
                    match change {
                        Change::Delete => self.store.discard(*id).await?,
                        Change::Withdraw => self.store.withdraw(*id).await?,
                        Change::DeadLetter(_) | Change::Keep(_) => false,
                    };
                }
                Ok(Settled::NotCurrent)
            }
            Settled::Done { is_released } => {
                if is_released {
                    self.wake_replay.notify_one();
                }
                self.note_delay(settlement);
                Ok(Settled::Done { is_released })
            }
        }
    }

    /// Remembers when a lane is due that is parked now. Not before: a claim meanwhile would find the lane owned, and forget
    /// the delay.
    fn note_delay(&self, settlement: &Settlement) {
        let (lane, wait) = match settlement.then {
            Then::Continue => return,
            Then::Park { wait, .. } => (Some(settlement.lane.lane.clone()), wait),
            Then::Isolate { wait, .. } => {
                let mut changes = settlement.changes.iter();
                let kept = changes.find(|(_, change)| matches!(change, Change::Keep(_)));
                (kept.map(|(id, _)| isolated_lane(&settlement.lane.lane, *id)), wait)
            }
        };
        if let (Some(lane), Some(due_at)) = (lane, self.clock.instant().checked_add(wait)) {
            self.delays.borrow_mut().set(&lane, due_at, settlement.lane.claim);
        }
    }

    pub(super) async fn retry_unwritten(&self) {
        // All at once: they share a transaction, and wait together for a locked file.
        let retries = self.unwritten.all().into_iter().map(async |(number, settlement)| {
            if self.write(&settlement).await.is_ok() {
                self.unwritten.remove(number);
            }
        });
        join_all(retries).await;
    }

    /// Whether this owner has released the lane since this claim, or would have if the store could be written.
    pub(super) fn has_released(&self, lane: &LaneClaim) -> bool {
        self.unwritten.releases(lane) || self.delays.borrow().was_released(lane)
    }
}
