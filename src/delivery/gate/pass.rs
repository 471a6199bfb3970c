//! The right to send the requests of one attempt, and the wait for it.

use std::{
    cell::Cell,
    convert::Infallible,
    future::pending,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use super::{
    ended::Ended,
    gates::{Gates, ProbeSlot},
    hanging::AT_LEAST,
    outage::Change,
    outage_gate::{OutageGate, unless_closed},
    passage::Admission,
    pause::Entry,
    waiting::{Rewake, Waiting},
};
use crate::{
    call::{Call, PlatformRoute},
    clock::Clock,
    error::{AttemptError, AttemptPhase},
    queue::Permit,
};

impl Gates {
    /// Waits until a request may be sent, and for the permit, which is not held meanwhile. If the outage gate holds the
    /// call back, returns the failure that the gate was closed for. If a probe is due, the call is it.
    pub(in crate::delivery) async fn enter<'a>(
        self: &'a Rc<Self>,
        call: &'a Call,
        admission: Admission,
        permit: &mut Permit,
        clock: &'a Clock,
    ) -> Result<Pass<'a>, AttemptError> {
        let pauses = self.pause_gate(call.kind.endpoint());
        let mut outages = self.holding(call, admission);
        let mut probe = None;
        let mut woken = Rewake(None);
        let mut turn = None;
        loop {
            if let Some(cause) = outages.and_then(OutageGate::cause) {
                // Perhaps no call is parked that could be a probe.
                probe = self.begin_due_probe(call.kind.route(), clock.instant());
                if probe.is_none() {
                    return Err(cause);
                }
                outages = None;
            }
            if unless_closed(outages, permit.acquire()).await.is_none() {
                continue;
            }
            let (has_room, at) = match outages {
                Some(outages) if !outages.has_room(clock.instant()) => (&outages.has_room, outages.more_at()),
                Some(_) | None => {
                    let entry = pauses.pause.borrow_mut().enter(clock.instant());
                    match entry {
                        Entry::Now { round } => {
                            woken.0 = None;
                            return Ok(Pass::new(self, call, admission, clock, round, probe));
                        }
                        Entry::InTurn { at } => {
                            permit.release();
                            let _waiting = Waiting::begin(&self.waiting);
                            if turn.is_some() {
                                let wait = at.saturating_duration_since(clock.instant());
                                Box::pin(unless_closed(outages, clock.sleep(wait))).await;
                            } else {
                                turn = Box::pin(unless_closed(outages, pauses.turn.lock())).await;
                            }
                            continue;
                        }
                        Entry::Later { at } => (&pauses.has_room, Some(at)),
                        Entry::AfterOthers => (&pauses.has_room, None),
                    }
                }
            };
            permit.release();
            turn = None;
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

    /// Whether an attempt of the call takes place while the outage gate is closed.
    pub(in crate::delivery) fn is_known_outage(&self, call: &Call, admission: Admission) -> bool {
        admission != Admission::Free && self.is_closed(call.kind.route())
    }

    /// Whether the outage gate holds the call back.
    pub(in crate::delivery) fn holds(&self, call: &Call, admission: Admission) -> bool {
        self.holding(call, admission).is_some_and(OutageGate::is_closed)
    }

    fn holding(&self, call: &Call, admission: Admission) -> Option<&OutageGate> {
        (admission == Admission::Held).then(|| self.outage_gate(call.kind.route()))
    }
}

/// How often a request that may hang is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The right to send the requests of one attempt. Dropping it has the effect of a request that was not tried.
pub(in crate::delivery) struct Pass<'a> {
    gates: &'a Gates,
    call: &'a Call,
    clock: &'a Clock,
    began: Instant,
    pause_round: u64,
    /// `None` if the outage gate does not note the attempt.
    outage_round: Option<u64>,
    _probe: Option<ProbeSlot>,
    /// Whether others may be sent in its place.
    has_made_room: Cell<bool>,
    has_ended: bool,
}

/// The effects of an attempt on the gates.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Changes {
    /// The length of the pause that begins.
    pub(in crate::delivery) pause: Option<Duration>,
    /// The outage gates that were opened or closed.
    pub(in crate::delivery) outages: Vec<(PlatformRoute, Change)>,
}

impl<'a> Pass<'a> {
    /// The pause has been asked, and lets the call through.
    pub(super) fn new(
        gates: &'a Gates,
        call: &'a Call,
        admission: Admission,
        clock: &'a Clock,
        pause_round: u64,
        probe: Option<ProbeSlot>,
    ) -> Self {
        let began = clock.instant();
        let outage_round = match admission {
            Admission::Free => None,
            Admission::Held | Admission::Noted => Some(gates.outage_gate(call.kind.route()).enter(began)),
        };
        Self {
            gates,
            call,
            clock,
            began,
            pause_round,
            outage_round,
            _probe: probe,
            has_made_room: Cell::new(false),
            has_ended: false,
        }
    }

    /// Runs the attempt. If it hangs, it gives back its permit.
    pub(in crate::delivery) async fn run<T>(
        &self,
        permit: &mut Permit,
        phase: &Cell<AttemptPhase>,
        attempt: impl Future<Output = T>,
    ) -> T {
        let hanging = async {
            self.clock.idle(AT_LEAST).await;
            let _slot = loop {
                if phase.get() == AttemptPhase::Waiting
                    && !permit.is_exclusive()
                    && let Some(slot) = (self.gates).hangs(self.call.kind.route(), self.began, self.clock.instant())
                {
                    break slot;
                }
                self.clock.idle(LOOK_INTERVAL).await;
            };
            permit.release();
            self.make_room();
            self.gates.outage_gate(self.call.kind.route()).wake();
            pending::<Infallible>().await
        };
        match select(pin!(attempt), pin!(hanging)).await {
            Either::Left((output, _)) => output,
            Either::Right((never, _)) => match never {},
        }
    }

    /// Lets another request be sent in the place of this one, while the gate opens.
    fn make_room(&self) {
        let gate = self.gates.outage_gate(self.call.kind.route());
        if let Some(round) = self.outage_round
            && !self.has_made_room.replace(true)
        {
            gate.outage.borrow_mut().make_room(round);
        }
    }

    /// Notes the end of the attempt, and the failure.
    pub(in crate::delivery) fn ended(mut self, ended: Ended, error: Option<&AttemptError>) -> Changes {
        self.leave(ended, error)
    }

    fn leave(&mut self, ended: Ended, error: Option<&AttemptError>) -> Changes {
        self.has_ended = true;
        let (gates, call, now) = (self.gates, self.call, self.clock.instant());
        self.make_room();
        let pauses = gates.pause_gate(call.kind.endpoint());
        if let Ended::Handled | Ended::RateLimited(_) | Ended::Answered = ended {
            let mut hanging = gates.outage_gate(call.kind.route()).hanging.borrow_mut();
            hanging.answered(self.began, now);
        }
        let note = |round| gates.note(call.kind.route(), &call.target, round, (ended, error), now);
        Changes {
            pause: pauses.leave(self.pause_round, &call.target, ended, now),
            outages: self.outage_round.map(note).unwrap_or_default(),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.leave(Ended::NotTried, None);
        }
    }
}
