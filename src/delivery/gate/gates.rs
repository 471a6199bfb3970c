//! The gates of a poster: a pause for each group of calls, and an outage gate for each route.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};
use tokio::sync::Notify;

use super::{
    Ended,
    outage::{Change, Outage},
    pass::Pass,
    passage::{Admission, Passage, ProbeSlot},
    pause::{Entry, Pause},
};
use crate::{
    call::{Call, Endpoint, PlatformRoute, Target},
    clock::Clock,
    error::AttemptError,
    queue::Permit,
    telemetry::{GateState, GateStatus},
};

/// The most probes of a route that are sent at once.
const MAX_PROBES: usize = 16;

pub(crate) struct Gates {
    session_pause: PauseGate,
    tracker_pause: PauseGate,
    completion: OutageGate,
    status: OutageGate,
    tracker: OutageGate,
    /// The calls that wait.
    waiting: Cell<u64>,
    max_probes: usize,
    /// An outage gate was opened or closed.
    changed: Notify,
}

/// The pauses of one group of calls.
#[derive(Default)]
pub(super) struct PauseGate {
    pub(super) pause: RefCell<Pause>,
    has_room: Notify,
}

/// The outages of one route.
#[derive(Default)]
pub(super) struct OutageGate {
    outage: RefCell<Outage>,
    has_room: Notify,
    was_closed: Notify,
}

impl Gates {
    /// Half of the permits are left to calls that are no probes, while one session route and the tracker are closed.
    pub(crate) fn new(max_in_flight: usize) -> Self {
        Self {
            session_pause: PauseGate::default(),
            tracker_pause: PauseGate::default(),
            completion: OutageGate::default(),
            status: OutageGate::default(),
            tracker: OutageGate::default(),
            waiting: Cell::default(),
            max_probes: (max_in_flight / 4).clamp(1, MAX_PROBES),
            changed: Notify::new(),
        }
    }

    pub(super) fn pause_gate(&self, endpoint: Endpoint) -> &PauseGate {
        match endpoint {
            Endpoint::Session => &self.session_pause,
            Endpoint::Proxy => &self.tracker_pause,
        }
    }

    pub(super) fn outage_gate(&self, route: PlatformRoute) -> &OutageGate {
        match route {
            PlatformRoute::Completion => &self.completion,
            PlatformRoute::Status => &self.status,
            PlatformRoute::Tracker => &self.tracker,
        }
    }

    fn holding(&self, call: &Call, admission: Admission) -> Option<&OutageGate> {
        (admission == Admission::Held).then(|| self.outage_gate(call.kind.route()))
    }

