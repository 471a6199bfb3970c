//! What a delivery asks of the outbox, and what it does by itself: which calls are kept, parked, due, dead, or another
//! process's.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::pending,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use actix_rt::{spawn, task::JoinHandle};
use futures_util::future::select;
use log::{info, warn};
use rusqlite::Connection;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    DeliveryId, LONGEST_WAIT, OutboxEntry, OutboxError, OutboxOptions, Page, milliseconds, milliseconds_of,
    store::{self, ClaimedCall, Failure, NOBODY, NewCall, NewMessage, Place, Scope},
    writer::Writer,
};
use crate::{
    clock::Clock,
    error::{AttemptError, CallError, TransientError},
    lanes::{Key, Turn},
    message::CallReceipt,
    panics::quietly,
    wire::Call,
};

/// How often the file is looked at, at the most.
const SHORTEST_WAIT: Duration = Duration::from_millis(3);

/// Messages that have no place in memory, on their way to the disk, at the most.
const MAX_ENTERING: usize = 10_000;

/// What [`Options`](crate::Options) hold of it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    options: OutboxOptions,
    writer: Writer,
}

impl Settings {
    /// Opens the file.
    pub(crate) fn open(options: OutboxOptions) -> Result<Self, OutboxError> {
        let writer = Writer::start(options.path.clone(), options.max_bytes)?;
        Ok(Self { options, writer })
    }
}

/// The outbox as a poster sees it. There may be none.
#[derive(Clone, Default)]
pub(crate) struct Outbox(Option<Rc<Open>>);

struct Open {
    options: OutboxOptions,
    writer: Writer,
    /// What this process is called in the file.
    owner: i64,
    platform: String,
    workers: RefCell<Workers>,
    clock: Clock,
    /// A jump of the host's clock is none of the outbox's: its time goes on from here, by the clock that never jumps.
    started: (SystemTime, Instant),
    /// What could not be written when it should have been.
    unwritten: RefCell<Vec<Change>>,
    entering: Cell<usize>,
    /// Whether something is parked behind a call that is on its way.
    blocks: Cell<bool>,
    /// Whether this process has given back what it had.
    left: Cell<bool>,
    /// The signs of life of other processes, and since when they are the same.
    signs: RefCell<BTreeMap<i64, (i64, Instant)>>,
    woken: Notify,
}

/// Who this process is to the platform, and was.
struct Workers {
    /// Empty if it has none, or none is known yet.
    current: String,
    is_known: bool,
    all: BTreeSet<String>,
}

/// What becomes of a call in the file.
#[derive(Debug, Clone)]
enum Change {
    Remove(Place),
    GiveBack(Place),
    Park(Place, Failure, i64),
    Bury(Place, Failure),
}

impl Change {
    /// Returns whether the call was there.
    fn apply(&self, connection: &Connection, owner: i64) -> rusqlite::Result<bool> {
        let changed = match self {
            Self::Remove(call) => store::remove(connection, call),
            Self::GiveBack(call) => store::give_back(connection, call, owner),
            Self::Park(call, failure, due_at) => store::park(connection, call, owner, *due_at, failure),
            Self::Bury(call, failure) => store::bury(connection, call, failure),
        }?;
        Ok(changed > 0)
    }
}

