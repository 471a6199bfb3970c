//! Writes settlements: together while others are being written, and again until they are written.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use actix_rt::spawn;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{
    failures::Operation,
    owner::Inner,
    store::{Change, LaneClaim, Settled, Settlement, Then, isolated_lane},
};
use crate::error::OutboxError;

/// How many settlements may share a job of the store.
const MAX_BATCH: usize = 1024;

type Answer = oneshot::Sender<Result<Settled, OutboxError>>;

/// The settlements that wait for those before them.
#[derive(Default)]
pub(super) struct Waiting {
    settlements: RefCell<Vec<(Settlement, Option<Answer>)>>,
    is_writing: Cell<bool>,
}

impl Waiting {
    fn next(&self) -> Option<(Arc<[Settlement]>, Vec<Option<Answer>>)> {
        let mut waiting = self.settlements.borrow_mut();
        let count = waiting.len().min(MAX_BATCH);
        let (settlements, answers): (Vec<_>, Vec<_>) = waiting.drain(..count).unzip();
        (count > 0).then(|| (settlements.into(), answers))
    }
}

/// The task that writes the waiting settlements.
struct Writer(Rc<Inner>);

impl Writer {
    async fn write_all(self) {
        let inner = &self.0;
        while let Some((settlements, answers)) = inner.waiting.next() {
            let started = inner.failures.start(Operation::Settle);
            let settled = inner.store.settle(Arc::clone(&settlements)).await;
            started.end(&settled);
            let mut settled = settled.map(Vec::into_iter);
            for (settlement, answer) in settlements.iter().zip(answers) {
                let written = match &mut settled {
                    Ok(settled) => match settled.next() {
                        Some(settled) => inner.follow_up(settlement, settled).await,
                        None => Err(OutboxError::Stopped),
                    },
                    Err(error) => Err(error.clone()),
                };
                if written.is_err() {
                    inner.unwritten.add(settlement.clone());
                }
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
        self.0.waiting.is_writing.set(false);
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
        self.waiting.settlements.borrow_mut().push((settlement, answer));
        if !self.waiting.is_writing.replace(true) {
            let writer = Writer(Rc::clone(self));
            spawn(self.writes.track_future(writer.write_all()));
        }
    }

    /// Does what follows from the store's answer.
    async fn follow_up(&self, settlement: &Settlement, settled: Settled) -> Result<Settled, OutboxError> {
        match settled {
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
            }
            Settled::Done { is_released } => {
                if is_released {
                    self.wake_replay.notify_one();
                }
                self.note_delay(settlement);
            }
        }
        Ok(settled)
    }

    /// Remembers when a lane is due that is parked now. Not before: a claim meanwhile would find the lane owned, and forget
    /// the delay.
    fn note_delay(&self, settlement: &Settlement) {
        let (lane, wait) = match settlement.then {
            Then::Continue => return,
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

    async fn write_again(&self, settlement: Settlement) -> Result<(), OutboxError> {
        let settlements: Arc<[_]> = [settlement].into();
        let started = self.failures.start(Operation::Settle);
        let settled = self.store.settle(Arc::clone(&settlements)).await;
        started.end(&settled);
        for (settlement, settled) in settlements.iter().zip(settled?) {
            self.follow_up(settlement, settled).await?;
        }
        Ok(())
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
            if self.write_again(settlement).await.is_ok() {
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
