//! A deterministic simulation: several processes over one store in memory, a platform that misbehaves, and clocks that are
//! advanced by hand. A process may crash before and after each operation of the store, and in the middle of each request.
//!
//! A failing seed is printed: `SIMULATION_SEED=<seed> cargo test simulation`. `SIMULATION_SEEDS=<count>` runs more of them.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is a failed test"
)]

mod flapping;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashSet},
    future::pending,
    num::NonZero,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use futures_util::future::LocalBoxFuture;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::{LocalSet, yield_now};
use tokio_util::sync::CancellationToken;

use super::{
    entry::{EntryQuery, OutboxEntry, OutboxStats},
    options::OutboxOptions,
    owner::Outbox,
    route::Durable,
    store::{
        Change, ClaimRequest, Claimed, Inserted, LaneClaim, MemoryStore, NewMessage, Settled, Settlement, Store,
        StoreFuture, Tables, WallTime, Watched,
    },
};
use crate::{
    call::{Call, PlatformRoute, Target},
    call_id::CallId,
    clock::{Clock, ManualClock},
    delivery::{Dispatcher, Gates, Job, Passage, Worker, max_hanging},
    error::{AttemptError, AttemptPhase, CallError, OutboxError},
    message::PostResult,
    options::Options,
    queue::{AdmitError, Bound, LaneQueue},
    receipt::{CallReceipt, Outcome},
    result::{AgentResult, SessionStatus},
    route::{Overflow, ReplyWhen, Route},
    transport::{HttpRequest, Transport},
    verdict::Answer,
};

const MAX_IN_FLIGHT: usize = 3;
const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// The random numbers that shorten delays, from the seed.
    static CHANCE: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
}

fn chance() -> f64 {
    CHANCE.with_borrow_mut(|random| random.random())
}

/// How many seconds a lane may stay parked because of an outage that is over: as long as the last request takes that is
/// not answered, and some probes.
const LONGEST_OUTAGE: u32 = 40;

/// The platform's present treatment of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Up,
    Refusing,
    Silent,
    Failing,
    Busy,
}

/// The world that all processes share.
struct World {
    random: RefCell<StdRng>,
    tables: Rc<RefCell<Tables>>,
    mood: Cell<Mood>,
    /// Whether processes may crash.
    is_calm: Cell<bool>,
    requests: RefCell<Requests>,
    /// The calls whose delivery was written.
    deleted: RefCell<HashSet<CallId>>,
    violations: RefCell<Vec<String>>,
}

/// The requests that the platform has received.
#[derive(Default)]
struct Requests {
    acknowledged: BTreeMap<String, u32>,
    attempted: BTreeSet<String>,
    rejected: BTreeSet<String>,
    /// The keys of messages that their callers have cancelled.
    withdrawn: BTreeSet<String>,
    /// Process and key of each running request, by target, and whether its message is stored.
    running: BTreeMap<String, Vec<(usize, String, bool)>>,
}

impl World {
    fn chance(&self, one_in: u32) -> bool {
        self.random.borrow_mut().random_range(0..one_in) == 0
    }

    fn pick(&self, count: u32) -> u32 {
        self.random.borrow_mut().random_range(0..count)
    }

    /// Checks that a call which was deleted is settled no more.
    fn note_settled(&self, changes: &[(CallId, Change)]) {
        let mut deleted = self.deleted.borrow_mut();
        for (id, change) in changes {
            if deleted.contains(id) {
                self.violation(format!("call {id} is settled twice"));
            }
            if matches!(change, Change::Delete) {
                deleted.insert(*id);
            }
        }
    }

    fn violation(&self, text: String) {
        self.violations.borrow_mut().push(text);
    }
}

/// One process.
struct Process {
    number: usize,
    world: Rc<World>,
    clock: ManualClock,
    is_crashed: Cell<bool>,
    in_flight: Cell<usize>,
    /// The requests in flight without an answer, which may have given back their permits.
    hanging: Cell<usize>,
    /// The keys of messages that this process could not store. Another process may have stored the same ones.
    unstored: RefCell<BTreeSet<String>>,
    /// Whether a note of calls that are sent could not be stored.
    lacks_note: Cell<bool>,
    gates: OnceCell<Rc<Gates>>,
    /// The requests of each route while its outage gate is closed, and since when it is.
    while_closed: RefCell<BTreeMap<PlatformRoute, (Instant, u32)>>,
    /// When the outage gate of completions was last closed.
    held_completions_at: Cell<Option<Instant>>,
    /// When this process last began to take each call in hand.
    in_hand_since: RefCell<BTreeMap<String, Instant>>,
}

