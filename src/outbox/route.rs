//! The durable way of a message: stored, then sent, and its outcome written.

use std::{cell::RefCell, rc::Rc};

use actix_rt::spawn;
use futures_util::future::LocalBoxFuture;
use log::info;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    drive::cancelled,
    hold_back::Outage,
    owner::Outbox,
    replay,
    store::{Inserted, LaneClaim},
    stored::{parked, receipts},
    unstored::{self, end},
};
use crate::{
    call::Call,
    call_id::CallId,
    delivery::{Dispatcher, Job, Passage},
    error::{CallError, CancelledBy, ParkReason},
    queue::LaneQueue,
    receipt::Outcome,
    route::{Overflow, ReplyWhen, Route, RunOverflow},
    util::ignore_panic,
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
        mut job: Box<Job>,
        reply_when: ReplyWhen,
    ) -> Vec<Outcome> {
        let in_hand = self.outbox.take_in_hand(&mut job);
        let outage = Outage::of(&dispatcher, &job.calls, &Passage::EachCall);
        let park = outage.as_ref().map(|outage| outage.reason);
        let (mut message, ids) = self.outbox.new_message(&dispatcher, &job.calls, &job.worker, park);
        message.round = job.ticket.round();
        let since = self.outbox.0.since();
        let (lane, worker_id) = (message.lane.clone(), message.worker_id.clone());
        let inserted = match self.outbox.insert(&lane, message, &ids, &job.cancellation, None).await {
            Ok(inserted) => inserted,
            Err(cancelled) => return end(&dispatcher, &job.calls, |_| cancelled.clone()),
        };
        match inserted {
            Ok(Inserted::Live { claim }) => {
                name(&mut job.calls, &ids);
                dispatcher.accept(&job.calls);
                let lane = LaneClaim { lane, claim };
                let Some(stored) = self.outbox.stored(&job.calls, &ids, lane, worker_id, since) else {
                    return dispatcher.run(job).await;
                };
                job.passage = Passage::EachCall;
                if reply_when == ReplyWhen::Durable {
                    // The caller was told that the message is kept.
                    job.cancellation = dispatcher.cancellation(None);
                    if let Some(in_hand) = &in_hand {
                        job.cancellation.discarded_by(in_hand.discarded());
                    }
                }
                let outbox = self.outbox.clone();
                let driven = async move {
                    let policy = dispatcher.retry_policy.clone();
                    let outcomes = outbox.drive(&dispatcher, job, stored, &policy).await;
                    drop(in_hand);
                    outcomes
                };
                match reply_when {
                    ReplyWhen::Durable => {
                        spawn(driven);
                        receipts(ids)
                    }
                    ReplyWhen::Done => driven.await,
                }
            }
            Ok(Inserted::Parked) => {
                if park.is_some() && Outage::of(&dispatcher, &job.calls, &Passage::EachCall).is_none() {
                    // The outage ended meanwhile.
                    self.outbox.0.wake_replay.notify_one();
                }
                let error = |id| Outage::parked(outage.as_ref(), id);
                end_stored(&dispatcher, &mut job.calls, ids, error, reply_when)
            }
            Ok(Inserted::Withdrawn) => end(&dispatcher, &job.calls, |_| cancelled(CancelledBy::Token)),
            Ok(Inserted::Known { ids }) => {
                // A dead letter among them waits again.
                self.outbox.0.wake_replay.notify_one();
                let error = |id| parked(id, ParkReason::AlreadyStored);
                end_stored(&dispatcher, &mut job.calls, ids, error, reply_when)
            }
            Ok(Inserted::InDoubt(error)) => {
                job.may_send = Some(self.outbox.may_send_in_doubt(since.at));
                let refused = unstored::refused_in_doubt(ParkReason::LaneParked);
                self.outbox.run_unstored(&dispatcher, job, &error, refused).await
            }
            Err(error) => {
                let refused = CallError::OVERLOADED;
                self.outbox.run_unstored(&dispatcher, job, &error, refused).await
            }
        }
    }

    /// Stores a message that has no place in the queue; the replay, or the next poster, will send it.
    async fn park_overflow(
        self: Rc<Self>,
        dispatcher: Rc<Dispatcher>,
        overflow: Overflow,
        reply_when: ReplyWhen,
    ) -> Vec<Outcome> {
        let Overflow {
            mut calls,
            worker,
            cancellation,
            reason,
        } = overflow;
        let refused = || {
            if reason == ParkReason::Shutdown {
                CallError::ShuttingDown
            } else {
                CallError::OVERLOADED
            }
        };
        let bytes = calls.iter().map(|call| call.stored_body().len()).sum();
        let waiting = self.outbox.0.overflowing.begin(bytes);
        if waiting.is_none() || self.outbox.0.is_closed.get() {
            return end(&dispatcher, &calls, |_| refused());
        }
        let (message, ids) = self.outbox.new_message(&dispatcher, &calls, &worker, Some(reason));
        let inserted = self
            .outbox
            .insert(&message.lane.clone(), message, &ids, &cancellation, waiting)
            .await;
        match inserted {
            Ok(Ok(Inserted::Live { .. } | Inserted::Parked)) => {
                self.outbox.0.wake_replay.notify_one();
                end_stored(&dispatcher, &mut calls, ids, |id| parked(id, reason), reply_when)
            }
            Ok(Ok(Inserted::Withdrawn)) => end(&dispatcher, &calls, |_| cancelled(CancelledBy::Token)),
            Ok(Ok(Inserted::Known { ids })) => {
                self.outbox.0.wake_replay.notify_one();
                let error = |id| parked(id, ParkReason::AlreadyStored);
                end_stored(&dispatcher, &mut calls, ids, error, reply_when)
            }
            Ok(Ok(Inserted::InDoubt(_))) => end(&dispatcher, &calls, |_| unstored::refused_in_doubt(reason)),
            Ok(Err(_)) => end(&dispatcher, &calls, |_| refused()),
            Err(cancelled) => end(&dispatcher, &calls, |_| cancelled.clone()),
        }
    }
}