impl Outbox {
    pub(crate) fn new(settings: Option<Settings>, platform: &str, worker_id: &str, clock: Clock) -> Self {
        Self(settings.map(|Settings { options, writer }| {
            Rc::new(Open {
                options,
                writer,
                owner: rand::random(),
                platform: platform.to_owned(),
                workers: RefCell::new(Workers {
                    current: worker_id.to_owned(),
                    is_known: !worker_id.is_empty(),
                    all: BTreeSet::from([worker_id.to_owned()]),
                }),
                started: (clock.now(), clock.instant()),
                clock,
                unwritten: RefCell::default(),
                entering: Cell::default(),
                blocks: Cell::default(),
                left: Cell::default(),
                signs: RefCell::default(),
                woken: Notify::new(),
            })
        }))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the options leave it open who the worker is, and nothing has told it yet.
    pub(crate) fn needs_worker(&self) -> bool {
        self.0.as_ref().is_some_and(|open| !open.workers.borrow().is_known)
    }

    /// This is who the worker is now: what was from an earlier one of this process, or from nobody yet, is from this one.
    pub(crate) fn meet(&self, worker_id: &str) {
        let Some(open) = &self.0 else { return };
        let mut workers = open.workers.borrow_mut();
        if workers.is_known && workers.current == worker_id {
            return;
        }
        if !workers.is_known && !worker_id.is_empty() {
            workers.all.remove("");
            let (platform, worker) = (open.platform.clone(), worker_id.to_owned());
            let adopted = open
                .writer
                .run(move |connection| store::adopt(connection, &platform, &worker));
            drop(adopted);
        }
        workers.is_known = true;
        workers.current = worker_id.to_owned();
        workers.all.insert(worker_id.to_owned());
    }

    /// Keeps a message before it is sent. Without a turn, it is not to be sent now.
    pub(crate) async fn enter(&self, key: &Key, calls: &[Call], turn: Option<&Turn>) -> Entry {
        let Some(open) = &self.0 else {
            return Entry::default();
        };
        let (now, scope, owner) = (open.now(), open.scope(), turn.map(|_| open.owner));
        let is_first = turn.is_some_and(|turn| !turn.is_behind());
        let _entering = match turn {
            Some(_) => None,
            // Those have no other bound.
            None => match Entering::begin(open) {
                Some(entering) => Some(entering),
                None => return Entry::default(),
            },
        };
        let keys = calls.iter().map(|call| call.idempotency_key.clone()).collect();
        let message = NewMessage {
            worker: open.workers.borrow().current.clone(),
            lane: lane(key),
            calls: calls
                .iter()
                .map(|call| NewCall {
                    name: call.subject().0,
                    subject: call.subject().1.to_owned(),
                    idempotency_key: call.idempotency_key.clone(),
                    body: call.stored_body(),
                })
                .collect(),
            now,
            expires_at: now.saturating_add(milliseconds_of(open.options.expires_after)),
        };
        let inserted = open
            .writer
            .run(move |connection| store::insert(connection, &scope, owner, &message, is_first));
        match inserted.await {
            Ok((first, parked)) => {
                if parked {
                    open.blocks.set(true);
                    open.woken.notify_one();
                }
                let open = Some(Rc::clone(open));
                Entry {
                    open,
                    first,
                    keys,
                    parked,
                    error: None,
                }
            }
            Err(error) => Entry {
                error: Some(error),
                ..Entry::default()
            },
        }
    }
}

/// A message without a place in memory, on its way to the disk.
struct Entering(Rc<Open>);

impl Entering {
    fn begin(open: &Rc<Open>) -> Option<Self> {
        let count = open.entering.get();
        open.entering.set(count.saturating_add(1));
        // Dropped, and so not counted, if there are too many.
        Some(Self(Rc::clone(open))).filter(|_| count < MAX_ENTERING)
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        self.0.entering.set(self.0.entering.get().saturating_sub(1));
    }
}

/// A message's place in the outbox; nothing without one.
#[derive(Clone, Default)]
pub(crate) struct Entry {
    open: Option<Rc<Open>>,
    /// Its first call's number; the others follow.
    first: i64,
    /// The idempotency keys of its calls.
    keys: Vec<String>,
    parked: bool,
    /// Why it is not kept, although there is an outbox.
    error: Option<OutboxError>,
}

impl Entry {
    /// Whether it survives the process.
    pub(crate) fn is_kept(&self) -> bool {
        self.open.is_some()
    }

    /// Whether it is not to be sent now.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked
    }

    /// The receipt of a call that is on disk, and yet to be delivered.
    pub(crate) fn queued(&self, index: usize) -> CallReceipt {
        CallReceipt {
            attempts: 0,
            elapsed: Duration::ZERO,
            outbox: Note::Kept(self.id(index)),
        }
    }

    /// The error of a call that is on disk, and was not attempted for this reason.
    pub(crate) fn parked(&self, index: usize, reason: &'static str) -> CallError {
        CallError::Transient(TransientError {
            attempts: 0,
            last: AttemptError::NotAttempted { reason },
            retry_after: None,
            may_have_been_delivered: false,
            outbox: Note::Kept(self.id(index)),
        })
    }

    fn id(&self, index: usize) -> DeliveryId {
        DeliveryId(self.first.saturating_add(i64::try_from(index).unwrap_or_default()))
    }

