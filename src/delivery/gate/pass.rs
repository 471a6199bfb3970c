//! The right to send the requests of one attempt.

use std::time::Duration;

use super::{Ended, gates::Gates, outage::Change, passage::Admission};
use crate::{
    call::{Call, PlatformRoute},
    clock::Clock,
    error::AttemptError,
};

/// The right to send the requests of one attempt. Dropping it has the effect of a request that was not tried.
pub(in crate::delivery) struct Pass<'a> {
    gates: &'a Gates,
    call: &'a Call,
    clock: &'a Clock,
    pause_round: u64,
    /// `None` if the outage gate does not note the attempt.
    outage_round: Option<u64>,
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
    ) -> Self {
        let outage_round = match admission {
            Admission::Free => None,
            Admission::Held | Admission::Noted => Some(gates.outage_gate(call.kind.route()).enter()),
        };
        Self {
            gates,
            call,
            clock,
            pause_round,
            outage_round,
            has_ended: false,
        }
    }

    /// Notes the end of the attempt, and the failure.
    pub(in crate::delivery) fn ended(mut self, ended: Ended, error: Option<&AttemptError>) -> Changes {
        self.leave(ended, error)
    }

    fn leave(&mut self, ended: Ended, error: Option<&AttemptError>) -> Changes {
        self.has_ended = true;
        let (gates, call, now) = (self.gates, self.call, self.clock.instant());
        let pauses = gates.pause_gate(call.kind.endpoint());
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
