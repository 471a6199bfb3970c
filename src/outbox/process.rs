//! One process's view of the outbox: what it has claimed, its heartbeats, and those of the other processes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use actix_rt::task::yield_now;
use futures_util::future::select;
use log::{info, warn};
use rusqlite::Connection;
use tokio::sync::Notify;

use super::{
    EntryQuery, OutboxEntry,
    config::Config,
    liveness::Liveness,
    options::{LONGEST_WAIT, OutboxOptions},
    store::{self, ClaimedCall, FailureRecord, Scope, milliseconds, milliseconds_of},
    update::Update,
    writer::Writer,
};
use crate::{
    call::Target,
    call_id::CallId,
    clock::Clock,
    error::OutboxError,
    util::{chain, ignore_panic},
};

/// The shortest time between two rounds of claims.
const SHORTEST_WAIT: Duration = Duration::from_millis(3);

/// The outbox of a poster. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Outbox(pub(super) Rc<Inner>);

pub(super) struct Inner {
    pub(super) options: OutboxOptions,
    pub(super) writer: Writer,
    /// The id of this process in the file.
    pub(super) owner: i64,
    platform: String,
    worker: RefCell<Worker>,
    clock: Clock,
    /// The time of day advances from here by the monotonic clock: a jump of the system clock has no effect.
    started: (SystemTime, Instant),
    pub(super) failed_updates: RefCell<Vec<Update>>,
    /// Messages without a place in the queue whose insert is pending.
    pub(super) pending_inserts: Cell<usize>,
    /// Whether a call is parked behind one that is being sent.
    pub(super) has_blocked_lane: Cell<bool>,
    /// Whether the file may hold times of a wrong clock.
    must_repair_timestamps: Cell<bool>,
    /// Whether this process has released its calls.
    is_released: Cell<bool>,
    liveness: RefCell<Liveness>,
    pub(super) wake_replay: Notify,
}

/// The worker whose calls this process delivers, and its former ids.
struct Worker {
    /// Empty if the worker has no id, or it is not known yet.
    id: String,
    is_known: bool,
    /// The calls of these ids are moved to the present one.
    former: BTreeSet<String>,
}

pub(super) fn lane(target: &Target) -> String {
    match target {
        Target::Session(id) => format!("session {id}"),
        Target::Issue(id) => format!("issue {id}"),
    }
}

/// The calls of a message that this process has claimed.
pub(super) type ClaimedMessage = Vec<ClaimedCall>;

impl Outbox {
    pub(crate) fn new(config: Config, platform: &str, worker_id: &str, clock: Clock) -> Self {
        let Config { options, writer } = config;
        Self(Rc::new(Inner {
            liveness: RefCell::new(Liveness::new(options.heartbeat_timeout())),
            options,
            writer,
            owner: rand::random(),
            platform: platform.to_owned(),
            worker: RefCell::new(Worker {
                id: worker_id.to_owned(),
                is_known: !worker_id.is_empty(),
                former: BTreeSet::new(),
            }),
            started: (clock.now(), clock.instant()),
            clock,
            failed_updates: RefCell::default(),
            pending_inserts: Cell::default(),
            has_blocked_lane: Cell::default(),
            must_repair_timestamps: Cell::new(true),
            is_released: Cell::default(),
            wake_replay: Notify::new(),
        }))
    }

    pub(super) fn worker_is_unknown(&self) -> bool {
        !self.0.worker.borrow().is_known
    }

    /// Sets the worker id: the calls of its former ids, and those without one, are moved to it.
    pub(super) fn set_worker(&self, worker_id: &str) {
        {
            let mut worker = self.0.worker.borrow_mut();
            if worker.is_known && worker.id == worker_id {
                return;
            }
            worker.is_known = true;
            let former = std::mem::replace(&mut worker.id, worker_id.to_owned());
            worker.former.insert(former);
            worker.former.remove(worker_id);
        }
        // Each heartbeat repeats it, in case this fails.
        self.0.writer.submit(self.0.reassign_worker()).detach();
    }

    /// Claims about `limit` calls that are due, the oldest first, in whole messages. Also returns how long it is until the
    /// next one is due.
    pub(super) async fn claim(&self, limit: usize) -> (Vec<ClaimedMessage>, Option<Duration>) {
        let inner = &self.0;
        let (scope, owner, now) = (inner.scope(), inner.owner, inner.now());
        let claimed = inner.writer.submit(move |connection| {
            let (calls, is_blocked) = store::claim(connection, &scope, owner, now, limit)?;
            Ok((calls, is_blocked, store::next_due(connection, &scope, now)?))
        });
        let (calls, is_blocked, next_due) = claimed.committed().await.unwrap_or_else(|error| {
            ignore_panic(|| warn!("failed to claim parked calls: {}", chain(&error)));
            (Vec::new(), true, None)
        });
        inner.has_blocked_lane.set(is_blocked);
        let mut messages: Vec<ClaimedMessage> = Vec::new();
        for call in calls {
            match messages.last_mut() {
                Some(message) if message.iter().any(|other| other.message == call.message) => message.push(call),
                _ => messages.push(vec![call]),
            }
        }
        let wait = next_due.and_then(|due_at| u64::try_from(due_at.saturating_sub(now)).ok());
        (messages, wait.map(Duration::from_millis))
    }

    /// Makes a claimed call that can't be read a dead letter.
    pub(super) fn dead_letter_unreadable(&self, call: &ClaimedCall, error: &serde_json::Error) {
        let error = format!("the stored body can't be read: {error}");
        let id = CallId(call.stored.id);
        ignore_panic(|| warn!("call {id} in the outbox is a dead letter: {error}"));
        let failure = FailureRecord {
            error,
            ..FailureRecord::default()
        };
        self.0.update(Update::DeadLetter(call.stored.clone(), failure));
    }

