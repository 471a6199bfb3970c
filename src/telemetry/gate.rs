//! The outage gates, as operators see them.

use std::time::Duration;

use crate::{call::PlatformRoute, error::AttemptError, label::labels};

/// The state of the outage gate of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateStatus {
    /// The route.
    pub route: PlatformRoute,
    /// Whether calls are sent.
    pub state: GateState,
    /// For how long the gate has been closed; `None` unless it is.
    pub closed_for: Option<Duration>,
    /// The last failure; `None` unless the gate is closed.
    pub last_error: Option<AttemptError>,
}

/// The state of an outage gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GateState {
    /// Calls are sent.
    Open,
    /// The platform answers again: calls are sent, at first few at once.
    Opening,
    /// The platform can't be reached: calls are parked, and only probes are sent.
    Closed,
}

labels!(GateState, "state of a gate", {
    Open => "open",
    Opening => "opening",
    Closed => "closed",
});
