//! The names of lanes: the endpoint of their calls, and whether a message was isolated.

use crate::{call::Endpoint, call_id::CallId};

/// Separates the name of a lane from the id of the message that was isolated from it.
const ISOLATED: char = '\u{1f}';

/// The name of the lane of a message that must not block its target's lane.
pub(in crate::outbox) fn isolated_lane(lane: &str, first: CallId) -> String {
    format!("{lane}{ISOLATED}{first}")
}

/// The names of the lanes that were isolated from this one: from the first text, and below the second.
pub(in crate::outbox) fn isolated_lanes(lane: &str) -> (String, String) {
    const AFTER_ISOLATED: char = '\u{20}';
    (format!("{lane}{ISOLATED}"), format!("{lane}{AFTER_ISOLATED}"))
}

/// Whether a lane holds an isolated message.
pub(in crate::outbox) fn is_isolated(lane: &str) -> bool {
    lane.contains(ISOLATED)
}

/// How the name of an issue's lane begins.
pub(in crate::outbox) const ISSUE_LANE: &str = "issue ";

/// The endpoint of the calls of a lane.
pub(in crate::outbox) fn endpoint(lane: &str) -> Endpoint {
    if lane.starts_with(ISSUE_LANE) {
        Endpoint::Proxy
    } else {
        Endpoint::Session
    }
}
