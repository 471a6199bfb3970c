//! The forms of values.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo};
use secrecy::SecretString;
use serde::{
    Deserializer,
    de::{Error, Visitor},
};

const EXPECTED: &str = "a duration such as `500ms`, `30s`, `5m` or `7d`";

/// Parses `30s`, `1m 30s`, `7d`: see the formats of jiff's `Span`. A day has 24 hours.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let duration: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).ok_or_else(|| E::custom(format_args!("{text:?} is not {EXPECTED}")))
        }
    }

    deserializer.deserialize_str(Text).map(Some)
}

/// A secret. An error does not quote a value that is not text.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    struct Text;

    fn not_text<E: Error>() -> Result<SecretString, E> {
        Err(E::custom("is not text"))
    }

    impl Visitor<'_> for Text {
        type Value = SecretString;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<SecretString, E> {
            Ok(text.into())
        }

        fn visit_bool<E: Error>(self, _: bool) -> Result<SecretString, E> {
            not_text()
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<SecretString, E> {
            not_text()
        }

        fn visit_u64<E: Error>(self, _: u64) -> Result<SecretString, E> {
            not_text()
        }

        fn visit_f64<E: Error>(self, _: f64) -> Result<SecretString, E> {
            not_text()
        }
    }

    deserializer.deserialize_any(Text).map(Some)
}
