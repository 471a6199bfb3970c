//! What this process knows of the outbox, and what it does by itself: claims what is due, shows that it is alive, takes
//! over from those that are gone.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::pending,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use actix_rt::{
    spawn,
    task::{JoinHandle, yield_now},
};
use futures_util::future::select;
use log::{info, warn};
use rusqlite::Connection;
use tokio::sync::Notify;

use super::{
    DeliveryId, LONGEST_WAIT, OutboxEntry, OutboxError, OutboxOptions, Page, milliseconds, milliseconds_of,
    store::{self, ClaimedCall, Failure, Kept, Scope},
    writer::Writer,
};
use crate::{clock::Clock, lanes::Key, panics::quietly};

/// The least time between two looks at the file.
const SHORTEST_WAIT: Duration = Duration::from_millis(3);

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
pub(crate) struct Outbox(pub(super) Option<Rc<Open>>);

pub(super) struct Open {
    pub(super) options: OutboxOptions,
    pub(super) writer: Writer,
    /// What this process is called in the file.
    pub(super) owner: i64,
    platform: String,
    worker: RefCell<Worker>,
    clock: Clock,
    /// A jump of the host's clock is none of the outbox's: its time goes on from here, by the clock that never jumps.
    started: (SystemTime, Instant),
    /// What could not be written when it should have been.
    unwritten: RefCell<Vec<Change>>,
    /// Messages that have no place in memory, on their way to the disk.
    pub(super) entering: Cell<usize>,
    /// Whether something is parked behind a call that is on its way.
    blocks: Cell<bool>,
    /// Whether the file may hold times by a clock that was wrong.
    must_mend: Cell<bool>,
    /// Whether this process has given back what it had.
    left: Cell<bool>,
    signs: RefCell<Signs>,
    woken: Notify,
}

/// Who this process is to the platform, and was.
struct Worker {
    /// Empty if it has none, or none is known yet.
    id: String,
    is_known: bool,
    /// What is from those is from this one now.
    former: BTreeSet<String>,
}

/// What becomes of a call in the file.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Remove(Kept),
    /// Not due before then.
    GiveBack(Kept, i64),
    /// Until then, in milliseconds since 1970.
    Park(Kept, Failure, i64),
    Bury(Kept, Failure),
}

impl Change {
    /// Returns whether the call is there, or was.
    fn apply(&self, connection: &Connection, owner: i64) -> rusqlite::Result<bool> {
        let changed = match self {
            Self::Remove(call) => store::remove(connection, call)?,
            Self::GiveBack(call, due_at) => store::give_back(connection, call, owner, *due_at)?,
            // If this process was taken for dead, the call is another's now.
            Self::Park(call, failure, due_at) => match store::park(connection, call, owner, *due_at, failure)? {
                0 => usize::from(store::owner(connection, call)?.is_some()),
                parked => parked,
            },
            Self::Bury(call, failure) => store::bury(connection, call, failure)?,
        };
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
                worker: RefCell::new(Worker {
                    id: worker_id.to_owned(),
                    is_known: !worker_id.is_empty(),
                    former: BTreeSet::new(),
                }),
                started: (clock.now(), clock.instant()),
                clock,
                unwritten: RefCell::default(),
                entering: Cell::default(),
                blocks: Cell::default(),
                must_mend: Cell::new(true),
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
        self.0.as_ref().is_some_and(|open| !open.worker.borrow().is_known)
    }

    /// This is who the worker is now: what was from an earlier one of this process, or from nobody yet, is from this
    /// one.
    pub(crate) fn meet(&self, worker_id: &str) {
        let Some(open) = &self.0 else { return };
        {
            let mut worker = open.worker.borrow_mut();
            if worker.is_known && worker.id == worker_id {
                return;
            }
            worker.is_known = true;
            let former = std::mem::replace(&mut worker.id, worker_id.to_owned());
            worker.former.insert(former);
            worker.former.remove(worker_id);
        }
        // Every sign of life makes up for it, if this fails.
        drop(open.writer.run(open.adopt()));
    }
}

/// The signs of life of other processes: what they were, since when they are so, and how often they were looked at
/// since.
#[derive(Default)]
struct Signs(BTreeMap<i64, (i64, Instant, u32)>);

impl Signs {
    /// How often a sign has to be the same: all may have slept together, and whoever wakes first must not take the
    /// others for dead.
    const LOOKS: u32 = 3;