impl Process {
    /// A point at which the process may lose its turn, or its life.
    async fn checkpoint(&self) {
        for _ in 0..self.world.pick(3) {
            yield_now().await;
        }
        self.may_crash().await;
    }

    async fn may_crash(&self) {
        if self.is_crashed.get() || (!self.world.is_calm.get() && self.world.chance(150)) {
            self.is_crashed.set(true);
            pending::<()>().await;
        }
    }
}

impl Process {
    /// Notes which outage gates are closed now.
    fn note_gates(&self) {
        let Some(gates) = self.gates.get() else { return };
        let mut while_closed = self.while_closed.borrow_mut();
        for route in PlatformRoute::ALL {
            if gates.is_closed(route) {
                while_closed.entry(route).or_insert((self.now(), 0));
            } else {
                while_closed.remove(&route);
            }
        }
        if while_closed.contains_key(&PlatformRoute::Completion) {
            self.held_completions_at.set(Some(self.now()));
        }
    }

    fn now(&self) -> Instant {
        Clock::from(self.clock.clone()).instant()
    }

    /// The requests in flight that hold a permit.
    fn permits(&self) -> usize {
        self.in_flight.get() - self.hanging.get()
    }

    fn take_in_hand(&self, keys: impl IntoIterator<Item = String>, now: Instant) {
        self.note_gates();
        self.in_hand_since
            .borrow_mut()
            .extend(keys.into_iter().map(|key| (key, now)));
    }

    /// Whether the gate was closed since the process has had this completion in hand.
    fn may_hold_back(&self, completion: &str) -> bool {
        let since = self.in_hand_since.borrow().get(completion).copied();
        since.is_some() && self.held_completions_at.get() >= since
    }

    /// Checks that a closed gate lets only probes through: after 1 s, and then about every 2 s. A request that was let
    /// through before may start later, and a status follows its completion.
    fn check_gate(&self, route: PlatformRoute) {
        let mut while_closed = self.while_closed.borrow_mut();
        let Some((since, requests)) = while_closed.get_mut(&route) else {
            return;
        };
        if route == PlatformRoute::Status {
            return;
        }
        *requests += 1;
        let probes = self.now().saturating_duration_since(*since).as_millis() / 1500 + 1;
        if u128::from(*requests) > probes + MAX_IN_FLIGHT as u128 {
            self.world
                .violation(format!("{requests} {route} requests while the gate is closed"));
        }
    }
}

/// The store as a process reaches it.
struct SimulatedStore {
    store: Rc<MemoryStore>,
    process: Rc<Process>,
}

impl SimulatedStore {
    fn run<T: 'static>(&self, operation: StoreFuture<T>) -> StoreFuture<T> {
        let process = Rc::clone(&self.process);
        Box::pin(async move {
            // Operations happen in the order in which they were begun, as on the thread of a database.
            process.may_crash().await;
            let answer = operation.await;
            process.checkpoint().await;
            answer
        })
    }

    /// A change: it fails if another process has locked the store for too long, which reads do not notice.
    fn change<T: 'static>(&self, operation: StoreFuture<T>) -> StoreFuture<T> {
        let process = Rc::clone(&self.process);
        let change = self.run(operation);
        Box::pin(async move {
            if !process.world.is_calm.get() && process.world.chance(50) {
                process.checkpoint().await;
                return Err(OutboxError::Locked);
            }
            change.await
        })
    }
}

