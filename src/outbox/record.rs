//! Calls that are moved from one outbox to another.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;

use super::entry::EntryState;
use crate::call_id::CallId;

/// A call with all that is needed to deliver it from another outbox; see
/// [`OutboxInspector::export`](super::OutboxInspector::export). As JSON, its names are in camel case, and it has no line
/// break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    pub(super) id: CallId,
    pub(super) state: EntryState,
    pub(super) queue: String,
    /// The lane to which the call returns.
    pub(super) lane: String,
    /// The id of the first call of its message.
    pub(super) message: CallId,
    pub(super) kind: String,
    pub(super) target_id: String,
    pub(super) idempotency_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) worker_id: Option<String>,
    #[serde(default)]
    pub(super) reduced: bool,
    /// In milliseconds since 1970.
    pub(super) created_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) headers: Option<JsonText>,
    pub(super) body: JsonText,
}

impl CallRecord {
    /// The id of the call.
    #[must_use]
    pub fn id(&self) -> CallId {
        self.id
    }

    /// The state of the call when it was exported.
    #[must_use]
    pub fn state(&self) -> EntryState {
        self.state
    }
}

/// The number of imported records, stored and skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Imported {
    /// Calls that were stored.
    pub stored: usize,
    /// Calls that the outbox had already: one with the same id, or one with the same `Idempotency-Key` that is live or
    /// parked.
    pub skipped: usize,
}

/// JSON as it is stored: it is written as it is, not as a text within JSON, unless it is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonText(pub(super) String);

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<&RawValue>(&self.0) {
            Ok(json) if !self.0.contains(['\n', '\r']) => json.serialize(serializer),
            Ok(_) | Err(_) => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        if json.get().starts_with('"') {
            let text = serde_json::from_str(json.get()).map_err(D::Error::custom)?;
            return Ok(Self(text));
        }
        Ok(Self(json.get().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &str) -> CallRecord {
        CallRecord {
            id: CallId::from_parts(1, 7),
            state: EntryState::Parked,
            queue: "q".into(),
            lane: "session sess-1".into(),
            message: CallId::from_parts(1, 7),
            kind: "status".into(),
            target_id: "sess-1".into(),
            idempotency_key: "key".into(),
            worker_id: None,
            reduced: false,
            created_at: 5,
            status_code: None,
            last_error: None,
            headers: Some(JsonText(r#"{"traceparent":"00"}"#.into())),
            body: JsonText(body.into()),
        }
    }

    #[test]
    fn a_record_is_one_line_of_json_and_keeps_the_bytes_of_the_body() {
        for (body, expected) in [
            (r#"{"cost":1.10,"a":1, "a":2}"#, r#""body":{"cost":1.10,"a":1, "a":2}"#),
            ("{\n}", r#""body":"{\n}""#),
            ("damaged", r#""body":"damaged""#),
        ] {
            let line = serde_json::to_string(&record(body)).unwrap();
            assert!(line.contains(expected) && !line.contains('\n'), "{line}");
            assert!(line.contains(r#""headers":{"traceparent":"00"}"#), "{line}");
            assert_eq!(serde_json::from_str::<CallRecord>(&line).unwrap(), record(body));
        }
    }
}
