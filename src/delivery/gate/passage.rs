//! How the outage gates treat a message.

use std::rc::Rc;

use super::gates::Gates;
use crate::call::PlatformRoute;

/// How the outage gates treat a message.
pub(crate) enum Passage {
    /// They do not concern it: every call makes its attempts.
    Free,
    /// Each call is held back while the gate of its route is closed.
    EachCall,
    /// The message is held back while the gate of its first call is closed. The other calls follow the first one.
    FirstCall,
    /// The message is sent while the gate is closed.
    Probe(ProbeSlot),
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
            Self::FirstCall | Self::Probe(_) => Admission::Noted,
        }
    }
}

/// The place of a probe among those that may be sent at once. Dropping it frees the place.
pub(crate) struct ProbeSlot {
    pub(super) gates: Rc<Gates>,
    pub(super) route: PlatformRoute,
    pub(super) round: u64,
}

impl Drop for ProbeSlot {
    fn drop(&mut self) {
        self.gates.end_probe(self.route, self.round);
    }
}
