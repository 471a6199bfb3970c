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
                    let now = clock.instant();
                    let entry = pauses.pause.borrow_mut().enter(now);
                    match entry {
                        Entry::Now { round } => {
                            woken.0 = None;
                            return Ok(Pass::new(self, call, admission, clock, now, round, probe));
                        }
                        Entry::InTurn { at } => {
                            permit.release();
                            let _waiting = Waiting::begin(&self.waiting);
                            if turn.is_some() {
                                let wait = at.saturating_duration_since(now);
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
        began: Instant,
        pause_round: u64,
        probe: Option<ProbeSlot>,
    ) -> Self {
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

    /// Runs the attempt. If it hangs, it gives back its permit, and may close the gate, which is reported.
    pub(in crate::delivery) async fn run<T>(
        &self,
        permit: &mut Permit,
        phase: &Cell<AttemptPhase>,
        attempt: impl Future<Output = T>,
        report: impl Fn(&[(PlatformRoute, Change)]),
    ) -> T {
        let hanging = async {
            self.clock.idle(AT_LEAST).await;
            if let Some(round) = self.outage_round {
                let note = self
                    .gates
                    .note_hanging(self.call.kind.route(), round, self.clock.instant());
                report(note.as_slice());
            }
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

    /// When the attempt began.
    pub(in crate::delivery) fn began(&self) -> Instant {
        self.began
    }

    /// Notes the end of the attempt at this time, and the failure.
    pub(in crate::delivery) fn ended(mut self, ended: Ended, error: Option<&AttemptError>, now: Instant) -> Changes {
        self.leave(ended, error, now)
    }

    fn leave(&mut self, ended: Ended, error: Option<&AttemptError>, now: Instant) -> Changes {
        self.has_ended = true;
        let (gates, call) = (self.gates, self.call);
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
            self.leave(Ended::NotTried, None, self.clock.instant());
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

    use std::cell::RefCell;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::{
        call::{Platform, WireFormat},
        clock::ManualClock,
        message::PostResult,
        queue::{Bound, LaneQueue, Limits, Ticket},
        result::{AgentResult, SessionStatus},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const PLATFORM: Platform = Platform {
        base: String::new(),
        organization_id: None,
        wire_format: WireFormat::Extended,
        max_text_bytes: 99,
    };

    /// Calls of several issues, each with a place in the queue of a poster.
    struct Calls {
        gates: Rc<Gates>,
        queue: Rc<LaneQueue>,
        clock: ManualClock,
        time: Clock,
    }

    impl Calls {
        fn new(max_in_flight: usize) -> Self {
            let clock = ManualClock::new();
            Self {
                gates: Rc::new(Gates::new(max_in_flight)),
                queue: LaneQueue::new(Limits {
                    max_in_flight,
                    max_queued: 99,
                }),
                time: clock.clone().into(),
                clock,
            }
        }

        /// The call of an issue of its own.
        fn call(&self, number: usize) -> (Call, Ticket, Permit) {
            let call = PLATFORM.create_comment(&number.to_string().into(), "text", number.to_string());
            let (ticket, permit) = self.queue.admit(call.target.clone(), Bound::Queue).unwrap();
            (call, ticket, permit)
        }

        /// The two calls of a session of its own.
        fn session(&self, number: usize) -> ([Call; 2], Ticket, Permit) {
            let id = number.to_string();
            let result = AgentResult::new(SessionStatus::Completed);
            let calls = PLATFORM.session_calls(&id.as_str().into(), &PostResult::new(&id, result));
            let calls: [Call; 2] = calls.try_into().unwrap();
            let (ticket, permit) = self.queue.admit(calls[0].target.clone(), Bound::Queue).unwrap();
            (calls, ticket, permit)
        }

        fn calls(&self, count: usize) -> Vec<(Call, Ticket, Permit)> {
            (0..count).map(|number| self.call(number)).collect()
        }

        fn enter<'a>(
            &'a self,
            (call, _, permit): &'a mut (Call, Ticket, Permit),
        ) -> impl Future<Output = Result<Pass<'a>, AttemptError>> {
            self.gates.enter(call, Admission::Held, permit, &self.time)
        }

        /// The platform is not reached five times.
        fn close(&self) {
            for mut call in self.calls(5) {
                let pass = self.enter(&mut call).now_or_never().unwrap().unwrap();
                pass.ended(Ended::Unconnected, Some(&unreachable()), self.time.instant());
            }
            assert!(self.gates.is_closed(PlatformRoute::Tracker));
        }
    }

    fn unreachable() -> AttemptError {
        AttemptError::Connect(std::io::Error::other("refused").into())
    }

    #[test]
    fn a_closed_gate_lets_a_call_through_only_if_a_probe_is_due() {
        let calls = Calls::new(64);
        calls.close();
        let [mut early, mut probe, mut late] = [7, 8, 9].map(|number| calls.call(number));
        assert!(calls.enter(&mut early).now_or_never().unwrap().is_err());
        calls.clock.advance(SECOND);
        let probe = calls.enter(&mut probe).now_or_never().unwrap();
        assert!(probe.is_ok());
        assert!(calls.enter(&mut late).now_or_never().unwrap().is_err());
    }

    #[test]
    fn a_call_that_waits_for_its_permit_is_held_back_once_the_gate_closes() {
        let calls = Calls::new(5);
        let mut first = calls.calls(5);
        let mut passes: Vec<_> = (first.iter_mut())
            .map(|call| calls.enter(call).now_or_never().unwrap().unwrap())
            .collect();
        let mut next = calls.call(9);
        let mut waiting = pin!(calls.enter(&mut next));
        assert!(waiting.as_mut().now_or_never().is_none());
        for pass in passes.drain(..) {
            pass.ended(Ended::Unconnected, Some(&unreachable()), calls.time.instant());
        }
        assert!(waiting.now_or_never().unwrap().is_err());
    }

    #[test]
    fn an_opening_gate_lets_8_calls_through_at_once_and_twice_as_many_after_their_success() {
        let calls = Calls::new(64);
        calls.close();
        calls.gates.open(calls.time.instant());
        let mut all = calls.calls(30);
        let mut entering: Vec<_> = all.iter_mut().map(|call| Box::pin(calls.enter(call))).collect();
        for expected in [8, 16] {
            let mut passes = Vec::new();
            entering.retain_mut(|entering| match entering.as_mut().now_or_never() {
                Some(pass) => {
                    passes.push(pass.unwrap());
                    false
                }
                None => true,
            });
            assert_eq!(passes.len(), expected);
            for pass in passes {
                pass.ended(Ended::Handled, None, calls.time.instant());
            }
        }
    }

    #[test]
    fn a_status_is_no_probe_while_both_gates_of_the_sessions_are_closed() {
        let calls = Calls::new(64);
        let mut sessions: Vec<_> = (0..5).map(|number| calls.session(number)).collect();
        for index in [0, 1] {
            for (session, _, permit) in &mut sessions {
                let pass = calls.gates.enter(&session[index], Admission::Held, permit, &calls.time);
                pass.now_or_never().unwrap().unwrap().ended(
                    Ended::Unanswered,
                    Some(&unreachable()),
                    calls.time.instant(),
                );
            }
        }
        calls.clock.advance(SECOND);
        let ([completion, status], _, mut permit) = calls.session(9);
        let mut is_let_through = |call| {
            let pass = calls.gates.enter(call, Admission::Held, &mut permit, &calls.time);
            pass.now_or_never().unwrap().is_ok()
        };
        assert!(!is_let_through(&status));
        assert!(is_let_through(&completion));
    }

    #[test]
    fn statuses_that_hang_close_their_gate_while_that_of_the_completions_is_closed() {
        let calls = Calls::new(64);
        let mut sessions: Vec<_> = (0..20).map(|number| calls.session(number)).collect();
        for ([completion, _], _, permit) in &mut sessions[..5] {
            let pass = calls.gates.enter(completion, Admission::Held, permit, &calls.time);
            pass.now_or_never()
                .unwrap()
                .unwrap()
                .ended(Ended::Unanswered, Some(&unreachable()), calls.time.instant());
        }
        assert!(calls.gates.is_closed(PlatformRoute::Completion));

        let phase = Cell::new(AttemptPhase::Waiting);
        let reported = RefCell::new(Vec::new());
        let mut statuses: Vec<_> = sessions
            .iter_mut()
            .map(|([_, status], _, permit)| {
                let (calls, phase, reported) = (&calls, &phase, &reported);
                Box::pin(async move {
                    let pass = calls.gates.enter(status, Admission::Held, permit, &calls.time).await?;
                    let report = |changes: &[_]| reported.borrow_mut().extend_from_slice(changes);
                    pass.run(permit, phase, pending::<()>(), report).await;
                    Ok::<_, AttemptError>(())
                })
            })
            .collect();
        let mut held_back = || {
            let ends = statuses.iter_mut().filter_map(|status| status.as_mut().now_or_never());
            ends.filter(Result::is_err).count()
        };
        assert_eq!(held_back(), 0);
        calls.clock.advance(AT_LEAST - Duration::from_millis(1));
        assert_eq!(held_back(), 0);
        calls.clock.advance(Duration::from_millis(1));
        // 8 were sent at once, and one more after 2 s.
        assert_eq!(held_back(), 11);
        assert_eq!(*reported.borrow(), [(PlatformRoute::Status, Change::Closed)]);
    }
}