    /// Which processes have shown none for a lease, with their last ones, and whether one that was there has left.
    fn look(&mut self, signs: &[(i64, i64)], now: Instant, lease: Duration) -> (Vec<(i64, i64)>, bool) {
        let before = self.0.len();
        self.0.retain(|owner, _| signs.iter().any(|(other, _)| other == owner));
        let have_left = self.0.len() < before;
        let mut gone = Vec::new();
        for &(owner, sign) in signs {
            let (last, since, looks) = self.0.entry(owner).or_insert((sign, now, 0));
            if *last != sign {
                (*last, *since, *looks) = (sign, now, 0);
            }
            *looks = looks.saturating_add(1);
            if *looks > Self::LOOKS && now.saturating_duration_since(*since) >= lease {
                gone.push((owner, sign));
            }
        }
        (gone, have_left)
    }
}

pub(super) fn lane(key: &Key) -> String {
    match key {
        Key::Session(id) => format!("session {id}"),
        Key::Issue(id) => format!("issue {id}"),
    }
}

/// What is left of a message that was kept, and whose turn it is to be delivered.
pub(crate) type Claimed = Vec<ClaimedCall>;

// What the replay asks for.
impl Outbox {
    /// Takes about `limit` calls that are due, the oldest first, message by message, and tells when the next one will
    /// be.
    pub(crate) async fn claim(&self, limit: usize) -> (Vec<Claimed>, Option<Duration>) {
        let Some(open) = &self.0 else {
            return Default::default();
        };
        let (scope, owner, now) = (open.scope(), open.owner, open.now());
        let claimed = open.writer.run(move |connection| {
            let (calls, is_blocked) = store::claim(connection, &scope, owner, now, limit)?;
            Ok((calls, is_blocked, store::next_due(connection, &scope, now)?))
        });
        let (calls, is_blocked, next_due) = claimed.await.unwrap_or_else(|error| {
            quietly(|| warn!("what is parked can't be read: {error}"));
            (Vec::new(), true, None)
        });
        open.blocks.set(is_blocked);
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

    /// Makes a dead letter of a call that was claimed, and can't be read.
    pub(crate) fn bury(&self, call: &ClaimedCall, error: &serde_json::Error) {
        if let Some(open) = &self.0 {
            let error = format!("it can't be read: {error}");
            quietly(|| warn!(id = call.kept.id; "a call in the outbox is a dead letter: {error}"));
            let failure = Failure {
                error,
                ..Failure::default()
            };
            open.change(Change::Bury(call.kept.clone(), failure));
        }
    }

    /// Shows a sign of life, takes over from those that have shown none for a lease, mends what a clock
    /// that was wrong has written, and writes what could not be written when it should have been.
    pub(crate) async fn beat(&self) {
        let Some(open) = &self.0 else { return };
        open.make_up();
        let (now, time) = (open.clock.instant(), open.now());
        let (owner, scope, mut adopt) = (open.owner, open.scope(), open.adopt());
        // Not while the others are the same: what one of them has written may be right by its own clock.
        let mends = open.must_mend.get();
        let meets_nobody = open.worker.borrow().former.contains("");
        let longest_wait = milliseconds_of(LONGEST_WAIT.saturating_mul(2));
        let beat = open.writer.run(move |connection| {
            adopt(connection)?;
            if mends {
                store::mend_times(connection, &scope, time, longest_wait)?;
            }
            store::beat(connection, owner)
        });
        let Ok(signs) = beat.await else { return };
        if meets_nobody {
            // From now on, what is nobody's yet is not from this process.
            open.worker.borrow_mut().former.remove("");
        }
        let (gone, have_left) = open.signs.borrow_mut().look(&signs, now, open.options.lease);
        open.must_mend.set(have_left);
        for (gone, sign) in gone {
            let scope = open.scope();
            let freed = open
                .writer
                .run(move |connection| store::take_over(connection, &scope, gone, sign));
            if let Ok(calls @ 1..) = freed.await {
                quietly(|| info!(calls; "taking over from a process that is gone"));
                open.must_mend.set(true);
                open.woken.notify_one();
            }
        }
    }

    pub(crate) async fn until_next_beat(&self) {
        if let Some(open) = &self.0 {
            open.clock.idle(open.beat_interval()).await;
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
        select(pin!(open.woken.notified()), pin!(open.clock.idle(wait))).await;
    }

    /// Waits until all that has become of calls so far is on disk, or was tried twice.
    pub(crate) async fn written(&self) {
        let Some(open) = &self.0 else { return };
        for _ in 0..2 {
            // Behind what is on its way, whose failures are known then.
            let _ = open.writer.run(|_| Ok(())).await;
            yield_now().await;
            open.make_up();
        }
    }

    /// Gives back what this process still has.
    ///
    /// It begins with that even if it is not waited for.
    pub(crate) fn leave(&self) -> impl Future<Output = ()> + use<> {
        let left = self.0.as_ref().map(|open| {
            open.left.set(true);
            let owner = open.owner;
            open.writer.run(move |connection| store::leave(connection, owner))
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
        let expires_at = open.now().saturating_add(milliseconds_of(open.options.expires_after));
        let requeued = open
            .writer
            .run(move |connection| store::requeue(connection, id.0, expires_at));
        let requeued = requeued.await?;
        open.woken.notify_one();
        Ok(requeued)
    }

    pub(crate) async fn discard(self, id: DeliveryId) -> Result<bool, OutboxError> {
        let open = self.0.ok_or(OutboxError::NotConfigured)?;
        let discarded = open.writer.run(move |connection| store::discard(connection, id.0));
        let discarded = discarded.await?;
        open.woken.notify_one();
        Ok(discarded)
    }
}

impl Open {
    fn beat_interval(&self) -> Duration {
        self.options.lease.checked_div(3).unwrap_or_default().max(SHORTEST_WAIT)
    }

    /// In milliseconds since 1970.
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

    /// What was from former workers is from this one.
    pub(super) fn adopt(&self) -> impl FnMut(&Connection) -> rusqlite::Result<()> + Send + use<> {
        let (scope, former) = (self.scope(), self.worker.borrow().former.clone());
        move |connection| {
            let mut former = former.iter();
            former.try_for_each(|former| store::adopt(connection, &scope.platform, former, &scope.worker))
        }
    }

    /// Makes the replay look again now, and whenever a call on its way is done: something is parked behind one.
    pub(super) fn wake_for_blocked(&self) {
        self.blocks.set(true);
        self.woken.notify_one();
    }

    /// Writes what could not be written when it should have been, each for itself.
    fn make_up(self: &Rc<Self>) {
        for change in self.unwritten.take() {
            drop(self.change(change));
        }
    }

    /// Begins to write it down, now. It need not be waited for. Tells whether the call is there, or may be.
    pub(super) fn change(self: &Rc<Self>, change: Change) -> JoinHandle<bool> {
        let (open, owner, again) = (Rc::clone(self), self.owner, change.clone());
        let written = self.writer.run(move |connection| change.apply(connection, owner));
        spawn(async move {
            let written = written.await;
            if !matches!(again, Change::Remove(_)) || open.blocks.get() {
                open.woken.notify_one();
            }
            written.unwrap_or_else(|error| {
                // It is made up for.
                open.unwritten.borrow_mut().push(again);
                // Unless it is another file, or none, by now.
                !matches!(
                    error,
                    OutboxError::NotFound | OutboxError::Foreign | OutboxError::TooNew | OutboxError::Corrupt(_)
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_no_sign_for_a_lease_is_gone_unless_nobody_could() {
        const LEASE: Duration = Duration::from_secs(30);
        let start = Clock::host().instant();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut signs = Signs::default();
        let mut look = |beats: &[(i64, i64)], seconds| signs.look(beats, at(seconds), LEASE);
        assert_eq!(look(&[(1, 5), (2, 5)], 0), (vec![], false));
        assert_eq!(look(&[(1, 6), (2, 5)], 10), (vec![], false));
        assert_eq!(look(&[(1, 7), (2, 5)], 20), (vec![], false));
        assert_eq!(look(&[(1, 8), (2, 5)], 30), (vec![(2, 5)], false));
        assert_eq!(look(&[(1, 9)], 40), (vec![], true));
        // All have slept for an hour, and this one is the first to wake.
        for (seconds, gone) in [(3640, vec![]), (3650, vec![]), (3660, vec![(1, 9)])] {
            assert_eq!(look(&[(1, 9)], seconds), (gone, false));
        }
        // One that comes back is there again.
        assert_eq!(look(&[(1, 10)], 3670), (vec![], false));
        assert_eq!(look(&[(1, 10), (3, 1)], 3680), (vec![], false));
    }
}