    /// Whether an earlier message of its lane has been parked meanwhile: then so is this one.
    pub(crate) async fn is_behind(&self, key: &Key) -> bool {
        let Some(open) = &self.open else { return false };
        let (scope, owner, lane, first) = (open.scope(), open.owner, lane(key), self.first);
        let places: Vec<_> = (0..self.keys.len()).map(|index| self.place(index)).collect();
        let behind = open.writer.run(move |connection| {
            let behind = store::is_behind(connection, &scope, NOBODY, &lane, first)?;
            for place in places.iter().filter(|_| behind) {
                store::give_back(connection, place, owner)?;
            }
            Ok(behind)
        });
        open.blocks.set(true);
        // If it can't be told, the message is sent: better out of order than not at all.
        behind.await.unwrap_or(false)
    }

    /// Writes down what has become of a call. `is_over` says that it was the end of the poster that cancelled it; `stop`
    /// ends the wait for the disk, not the writing.
    pub(crate) async fn settle(
        &self,
        index: usize,
        outcome: Outcome,
        is_over: bool,
        stop: &CancellationToken,
    ) -> Outcome {
        let Some(open) = &self.open else {
            return noted(self.note(index), outcome);
        };
        let place = self.place(index);
        match outcome {
            Ok(receipt) => {
                open.change(Change::Remove(place));
                Ok(receipt)
            }
            Err(CallError::Cancelled {
                may_have_been_delivered,
            }) if is_over => {
                open.change(Change::GiveBack(place));
                Err(shut_down(self.id(index), may_have_been_delivered))
            }
            Err(error @ CallError::Cancelled { .. }) => {
                // Who cancels must be able to rely on it.
                stop.run_until_cancelled(open.change(Change::Remove(place))).await;
                Err(error)
            }
            Err(error) => {
                // So that who hears of it finds it in the list.
                let change = open.change(open.after(place, &error, 0, 0));
                let note = match stop.run_until_cancelled(change).await {
                    // Somebody has deleted the file meanwhile.
                    Some(Ok(false)) => Note::NotKept(OutboxError::Gone),
                    _ => self.note(index),
                };
                noted(note, Err(error))
            }
        }
    }

    fn place(&self, index: usize) -> Place {
        Place {
            id: self.id(index).0,
            key: self.keys.get(index).cloned().unwrap_or_default(),
        }
    }

    fn note(&self, index: usize) -> Note {
        match (&self.open, &self.error) {
            (Some(_), _) => Note::Kept(self.id(index)),
            (None, Some(error)) => Note::NotKept(error.clone()),
            (None, None) => Note::None,
        }
    }
}

/// The outcome, with what the outbox has to say of it.
fn noted(outbox: Note, outcome: Outcome) -> Outcome {
    match outcome {
        Ok(receipt) => Ok(CallReceipt { outbox, ..receipt }),
        Err(CallError::Transient(error)) => Err(CallError::Transient(TransientError { outbox, ..error })),
        Err(error) => Err(error),
    }
}

/// The error of a call that was broken off by the end of the poster, and stays on disk.
fn shut_down(id: DeliveryId, may_have_been_delivered: bool) -> CallError {
    CallError::Transient(TransientError {
        attempts: 0,
        last: AttemptError::NotAttempted {
            reason: "the poster was shut down",
        },
        retry_after: None,
        may_have_been_delivered,
        outbox: Note::Kept(id),
    })
}

fn lane(key: &Key) -> String {
    match key {
        Key::Session(id) => format!("session {id}"),
        Key::Issue(id) => format!("issue {id}"),
    }
}

/// What a receipt or an error has to say of the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Note {
    #[default]
    None,
    /// It is on disk, and will be delivered.
    Kept(DeliveryId),
    NotKept(OutboxError),
}

impl Note {
    pub(crate) fn is_kept(&self) -> bool {
        self.kept().is_some()
    }

    pub(crate) fn kept(&self) -> Option<DeliveryId> {
        match self {
            Self::Kept(id) => Some(*id),
            Self::None | Self::NotKept(_) => None,
        }
    }

    pub(crate) fn not_kept(&self) -> Option<&OutboxError> {
        match self {
            Self::NotKept(error) => Some(error),
            Self::None | Self::Kept(_) => None,
        }
    }
}

type Outcome = Result<CallReceipt, CallError>;

/// A message that was kept, and whose turn it is to be delivered.
pub(crate) type Claimed = Vec<ClaimedCall>;