impl Store for SimulatedStore {
    fn insert(&self, message: NewMessage) -> StoreFuture<Inserted> {
        let process = Rc::clone(&self.process);
        let keys: Vec<_> = message.calls.iter().map(|call| call.idempotency_key.clone()).collect();
        process.take_in_hand(keys.clone(), process.now());
        let insert = self.change(self.store.insert(message));
        Box::pin(async move {
            let inserted = insert.await;
            if inserted.is_err() {
                process.unstored.borrow_mut().extend(keys);
            }
            inserted
        })
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<Claimed> {
        let (process, since) = (Rc::clone(&self.process), self.process.now());
        let claim = self.change(self.store.claim(request));
        Box::pin(async move {
            let claimed = claim.await?;
            let calls = claimed.messages.iter().flat_map(|message| &message.calls);
            process.take_in_hand(calls.map(|call| call.idempotency_key.clone()), since);
            Ok(claimed)
        })
    }

    /// Now and then the lease is about to end, as after an operation of a server that took long. The next one renews it.
    fn has_lease_since(&self, since: Instant) -> bool {
        let world = &self.process.world;
        let is_about_to_end = !world.is_calm.get() && world.chance(30);
        !is_about_to_end && self.store.has_lease_since(since)
    }

    fn is_current(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.run(self.store.is_current(lane, ids))
    }

    fn note_sending(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<()> {
        let process = Rc::clone(&self.process);
        if process.permits() >= MAX_IN_FLIGHT {
            process.world.violation(format!("{ids:?} are noted without a permit"));
        }
        if !process.world.tables.borrow().has_suspect(&ids) {
            process.world.violation(format!("{ids:?} are noted without need"));
        }
        let note = self.change(self.store.note_sending(lane, ids));
        Box::pin(async move {
            let noted = note.await;
            if noted.is_err() {
                process.lacks_note.set(true);
            }
            noted
        })
    }

    fn has_calls(&self, lane: String, ended: HashSet<CallId>) -> StoreFuture<bool> {
        self.run(self.store.has_calls(lane, ended))
    }

    fn set_worker(&self, ids: Vec<CallId>, former: Option<String>, worker_id: String) -> StoreFuture<()> {
        self.change(self.store.set_worker(ids, former, worker_id))
    }

    fn settle(&self, settlements: Arc<[Settlement]>) -> StoreFuture<Vec<Settled>> {
        let world = Rc::clone(&self.process.world);
        let settle = self.store.settle(Arc::clone(&settlements));
        self.change(Box::pin(async move {
            let settled = settle.await?;
            for (settlement, settled) in settlements.iter().zip(&settled) {
                if let Settled::Done { .. } = settled {
                    world.note_settled(&settlement.changes);
                }
            }
            Ok(settled)
        }))
    }

    fn release_all(&self, now: WallTime) -> StoreFuture<()> {
        self.change(self.store.release_all(now))
    }

    fn watch(&self, now: WallTime, delay: Duration) -> StoreFuture<Watched> {
        self.change(self.store.watch(now, delay))
    }

    fn purge(&self, platform_now: WallTime, keep: Duration) -> StoreFuture<()> {
        self.change(self.store.purge(platform_now, keep))
    }

    fn list(&self, query: EntryQuery) -> StoreFuture<Vec<OutboxEntry>> {
        self.run(self.store.list(query))
    }

    fn of_target(&self, lane: String, target_id: String) -> StoreFuture<Vec<OutboxEntry>> {
        self.run(self.store.of_target(lane, target_id))
    }

    fn requeue(&self, id: CallId, now: WallTime) -> StoreFuture<bool> {
        self.change(self.store.requeue(id, now))
    }

    fn withdraw(&self, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.change(self.store.withdraw(ids))
    }

    fn discard(&self, id: CallId) -> StoreFuture<bool> {
        self.change(self.store.discard(id))
    }

    fn replacements(&self) -> u64 {
        self.store.replacements()
    }

    fn stats(&self) -> StoreFuture<OutboxStats> {
        self.run(self.store.stats())
    }

    fn close(&self) -> StoreFuture<()> {
        self.run(self.store.close())
    }
}

/// The platform as a process reaches it.
struct SimulatedTransport(Rc<Process>);

/// The end of a request, also of one that is dropped.
struct Running<'a> {
    process: &'a Process,
    is_hanging: Cell<bool>,
    target: String,
    key: String,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut requests = self.process.world.requests.borrow_mut();
        if let Some(running) = requests.running.get_mut(&self.target) {
            running.retain(|(process, key, _)| (*process, key) != (self.process.number, &self.key));
        }
        self.process.in_flight.set(self.process.in_flight.get() - 1);
        self.hangs(false);
    }
}

