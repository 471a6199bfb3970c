//! Parks messages that must not be sent now: the platform can't be reached, or rejects the credentials.

use super::{
    disposition::outage_reason,
    owner::Outbox,
    settle::Settling,
    stored::{Stored, parked_error},
};
use crate::{
    call::Call,
    call_id::CallId,
    delivery::{Dispatcher, Job, Passage},
    error::{AttemptError, CallError, ParkReason, ParkedError, TransientError},
    receipt::Outcome,
};

/// Why the calls of a message are not sent now.
pub(super) struct Outage {
    pub(super) reason: ParkReason,
    /// The last failure of another call.
    pub(super) cause: AttemptError,
}

impl Outage {
    /// The outage that holds a message back, if one does.
    pub(super) fn of(dispatcher: &Dispatcher, calls: &[Call], passage: &Passage) -> Option<Self> {
        let cause = dispatcher.gates.held_back(calls, passage)?;
        let reason = outage_reason(calls.first()?.kind.route());
        Some(Self { reason, cause })
    }

    /// The error of a call that was parked when it was stored, because of an outage or behind its lane.
    pub(super) fn parked(outage: Option<&Self>, id: CallId) -> CallError {
        let error = ParkedError {
            last: outage.map(|outage| outage.cause.clone()),
            ..parked_error(id, outage.map_or(ParkReason::LaneParked, |outage| outage.reason))
        };
        error.into()
    }
}

impl Outbox {
    /// Parks a message that the platform can't be reached for.
    pub(super) async fn hold_back_for(
        &self,
        dispatcher: &Dispatcher,
        job: &Job,
        stored: &Stored,
        outage: Outage,
    ) -> Vec<Outcome> {
        let Outage { reason, cause } = outage;
        let error = TransientError::new(0, cause, None, false).into();
        self.hold_back(dispatcher, job, stored, &error, Some(reason)).await
    }

    /// Parks a message that is not sent now, with this error. `outage` is the reason if the platform can't be reached.
    pub(super) async fn hold_back(
        &self,
        dispatcher: &Dispatcher,
        job: &Job,
        stored: &Stored,
        error: &CallError,
        outage: Option<ParkReason>,
    ) -> Vec<Outcome> {
        let mut settling = Settling::new(stored, self.0.clock.instant());
        let mut outcomes = Vec::with_capacity(job.calls.len());
        for index in 0..job.calls.len() {
            let error = match job.cancellation.by() {
                Some(by) => CallError::Cancelled {
                    by,
                    attempts: 0,
                    may_have_been_delivered: false,
                },
                None => error.clone(),
            };
            outcomes.push(settling.record(index, Err(error), outage));
        }
        let has_released = settling.finish(dispatcher, &job.calls, None, &mut outcomes).await;
        if has_released {
            // Claims ascend: a message behind this one may be sent under a later claim only.
            job.ticket.set_mark(stored.lane.claim);
        }
        for (call, outcome) in job.calls.iter().zip(&outcomes) {
            dispatcher.telemetry.call_ended(call.as_ref(), outcome, Some(job.begin));
        }
        outcomes
    }
}
