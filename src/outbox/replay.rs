//! Sends parked calls again: in order per target, as many at once as there are permits.

use std::{
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_rt::spawn;
use futures_util::{StreamExt as _, future::select, stream::FuturesUnordered};
use log::warn;
use tokio_util::sync::CancellationToken;

use super::{
    faults::MAX_TAKEOVERS,
    owner::Outbox,
    store::{Change, ClaimedMessage, Failure, LaneClaim, Settlement, StoredCall, Then, is_isolated},
    stored::{Origin, Stored, StoredRow},
};
use crate::{
    call::{Call, StoredForm, Target},
    credentials::GetCredentials,
    delivery::{Dispatcher, Job, Worker},
    queue::{Bound, LaneQueue},
    util::{chain, ignore_panic},
};

/// How often the store is looked at for changes of others.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How many bytes of bodies the replay holds in memory.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The shortest time between two claims.
const SHORTEST_WAIT: Duration = Duration::from_millis(3);

/// How often dead letters are purged.
const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Claims and sends parked calls until `stop` is cancelled, and then until the claimed ones are done.
pub(super) async fn replay(outbox: Outbox, dispatcher: Rc<Dispatcher>, queue: Rc<LaneQueue>, stop: CancellationToken) {
    // Twice as many as can be sent at once, so that claims and sends overlap.
    let max_at_once = queue.max_in_flight().saturating_mul(2);
    let inner = &outbox.0;
    let mut running = FuturesUnordered::new();
    let (mut calls, mut bytes): (usize, usize) = (0, 0);
    let mut looked_at = None;
    let mut purged_at = None;
    let mut next_of_others = None;
    let mut may_have_due = true;
    while !stop.is_cancelled() {
        let now = inner.clock.instant();
        if looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_INTERVAL) {
            looked_at = Some(now);
            may_have_due |= inner.look().await;
        }
        if let Some(platform_now) = dispatcher.platform_time.get()
            && purged_at.is_none_or(|at| now.saturating_duration_since(at) >= PURGE_INTERVAL)
        {
            purged_at = Some(now);
            // Housekeeping, which is repeated.
            let _ = inner.store.purge(platform_now, inner.options.keep_dead_letters()).await;
        }
        let asks_platform = dispatcher.credentials.asks_platform();
        if inner.unauthorized.borrow_mut().must_ask(now, asks_platform) {
            // A failed fetch changes nothing.
            let _ = dispatcher.credentials.get(GetCredentials::default()).await;
        }
        may_have_due |= inner.note_credentials(dispatcher.credentials.last_generation());
        let due_in = inner.delays.borrow().next(inner.clock.instant());
        may_have_due |= due_in.is_some_and(|wait| wait.is_zero());
        let free = max_at_once.saturating_sub(calls);
        let room = inner.unauthorized.borrow().room(free, inner.clock.instant());
        // Not one by one, since each claim is a transaction.
        if may_have_due && room > 0 && free > max_at_once / 2 && bytes < MAX_BYTES {
            let round = queue.round().saturating_add(1);
            let since = inner.clock.instant();
            let claimed = inner.claim(round, room, MAX_BYTES.saturating_sub(bytes)).await;
            may_have_due = claimed.is_limited;
            next_of_others = claimed.next_due;
            for message in claimed.messages {
                inner.unauthorized.borrow_mut().probe(&message.lane.lane);
                let size: usize = message.calls.iter().map(|call| call.body.len()).sum();
                calls = calls.saturating_add(message.calls.len());
                bytes = bytes.saturating_add(size);
                let count = message.calls.len();
                let sent = spawn(Replayed::admit(&outbox, &dispatcher, &queue, message, since).run());
                running.push(async move {
                    // A panic is caught within; a cancelled task belongs to a system that is stopping.
                    let _ = sent.await;
                    (count, size)
                });
            }
            queue.end_round(round);
        }
        let due_in = inner.delays.borrow().next(inner.clock.instant());
        let waits = [
            due_in.filter(|wait| !wait.is_zero()),
            next_of_others,
            inner
                .unauthorized
                .borrow()
                .next(inner.clock.instant())
                .filter(|wait| !wait.is_zero()),
            Some(LOOK_INTERVAL),
        ];
        let wait = waits
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(LOOK_INTERVAL)
            .max(SHORTEST_WAIT);
        let woken = async {
            let (woken, idle) = (pin!(inner.wake_replay.notified()), pin!(inner.clock.idle(wait)));
            matches!(select(woken, idle).await, futures_util::future::Either::Left(_))
        };
        let waited = pin!(stop.run_until_cancelled(woken));
        if running.is_empty() {
            may_have_due |= waited.await.unwrap_or_default() || next_of_others.is_some_and(|next| next <= wait);
        } else {
            match select(running.next(), waited).await {
                futures_util::future::Either::Left((Some((count, size)), _)) => {
                    calls = calls.saturating_sub(count);
                    bytes = bytes.saturating_sub(size);
                }
                futures_util::future::Either::Left((None, _)) => {}
                futures_util::future::Either::Right((woken, _)) => {
                    may_have_due |= woken.unwrap_or_default() || next_of_others.is_some_and(|next| next <= wait);
                }
            }
        }
    }
    running.for_each(async |_| {}).await;
}

/// A claimed message, with its place in this process's queue.
struct Replayed {
    outbox: Outbox,
    dispatcher: Rc<Dispatcher>,
    lane: String,
    /// Deletes the calls that can't be read.
    unreadable: Option<Settlement>,
    /// `None` if no call can be read, or the poster is shutting down and releases its lanes.
    sendable: Option<(Box<Job>, Stored)>,
}

impl Replayed {
    /// Gives the message its place before anything is awaited, so that the order of the claim is the order of the lane.
    fn admit(
        outbox: &Outbox,
        dispatcher: &Rc<Dispatcher>,
        queue: &Rc<LaneQueue>,
        message: ClaimedMessage,
        since: Instant,
    ) -> Self {
        let ClaimedMessage { lane, calls } = message;
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
                Ok(call) => {
                    if row.history.is_reduced {
                        call.reduce();
                    }
                    restored.push(call);
                    rows.push(row);
                }
                Err(error) => {
                    let (id, error) = (row.id, format!("the stored call can't be read: {}", chain(&error)));
                    ignore_panic(|| warn!("call {id} in the outbox is a dead letter: {error}"));
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
        Self {
            outbox: outbox.clone(),
            dispatcher: Rc::clone(dispatcher),
            lane: lane.lane.clone(),
            unreadable: Some(settlement).filter(|settlement| !settlement.changes.is_empty()),
            sendable: Self::sendable(outbox, dispatcher, queue, lane, &rows, restored, since),
        }
    }

    fn sendable(
        outbox: &Outbox,
        dispatcher: &Dispatcher,
        queue: &Rc<LaneQueue>,
        lane: LaneClaim,
        rows: &[StoredCall],
        calls: Vec<Call>,
        since: Instant,
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
            permit,
            ticket,
        });
        Some((job, stored))
    }

    /// Tries each call once.
    async fn run(self) {
        let lane = self.lane;
        if let Some(settlement) = self.unreadable {
            let _ = self.outbox.0.settle(settlement).await;
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
