//! The outage gates, as operators see them.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{call::PlatformRoute, error::AttemptError, label::labels};

/// The state of the outage gate of one route. In JSON, the time is `closedForSeconds`, a number, and the error is a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct GateStatus {
    /// The route.
    pub route: PlatformRoute,
    /// Whether calls are sent.
    pub state: GateState,
    /// For how long the gate has been closed; `None` unless it is.
    #[serde(rename = "closedForSeconds", serialize_with = "crate::seconds::serialize_optional")]
    pub closed_for: Option<Duration>,
    /// The last failure; `None` unless the gate is closed.
    #[serde(serialize_with = "without_body")]
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

fn without_body<S: Serializer>(error: &Option<AttemptError>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(AttemptError::without_body).serialize(serializer)
}