impl Running<'_> {
    fn hangs(&self, is_hanging: bool) {
        let hanging = self.process.hanging.get() - usize::from(self.is_hanging.replace(is_hanging));
        self.process.hanging.set(hanging + usize::from(is_hanging));
    }
}

impl SimulatedTransport {
    /// Checks what must hold whenever a request starts.
    fn begin(&self, request: &HttpRequest<'_>) -> Running<'_> {
        let process = &*self.0;
        let key = request.idempotency_key.unwrap_or_default().to_owned();
        // The URL of an issue call does not name its issue.
        let target = if request.url.ends_with("issue-tracker-proxy") {
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            format!("issue {}", body["args"][0].as_str().unwrap())
        } else {
            format!("session {}", request.url.split('/').nth(5).unwrap())
        };
        process.in_flight.set(process.in_flight.get() + 1);
        let world = &process.world;
        if process.permits() > MAX_IN_FLIGHT || process.in_flight.get() > MAX_IN_FLIGHT + max_hanging(MAX_IN_FLIGHT) {
            world.violation(format!("{} requests in flight", process.in_flight.get()));
        }
        let mut requests = world.requests.borrow_mut();
        let tables = world.tables.borrow();
        // An isolated message and its target's lane go past each other.
        let is_isolated = tables.is_isolated(&key);
        let running = requests.running.get(&target).into_iter().flatten();
        // Processes know of each other's messages by the store alone.
        let is_stored = tables.is_waiting(&key) && !process.unstored.borrow().contains(&key);
        let mut others = running.filter(|(number, other, is_other_stored)| {
            tables.is_isolated(other) == is_isolated && (*number == process.number || (is_stored && *is_other_stored))
        });
        if let Some((number, other, _)) = others.next() {
            world.violation(format!("{target}: {key} is sent while {number} sends {other}"));
        }
        if is_stored && !is_isolated {
            // The deletion of a delivered or withdrawn call may not be written yet.
            let mut before = tables.keys_before(&target, &key);
            before.retain(|key| {
                let has_ended = requests.acknowledged.contains_key(key) || requests.rejected.contains(key);
                !has_ended && !requests.withdrawn.contains(key)
            });
            if !before.is_empty() {
                world.violation(format!("{target}: {key} is sent before {before:?}"));
            }
        }
        if is_stored && !process.lacks_note.get() && !tables.counts_death(&key) {
            world.violation(format!("{key} may have killed an owner, and is sent without a note"));
        }
        drop(tables);
        process.note_gates();
        let route = match &key {
            key if key.ends_with("-completion") => PlatformRoute::Completion,
            key if key.ends_with("-status") => PlatformRoute::Status,
            _ => PlatformRoute::Tracker,
        };
        if is_stored {
            process.check_gate(route);
        }
        // A completion that is held back counts as attempted.
        if let Some(session) = key.strip_suffix("-status")
            && let completion = format!("{session}-completion")
            && !requests.attempted.contains(&completion)
            && !process.may_hold_back(&completion)
        {
            world.violation(format!("{key} is sent before its completion was attempted"));
        }
        requests.attempted.insert(key.clone());
        requests
            .running
            .entry(target.clone())
            .or_default()
            .push((process.number, key.clone(), is_stored));
        Running {
            process,
            is_hanging: Cell::new(false),
            target,
            key,
        }
    }
}

impl Transport for SimulatedTransport {
    fn post<'a>(&'a self, request: &'a HttpRequest<'a>) -> LocalBoxFuture<'a, Result<Answer<'a>, AttemptError>> {
        Box::pin(async move {
            let process = &*self.0;
            let world = &process.world;
            let running = self.begin(request);
            process.checkpoint().await;
            let mood = world.mood.get();
            let answer = |status| {
                let body = if status == 200 { r#"{"success":true}"# } else { "" };
                Ok(Answer {
                    status,
                    body: body.into(),
                    ..Answer::default()
                })
            };
            match mood {
                Mood::Refusing => Err(AttemptError::Connect(std::io::Error::other("refused").into())),
                Mood::Silent => {
                    request.phase.set(AttemptPhase::Waiting);
                    running.hangs(true);
                    Clock::from(process.clock.clone()).sleep(30 * SECOND).await;
                    Err(AttemptError::Timeout {
                        limit: 30 * SECOND,
                        phase: AttemptPhase::Waiting,
                    })
                }
                Mood::Failing => answer(503),
                Mood::Busy => answer(429),
                Mood::Up if running.key.contains("bad") => {
                    world.requests.borrow_mut().rejected.insert(running.key.clone());
                    answer(422)
                }
                Mood::Up => {
                    *world
                        .requests
                        .borrow_mut()
                        .acknowledged
                        .entry(running.key.clone())
                        .or_default() += 1;
                    // The response may be lost.
                    process.checkpoint().await;
                    answer(200)
                }
            }
        })
    }
}

/// Each message that was answered, with the keys and the outcomes of its calls.
type Replies = Rc<RefCell<Vec<(Scripted, Vec<String>, Vec<Outcome>)>>>;

/// A message of the scenario, which may be sent again by a later life.
#[derive(Debug, Clone)]
struct Scripted {
    number: u32,
    session: Option<u32>,
    issue: u32,
    reply_when: ReplyWhen,
}

/// A process that runs, and what its messages were told.
struct Life {
    process: Rc<Process>,
    local: LocalSet,
    store: Rc<MemoryStore>,
    dispatcher: Rc<Dispatcher>,
    queue: Rc<LaneQueue>,
    route: Rc<dyn Route>,
}

impl Life {
    fn start(world: &Rc<World>, number: usize, clock: &ManualClock) -> Self {
        let process = Rc::new(Process {
            number,
            world: Rc::clone(world),
            clock: clock.clone(),
            is_crashed: Cell::new(false),
            in_flight: Cell::new(0),
            hanging: Cell::new(0),
            unstored: RefCell::default(),
            lacks_note: Cell::default(),
            gates: OnceCell::new(),
            while_closed: RefCell::default(),
            held_completions_at: Cell::default(),
            in_hand_since: RefCell::default(),
        });
        let options = Options::builder("http://127.0.0.1:1")
            .worker_id("wkr_1")
            .max_in_flight(MAX_IN_FLIGHT)
            .max_queued(4)
            .max_attempts(2)
            .clock(clock.clone())
            .build()
            .unwrap();
        let mut parts = options.into_parts_over(Rc::new(SimulatedTransport(Rc::clone(&process))));
        Rc::get_mut(&mut parts.dispatcher).unwrap().chance = chance;
        let _ = process.gates.set(Rc::clone(&parts.dispatcher.gates));
        let store = MemoryStore::open(&world.tables);
        let simulated = Rc::new(SimulatedStore {
            store: Rc::clone(&store),
            process: Rc::clone(&process),
        });
        let clock = Clock::from(clock.clone());
        let outbox = Outbox::over(
            simulated,
            Arc::default(),
            OutboxOptions::new("unused"),
            "wkr_1",
            clock,
            chance,
        );
        let route: Rc<dyn Route> = Rc::new(Durable::new(outbox));
        let local = LocalSet::new();
        {
            let _guard = local.enter();
            route.start(&parts.dispatcher, &parts.queue);
        }
        Self {
            process,
            local,
            store,
            dispatcher: parts.dispatcher,
            queue: parts.queue,
            route,
        }
    }

