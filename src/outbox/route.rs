//! The durable route: a message is stored, then sent, and each outcome is written.

use std::{cell::RefCell, rc::Rc};

use actix_rt::spawn;
use futures_util::future::LocalBoxFuture;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    drive::{cancelled, park},
    insert::{Inserted, PendingInsert, Place},
    process::Outbox,
    replay,
};
use crate::{
    delivery::{Dispatcher, Job},
    error::{CallError, OutboxError, ParkReason},
    queue::LaneQueue,
    receipt::{CallReceipt, Outcome},
    route::{Overflow, ReplyWhen, Route},
};

/// Through the outbox.
pub(crate) struct Durable {
    outbox: Outbox,
    /// Stops the replay when it is dropped.
    replay: RefCell<Option<DropGuard>>,
}

impl Durable {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self {
            outbox,
            replay: RefCell::default(),
        }
    }

    async fn run_stored(
        self: Rc<Self>,
        dispatcher: Rc<Dispatcher>,
        job: Box<Job>,
        reply_when: ReplyWhen,
    ) -> Vec<Outcome> {
        let place = if job.ticket.is_waiting() {
            Place::Waiting
        } else {
            Place::Head
        };
        match self
            .outbox
            .store(&dispatcher, &job.calls, &job.cancellation, place)
            .await
        {
            Inserted::Live(stored) => {
                dispatcher.accept(&job.calls);
                let receipts = stored.receipts();
                let outbox = self.outbox.clone();
                let driven = async move {
                    let policy = dispatcher.retry_policy.clone();
                    outbox.drive(&dispatcher, job, &stored, &policy).await
                };
                match reply_when {
                    ReplyWhen::Durable => {
                        spawn(driven);
                        receipts
                    }
                    ReplyWhen::Done => driven.await,
                }
            }
            Inserted::Parked(stored) => {
                dispatcher.accept(&job.calls);
                let reason = ParkReason::LaneParked;
                park(&dispatcher, &job.calls, &job.cancellation, &stored, reason, reply_when).await
            }
            Inserted::Cancelled => dispatcher.run(job).await,
            Inserted::Failed(error) => {
                let outcomes = dispatcher.run(job).await;
                outcomes.into_iter().map(|outcome| noted(outcome, &error)).collect()
            }
        }
    }

    /// Stores a message that has no place in the queue; the replay will send it.
    async fn park_overflow(
        self: Rc<Self>,
        dispatcher: Rc<Dispatcher>,
        overflow: Overflow,
        reply_when: ReplyWhen,
    ) -> Vec<Outcome> {
        let Overflow { calls, cancellation } = overflow;
        let inserted = match PendingInsert::begin(&self.outbox) {
            Some(_pending) => self.outbox.store(&dispatcher, &calls, &cancellation, Place::None).await,
            None => Inserted::Cancelled,
        };
        match inserted {
            Inserted::Live(stored) | Inserted::Parked(stored) => {
                dispatcher.accept(&calls);
                park(
                    &dispatcher,
                    &calls,
                    &cancellation,
                    &stored,
                    ParkReason::QueueFull,
                    reply_when,
                )
                .await
            }
            Inserted::Cancelled | Inserted::Failed(_) => {
                let error = || match cancellation.by() {
                    Some(by) => cancelled(by),
                    None => CallError::Overloaded,
                };
                calls
                    .iter()
                    .map(|call| dispatcher.refuse(call.as_ref(), error()))
                    .collect()
            }
        }
    }
}

/// The outcome of a call that the outbox could not store.
fn noted(outcome: Outcome, error: &OutboxError) -> Outcome {
    match outcome {
        Ok(CallReceipt::Delivered { attempts, elapsed, .. }) => Ok(CallReceipt::Delivered {
            attempts,
            elapsed,
            outbox_error: Some(error.clone()),
        }),
        Err(CallError::Transient(mut transient)) => {
            transient.outbox_error = Some(error.clone());
            Err(CallError::Transient(transient))
        }
        outcome => outcome,
    }
}

impl Route for Durable {
    fn run(
        self: Rc<Self>,
        dispatcher: Rc<Dispatcher>,
        job: Box<Job>,
        reply_when: ReplyWhen,
    ) -> LocalBoxFuture<'static, Vec<Outcome>> {
        Box::pin(self.run_stored(dispatcher, job, reply_when))
    }

    fn overflow(
        self: Rc<Self>,
        dispatcher: Rc<Dispatcher>,
        overflow: Overflow,
        reply_when: ReplyWhen,
    ) -> LocalBoxFuture<'static, Vec<Outcome>> {
        Box::pin(self.park_overflow(dispatcher, overflow, reply_when))
    }

    fn is_durable(&self) -> bool {
        true
    }

    /// Starts the heartbeats and the replay. They outlive a restart of the actor.
    fn start(&self, dispatcher: &Rc<Dispatcher>, queue: &Rc<LaneQueue>) {
        let mut replay = self.replay.borrow_mut();
        if replay.is_none() {
            let stop = CancellationToken::new();
            spawn(replay::send_heartbeats(self.outbox.clone(), Rc::downgrade(dispatcher)));
            spawn(replay::replay(
                self.outbox.clone(),
                Rc::clone(dispatcher),
                Rc::clone(queue),
                stop.clone(),
            ));
            *replay = Some(stop.drop_guard());
        }
    }

    fn stop(&self) {
        self.replay.take();
    }

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        let outbox = self.outbox.clone();
        Box::pin(async move {
            outbox.flush().await;
            // An error leaves the release to the process that takes over.
            let _ = outbox.release_all().committed().await;
        })
    }

    fn abandon(&self) {
        self.outbox.release_all().detach();
    }
}
