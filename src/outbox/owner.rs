//! The outbox of one poster: an owner of lanes, with its clock and what it remembers of them.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use futures_util::future::{Either, select};
use log::info;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::{
    config::Config,
    counted::Counted,
    dead_letter::UnwrittenLetters,
    delays::Delays,
    deliveries::Deliveries,
    entry::{EntryQuery, OutboxEntry, OutboxStats},
    failures::{Failures, Operation},
    faults::Witnesses,
    inflow::Inflow,
    options::OutboxOptions,
    overflow::Overflowing,
    sending::Sending,
    settlement_queue::SettlementQueue,
    store::{ISSUE_LANE, Store, WallTime, Watched},
    track::DeliveryEnd,
    unauthorized::Unauthorized,
    unwritten::Unwritten,
};
use crate::{
    call::{Call, Target},
    call_id::CallId,
    clock::Clock,
    error::OutboxError,
    util::ignore_panic,
};

/// How often a process notes that it runs, while it waits for the store.
const TICK: Duration = Duration::from_secs(1);

/// The outbox of a poster. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Outbox(pub(super) Rc<Inner>);

pub(super) struct Inner {
    pub(super) options: OutboxOptions,
    pub(super) store: Rc<dyn Store>,
    pub(super) clock: Clock,
    /// The worker id of the options.
    pub(super) fixed_worker: Option<String>,
    pub(super) delays: RefCell<Delays>,
    pub(super) witnesses: RefCell<Witnesses>,
    pub(super) unauthorized: RefCell<Unauthorized>,
    /// Settlements that could not be written.
    pub(super) unwritten: Unwritten,
    pub(super) unwritten_letters: UnwrittenLetters,
    /// Settlements that wait for those before them.
    pub(super) to_settle: SettlementQueue,
    pub(super) failures: Failures,
    pub(super) counted: Counted,
    pub(super) deliveries: RefCell<Deliveries>,
    pub(super) sending: Sending,
    pub(super) inflow: RefCell<Inflow>,
    pub(super) is_closed: Cell<bool>,
    /// Inserts and settlements that are being written.
    pub(super) writes: TaskTracker,
    /// Inserts of messages that have no place in the queue.
    pub(super) overflowing: Rc<Overflowing>,
    pub(super) wake_replay: Arc<Notify>,
    /// A random number from 0 to 1.
    pub(super) chance: fn() -> f64,
    /// When the replay last looked at the store: long ago means that the process was stopped.
    last_look: Cell<Instant>,
    /// When messages in hand became uncertain that came before: this process was found to have been stopped, or a lane was
    /// released later than they were told to be live in it.
    uncertain_at: Cell<Option<Instant>>,
}

/// Since when this owner has had a message: noted before the store was asked for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub(super) at: Instant,
    /// How often the store had been replaced.
    pub(super) replacements: u64,
}

impl Outbox {
    pub(crate) fn new(
        config: Config,
        platform_url: &str,
        organization_id: Option<&str>,
        worker_id: &str,
        clock: Clock,
    ) -> Self {
        let queue = config.options.queue(platform_url, organization_id);
        let (store, wake_replay) = config.store(queue);
        Self::over(store, wake_replay, config.options, worker_id, clock, rand::random)
    }

    /// An outbox over any store.
    pub(super) fn over(
        store: Rc<dyn Store>,
        wake_replay: Arc<Notify>,
        options: OutboxOptions,
        worker_id: &str,
        clock: Clock,
        chance: fn() -> f64,
    ) -> Self {
        Self(Rc::new(Inner {
            options,
            store,
            fixed_worker: Some(worker_id.to_owned()).filter(|id| !id.is_empty()),
            delays: RefCell::default(),
            witnesses: RefCell::default(),
            unauthorized: RefCell::default(),
            unwritten: Unwritten::default(),
            unwritten_letters: UnwrittenLetters::default(),
            to_settle: SettlementQueue::default(),
            failures: Failures::new(clock.clone()),
            counted: Counted::default(),
            deliveries: RefCell::default(),
            sending: Sending::default(),
            inflow: RefCell::default(),
            is_closed: Cell::default(),
            writes: TaskTracker::new(),
            overflowing: Rc::default(),
            wake_replay,
            chance,
            last_look: Cell::new(clock.instant()),
            uncertain_at: Cell::default(),
            clock,
        }))
    }

