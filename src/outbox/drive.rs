//! One stored message, from its turn to the outcome of each call.

use std::{cell::Cell, future::ready, pin::pin, rc::Rc, time::Instant};

use futures_util::future::{Either, select};

use super::{
    disposition::outage_reason,
    hold_back::Outage,
    owner::Outbox,
    sending::InHand,
    settle::Settling,
    stored::{Origin, Stored, parked, parked_error},
};
use crate::{
    backoff::RetryPolicy,
    call::{Call, CallKind},
    call_id::CallId,
    delivery::{Cancellation, Dispatcher, Job, KeepWorker, MaySend},
    error::{CallError, CancelledBy, ParkReason},
    receipt::Outcome,
};

impl Outbox {
    /// Waits for the turn of a stored message, then runs its calls and writes each outcome.
    pub(super) async fn drive(
        &self,
        dispatcher: &Dispatcher,
        mut job: Box<Job>,
        stored: Stored,
        policy: &RetryPolicy,
    ) -> Vec<Outcome> {
        // A live message is in hand since before it was stored.
        let in_hand = match stored.origin {
            Origin::Live => None,
            Origin::Replay { .. } => Some(self.take_in_hand(&mut job)),
        };
        let outcomes = self.send(dispatcher, &mut job, &stored, policy).await;
        self.note_withdrawn(&job.calls, &outcomes);
        drop(in_hand);
        outcomes
    }

    /// Notes that this poster has the message in hand, so that it can be discarded.
    pub(super) fn take_in_hand(&self, job: &mut Job) -> Option<InHand> {
        let in_hand = self.0.sending.begin(&job.calls.first()?.target);
        job.cancellation.discarded_by(in_hand.discarded());
        Some(in_hand)
    }

    async fn send(
        &self,
        dispatcher: &Dispatcher,
        job: &mut Job,
        stored: &Stored,
        policy: &RetryPolicy,
    ) -> Vec<Outcome> {
        if job.ticket.is_waiting() {
            // Without a permit: the earlier messages of the lane may be parked, and this one with them.
            let (cancelled, turn) = (pin!(job.cancellation.cancelled()), pin!(job.ticket.wait_turn()));
            select(cancelled, turn).await;
        }
        let mark = job.ticket.mark();
        let is_released = mark.is_some_and(|mark| stored.lane.claim <= mark) || self.0.has_released(&stored.lane);
        if !is_released && !job.permit.is_held() {
            let Job {
                calls,
                passage,
                cancellation,
                permit,
                ..
            } = &mut *job;
            // Boxed: most messages have their permit, and every one would reserve room for this.
            Box::pin(async {
                let held_back = pin!(dispatcher.gates.until_held_back(calls, passage));
                let cancelled = pin!(cancellation.cancelled());
                let ended = pin!(select(held_back, cancelled));
                select(pin!(permit.acquire()), ended).await;
            })
            .await;
        }
        let looked_at = self.0.clock.instant();
        // Boxed, like all rare paths: otherwise each message reserves room for it.
        let is_current = !is_released
            && (self.0.is_sure_of_lanes(stored.since.at) || Box::pin(self.is_current(&job.cancellation, stored)).await);
        if !is_current {
            // The lane may still be this owner's for a moment, with messages behind this one that are live under the claim.
            job.ticket.set_mark(stored.lane.claim);
            let reason = match job.cancellation.by() {
                Some(CancelledBy::Shutdown) => ParkReason::Shutdown,
                Some(CancelledBy::Token | CancelledBy::Discard) | None => ParkReason::LaneParked,
            };
            let ended = end_parked(dispatcher, &job.calls, &job.cancellation, stored, reason);
            return Box::pin(ended).await;
        }
        if let Some(outage) = Outage::of(dispatcher, &job.calls, &job.passage) {
            return Box::pin(self.hold_back_for(dispatcher, job, stored, outage)).await;
        }
        if let Some(rejection) = self.rejection(dispatcher, stored) {
            self.0.unauthorized.borrow_mut().held_back(&stored.lane.lane);
            let error = rejection.into();
            return Box::pin(self.hold_back(dispatcher, job, stored, &error, None)).await;
        }
        self.note_sending(&job.cancellation, stored).await;
        if let Some(worker_id) = &stored.worker_id {
            job.worker.set_kept(worker_id);
        }
        job.worker.keep_by(self.keep_worker(stored.ids()));
        let is_lost = Rc::new(Cell::new(false));
        job.may_send = Some(self.may_send(stored, looked_at, Rc::clone(&is_lost)));
        let mut settling = Settling::new(stored, self.0.clock.instant());
        let kinds: Vec<CallKind> = job.calls.iter().map(|call| call.kind).collect();
        let outage = |index: usize| {
            let route = kinds.get(index)?.route();
            dispatcher.gates.is_closed(route).then(|| outage_reason(route))
        };
        let settle = async |index, outcome| {
            let outcome = settling.record(index, outcome, outage(index));
            self.note_delivered(stored, index, kinds.get(index), &outcome);
            outcome
        };
        let mut outcomes = Box::pin(dispatcher.run_calls(job, policy, settle)).await;
        self.note_answers(dispatcher, stored, &outcomes);
        let worker_id = job.worker.id();
        let has_released = settling
            .finish(dispatcher, &job.calls, worker_id.as_deref(), &mut outcomes)
            .await;
        if has_released || is_lost.get() {
            // Claims ascend: a message behind this one may be sent under a later claim only.
            job.ticket.set_mark(stored.lane.claim);
        }
        outcomes
    }