    /// Sends a message, as the poster's handler does. Returns the keys of its calls.
    fn send(&self, message: &Scripted, token: Option<CancellationToken>, replies: &Replies) -> Vec<String> {
        let platform = &self.dispatcher.platform;
        let (target, calls): (Target, Vec<Call>) = match message.session {
            Some(session) => {
                let id = Rc::from(format!("s{session}"));
                let result = AgentResult::new(SessionStatus::Completed).with_summary(format!("{}", message.number));
                let calls = platform.session_calls(&id, &PostResult::new(&*id, result));
                (Target::Session(id), calls)
            }
            None => {
                let id = Rc::from(format!("i{}", message.issue));
                let key = if message.number.is_multiple_of(11) {
                    format!("bad-{}", message.number)
                } else {
                    format!("key-{}", message.number)
                };
                let call = platform.create_comment(&id, &message.number.to_string(), key);
                (Target::Issue(id), vec![call])
            }
        };
        let keys: Vec<String> = calls.iter().map(|call| call.idempotency_key.clone()).collect();
        let cancellation = self.dispatcher.cancellation(token);
        let (dispatcher, route) = (Rc::clone(&self.dispatcher), Rc::clone(&self.route));
        let outcomes = match self.queue.admit(target, Bound::Queue) {
            Ok((ticket, permit)) => {
                let job = Box::new(Job {
                    calls,
                    worker: Worker::default(),
                    cancellation,
                    passage: Passage::Free,
                    begin: crate::telemetry::Begin::Arrived(dispatcher.clock.instant()),
                    may_send: None,
                    permit,
                    ticket,
                });
                route.run(dispatcher, job, message.reply_when)
            }
            Err(error) => {
                let reason = match error {
                    AdmitError::Full => crate::error::ParkReason::QueueFull,
                    AdmitError::Closed => crate::error::ParkReason::Shutdown,
                };
                let overflow = Overflow {
                    calls,
                    worker: Worker::default(),
                    cancellation,
                    reason,
                };
                let run_overflow = route.overflow().unwrap();
                run_overflow(dispatcher, overflow, message.reply_when)
            }
        };
        let (replies, message, of_message) = (Rc::clone(replies), message.clone(), keys.clone());
        self.local.spawn_local(async move {
            let outcomes = outcomes.await;
            replies.borrow_mut().push((message, of_message, outcomes));
        });
        keys
    }

