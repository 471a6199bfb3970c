//! One stored message, from its insert to the outcome of each call.

use std::pin::pin;

use futures_util::future::{Either, select};

use super::{
    insert::{Inserted, Place},
    process::Outbox,
    stored::Stored,
};
use crate::{
    backoff::RetryPolicy,
    call::Call,
    credentials::GetCredentials,
    delivery::{Cancellation, Dispatcher, Job},
    error::{CallError, CancelledBy, ParkReason},
    receipt::Outcome,
    route::ReplyWhen,
};

impl Outbox {
    /// Stores the calls of a message, once the worker id is known.
    pub(super) async fn store(
        &self,
        dispatcher: &Dispatcher,
        calls: &[Call],
        cancellation: &Cancellation,
        place: Place,
    ) -> Inserted {
        let Some(target) = calls.first().map(|call| &call.target) else {
            return Inserted::Cancelled;
        };
        match select(
            pin!(self.ensure_worker_known(dispatcher)),
            pin!(cancellation.cancelled()),
        )
        .await
        {
            Either::Left((_, cancelled)) => self.insert(target, calls, place, cancelled).await,
            Either::Right(_) => Inserted::Cancelled,
        }
    }

    /// Asks for credentials if the worker id is not known yet. Returns whether it is known now. Without it, calls are stored
    /// without a worker, and the next call asks again.
    pub(super) async fn ensure_worker_known(&self, dispatcher: &Dispatcher) -> bool {
        if self.worker_is_unknown() {
            if let Ok(credentials) = dispatcher.credentials.get(GetCredentials::default()).await {
                self.set_worker(credentials.worker_id().unwrap_or_default());
            }
        } else {
            self.follow_worker(dispatcher);
        }
        !self.worker_is_unknown()
    }

    /// Follows a worker that has registered under a new id.
    fn follow_worker(&self, dispatcher: &Dispatcher) {
        if let Some(worker_id) = dispatcher.credentials.last_worker_id() {
            self.set_worker(&worker_id);
        }
    }

    /// Waits for the turn of a stored message, then runs its calls and writes each outcome.
    pub(super) async fn drive(
        &self,
        dispatcher: &Dispatcher,
        mut job: Box<Job>,
        stored: &Stored,
        policy: &RetryPolicy,
    ) -> Vec<Outcome> {
        let shutdown = &dispatcher.shutdown;
        if job.ticket.is_waiting() {
            // Without a permit: the earlier messages of the lane may be parked, and this one with them.
            let (cancelled, turn) = (pin!(job.cancellation.cancelled()), pin!(job.ticket.wait_turn()));
            let is_turn = matches!(select(cancelled, turn).await, Either::Right(_));
            let target = job.calls.first().map(|call| call.target.clone());
            if is_turn
                && let Some(target) = target
                && shutdown.run_until_cancelled(stored.is_blocked(&target)).await == Some(true)
            {
                let reason = ParkReason::LaneParked;
                return park(
                    dispatcher,
                    &job.calls,
                    &job.cancellation,
                    stored,
                    reason,
                    ReplyWhen::Done,
                )
                .await;
            }
        }
        let settle = async |index, outcome| {
            self.follow_worker(dispatcher);
            stored.settle(index, outcome, shutdown).await
        };
        Box::pin(dispatcher.run_calls(&mut job, policy, settle)).await
    }
}

/// Ends a stored message that is not sent now: as parked, or as cancelled if its caller has cancelled it meanwhile.
pub(super) async fn park(
    dispatcher: &Dispatcher,
    calls: &[Call],
    cancellation: &Cancellation,
    stored: &Stored,
    reason: ParkReason,
    reply_when: ReplyWhen,
) -> Vec<Outcome> {
    let is_withdrawn = cancellation.is_cancelled_by_token();
    if is_withdrawn {
        stored.withdraw(&dispatcher.shutdown).await;
    }
    let end = |(index, call): (usize, &Call)| {
        let error = if is_withdrawn {
            cancelled(CancelledBy::Token)
        } else {
            stored.parked(index, reason)
        };
        dispatcher.refuse(call.as_ref(), error)
    };
    let outcomes = calls.iter().enumerate().map(end).collect();
    match reply_when {
        ReplyWhen::Durable if !is_withdrawn => stored.receipts(),
        ReplyWhen::Durable | ReplyWhen::Done => outcomes,
    }
}

pub(super) fn cancelled(by: CancelledBy) -> CallError {
    CallError::Cancelled {
        by,
        may_have_been_delivered: false,
    }
}
