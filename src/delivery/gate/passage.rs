//! How the outage gates treat a message.

use std::pin::pin;

use futures_util::future::select;

use super::gates::{Gates, ProbeSlot};
use crate::{call::Call, error::AttemptError};

/// How the outage gates treat a message.
pub(crate) enum Passage {
    /// They do not concern it: every call makes its attempts.
    Free,
    /// Each call is held back while the gate of its route is closed.
    EachCall,
    /// The message is held back while the gate of its first call is closed. The other calls follow the first one.
    FirstCall,
    /// The message is sent while the gate is closed.
    Probe { _slot: ProbeSlot },
}

/// How the outage gate of its route treats a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Admission {
    /// The gate neither holds it back nor notes its attempts.
    Free,
    /// The gate holds it back while it is closed.
    Held,
    /// The gate notes its attempts.
    Noted,
}

impl Passage {
    /// How the call with this index is treated.
    pub(in crate::delivery) fn of_call(&self, index: usize) -> Admission {
        match self {
            Self::Free => Admission::Free,
            Self::EachCall => Admission::Held,
            Self::FirstCall if index == 0 => Admission::Held,
            Self::FirstCall | Self::Probe { .. } => Admission::Noted,
        }
    }
}

impl Gates {
    /// If no call of the message may be sent now, the failure that the gate of the first one was closed for.
    pub(crate) fn held_back(&self, calls: &[Call], passage: &Passage) -> Option<AttemptError> {
        let (first, others) = calls.split_first()?;
        let others = match passage {
            Passage::Free | Passage::Probe { .. } => return None,
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
}