    /// Gives the process so many turns, or as many as it has something to do.
    async fn run(&mut self, turns: u32) {
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..turns {
            let turn = Pin::new(&mut self.local).poll(&mut Context::from_waker(&waker));
            // The runtime wakes the tasks that have yielded.
            yield_now().await;
            if turn.is_ready() || !woken.0.swap(false, Ordering::Relaxed) {
                break;
            }
        }
    }
}

/// Whether a process has something to do.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether an outcome promises that the call will be delivered, or was.
fn is_promise(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Ok(CallReceipt::Stored { .. } | CallReceipt::Delivered { .. }) | Err(CallError::Parked(_))
    )
}

async fn simulate(seed: u64) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    CHANCE.set(StdRng::seed_from_u64(seed));
    let processes = random.random_range(1..=3);
    let clocks: Vec<ManualClock> = (0..processes).map(|_| ManualClock::new()).collect();
    for clock in &clocks {
        // Clocks differ, by up to a year.
        let offset = [0, 0, 1, 3600, 365 * 24 * 3600][random.random_range(0..5)];
        clock.set_time_of_day(clock.now() + Duration::from_secs(offset));
    }
    let world = Rc::new(World {
        random: RefCell::new(random),
        tables: Rc::default(),
        mood: Cell::new(Mood::Up),
        is_calm: Cell::new(false),
        requests: RefCell::default(),
        deleted: RefCell::default(),
        violations: RefCell::default(),
    });
    let replies: Replies = Rc::default();
    let mut lives: Vec<Option<Life>> = (0..processes)
        .map(|number| Some(Life::start(&world, number, &clocks[number])))
        .collect();
    let mut sent: Vec<Scripted> = Vec::new();
    let mut cancellable: Vec<(CancellationToken, Vec<String>)> = Vec::new();
    let mut number = 0;
    for _ in 0..world.pick(300) + 50 {
        let process = world.pick(u32::try_from(processes).unwrap()) as usize;
        match (world.pick(13), &lives[process]) {
            (0..4, Some(life)) => {
                number += 1;
                let message = Scripted {
                    number,
                    session: world.chance(2).then(|| world.pick(4)),
                    issue: world.pick(4),
                    reply_when: if world.chance(3) {
                        ReplyWhen::Durable
                    } else {
                        ReplyWhen::Done
                    },
                };
                let token = world.chance(3).then(CancellationToken::new);
                let keys = life.send(&message, token.clone(), &replies);
                cancellable.extend(token.map(|token| (token, keys)));
                sent.push(message);
            }
            // The same message again, perhaps by another process.
            (4, Some(life)) if !sent.is_empty() => {
                let again = &sent[world.pick(u32::try_from(sent.len()).unwrap()) as usize];
                if again.session.is_some() {
                    life.send(&again.clone(), None, &replies);
                }
            }
            (5, _) => {
                let moods = [
                    Mood::Up,
                    Mood::Up,
                    Mood::Refusing,
                    Mood::Silent,
                    Mood::Failing,
                    Mood::Busy,
                ];
                world.mood.set(moods[world.pick(6) as usize]);
            }
            (6, Some(_)) if world.chance(3) => {
                // The process is killed from outside.
                if let Some(life) = &lives[process] {
                    life.process.is_crashed.set(true);
                }
            }
            (7, None) => lives[process] = Some(Life::start(&world, process, &clocks[process])),
            (8, _) if world.chance(10) => {
                // A clock jumps.
                let jump = Duration::from_secs(u64::from(world.pick(100_000)));
                let now = clocks[process].now();
                clocks[process].set_time_of_day(if world.chance(2) { now + jump } else { now - jump });
            }
            (9, _) if !cancellable.is_empty() => {
                // A caller withdraws its message.
                let (token, keys) =
                    cancellable.swap_remove(world.pick(u32::try_from(cancellable.len()).unwrap()) as usize);
                world.requests.borrow_mut().withdrawn.extend(keys);
                token.cancel();
            }
            _ => {
                let step = [10, 100, 1000, 5000, 60_000][world.pick(5) as usize];
                for clock in &clocks {
                    clock.advance(Duration::from_millis(step));
                }
            }
        }
        let turns = world.pick(40);
        run_all(&mut lives, turns).await;
    }
    // Calm: everything works, and everything has to be delivered.
    world.is_calm.set(true);
    world.mood.set(Mood::Up);
    for (number, life) in lives.iter_mut().enumerate() {
        if life.is_none() {
            *life = Some(Life::start(&world, number, &clocks[number]));
        }
    }
    let mut outages: BTreeMap<(String, i64), u32> = BTreeMap::new();
    let mut second = 0;
    while second < 2000 {
        let parked = world.tables.borrow().outages();
        outages.retain(|lane, _| parked.contains(lane));
        for lane in parked {
            let since = *outages.entry(lane).or_insert(second);
            if second - since >= LONGEST_OUTAGE {
                world.violation("calls are parked because of an outage that is over".into());
            }
        }
        if world.tables.borrow().waiting() == 0 {
            break;
        }
        // After a minute, only calls with long delays are left.
        let step = if second < 60 { 1 } else { 10 };
        second += step;
        for clock in &clocks {
            clock.advance(step * SECOND);
        }
        run_all(&mut lives, 60).await;
    }
    let left = world.tables.borrow().waiting();
    if left > 0 {
        world.violation(format!("{left} calls are left"));
    }
    run_all(&mut lives, 200).await;
    let empty = world.tables.borrow().empty_lanes();
    if !empty.is_empty() {
        world.violation(format!("{empty:?} are left without calls"));
    }
    let requests = world.requests.borrow();
    for (message, keys, outcomes) in replies.borrow().iter() {
        for (key, outcome) in keys.iter().zip(outcomes) {
            let is_done = requests.acknowledged.contains_key(key) || requests.rejected.contains(key);
            if is_promise(outcome) && !is_done {
                world.violation(format!("{key} of {message:?} was promised ({outcome:?}) and is lost"));
            }
        }
    }
    let violations = world.violations.borrow();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(format!("seed {seed}: {}", violations.join("; ")))
    }
}

async fn run_all(lives: &mut [Option<Life>], turns: u32) {
    for slot in lives {
        if let Some(life) = slot {
            life.process.note_gates();
            life.run(turns).await;
            life.process.note_gates();
            if life.process.is_crashed.get() {
                life.store.kill();
                *slot = None;
            }
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn failures_of(seeds: &[u64]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let failures = seeds.iter().filter_map(|&seed| runtime.block_on(simulate(seed)).err());
    failures.collect()
}

#[test]
fn every_invariant_holds_in_the_simulation() {
    let seeds: Vec<u64> = match (setting("SIMULATION_SEED"), setting("SIMULATION_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (0..count.unwrap_or(400)).collect(),
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let failures: Vec<String> = thread::scope(|scope| {
        let parts = seeds.chunks(seeds.len().div_ceil(threads));
        let parts: Vec<_> = parts.map(|seeds| scope.spawn(|| failures_of(seeds))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