    pub(crate) async fn list(self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        self.0.store.list(query).await
    }

    pub(crate) async fn requeue(self, id: CallId) -> Result<(), OutboxError> {
        let requeued = self.0.store.requeue(id, self.0.now()).await?;
        self.0.wake_replay.notify_one();
        found(requeued)
    }

    pub(crate) async fn discard(self, id: CallId) -> Result<(), OutboxError> {
        let discarded = self.0.store.discard(id).await?;
        if discarded {
            self.0.deliveries.borrow_mut().ended(id, &DeliveryEnd::Discarded);
        }
        self.0.wake_replay.notify_one();
        found(discarded)
    }

    pub(crate) async fn stats(self) -> Result<OutboxStats, OutboxError> {
        self.0.store.stats().await
    }
}

fn found(is_found: bool) -> Result<(), OutboxError> {
    if is_found { Ok(()) } else { Err(OutboxError::NoSuchCall) }
}

/// The name of a target's lane.
pub(super) fn lane(target: &Target) -> String {
    match target {
        Target::Session(id) => format!("session {id}"),
        Target::Issue(id) => format!("{ISSUE_LANE}{id}"),
    }
}

/// The time of day by this clock.
pub(super) fn wall_time(clock: &Clock) -> WallTime {
    let since_epoch = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

impl Inner {
    /// The time of day, for the store.
    pub(super) fn now(&self) -> WallTime {
        wall_time(&self.clock)
    }

    /// Frees the lanes of dead owners, and retries what could not be written. Returns whether there may be something to
    /// claim. `saw_nothing`: the store has just looked itself, in vain.
    pub(super) async fn look(&self, saw_nothing: bool) -> bool {
        self.while_running(async {
            self.retry_unwritten().await;
            self.look_for_ends().await;
            self.retry_writing().await;
        })
        .await;
        if saw_nothing {
            return false;
        }
        let delay = self.options.wait(0, None, 0.0);
        let started = self.failures.start(Operation::Watch);
        let watched = self.while_running(self.store.watch(self.now(), delay)).await;
        started.end(&watched);
        let Watched { freed, has_changed } = watched.unwrap_or_default();
        if freed > 0 {
            ignore_panic(|| info!("took over {freed} calls of a dead process"));
        }
        freed > 0 || has_changed
    }

    pub(super) fn since(&self) -> Since {
        Since {
            at: self.clock.instant(),
            replacements: self.store.replacements(),
        }
    }

    /// Whether the store has to be asked before a call is sent that has been in hand since then.
    pub(super) fn is_uncertain_since(&self, since: Instant) -> bool {
        self.notice_stop();
        self.uncertain_at.get().is_some_and(|at| since <= at)
    }

    /// Messages that are in hand now are uncertain.
    pub(super) fn become_uncertain(&self) {
        self.uncertain_at.set(Some(self.clock.instant()));
    }

    /// The output of work of the store, which may hang: then this process is not stopped.
    pub(super) async fn while_running<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            self.notice_stop();
            self.last_look.set(self.clock.instant());
            match select(work.as_mut(), pin!(self.clock.idle(TICK))).await {
                Either::Left((output, _)) => return output,
                Either::Right(_) => {}
            }
        }
    }

    fn notice_stop(&self) {
        const SUSPICIOUS: Duration = Duration::from_secs(5);
        let now = self.clock.instant();
        if now.saturating_duration_since(self.last_look.get()) > SUSPICIOUS {
            self.uncertain_at.set(Some(now));
        }
    }

    /// Whether the lane of these calls has any in the store that have not ended.
    pub(super) async fn has_calls(&self, calls: &[Call]) -> bool {
        let Some(lane) = calls.first().map(|call| lane(&call.target)) else {
            return false;
        };
        let has_calls = self.store.has_calls(lane.clone(), self.unwritten.deleted()).await;
        has_calls.unwrap_or_else(|_| self.delays.borrow().contains(&lane))
    }

    /// Whether the store no longer has this call, as after the removal of its file.
    pub(super) async fn has_lost(&self, id: CallId) -> bool {
        let query = EntryQuery::all().after(id.previous()).limit(1);
        match self.store.list(query).await {
            Ok(entries) => entries.iter().all(|entry| entry.id != id),
            Err(error) => error == OutboxError::NotFound,
        }
    }
}