// What the replay asks for.
impl Outbox {
    /// Takes up to `limit` calls that are due, the oldest first, message by message, and tells when the next one will be.
    pub(crate) async fn claim(&self, limit: usize) -> (Vec<Claimed>, Option<Duration>) {
        let Some(open) = &self.0 else {
            return Default::default();
        };
        let (scope, owner, now) = (open.scope(), open.owner, open.now());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let claimed = open.writer.run(move |connection| {
            let calls = store::claim(connection, &scope, owner, now, limit)?;
            Ok((calls, store::next_due(connection, &scope, now)?))
        });
        let (calls, next_due) = claimed.await.unwrap_or_else(|error| {
            quietly(|| warn!("what is parked can't be read: {error}"));
            Default::default()
        });
        open.blocks.set(!calls.is_empty() || next_due.is_some());
        let mut messages: Vec<Claimed> = Vec::new();
        for call in calls {
            match messages.last_mut() {
                Some(message) if message.iter().any(|other| other.message == call.message) => message.push(call),
                _ => messages.push(vec![call]),
            }
        }
        let wait = next_due.and_then(|due_at| u64::try_from(due_at.saturating_sub(now)).ok());
        (messages, wait.map(Duration::from_millis))
    }

    /// Gives back a call that was claimed, as it was.
    pub(crate) fn give_back(&self, call: &ClaimedCall) {
        if let Some(open) = &self.0 {
            open.change(Change::GiveBack(call.place()));
        }
    }

    /// Makes a dead letter of a call that was claimed.
    pub(crate) fn bury(&self, call: &ClaimedCall, error: String) {
        if let Some(open) = &self.0 {
            let failure = Failure {
                attempts: call.attempts,
                rounds: call.rounds,
                status_code: None,
                error,
            };
            open.change(Change::Bury(call.place(), failure));
        }
    }

    /// Writes down what has become of a call that was claimed.
    pub(crate) fn settle(&self, call: &ClaimedCall, outcome: Outcome) -> Outcome {
        let Some(open) = &self.0 else { return outcome };
        let mut change = match &outcome {
            Ok(_) => Change::Remove(call.place()),
            Err(error) => open.after(call.place(), error, call.attempts, call.rounds),
        };
        if let Change::Park(place, failure, _) = &change
            && call.expires_at <= open.now()
        {
            let error = format!("expired; {}", failure.error);
            change = Change::Bury(
                place.clone(),
                Failure {
                    error,
                    ..failure.clone()
                },
            );
        }
        let is_dead = matches!(change, Change::Bury(..));
        open.change(change);
        match outcome {
            Err(CallError::Cancelled {
                may_have_been_delivered,
            }) => Err(shut_down(DeliveryId(call.id), may_have_been_delivered)),
            outcome if is_dead => outcome,
            outcome => noted(Note::Kept(DeliveryId(call.id)), outcome),
        }
    }

    /// Shows a sign of life, takes over from those that have shown none for a lease, mends what a clock
    /// that was wrong has written, and writes what could not be written when it should have been.
    pub(crate) async fn beat(&self) {
        let Some(open) = &self.0 else { return };
        let now = open.clock.instant();
        let (owner, changes) = (open.owner, open.unwritten.take());
        let (again, scope, time) = (changes.clone(), open.scope(), open.now());
        // Later than any wait.
        let horizon = time.saturating_add(milliseconds_of(LONGEST_WAIT.saturating_mul(2)));
        let beat = open.writer.run(move |connection| {
            for change in &changes {
                change.apply(connection, owner)?;
            }
            store::mend_due(connection, &scope, time, horizon)?;
            store::beat(connection, owner)
        });
        let Ok(signs) = beat.await else {
            open.unwritten.borrow_mut().extend(again);
            return;
        };
        let mut gone = Vec::new();
        {
            let mut seen = open.signs.borrow_mut();
            seen.retain(|owner, _| signs.iter().any(|(other, _)| other == owner));
            for (owner, sign) in signs {
                let (last, since) = seen.entry(owner).or_insert((sign, now));
                if *last != sign {
                    (*last, *since) = (sign, now);
                } else if now.saturating_duration_since(*since) >= open.options.lease {
                    gone.push(owner);
                }
            }
        }
        for gone in gone {
            let scope = open.scope();
            let freed = open
                .writer
                .run(move |connection| store::take_over(connection, &scope, gone));
            if let Ok(calls @ 1..) = freed.await {
                quietly(|| info!(calls; "taking over from a process that is gone"));
                open.woken.notify_one();
            }
        }
    }

    pub(crate) async fn until_next_beat(&self) {
        if let Some(open) = &self.0 {
            open.clock.sleep(open.beat_interval()).await;
        }
    }

