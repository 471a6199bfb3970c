//! Parsing of JSON objects and timestamps that come from a provider.

use std::time::SystemTime;

use serde::de::DeserializeOwned;

/// Parses a struct from a JSON object, and from nothing else.
///
/// Serde alone also accepts a JSON array, whose elements it assigns to the fields by position.
pub(super) fn parse_object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let is_object = json.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(json).ok()).flatten()
}

/// Parses an RFC 3339 timestamp such as `2026-01-31T12:00:00Z`.
pub(super) fn parse_timestamp(text: &str) -> Option<SystemTime> {
    Some(text.parse::<jiff::Timestamp>().ok()?.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_parsed_with_any_offset() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        for text in [
            "2023-11-14T22:13:20.5Z",
            "2023-11-14T23:13:20.500+01:00",
            "2023-11-14t22:13:20.5z",
        ] {
            assert_eq!(parse_timestamp(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn malformed_timestamps_are_rejected() {
        for text in [
            "",
            "tomorrow",
            "2023-11-14",
            "1700000000",
            "2023-13-14T22:13:20Z",
            "99999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn a_json_array_is_not_an_object() {
        assert_eq!(parse_object::<(u8,)>(b"[1]"), None);
    }
}
