//! The calls in an outbox, as an operator sees them.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{call_id::CallId, label::labels};

/// How many entries a query returns by default.
const DEFAULT_LIMIT: u32 = 100;

/// The most entries that a query returns.
pub(super) const MAX_LIMIT: u32 = 500;

/// A call in an outbox. As JSON, its names are in camel case, its times are texts as in RFC 3339, and its age is
/// `ageSeconds`, a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OutboxEntry {
    /// The id of the call.
    pub id: CallId,
    /// The state of the call.
    pub state: EntryState,
    /// The process that sends a live call.
    pub owner: Option<EntryOwner>,
    /// The kind of the call, as [`CallKind`](crate::CallKind) writes it: a damaged file may hold any text.
    pub kind: String,
    /// The id of the session or issue that the call is about.
    pub target_id: String,
    /// The queue that the call belongs to; see [`OutboxOptionsBuilder::queue`](super::OutboxOptionsBuilder::queue).
    pub queue: String,
    /// The worker on whose behalf the call is made, if it is known.
    pub worker_id: Option<String>,
    /// The call's `Idempotency-Key`.
    pub idempotency_key: String,
    /// The content of the call as JSON, in the form in which it is stored.
    pub body: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// When the call was stored, by the clock of the host, or of the server.
    #[serde(serialize_with = "crate::timestamp::serialize")]
    pub created_at: SystemTime,
    /// Since when the lane of a parked call is parked, by the same clock. `None` for a live call and a dead letter.
    #[serde(serialize_with = "crate::timestamp::serialize_optional")]
    pub parked_at: Option<SystemTime>,
    /// When a parked call is tried again, though not before the calls that are parked before it about the same session
    /// or issue. `None` for a live call and a dead letter.
    #[serde(serialize_with = "crate::timestamp::serialize_optional")]
    pub next_attempt_at: Option<SystemTime>,
    /// Why a parked call is parked.
    pub reason: Option<String>,
    /// How long the call was tried.
    #[serde(rename = "ageSeconds", serialize_with = "crate::seconds::serialize")]
    pub age: Duration,
    /// The HTTP status with which the platform rejected the call.
    pub status_code: Option<u16>,
    /// Why the last attempt failed, without the body of a response. `None` before the first attempt.
    pub last_error: Option<String>,
}

/// The owner of a live call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EntryOwner {
    /// The id of the owner.
    pub id: i64,
    /// Whether the owner is alive, as far as the operating system, or its lease on the server, says.
    pub is_alive: bool,
}

/// The state of a call in an outbox. As text `live`, `parked` or `dead_letter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EntryState {
    /// A process sends the call, or is about to.
    Live,
    /// The call is tried again later.
    Parked,
    /// The call was rejected, has expired, or panicked: it is not tried again, unless it is requeued.
    DeadLetter,
}

labels!(EntryState, "state of a call", {
    Live => "live",
    Parked => "parked",
    DeadLetter => "dead_letter",
});

/// Which calls to list, ordered by id. In JSON, all fields are optional.
///
/// ```
/// # use result_poster::outbox::EntryQuery;
/// let first_page = EntryQuery::dead_letters().limit(500);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[must_use]
pub struct EntryQuery {
    pub(super) state: Option<EntryState>,
    pub(super) target_id: Option<String>,
    #[serde(
        rename = "olderThanSeconds",
        serialize_with = "crate::seconds::serialize_optional",
        deserialize_with = "crate::seconds::deserialize_optional"
    )]
    pub(super) older_than: Option<Duration>,
    pub(super) after: Option<CallId>,
    #[serde(deserialize_with = "capped_limit")]
    pub(super) limit: u32,
    pub(super) without_bodies: bool,
}

impl Default for EntryQuery {
    /// As [`all`](Self::all).
    fn default() -> Self {
        Self::all()
    }
}

impl EntryQuery {
    /// All calls of all processes.
    pub fn all() -> Self {
        Self {
            state: None,
            target_id: None,
            older_than: None,
            after: None,
            limit: DEFAULT_LIMIT,
            without_bodies: false,
        }
    }

    /// The parked calls.
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
            state: Some(state),
            ..Self::all()
        }
    }

    /// Only calls about the session or issue with this id. Default: about all.
    pub fn target(mut self, target_id: impl Into<String>) -> Self {
        self.target_id = Some(target_id.into());
        self
    }

    /// Only calls that were stored at least this long ago, by the clock of the host. Default: of any age.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    /// Leaves the body of each call empty: for an overview, which is then much faster if bodies are long.
    pub fn without_bodies(mut self) -> Self {
        self.without_bodies = true;
        self
    }

    /// Only calls after this one: the last of the previous page. Default: from the first call on.
    pub fn after(mut self, id: CallId) -> Self {
        self.after = Some(id);
        self
    }

    /// At most this many calls, and 500 in any case. Default: 100.
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit.min(MAX_LIMIT);
        self
    }

    /// The last time at which a call may have been stored. `None`: at any time.
    pub(super) fn stored_until(&self, now: SystemTime) -> Option<SystemTime> {
        let age = self.older_than?;
        Some(now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    #[cfg(test)]
    pub(super) fn matches(&self, entry: &OutboxEntry, now: SystemTime) -> bool {
        self.state.is_none_or(|state| state == entry.state)
            && self.target_id.as_ref().is_none_or(|id| *id == entry.target_id)
            && self.stored_until(now).is_none_or(|until| entry.created_at <= until)
            && self.after.is_none_or(|after| entry.id > after)
    }
}

/// The content of an outbox in numbers. As JSON, its names are in camel case, and the age is
/// `oldestAgeSeconds`, a number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct OutboxStats {
    /// Calls that a process sends, or is about to.
    pub live: u64,
    /// Calls that are tried again later.
    pub parked: u64,
    /// Calls that are not tried again.
    pub dead_letters: u64,
    /// How long ago the oldest live or parked call was stored, by the clock of the host.
    #[serde(rename = "oldestAgeSeconds", serialize_with = "crate::seconds::serialize_optional")]
    pub oldest_age: Option<Duration>,
    /// The size of the database in bytes, without free pages and its log. On a server: the size of all bodies, and 700
    /// bytes more for each call.
    pub bytes: u64,
    /// Live and parked calls of other queues in the same store.
    pub in_other_queues: u64,
}

fn capped_limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    u32::deserialize(deserializer).map(|limit| limit.min(MAX_LIMIT))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn an_entry_is_serialized_with_readable_times_and_seconds() {
        let entry = OutboxEntry {
            id: CallId::from_parts(1, 7),
            state: EntryState::Parked,
            owner: Some(EntryOwner { id: 7, is_alive: true }),
            kind: "status".into(),
            target_id: "sess-1".into(),
            queue: "q".into(),
            worker_id: None,
            idempotency_key: "key".into(),
            body: "{}".into(),
            attempts: 3,
            created_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_500),
            parked_at: None,
            next_attempt_at: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_060)),
            reason: None,
            age: Duration::from_millis(1_500),
            status_code: None,
            last_error: None,
        };
        let json = serde_json::to_value(entry).unwrap();
        assert_eq!(json["state"], "parked");
        assert_eq!(json["owner"], serde_json::json!({"id": 7, "isAlive": true}));
        assert_eq!(json["ageSeconds"], 1.5);
        assert_eq!(json["createdAt"], "2023-11-14T22:13:20.5Z");
        assert_eq!(json["nextAttemptAt"], "2023-11-14T22:14:20Z");
    }
}