/// Notes the ids of stored calls.
fn name(calls: &mut [Call], ids: &[CallId]) {
    for (call, id) in calls.iter_mut().zip(ids) {
        call.id = Some(*id);
    }
}

/// Ends a message that is in the store and not sent now.
fn end_stored(
    dispatcher: &Dispatcher,
    calls: &mut [Call],
    ids: Vec<CallId>,
    error: impl Fn(CallId) -> CallError,
    reply_when: ReplyWhen,
) -> Vec<Outcome> {
    name(calls, &ids);
    dispatcher.accept(calls);
    let end = |(call, id): (&Call, &CallId)| dispatcher.end_unsent(call.as_ref(), error(*id));
    let outcomes = calls.iter().zip(&ids).map(end).collect();
    match reply_when {
        ReplyWhen::Durable => receipts(ids),
        ReplyWhen::Done => outcomes,
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

    fn overflow(self: Rc<Self>) -> Option<RunOverflow> {
        Some(Box::new(|dispatcher, overflow, reply_when| {
            Box::pin(self.park_overflow(dispatcher, overflow, reply_when))
        }))
    }

    fn is_durable(&self) -> bool {
        true
    }

    /// Starts the replay. It outlives a restart of the actor.
    fn start(&self, dispatcher: &Rc<Dispatcher>, queue: &Rc<LaneQueue>) {
        let mut replay = self.replay.borrow_mut();
        if replay.is_none() {
            let stop = CancellationToken::new();
            let outbox = self.outbox.clone();
            spawn(async move {
                if let Ok(stats) = outbox.stats().await
                    && stats.in_other_queues > 0
                {
                    let calls = stats.in_other_queues;
                    ignore_panic(|| {
                        info!("the outbox holds {calls} calls of other queues, which this poster does not send");
                    });
                }
            });
            spawn(replay::replay(
                self.outbox.clone(),
                Rc::clone(dispatcher),
                Rc::clone(queue),
                stop.clone(),
            ));
            *replay = Some(stop.drop_guard());
        }
    }

    fn wake(&self) {
        self.outbox.0.wake_replay.notify_one();
    }

    fn stop(&self) {
        self.replay.take();
    }

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        let inner = Rc::clone(&self.outbox.0);
        Box::pin(async move {
            inner.deliveries.borrow_mut().close();
            inner.writes.close();
            inner.writes.wait().await;
            inner.retry_unwritten().await;
            // After an error, the next owner takes over.
            let _ = inner.store.release_all(inner.now()).await;
            // Messages that came meanwhile are stored, too.
            inner.is_closed.set(true);
            inner.writes.wait().await;
            inner.retry_unwritten().await;
            let _ = inner.store.close().await;
        })
    }

    fn abandon(&self) {
        spawn(self.close());
    }
}
