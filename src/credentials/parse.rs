//! Parsing of the JSON that comes from a provider. Pure.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// The start of the year 2000, in seconds since 1970. Programs that have no expiry write an earlier time, such as Go's
/// zero time.
const YEAR_2000: Duration = Duration::from_secs(946_684_800);

/// The end of the year 9999, in seconds since 1970. A larger number is in milliseconds.
const YEAR_9999: f64 = 253_402_300_799.0;

/// The values of one name each.
pub(super) type Members<const N: usize> = [Option<Box<RawValue>>; N];

/// Reads the members with these names from a JSON object, and from nothing else. A byte order mark before the object is
/// skipped, other members are ignored, and `null` counts as absent.
///
/// The last of equal names counts. A struct that derives `Deserialize` refuses the whole object for a repeated name.
pub(super) fn parse_members<const N: usize>(json: &[u8], names: [&str; N]) -> Option<Members<N>> {
    let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
    let mut object = serde_json::Deserializer::from_slice(json);
    let members = object.deserialize_map(MembersVisitor(names)).ok()?;
    object.end().ok()?;
    Some(members)
}

struct MembersVisitor<'a, const N: usize>([&'a str; N]);

impl<'de, const N: usize> Visitor<'de> for MembersVisitor<'_, N> {
    type Value = Members<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members<N>, A::Error> {
        let mut members = [const { None }; N];
        while let Some(name) = object.next_key::<String>()? {
            let member = self.0.iter().zip(&mut members).find(|(known, _)| **known == name);
            match member {
                Some((_, value)) => *value = object.next_value()?,
                None => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(members)
    }
}

/// Reads a time of any JSON type: RFC 3339 text such as `2026-01-31T12:00:00Z`, or a Unix time in seconds or
/// milliseconds. `None` if it can't be read, or is not a plausible expiry.
///
/// The value is raw, so that a number out of range does not make the rest of its object unreadable.
pub(super) fn parse_time(value: &RawValue) -> Option<SystemTime> {
    let time = match serde_json::from_str(value.get()).ok()? {
        Value::String(text) => text.trim().parse::<jiff::Timestamp>().ok()?.into(),
        Value::Number(number) => unix_time(number.as_f64()?)?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(time).filter(|time| is_set(*time))
}

/// Whether a time is one that was set on purpose: from the year 2000 on.
pub(super) fn is_set(time: SystemTime) -> bool {
    time.duration_since(UNIX_EPOCH).is_ok_and(|since| since >= YEAR_2000)
}

fn unix_time(number: f64) -> Option<SystemTime> {
    let seconds = if number > YEAR_9999 { number / 1000.0 } else { number };
    if seconds > YEAR_9999 {
        return None;
    }
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Option<SystemTime> {
        parse_time(&RawValue::from_string(json.into()).unwrap())
    }

    #[test]
    fn a_timestamp_is_read_with_any_offset() {
        let expected = UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        for text in [
            r#""2023-11-14T22:13:20.5Z""#,
            r#""2023-11-14T23:13:20.500+01:00""#,
            r#""2023-11-14t22:13:20.5z""#,
            r#"" 2023-11-14T22:13:20.5Z\n""#,
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_number_is_a_unix_time_in_seconds_or_milliseconds() {
        for (number, millis) in [
            ("1700000000", 1_700_000_000_000),
            ("1700000000.5", 1_700_000_000_500),
            ("1.7e9", 1_700_000_000_000),
            ("1700000000500", 1_700_000_000_500),
            ("946684800", 946_684_800_000),
            ("253402300799", 253_402_300_799_000),
            ("253402300799000", 253_402_300_799_000),
        ] {
            assert_eq!(
                parse(number),
                Some(UNIX_EPOCH + Duration::from_millis(millis)),
                "{number}"
            );
        }
    }

    #[test]
    fn an_unset_time_is_unknown() {
        for value in [
            r#""0001-01-01T00:00:00Z""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""1999-12-31T23:59:59Z""#,
            "0",
            "-62135596800",
            "-1",
            "946684799",
            "null",
            r#""""#,
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
    }

    #[test]
    fn an_unreadable_time_is_unknown() {
        for value in [
            r#""tomorrow""#,
            r#""2023-11-14""#,
            r#""1700000000""#,
            r#""2023-13-14T22:13:20Z""#,
            r#""99999-01-01T00:00:00Z""#,
            r#""cut \ud83d""#,
            "true",
            "[1700000000]",
            r#"{"seconds":1700000000}"#,
            "18446744073709551616",
            "1e30",
            "1e999",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
    }

    /// The members `a` and `b` as JSON, with `-` for an absent one.
    fn members(json: impl AsRef<[u8]>) -> Option<[String; 2]> {
        let members = parse_members(json.as_ref(), ["a", "b"])?;
        Some(members.map(|value| value.map_or("-".into(), |value| value.get().to_owned())))
    }

    #[test]
    fn only_an_object_has_members() {
        for json in ["", "null", "[]", "[1,2]", r#""a""#, "{", r#"{"a":1"#, r#"{"a":1} 2"#] {
            assert_eq!(members(json), None, "{json}");
        }
        assert_eq!(members("{}"), Some(["-", "-"].map(Into::into)));
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        for (json, expected) in [
            (r#"{"a":1,"b":2,"a":"x"}"#, [r#""x""#, "2"]),
            (r#"{"a":1,"a":null}"#, ["-", "-"]),
            (r#"{"a":null,"a":[1]}"#, ["[1]", "-"]),
            (r#"{"c":1,"c":2,"\u0061":3}"#, ["3", "-"]),
        ] {
            assert_eq!(members(json), Some(expected.map(Into::into)), "{json}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(members("\u{feff} {\"a\":1} "), Some(["1", "-"].map(Into::into)));
        assert_eq!(members("\u{feff}\u{feff}{}"), None);
    }

    #[test]
    fn another_member_need_not_be_readable() {
        for other in [&b"1e999"[..], b"\"cut \\ud83d\"", b"\"\xff\""] {
            let json = [b"{\"a\":1,\"c\":", other, b"}"].concat();
            assert_eq!(members(&json), Some(["1", "-"].map(Into::into)), "{other:?}");
        }
    }
}
