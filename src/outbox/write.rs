//! Writes settlements: together while others are being written, and again until they are written.

use std::{rc::Rc, sync::Arc};

use actix_rt::spawn;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{
    failures::Operation,
    owner::Inner,
    settlement_queue::{Answer, Batch},
    store::{Change, LaneClaim, Settled, Settlement, Then, isolated_lane},
};
use crate::error::OutboxError;

/// The task that writes the waiting settlements.
struct Writer(Rc<Inner>);

impl Writer {
    async fn write_all(self) {
        let inner = &self.0;
        while let Some(Batch { settlements, answers }) = inner.to_settle.next() {
            let settled = inner.write(&settlements).await;
            // Together: they share a transaction, and wait together for a locked file.
            let follow_ups = settlements.iter().zip(settled).map(async |(settlement, settled)| {
                let written = match settled {
                    Ok(settled) => inner.follow_up(settlement, settled).await,
                    Err(error) => Err(error),
                };
                written.inspect_err(|_| inner.unwritten.add(settlement.clone()))
            });
            for ((settlement, written), answer) in settlements.iter().zip(join_all(follow_ups).await).zip(answers) {
                inner.unwritten.end(settlement);
                if let Some(answer) = answer {
                    // The caller may have given up.
                    let _ = answer.send(written);
                }
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.to_settle.end_writing();
    }
}

impl Inner {
    /// Writes a settlement after those that were given before; one that fails is retried. The future is the answer: the
    /// settlement is written without it, too.
    pub(super) fn settle(
        self: &Rc<Self>,
        settlement: Settlement,
    ) -> impl Future<Output = Result<Settled, OutboxError>> + use<> {
        let (sender, answer) = oneshot::channel();
        self.submit(settlement, Some(sender));
        async { answer.await.unwrap_or(Err(OutboxError::Stopped)) }
    }

    /// As [`settle`](Self::settle), for a caller that needs no answer.
    pub(super) fn settle_later(self: &Rc<Self>, settlement: Settlement) {
        self.submit(settlement, None);
    }

    fn submit(self: &Rc<Self>, settlement: Settlement, answer: Option<Answer>) {
        self.unwritten.begin(&settlement);
        if self.to_settle.add(settlement, answer) {
            let writer = Writer(Rc::clone(self));
            spawn(self.writes.track_future(writer.write_all()));
        }
    }

    /// Writes settlements in one transaction or, if one of them fails, each in its own.
    async fn write(&self, settlements: &Arc<[Settlement]>) -> Vec<Result<Settled, OutboxError>> {
        let started = self.failures.start(Operation::Settle);
        let settled = self.store.settle(Arc::clone(settlements)).await;
        started.end(&settled);
        match settled {
            Ok(settled) => settled.into_iter().map(Ok).collect(),
            // What has waited for a locked file has waited long enough.
            Err(error) if settlements.len() == 1 || error == OutboxError::Locked => {
                settlements.iter().map(|_| Err(error.clone())).collect()
            }
            Err(_) => {
                let alone = settlements
                    .iter()
                    .map(|settlement| self.store.settle([settlement.clone()].into()));
                let first = |settled: Vec<Settled>| settled.into_iter().next().ok_or(OutboxError::Stopped);
                join_all(alone)
                    .await
                    .into_iter()
                    .map(|settled| settled.and_then(first))
                    .collect()
            }
        }
    }

    /// Does what follows from the store's answer.
    async fn follow_up(&self, settlement: &Settlement, settled: Settled) -> Result<Settled, OutboxError> {
        match settled {
            Settled::NotCurrent => {
                // Its calls are no dead letters.
                self.unwritten_letters.take(settlement);
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
            }
            Settled::Done { is_released } => {
                if is_released {
                    self.wake_replay.notify_one();
                }
                self.note_delay(settlement);
                for (telemetry, letter) in self.unwritten_letters.take(settlement) {
                    self.report_dead(&telemetry, &letter);
                }
            }
        }
        Ok(settled)
    }

    /// Remembers when a lane is due that is parked now. Not before: a claim meanwhile would find the lane owned, and forget
    /// the delay.
    fn note_delay(&self, settlement: &Settlement) {
        let (lane, wait) = match settlement.then {
            Then::Stay | Then::Continue => return,
            // The end of the outage decides.
            Then::Park { reason, .. } if reason.is_outage() => return,
            Then::Park { wait, .. } => (Some(settlement.lane.lane.clone()), wait),
            Then::Isolate { wait, .. } => {
                let mut changes = settlement.changes.iter();
                let kept = changes.find(|(_, change)| matches!(change, Change::Keep(_)));
                (kept.map(|(id, _)| isolated_lane(&settlement.lane.lane, *id)), wait)
            }
        };
        if let (Some(lane), Some(due_at)) = (lane, self.clock.instant().checked_add(wait)) {
            self.delays.borrow_mut().set(&lane, due_at, settlement.lane.claim);
            self.wake_replay.notify_one();
        }
    }

    /// Tries whether the store can be written again, if it could not: otherwise nobody would know before the next message.
    pub(super) async fn retry_writing(&self) {
        if self.failures.cause().is_some() {
            let started = self.failures.start(Operation::Settle);
            let nothing = self.store.set_worker(Vec::new(), None, String::new());
            started.end(&nothing.await);
        }
    }

    pub(super) async fn retry_unwritten(&self) {
        // All at once: they share a transaction, and wait together for a locked file.
        let retries = self.unwritten.all().into_iter().map(async |(number, settlement)| {
            let settlements: Arc<[_]> = [settlement].into();
            for (settlement, settled) in settlements.iter().zip(self.write(&settlements).await) {
                if let Ok(settled) = settled
                    && self.follow_up(settlement, settled).await.is_ok()
                {
                    if let Then::Park { .. } = settlement.then {
                        // Until now, messages were stored as live behind those that it parks.
                        self.become_uncertain();
                    }
                    self.unwritten.remove(number);
                }
            }
        });
        join_all(retries).await;
    }

    /// Whether this owner has released the lane since this claim, or would have if the store could be written.
    pub(super) fn has_released(&self, lane: &LaneClaim) -> bool {
        self.unwritten.releases(lane) || self.delays.borrow().was_released(lane)
    }
}
