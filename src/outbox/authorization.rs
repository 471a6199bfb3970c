//! Notes whether the platform accepts the poster's credentials, and holds messages back while it does not.

use log::info;

use super::{
    owner::{Inner, Outbox},
    stored::Stored,
};
use crate::{
    delivery::Dispatcher,
    error::{AttemptError, CallError, PermanentError},
    receipt::Outcome,
    util::ignore_panic,
};

impl Inner {
    /// Notes the present credentials. If they are others than the rejected ones, the lanes that were parked because of
    /// those are due now. Returns whether that is so.
    pub(super) fn note_credentials(&self, generation: Option<u64>) -> bool {
        let Some(lanes) = self.unauthorized.borrow_mut().present(generation) else {
            return false;
        };
        ignore_panic(|| info!("there are other credentials; parked calls are sent again"));
        let now = self.clock.instant();
        let mut delays = self.delays.borrow_mut();
        lanes.iter().for_each(|lane| delays.advance(lane, now));
        true
    }

    /// Makes a parked lane due if it is time for a probe and no lane is due by its own delay.
    pub(super) fn prepare_probe(&self) {
        let now = self.clock.instant();
        let mut delays = self.delays.borrow_mut();
        if delays.is_any_due(now) {
            return;
        }
        let unauthorized = self.unauthorized.borrow();
        if let Some(lane) = unauthorized.next_probe(now, |lane| delays.contains(lane)) {
            delays.advance(lane, now);
        }
    }
}

impl Outbox {
    /// The platform's rejection of the present credentials, if it is known and this message is not the probe.
    pub(super) fn rejection(&self, dispatcher: &Dispatcher, stored: &Stored) -> Option<PermanentError> {
        if self.0.note_credentials(dispatcher.credentials.last_generation()) {
            self.0.wake_replay.notify_one();
        }
        let unauthorized = self.0.unauthorized.borrow();
        unauthorized.rejection(&stored.lane.lane).cloned()
    }

    /// Notes what the outcomes say about the credentials.
    pub(super) fn note_answers(&self, dispatcher: &Dispatcher, stored: &Stored, outcomes: &[Outcome]) {
        let (lane, now) = (&stored.lane.lane, self.0.clock.instant());
        let is_accepted = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Ok(_) | Err(CallError::Permanent(_))));
        let mut unauthorized = self.0.unauthorized.borrow_mut();
        if is_accepted {
            if unauthorized.accepted().is_some() {
                self.0.wake_replay.notify_one();
            }
        } else if let Some(rejection) = outcomes.iter().find_map(unauthorized_answer) {
            unauthorized.rejected(lane, dispatcher.credentials.last_generation(), rejection, now);
        } else {
            unauthorized.undecided(lane, now);
        }
    }
}

/// The rejection of the credentials in the outcome of a call that was parked after it.
fn unauthorized_answer(outcome: &Outcome) -> Option<&PermanentError> {
    match outcome.as_ref().err()?.parked()?.last.as_ref()? {
        AttemptError::Rejected(rejection) if rejection.is_unauthorized() => Some(rejection),
        AttemptError::Rejected(_)
        | AttemptError::Credentials(_)
        | AttemptError::Connect(_)
        | AttemptError::Timeout { .. }
        | AttemptError::ConnectionLost(_)
        | AttemptError::StreamRefused(_)
        | AttemptError::RetryableResponse { .. }
        | AttemptError::UnexpectedResponse { .. } => None,
    }
}
