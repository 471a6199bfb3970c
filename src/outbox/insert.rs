//! Storing a message.

use std::{pin::pin, rc::Rc};

use actix_rt::spawn;
use futures_util::future::{Either, select};

use super::{
    failures::Operation,
    overflow::Waiting,
    owner::{Inner, Outbox, Since, lane},
    store::{Change, History, Inserted, LaneClaim, NewCall, NewMessage, Settlement, Then},
    stored::{Origin, Stored, StoredRow},
};
use crate::{
    call::Call,
    call_id::CallId,
    delivery::{Cancellation, Dispatcher, Worker},
    error::{CallError, CancelledBy, OutboxError, ParkReason},
};

impl Outbox {
    /// The calls as they are stored, and their new ids.
    pub(super) fn new_message(
        &self,
        dispatcher: &Dispatcher,
        calls: &[Call],
        worker: &Worker,
        park: Option<ParkReason>,
    ) -> (NewMessage, Vec<CallId>) {
        let new_call = |call: &Call| NewCall {
            id: CallId::new(&self.0.clock),
            kind: call.kind,
            target_id: call.target.id().to_string(),
            idempotency_key: call.idempotency_key.clone(),
            headers: call.stored_headers(),
            body: call.stored_body().to_owned(),
        };
        let stored: Vec<NewCall> = calls.iter().map(new_call).collect();
        let ids = stored.iter().map(|call| call.id).collect();
        let named = worker.id().map(|id| id.to_string());
        let seen = || dispatcher.credentials.last_worker_id();
        let message = NewMessage {
            lane: calls.first().map(|call| lane(&call.target)).unwrap_or_default(),
            calls: stored,
            worker_id: named.or_else(seen).or_else(|| self.0.fixed_worker.clone()),
            park,
            round: 0,
            withdrawn: None,
            now: self.0.now(),
        };
        (message, ids)
    }

    /// Inserts a message. If its caller cancels it first, it is withdrawn as soon as the store answers. Until then it may
    /// be stored, and another owner may send it. `waiting` counts it until then; without it, the message has a place in
    /// the queue, is counted once that is given back, and is not inserted if too many wait without a place.
    pub(super) async fn insert(
        &self,
        lane: &str,
        mut message: NewMessage,
        ids: &[CallId],
        cancellation: &Cancellation,
        waiting: Option<Waiting>,
    ) -> Result<Result<Inserted, OutboxError>, CallError> {
        if waiting.is_none() && self.0.overflowing.is_full() {
            return Ok(Err(OutboxError::TimedOut));
        }
        // The store does not store it then.
        let is_withdrawn = cancellation.is_cancelled_by_token();
        message.withdrawn = cancellation.token();
        let bytes = message.calls.iter().map(stored_bytes).fold(0, u64::saturating_add);
        let started = self.0.failures.start(Operation::Insert);
        let insert = self.0.writes.track_future(self.0.store.insert(message));
        match select(insert, pin!(cancellation.cancelled())).await {
            Either::Left((inserted, _)) => {
                match &inserted {
                    Ok(Inserted::InDoubt(error)) => started.end::<()>(&Err(error.clone())),
                    Ok(_) | Err(_) => started.end(&inserted),
                }
                if let Ok(Inserted::Live { .. } | Inserted::Parked) = inserted {
                    self.0.inflow.borrow_mut().add(bytes, self.0.clock.instant());
                }
                Ok(inserted)
            }
            Either::Right((_, insert)) => {
                let by = cancellation.by().unwrap_or(CancelledBy::Shutdown);
                let (inner, lane, ids) = (Rc::clone(&self.0), lane.to_owned(), ids.to_vec());
                let waiting =
                    waiting.unwrap_or_else(|| inner.overflowing.count(usize::try_from(bytes).unwrap_or(usize::MAX)));
                let withdraw = async move {
                    let inserted = insert.await;
                    drop(waiting);
                    // A shutdown leaves the message where it is: in the store, if it gets there.
                    if by != CancelledBy::Shutdown {
                        inner.withdraw(inserted, lane, ids).await;
                    }
                };
                spawn(self.0.writes.track_future(withdraw));
                Err(CallError::Cancelled {
                    by,
                    attempts: 0,
                    may_have_been_delivered: !is_withdrawn,
                })
            }
        }
    }

    pub(super) fn stored(
        &self,
        calls: &[Call],
        ids: &[CallId],
        lane: LaneClaim,
        worker_id: Option<String>,
        since: Since,
    ) -> Option<Stored> {
        let target = calls.first()?.target.clone();
        let row = |id: &CallId| StoredRow {
            id: *id,
            history: History::default(),
        };
        Some(Stored {
            outbox: self.clone(),
            lane,
            target,
            calls: ids.iter().map(row).collect(),
            worker_id,
            since,
            origin: Origin::Live,
        })
    }
}

/// About how many bytes a call takes in the store.
fn stored_bytes(call: &NewCall) -> u64 {
    const OTHERS: usize = 700;
    let bytes = [call.body.len(), call.target_id.len(), OTHERS]
        .into_iter()
        .fold(0, usize::saturating_add);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Inner {
    /// Removes a message that was stored although its caller has withdrawn it.
    async fn withdraw(self: &Rc<Self>, inserted: Result<Inserted, OutboxError>, lane: String, ids: Vec<CallId>) {
        let claim = match inserted {
            Ok(Inserted::Live { claim }) => claim,
            // No claim has this number: parked calls are discarded.
            Ok(Inserted::Parked) => 0,
            Ok(Inserted::Known { .. } | Inserted::Withdrawn | Inserted::InDoubt(_)) | Err(_) => return,
        };
        let settlement = Settlement {
            lane: LaneClaim { lane, claim },
            changes: ids.into_iter().map(|id| (id, Change::Withdraw)).collect(),
            then: Then::Continue,
            now: self.now(),
        };
        self.settle_later(settlement);
    }
}