    /// Asks the store whether the message is still this owner's.
    async fn is_current(&self, cancellation: &Cancellation, stored: &Stored) -> bool {
        let is_current = pin!(self.0.ask_for_lane(&stored.lane, stored.ids(), stored.since.at));
        match select(pin!(cancellation.cancelled()), is_current).await {
            Either::Right((is_current, _)) => is_current,
            // A cancelled message is not sent.
            Either::Left(_) => true,
        }
    }

    /// Asks the store again before a request is sent, if another owner may have the lane by now. If it has, no call of the
    /// message is sent any more, and `is_lost` is set.
    fn may_send(&self, stored: &Stored, looked_at: Instant, is_lost: Rc<Cell<bool>>) -> MaySend {
        let (inner, lane, ids) = (Rc::clone(&self.0), stored.lane.clone(), stored.ids());
        let looked_at = Cell::new(looked_at);
        Box::new(move |index| {
            let Some(id) = ids.get(index).copied() else {
                return Either::Left(ready(Ok(())));
            };
            let parked = parked_error(id, ParkReason::LaneParked);
            if is_lost.get() {
                return Either::Left(ready(Err(parked.into())));
            }
            if inner.is_sure_of_lanes(looked_at.get()) {
                return Either::Left(ready(Ok(())));
            }
            let since = looked_at.replace(inner.clock.instant());
            let (inner, lane, is_lost) = (Rc::clone(&inner), lane.clone(), Rc::clone(&is_lost));
            Either::Right(Box::pin(async move {
                // An earlier call of the message may have been delivered, and be gone.
                if inner.ask_for_lane(&lane, vec![id], since).await {
                    return Ok(());
                }
                is_lost.set(true);
                Err(parked.into())
            }))
        })
    }

    /// Notes that a message is sent that may have killed an owner, so that another death counts for it alone. Not while it
    /// waits for its turn: then the death is another message's. If the store can't note it, it is sent nevertheless.
    async fn note_sending(&self, cancellation: &Cancellation, stored: &Stored) {
        if stored.is_suspect() {
            let note = self.0.store.note_sending(stored.lane.clone(), stored.ids());
            select(pin!(cancellation.cancelled()), note).await;
        }
    }

    /// Commits the worker id that these calls get, before a request is sent with it. If the store can't, it gets the id
    /// together with the outcome.
    fn keep_worker(&self, ids: Vec<CallId>) -> KeepWorker {
        let inner = Rc::clone(&self.0);
        Box::new(move |former, id| {
            let set = inner
                .store
                .set_worker(ids.clone(), former.map(str::to_owned), id.to_owned());
            Box::pin(async move {
                let _ = set.await;
            })
        })
    }
}

/// Ends a stored message that is not sent now: as parked; as cancelled if its caller has withdrawn it meanwhile; or as
/// refused if the store has lost it, since nobody will send it.
pub(super) async fn end_parked(
    dispatcher: &Dispatcher,
    calls: &[Call],
    cancellation: &Cancellation,
    stored: &Stored,
    reason: ParkReason,
) -> Vec<Outcome> {
    let inner = &stored.outbox.0;
    // Otherwise a call that is gone was delivered by another owner meanwhile.
    let may_be_lost = inner.store.replacements() != stored.since.replacements;
    let mut is_withdrawn = false;
    if cancellation.is_withdrawn() {
        // The calls have left the claim. If they can't be withdrawn, they were claimed again, or are another message's, too.
        let withdrawn = dispatcher
            .shutdown
            .run_until_cancelled(inner.store.withdraw(stored.ids()));
        is_withdrawn = withdrawn.await == Some(Ok(true));
    }
    let mut outcomes = Vec::with_capacity(calls.len());
    for (call, id) in calls.iter().zip(stored.ids()) {
        let mut error = if is_withdrawn {
            cancelled(cancellation.by().unwrap_or(CancelledBy::Token))
        } else {
            parked(id, reason)
        };
        if may_be_lost && dispatcher.shutdown.run_until_cancelled(inner.has_lost(id)).await == Some(true) {
            error = cancellation.by().map_or(CallError::OVERLOADED, cancelled);
        }
        outcomes.push(dispatcher.end_unsent(call.as_ref(), error));
    }
    outcomes
}

pub(super) fn cancelled(by: CancelledBy) -> CallError {
    CallError::Cancelled {
        by,
        attempts: 0,
        may_have_been_delivered: false,
    }
}
