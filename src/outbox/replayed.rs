//! A claimed message: its place in this process's queue, and its run.

use std::rc::Rc;

use log::warn;

use super::{
    dead_letter::DeadLetter,
    faults::MAX_TAKEOVERS,
    owner::{Outbox, Since},
    store::{Change, ClaimedMessage, Failure, LaneClaim, Settlement, StoredCall, Then, is_isolated},
    stored::{Origin, Stored, StoredRow},
};
use crate::{
    call::{Call, StoredForm, Target},
    delivery::{Dispatcher, Job, Passage, Worker},
    queue::{Bound, LaneQueue},
    telemetry::Begin,
    util::{chain, ignore_panic},
};

/// A claimed message, with its place in this process's queue.
pub(super) struct Replayed {
    outbox: Outbox,
    dispatcher: Rc<Dispatcher>,
    lane: String,
    /// The number of its calls, and the bytes of their bodies.
    size: (usize, usize),
    /// Deletes the calls that can't be read.
    unreadable: Option<Settlement>,
    /// `None` if no call can be read, or the poster is shutting down and releases its lanes.
    sendable: Option<(Box<Job>, Stored)>,
}

impl Replayed {
    /// Gives the message its place before anything is awaited, so that the order of the claim is the order of the lane.
    pub(super) fn admit(
        outbox: &Outbox,
        dispatcher: &Rc<Dispatcher>,
        queue: &Rc<LaneQueue>,
        message: ClaimedMessage,
        passage: Passage,
        since: Since,
    ) -> Self {
        let ClaimedMessage { lane, calls } = message;
        outbox.0.unauthorized.borrow_mut().probe(&lane.lane);
        let size = (calls.len(), calls.iter().map(|call| call.body.len()).sum());
        let mut rows: Vec<StoredCall> = Vec::new();
        let mut restored: Vec<Call> = Vec::new();
        let mut unreadable = Vec::new();
        for row in calls {
            let stored = StoredForm {
                kind: &row.kind,
                target_id: &row.target_id,
                idempotency_key: &row.idempotency_key,
                headers: row.headers.as_deref(),
                body: &row.body,
            };
            match dispatcher.platform.restore(stored) {
                Ok(mut call) => {
                    call.id = Some(row.id);
                    if row.history.is_reduced {
                        call.reduce();
                    }
                    restored.push(call);
                    rows.push(row);
                }
                Err(error) => {
                    let (id, error) = (row.id, format!("the stored call can't be read: {}", chain(&error)));
                    ignore_panic(|| warn!("call {id} in the outbox is a dead letter: {error}"));
                    let letter = DeadLetter {
                        id,
                        kind: row.kind.parse().ok(),
                        target_id: row.target_id,
                        idempotency_key: row.idempotency_key,
                        status_code: None,
                        reason: error.clone(),
                        attempts: row.history.attempts,
                    };
                    outbox.0.unwritten_letters.add(&dispatcher.telemetry, letter);
                    let failure = Failure {
                        status_code: None,
                        error,
                        worker_id: None,
                        history: row.history,
                    };
                    unreadable.push((id, Change::DeadLetter(failure)));
                }
            }
        }
        let settlement = Settlement {
            lane: lane.clone(),
            changes: unreadable,
            then: Then::Continue,
            now: outbox.0.now(),
        };
        let name = lane.lane.clone();
        let mut sendable = Self::sendable(outbox, dispatcher, queue, lane, &rows, restored, since);
        if let Some((job, _)) = &mut sendable {
            job.passage = passage;
        }
        Self {
            outbox: outbox.clone(),
            dispatcher: Rc::clone(dispatcher),
            lane: name,
            size,
            unreadable: Some(settlement).filter(|settlement| !settlement.changes.is_empty()),
            sendable,
        }
    }

    fn sendable(
        outbox: &Outbox,
        dispatcher: &Dispatcher,
        queue: &Rc<LaneQueue>,
        lane: LaneClaim,
        rows: &[StoredCall],
        calls: Vec<Call>,
        since: Since,
    ) -> Option<(Box<Job>, Stored)> {
        let target = calls.first()?.target.clone();
        // An isolated message does not hold up its target's lane in this process either.
        let place = if is_isolated(&lane.lane) {
            Target::Session(lane.lane.as_str().into())
        } else {
            target.clone()
        };
        let (ticket, mut permit) = queue.admit(place, Bound::None).ok()?;
        if rows.iter().any(|row| row.history.takeovers >= MAX_TAKEOVERS) {
            permit.make_exclusive();
        }
        let worker_id = rows.iter().find_map(|row| row.worker_id.clone());
        let worker = Worker::of_replay(worker_id.as_deref());
        let present = dispatcher
            .credentials
            .last_worker_id()
            .or_else(|| outbox.0.fixed_worker.clone());
        // Before the first credentials, nothing says that the call's worker is the present one.
        let is_own_worker = worker_id.is_none() || worker_id == present;
        let stored_at = rows.first()?.id.created_at();
        let stored = Stored {
            outbox: outbox.clone(),
            target,
            calls: rows.iter().map(StoredRow::from).collect(),
            worker_id,
            since,
            origin: Origin::Replay { is_own_worker },
            lane,
        };
        let job = Box::new(Job {
            calls,
            worker,
            cancellation: dispatcher.cancellation(None),
            passage: Passage::FirstCall,
            begin: Begin::Stored(stored_at),
            may_send: None,
            permit,
            ticket,
        });
        Some((job, stored))
    }

    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Tries each call once.
    pub(super) async fn run(self) {
        let lane = self.lane;
        if let Some(settlement) = self.unreadable {
            let settled = self.outbox.0.settle(settlement);
            // A shutdown ends the wait, not the write.
            self.dispatcher.shutdown.run_until_cancelled(settled).await;
        }
        if let Some((job, stored)) = self.sendable {
            self.dispatcher.accept(&job.calls);
            let policy = self.dispatcher.retry_policy.once();
            self.outbox.drive(&self.dispatcher, job, stored, &policy).await;
        }
        // If it was the probe of rejected credentials and has asked nothing, another one is sent.
        let now = self.outbox.0.clock.instant();
        self.outbox.0.unauthorized.borrow_mut().undecided(&lane, now);
    }
}