    /// Waits until a request may be sent, and for the permit, which is not held meanwhile. If the outage gate holds the
    /// call back, returns the failure that the gate was closed for.
    pub(in crate::delivery) async fn enter<'a>(
        &'a self,
        call: &'a Call,
        admission: Admission,
        permit: &mut Permit,
        clock: &'a Clock,
    ) -> Result<Pass<'a>, AttemptError> {
        let pauses = self.pause_gate(call.kind.endpoint());
        let outages = self.holding(call, admission);
        let mut woken = Rewake(None);
        loop {
            if let Some(cause) = outages.and_then(OutageGate::cause) {
                return Err(cause);
            }
            if unless_closed(outages, permit.acquire()).await.is_none() {
                continue;
            }
            let (has_room, at) = match outages {
                Some(outages) if !outages.has_room() => (&outages.has_room, None),
                Some(_) | None => {
                    let entry = pauses.pause.borrow_mut().enter(clock.instant());
                    match entry {
                        Entry::Now { round } => {
                            woken.0 = None;
                            return Ok(Pass::new(self, call, admission, clock, round));
                        }
                        Entry::Later { at } => (&pauses.has_room, Some(at)),
                        Entry::AfterOthers => (&pauses.has_room, None),
                    }
                }
            };
            permit.release();
            woken.0 = None;
            let _waiting = Waiting::begin(&self.waiting);
            // Boxed: most calls never wait here, and every one would reserve room for it.
            Box::pin(unless_closed(outages, async {
                let changed = pin!(has_room.notified());
                match at {
                    None => changed.await,
                    Some(at) => {
                        let pause = pin!(clock.sleep(at.saturating_duration_since(clock.instant())));
                        select(pause, changed).await;
                    }
                }
            }))
            .await;
            woken.0 = Some(has_room);
        }
    }

    /// Sleeps before the next attempt of a call, at most until the outage gate holds it back.
    pub(in crate::delivery) async fn sleep(&self, call: &Call, admission: Admission, sleep: impl Future<Output = ()>) {
        unless_closed(self.holding(call, admission), sleep).await;
    }

    /// Whether the outage gate holds the call back.
    pub(in crate::delivery) fn holds(&self, call: &Call, admission: Admission) -> bool {
        self.holding(call, admission).is_some_and(OutageGate::is_closed)
    }

    /// Whether the outage gate of the route is closed.
    pub(crate) fn is_closed(&self, route: PlatformRoute) -> bool {
        self.outage_gate(route).is_closed()
    }

    /// The failure that the gate of the route was closed for, if it is closed.
    pub(crate) fn cause(&self, route: PlatformRoute) -> Option<AttemptError> {
        self.outage_gate(route).cause()
    }

    /// If no call of the message may be sent now, the failure that the gate of the first one was closed for.
    pub(crate) fn held_back(&self, calls: &[Call], passage: &Passage) -> Option<AttemptError> {
        let (first, others) = calls.split_first()?;
        let others = match passage {
            Passage::Free | Passage::Probe(_) => return None,
            Passage::FirstCall => &[],
            Passage::EachCall => others,
        };
        let is_held = others.iter().all(|call| self.is_closed(call.kind.route()));
        self.outage_gate(first.kind.route()).cause().filter(|_| is_held)
    }

    /// Waits until no call of the message may be sent.
    pub(crate) async fn until_held_back(&self, calls: &[Call], passage: &Passage) {
        while self.held_back(calls, passage).is_none() {
            let route = |index: usize| calls.get(index).or(calls.first()).map(|call| call.kind.route());
            let closed = |index| route(index).map(|route| self.outage_gate(route).was_closed.notified());
            let (Some(first), Some(second)) = (closed(0), closed(1)) else {
                return std::future::pending().await;
            };
            select(pin!(first), pin!(second)).await;
        }
    }

    /// Notes the end of an attempt of this round. Returns the gates that were opened or closed by it.
    pub(super) fn note(
        &self,
        route: PlatformRoute,
        target: &Target,
        round: u64,
        (ended, error): (Ended, Option<&AttemptError>),
        now: Instant,
    ) -> Vec<(PlatformRoute, Change)> {
        let change = {
            let mut outage = self.outage_gate(route).outage.borrow_mut();
            outage.leave(round, target, ended, error, now)
        };
        let mut changes: Vec<_> = change.map(|change| (route, change)).into_iter().collect();
        if let Some(Change::Opened { .. }) = change {
            // An answer to one call of a session says that the platform can be reached by the other one, too.
            let twin = match route {
                PlatformRoute::Completion => Some(PlatformRoute::Status),
                PlatformRoute::Status => Some(PlatformRoute::Completion),
                PlatformRoute::Tracker => None,
            };
            let opened = twin.and_then(|twin| Some((twin, self.outage_gate(twin).outage.borrow_mut().open(now)?)));
            changes.extend(opened);
        }
        self.outage_gate(route).wake();
        self.announce(&changes);
        changes
    }

    /// Opens all outage gates. Returns those that were closed.
    pub(crate) fn open(&self, now: Instant) -> Vec<(PlatformRoute, Change)> {
        let open = |route| Some((route, self.outage_gate(route).outage.borrow_mut().open(now)?));
        let changes: Vec<_> = PlatformRoute::ALL.into_iter().filter_map(open).collect();
        self.announce(&changes);
        changes
    }

    fn announce(&self, changes: &[(PlatformRoute, Change)]) {
        for (route, change) in changes {
            let gate = self.outage_gate(*route);
            match change {
                Change::Closed => gate.was_closed.notify_waiters(),
                Change::Opened { .. } => gate.wake(),
            }
            self.changed.notify_one();
        }
    }

    /// Waits until an outage gate was opened or closed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When the next probe of a route is due. A pause delays it, too.
    pub(crate) fn probe_at(&self, route: PlatformRoute) -> Option<Instant> {
        let probe_at = self.outage_gate(route).outage.borrow().probe_at(self.max_probes)?;
        let pause = self.pause_gate(route.endpoint()).pause.borrow().until();
        Some(pause.map_or(probe_at, |until| until.max(probe_at)))
    }

    /// Notes that a probe is sent. `chance` is a random number from 0 to 1.
    pub(crate) fn begin_probe(self: &Rc<Self>, route: PlatformRoute, now: Instant, chance: f64) -> ProbeSlot {
        ProbeSlot {
            gates: Rc::clone(self),
            route,
            round: self.outage_gate(route).outage.borrow_mut().begin_probe(now, chance),
        }
    }

    pub(super) fn end_probe(&self, route: PlatformRoute, round: u64) {
        self.outage_gate(route).outage.borrow_mut().end_probe(round);
    }

    /// How many calls wait for the end of a pause, or for others.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.get()
    }

    /// The present state of each outage gate.
    pub(crate) fn statuses(&self, now: Instant) -> [GateStatus; 3] {
        PlatformRoute::ALL.map(|route| {
            let outage = self.outage_gate(route).outage.borrow();
            GateStatus {
                route,
                state: match (outage.closed_since(), outage.room()) {
                    (Some(_), _) => GateState::Closed,
                    (None, Some(_)) => GateState::Opening,
                    (None, None) => GateState::Open,
                },
                closed_for: outage.closed_since().map(|since| now.saturating_duration_since(since)),
                last_error: outage.cause().cloned(),
            }
        })
    }
}

