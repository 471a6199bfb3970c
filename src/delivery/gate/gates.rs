//! The gates of a poster: a pause for each group of calls, and an outage gate for each route.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{ended::Ended, hanging::max_hanging, outage::Change, outage_gate::OutageGate, pause_gate::PauseGate};
use crate::{
    call::{Endpoint, PlatformRoute, Target},
    error::AttemptError,
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
    pub(super) waiting: Cell<u64>,
    max_probes: usize,
    /// The requests that hang, of all routes.
    hanging: Cell<usize>,
    max_hanging: usize,
    /// An outage gate was opened or closed.
    changed: Notify,
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
            hanging: Cell::default(),
            max_hanging: max_hanging(max_in_flight),
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

    /// Whether the outage gate of the route is closed.
    pub(crate) fn is_closed(&self, route: PlatformRoute) -> bool {
        self.outage_gate(route).is_closed()
    }

    /// The failure that the gate of the route was closed for, if it is closed.
    pub(crate) fn cause(&self, route: PlatformRoute) -> Option<AttemptError> {
        self.outage_gate(route).cause()
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
        match (change, twin(route)) {
            // An answer to one call of a session says that the platform can be reached by the other one, too.
            (Some(Change::Opened { .. }), Some(twin)) => {
                let opened = self.outage_gate(twin).outage.borrow_mut().open(now);
                changes.extend(opened.map(|change| (twin, change)));
            }
            (Some(Change::Closed), Some(twin)) => self.outage_gate(twin).outage.borrow_mut().doubt(),
            (Some(_), None) | (None, _) => {}
        }
        self.outage_gate(route).wake();
        self.announce(&changes);
        changes
    }

    /// Notes that a request of this round hangs. Returns the gate that was closed by it.
    pub(super) fn note_hanging(
        &self,
        route: PlatformRoute,
        round: u64,
        now: Instant,
    ) -> Option<(PlatformRoute, Change)> {
        let cause = self.cause(twin(route)?)?;
        let change = self.outage_gate(route).outage.borrow_mut().hangs(round, &cause, now)?;
        self.announce(&[(route, change)]);
        Some((route, change))
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

    /// The routes of an endpoint for which a probe is due.
    pub(crate) fn due_probes(&self, endpoint: Endpoint, now: Instant) -> Vec<PlatformRoute> {
        let routes = PlatformRoute::ALL.into_iter();
        let routes = routes.filter(|route| route.endpoint() == endpoint);
        routes
            .filter(|route| self.probe_at(*route).is_some_and(|at| at <= now))
            .collect()
    }

    /// How long it is until the next probe is due.
    pub(crate) fn next_probe(&self, now: Instant) -> Option<Duration> {
        let at = PlatformRoute::ALL
            .into_iter()
            .filter_map(|route| self.probe_at(route))
            .min()?;
        Some(at.saturating_duration_since(now))
    }

    /// When the next probe of a route is due. A pause delays it, too.
    fn probe_at(&self, route: PlatformRoute) -> Option<Instant> {
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

    /// Begins a probe of a route if one is due. A status is no probe while the gate of the completions is closed, too: their
    /// probes suffice, and its caller would wait for the time limit.
    pub(super) fn begin_due_probe(self: &Rc<Self>, route: PlatformRoute, now: Instant) -> Option<ProbeSlot> {
        if route == PlatformRoute::Status && self.is_closed(PlatformRoute::Completion) {
            return None;
        }
        self.probe_at(route).filter(|at| *at <= now)?;
        Some(self.begin_probe(route, now, 0.5))
    }

    fn end_probe(&self, route: PlatformRoute, round: u64) {
        self.outage_gate(route).outage.borrow_mut().end_probe(round);
    }

    /// A place for a request of this route that was sent at this time and has no answer, if it hangs.
    pub(super) fn hangs(&self, route: PlatformRoute, sent: Instant, now: Instant) -> Option<HangingSlot<'_>> {
        let hanging = self.hanging.get();
        let has_room = hanging < self.max_hanging;
        (has_room && self.outage_gate(route).hanging.borrow_mut().gives_back(sent, now)).then(|| {
            self.hanging.set(hanging.saturating_add(1));
            HangingSlot(&self.hanging)
        })
    }

    /// How many calls wait for the end of a pause, or for others.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.get()
    }

    /// How long the calls of this group still wait for the end of a pause.
    pub(crate) fn pause(&self, endpoint: Endpoint, now: Instant) -> Option<Duration> {
        let until = self.pause_gate(endpoint).pause.borrow().until()?;
        Some(until.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
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

/// The other route of the sessions.
fn twin(route: PlatformRoute) -> Option<PlatformRoute> {
    match route {
        PlatformRoute::Completion => Some(PlatformRoute::Status),
        PlatformRoute::Status => Some(PlatformRoute::Completion),
        PlatformRoute::Tracker => None,
    }
}

/// The place of a probe among those that may be sent at once. Dropping it frees the place.
pub(crate) struct ProbeSlot {
    gates: Rc<Gates>,
    route: PlatformRoute,
    round: u64,
}

impl Drop for ProbeSlot {
    fn drop(&mut self) {
        self.gates.end_probe(self.route, self.round);
    }
}

/// The place of a request that hangs. Dropping it frees the place.
pub(super) struct HangingSlot<'a>(&'a Cell<usize>);

impl Drop for HangingSlot<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