    pub(crate) fn has_left(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.left.get())
    }

    /// Waits until something may be due, or it is time for the next sign of life.
    pub(crate) async fn wait(&self, next_due: Option<Duration>) {
        let Some(open) = &self.0 else { return pending().await };
        let beat = open.beat_interval();
        let wait = next_due.unwrap_or(beat).clamp(SHORTEST_WAIT, beat);
        select(pin!(open.woken.notified()), pin!(open.clock.sleep(wait))).await;
    }

    /// Gives back what this process still has, and waits until all is on disk.
    ///
    /// It begins with that even if it is not waited for.
    pub(crate) fn leave(&self) -> impl Future<Output = ()> + use<> {
        let left = self.0.as_ref().map(|open| {
            open.left.set(true);
            let (owner, changes) = (open.owner, open.unwritten.take());
            open.writer.run(move |connection| {
                for change in &changes {
                    change.apply(connection, owner)?;
                }
                store::leave(connection, owner)
            })
        });
        async {
            if let Some(left) = left {
                let _ = left.await;
            }
        }
    }

    pub(crate) async fn list(self, dead: bool, page: Page) -> Result<Vec<OutboxEntry>, OutboxError> {
        let open = self.0.ok_or(OutboxError::NotConfigured)?;
        open.writer
            .run(move |connection| store::list(connection, dead, page))
            .await
    }

    pub(crate) async fn requeue(self, id: DeliveryId) -> Result<bool, OutboxError> {
        let open = self.0.ok_or(OutboxError::NotConfigured)?;
        let now = open.now();
        let expires_at = now.saturating_add(milliseconds_of(open.options.expires_after));
        let requeued = open
            .writer
            .run(move |connection| store::requeue(connection, id.0, now, expires_at));
        let requeued = requeued.await?;
        open.woken.notify_one();
        Ok(requeued)
    }

    pub(crate) async fn discard(self, id: DeliveryId) -> Result<bool, OutboxError> {
        let open = self.0.ok_or(OutboxError::NotConfigured)?;
        open.writer
            .run(move |connection| store::discard(connection, id.0))
            .await
    }
}

impl Open {
    fn beat_interval(&self) -> Duration {
        self.options.lease.checked_div(3).unwrap_or_default().max(SHORTEST_WAIT)
    }

    /// In milliseconds since 1970.
    fn now(&self) -> i64 {
        let (time, instant) = self.started;
        let passed = self.clock.instant().saturating_duration_since(instant);
        milliseconds(time).saturating_add(milliseconds_of(passed))
    }

    fn scope(&self) -> Scope {
        Scope {
            platform: self.platform.clone(),
            workers: serde_json::to_string(&self.workers.borrow().all).unwrap_or_default(),
        }
    }

    /// Begins to write it down, now. It need not be waited for.
    fn change(self: &Rc<Self>, change: Change) -> JoinHandle<bool> {
        let (open, owner, again) = (Rc::clone(self), self.owner, change.clone());
        let written = self.writer.run(move |connection| change.apply(connection, owner));
        spawn(async move {
            let wakes = !matches!(again, Change::Remove(_)) || open.blocks.get();
            match written.await {
                Ok(was_there) => {
                    if wakes {
                        open.woken.notify_one();
                    }
                    was_there
                }
                // It is there as it was, and this is made up for.
                Err(_) => {
                    open.unwritten.borrow_mut().push(again);
                    true
                }
            }
        })
    }

    /// What becomes of a call that has failed so, after so many earlier attempts in so many rounds.
    fn after(&self, call: Place, error: &CallError, attempts: u32, rounds: u32) -> Change {
        let failure = |attempted: u32, status_code| Failure {
            attempts: attempts.saturating_add(attempted),
            rounds: rounds.saturating_add(1),
            status_code,
            error: error.without_body(),
        };
        let due_at = |retry_after| {
            let wait = self.options.wait(rounds, retry_after, rand::random());
            self.now().saturating_add(milliseconds_of(wait))
        };
        match error {
            CallError::Permanent(refusal) => Change::Bury(call, failure(1, Some(refusal.status_code))),
            CallError::Transient(error) => {
                let due_at = due_at(error.retry_after);
                Change::Park(call, failure(error.attempts, None), due_at)
            }
            CallError::NoCredentials | CallError::Internal { .. } => Change::Park(call, failure(0, None), due_at(None)),
            CallError::Cancelled { .. } => Change::GiveBack(call),
            CallError::Invalid(_) | CallError::Overloaded | CallError::ShuttingDown => Change::GiveBack(call),
        }
    }
}
