//! Writes settlements, again and again until they are written.

use futures_util::future::join_all;

use super::{
    failures::Operation,
    owner::Inner,
    store::{Change, LaneClaim, Settled, Settlement, Then, isolated_lane},
};
use crate::error::OutboxError;

impl Inner {
    /// Writes a settlement; one that fails is retried.
    pub(super) async fn settle(&self, settlement: Settlement) -> Result<Settled, OutboxError> {
        self.unwritten.begin(&settlement);
        let written = self.write(&settlement).await;
        if written.is_err() {
            self.unwritten.add(settlement.clone());
        }
        self.unwritten.end(&settlement);
        written
    }

    async fn write(&self, settlement: &Settlement) -> Result<Settled, OutboxError> {
        let started = self.failures.start(Operation::Settle);
        let settled = self.store.settle(settlement.clone()).await;
        started.end(&settled);
        match settled? {
            Settled::NotCurrent => {
                // The lane was released before. Calls that have ended must not be sent again from there.
                let of = |kind: fn(&Change) -> bool| {
                    let changes = settlement.changes.iter().filter(move |(_, change)| kind(change));
                    changes.map(|(id, _)| *id)
                };
                for id in of(|change| matches!(change, Change::Delete)) {
                    self.store.discard(id).await?;
                }
                let withdrawn: Vec<_> = of(|change| matches!(change, Change::Withdraw)).collect();
                if !withdrawn.is_empty() {
                    self.store.withdraw(withdrawn).await?;
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