impl PauseGate {
    /// Notes the end of an attempt of this round. Returns the length of the pause that begins, if one does.
    pub(super) fn leave(&self, round: u64, target: &Target, ended: Ended, now: Instant) -> Option<Duration> {
        let mut state = self.pause.borrow_mut();
        let pause = state.leave(round, target, ended, now);
        match state.room() {
            // Calls that wait for others wait for the end of the pause instead.
            Some(0) if pause.is_some() => self.has_room.notify_waiters(),
            room => wake(&self.has_room, room),
        }
        pause
    }
}

impl OutageGate {
    pub(super) fn is_closed(&self) -> bool {
        self.outage.borrow().cause().is_some()
    }

    fn cause(&self) -> Option<AttemptError> {
        self.outage.borrow().cause().cloned()
    }

    fn has_room(&self) -> bool {
        self.outage.borrow().room() != Some(0)
    }

    pub(super) fn enter(&self) -> u64 {
        self.outage.borrow_mut().enter()
    }

    /// Wakes the calls for which there is room.
    fn wake(&self) {
        wake(&self.has_room, self.outage.borrow().room());
    }
}

/// Wakes so many of the calls that wait.
fn wake(waiting: &Notify, room: Option<u32>) {
    match room {
        None => waiting.notify_waiters(),
        Some(room) => (0..room).for_each(|_| waiting.notify_one()),
    }
}

/// Waits for a future, at most until the gate is closed.
async fn unless_closed<T>(gate: Option<&OutageGate>, work: impl Future<Output = T>) -> Option<T> {
    let Some(gate) = gate else {
        return Some(work.await);
    };
    if gate.is_closed() {
        return None;
    }
    match select(pin!(work), pin!(gate.was_closed.notified())).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// Wakes another call if one that was woken is dropped before it is let in.
struct Rewake<'a>(Option<&'a Notify>);

impl Drop for Rewake<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0 {
            waiting.notify_one();
        }
    }
}

/// Counts a call that waits.
struct Waiting<'a>(&'a Cell<u64>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<u64>) -> Self {
        count.set(count.get().saturating_add(1));
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