    /// Sends a heartbeat, takes over from dead processes, repairs times of a wrong clock, and retries failed updates.
    pub(super) async fn heartbeat(&self) {
        let inner = &self.0;
        inner.retry_failed_updates();
        let (now, time) = (inner.clock.instant(), inner.now());
        let (owner, scope, mut reassign_worker) = (inner.owner, inner.scope(), inner.reassign_worker());
        // Only after the set of live owners has changed: the clock of a live owner may legitimately differ.
        let repairs = inner.must_repair_timestamps.get();
        let has_adopted_unassigned = inner.worker.borrow().former.contains("");
        let longest_wait = milliseconds_of(LONGEST_WAIT.saturating_mul(2));
        let heartbeat = inner.writer.submit(move |connection| {
            reassign_worker(connection)?;
            if repairs {
                store::repair_timestamps(connection, &scope, time, longest_wait)?;
            }
            store::heartbeat(connection, owner)
        });
        let Ok(heartbeats) = heartbeat.committed().await else {
            return;
        };
        if has_adopted_unassigned {
            // Calls without a worker that are stored from now on are not from this process.
            inner.worker.borrow_mut().former.remove("");
        }
        let observed = inner.liveness.borrow_mut().observe(&heartbeats, now);
        inner.must_repair_timestamps.set(observed.has_left);
        for (dead, heartbeat) in observed.dead {
            let scope = inner.scope();
            let freed = inner
                .writer
                .submit(move |connection| store::take_over(connection, &scope, dead, heartbeat));
            if let Ok(calls @ 1..) = freed.committed().await {
                ignore_panic(|| info!("took over {calls} calls of a dead process"));
                inner.must_repair_timestamps.set(true);
                inner.wake_replay.notify_one();
            }
        }
    }

    pub(super) async fn until_next_heartbeat(&self) {
        self.0.clock.idle(self.0.heartbeat_interval()).await;
    }

    pub(super) fn is_released(&self) -> bool {
        self.0.is_released.get()
    }

    /// Waits until a call may be due, or for one heartbeat interval.
    pub(super) async fn wait(&self, next_due: Option<Duration>) {
        let interval = self.0.heartbeat_interval();
        let wait = next_due.unwrap_or(interval).clamp(SHORTEST_WAIT, interval);
        let inner = &self.0;
        select(pin!(inner.wake_replay.notified()), pin!(inner.clock.idle(wait))).await;
    }

    /// Waits until all updates so far are on the disk, or were tried twice.
    pub(super) async fn flush(&self) {
        for _ in 0..2 {
            // Behind the pending updates: afterwards it is known which of them failed.
            let _ = self.0.writer.submit(|_| Ok(())).committed().await;
            yield_now().await;
            self.0.retry_failed_updates();
        }
    }

    /// Releases all calls of this process.
    pub(super) fn release_all(&self) -> super::writer::Submitted<()> {
        self.0.is_released.set(true);
        let owner = self.0.owner;
        self.0
            .writer
            .submit(move |connection| store::release_all(connection, owner))
    }

    pub(crate) async fn list(self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        let listed = self.0.writer.submit(move |connection| store::list(connection, query));
        listed.committed().await
    }

    pub(crate) async fn requeue(self, id: CallId) -> Result<(), OutboxError> {
        let expires_after = milliseconds_of(self.0.options.expires_after());
        let expires_at = self.0.now().saturating_add(expires_after);
        self.change(move |connection| store::requeue(connection, id, expires_at))
            .await
    }

    pub(crate) async fn discard(self, id: CallId) -> Result<(), OutboxError> {
        self.change(move |connection| store::discard(connection, id)).await
    }

    /// Changes a call that is not being sent. `change` returns whether there is one.
    async fn change(
        self,
        change: impl FnMut(&Connection) -> rusqlite::Result<bool> + Send + 'static,
    ) -> Result<(), OutboxError> {
        let changed = self.0.writer.submit(change).committed().await?;
        self.0.wake_replay.notify_one();
        if changed { Ok(()) } else { Err(OutboxError::NoSuchCall) }
    }
}

impl Inner {
    fn heartbeat_interval(&self) -> Duration {
        let third = self.options.heartbeat_timeout().checked_div(3);
        third.unwrap_or_default().max(SHORTEST_WAIT)
    }

    /// The time of day in milliseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        let (time, instant) = self.started;
        let passed = self.clock.instant().saturating_duration_since(instant);
        milliseconds(time).saturating_add(milliseconds_of(passed))
    }

    pub(super) fn scope(&self) -> Scope {
        Scope {
            platform: self.platform.clone(),
            worker: self.worker.borrow().id.clone(),
        }
    }

    /// Moves the calls of the worker's former ids to its present one.
    pub(super) fn reassign_worker(&self) -> impl FnMut(&Connection) -> rusqlite::Result<()> + Send + use<> {
        let (scope, former) = (self.scope(), self.worker.borrow().former.clone());
        move |connection| {
            let mut former = former.iter();
            former.try_for_each(|former| store::reassign_worker(connection, &scope.platform, former, &scope.worker))
        }
    }

    /// Wakes the replay now, and whenever a call has been sent: a call is parked behind one that is being sent.
    pub(super) fn wake_for_blocked_lane(&self) {
        self.has_blocked_lane.set(true);
        self.wake_replay.notify_one();
    }
}
