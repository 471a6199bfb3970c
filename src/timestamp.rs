//! Times of day in JSON: a text as in RFC 3339, in UTC.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Serialize as _, Serializer};

pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    text(*time).serialize(serializer)
}

#[cfg(feature = "outbox")]
pub(crate) fn serialize_optional<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.and_then(text).serialize(serializer)
}

/// `None` for a time that RFC 3339 can't write.
fn text(time: SystemTime) -> Option<String> {
    Timestamp::try_from(time).ok().map(|timestamp| timestamp.to_string())
}
