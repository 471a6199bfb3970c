//! The calls in an outbox, as an operator sees them.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{call_id::CallId, label::labels};

/// How many entries a query returns by default.
const DEFAULT_LIMIT: u32 = 100;

/// A parked call or a dead letter. Serialized with camel case names, and times as RFC 3339 writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OutboxEntry {
    /// The id of the call.
    pub id: CallId,
    /// Whether the call is parked or a dead letter.
    pub state: EntryState,
    /// The kind of the call, as [`CallKind`](crate::CallKind) writes it: a damaged file may hold any text.
    pub kind: String,
    /// The id of the session or issue that the call is about.
    pub target_id: String,
    /// The platform that the call is for.
    pub platform_url: String,
    /// The worker on whose behalf the call is made, if it is known.
    pub worker_id: Option<String>,
    /// The call's `Idempotency-Key`.
    pub idempotency_key: String,
    /// The content of the call as JSON, in the form in which it is stored.
    pub body: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// When the call was stored.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: SystemTime,
    /// When a parked call is tried again, though not before the calls that are parked before it about the same session
    /// or issue. `None` for a dead letter.
    #[serde(serialize_with = "optional_rfc3339")]
    pub next_attempt_at: Option<SystemTime>,
    /// The expiry: the first attempt that fails after it makes a parked call a dead letter. `None` for a dead letter.
    #[serde(serialize_with = "optional_rfc3339")]
    pub expires_at: Option<SystemTime>,
    /// The HTTP status with which the platform rejected the call.
    pub status_code: Option<u16>,
    /// Why the last attempt failed, without the body of a response. `None` before the first attempt.
    pub last_error: Option<String>,
}

/// The state of a call in an outbox. As text `parked` or `dead_letter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EntryState {
    /// The call is tried again later.
    Parked,
    /// The call was rejected, has expired, or panicked: it is not tried again, unless it is requeued.
    DeadLetter,
}

labels!(EntryState, "state of a call", {
    Parked => "parked",
    DeadLetter => "dead_letter",
});

/// Which calls to list, ordered by id.
///
/// ```
/// # use result_poster::outbox::EntryQuery;
/// let first_page = EntryQuery::dead_letters().limit(500);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct EntryQuery {
    pub(super) state: EntryState,
    pub(super) after: Option<CallId>,
    pub(super) limit: u32,
}

impl EntryQuery {
    /// The parked calls of all processes.
    pub fn parked() -> Self {
        Self::new(EntryState::Parked)
    }

    /// The dead letters.
    pub fn dead_letters() -> Self {
        Self::new(EntryState::DeadLetter)
    }

    /// The calls in this state.
    pub fn new(state: EntryState) -> Self {
        Self {
            state,
            after: None,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Only calls after this one: the last of the previous page. Default: from the first call on.
    pub fn after(mut self, id: CallId) -> Self {
        self.after = Some(id);
        self
    }

    /// At most this many calls. Default: 100.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    optional_rfc3339(&Some(*time), serializer)
}

/// `null` for a time that RFC 3339 can't write.
fn optional_rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let timestamp = time.and_then(|time| Timestamp::try_from(time).ok());
    timestamp.map(|timestamp| timestamp.to_string()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn an_entry_is_serialized_with_readable_times() {
        let entry = OutboxEntry {
            id: CallId(7),
            state: EntryState::Parked,
            kind: "status".into(),
            target_id: "sess-1".into(),
            platform_url: "https://app.example.com".into(),
            worker_id: None,
            idempotency_key: "key".into(),
            body: "{}".into(),
            attempts: 3,
            created_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_500),
            next_attempt_at: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_060)),
            expires_at: None,
            status_code: None,
            last_error: None,
        };
        let json = serde_json::to_value(entry).unwrap();
        assert_eq!(json["state"], "parked");
        assert_eq!(json["createdAt"], "2023-11-14T22:13:20.5Z");
        assert_eq!(json["nextAttemptAt"], "2023-11-14T22:14:20Z");
        assert!(json["expiresAt"].is_null());
    }
}
