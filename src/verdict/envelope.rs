//! The members of a JSON body that a verdict depends on.
//!
//! Only these members are read, and leniently: a body that breaks off, and one with other members that are no JSON,
//! counts up to there. The other members are skipped, whatever they hold.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer as _,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::util::lossy;

/// `{"success": …, "error": {"code": …, "message": …, "retryable": …}, "partsPosted": …, "totalParts": …, "errors": …}`.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) success: Option<bool>,
    /// Whether `error.retryable` is `true`.
    pub(super) is_retryable: bool,
    /// Whether `error` was read, or the body ends without one: nothing that is missing could be a `retryable`.
    pub(super) has_whole_error: bool,
    code: Option<String>,
    message: Option<String>,
    parts_posted: Option<f64>,
    total_parts: Option<f64>,
    errors: Vec<String>,
}

impl Envelope {
    /// Reads the start of a body. Of equal members, the last counts.
    pub(super) fn read(body: &[u8]) -> Self {
        let json = lossy(body);
        let mut envelope = Self::default();
        let mut has_error = false;
        let is_whole = for_each_member(json.trim_start_matches('\u{feff}'), |name, value| match name {
            "success" => envelope.success = value.parse().ok(),
            "error" => {
                has_error = true;
                envelope.read_error(value);
            }
            "partsPosted" => envelope.parts_posted = value.parse().ok(),
            "totalParts" => envelope.total_parts = value.parse().ok(),
            "errors" => envelope.errors = texts(value),
            _ => {}
        });
        envelope.has_whole_error = has_error || is_whole;
        envelope
    }

    fn read_error(&mut self, error: &str) {
        (self.is_retryable, self.code, self.message) = (false, None, text(error));
        for_each_member(error, |name, value| match name {
            "code" => self.code = text(value),
            "message" => self.message = text(value),
            "retryable" => self.is_retryable = value == "true",
            _ => {}
        });
    }

    /// The code and message of the error, as one text.
    pub(super) fn error(&self) -> String {
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => String::new(),
        }
    }

    /// How many parts of a comment were posted, of how many, if not all were.
    pub(super) fn missing_parts(&self) -> Option<(u64, u64)> {
        let (posted, total) = (count(self.parts_posted?)?, count(self.total_parts?)?);
        (posted < total).then_some((posted, total))
    }

    /// The texts of `errors`, as one text.
    pub(super) fn errors(&self) -> String {
        self.errors.join("; ")
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is in range"
)]
fn count(number: f64) -> Option<u64> {
    const LARGEST: f64 = 1e15;
    (0.0..=LARGEST).contains(&number).then_some(number as u64)
}

/// Passes each member of a JSON object to `each`, with the JSON text of its value, up to the first syntax error. Returns
/// whether there was none.
fn for_each_member(json: &str, each: impl FnMut(&str, &str)) -> bool {
    serde_json::Deserializer::from_str(json)
        .deserialize_map(Members(each))
        .is_ok()
}

/// The elements of a JSON array as texts, up to the first syntax error. Another value is a list of one.
fn texts(json: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if json.starts_with('[') {
        let _ = serde_json::Deserializer::from_str(json).deserialize_seq(Elements(&mut texts));
    } else if json != "null" {
        texts.push(text(json).unwrap_or_else(|| json.to_owned()));
    }
    texts
}

/// The content of a JSON string. Half a surrogate pair becomes U+FFFD.
fn text(json: &str) -> Option<String> {
    let text = serde_json::Deserializer::from_str(json).deserialize_bytes(Text);
    text.ok().map(Cow::into_owned)
}

struct Members<F>(F);

impl<'de, F: FnMut(&str, &str)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Text)? {
            let value: &RawValue = map.next_value()?;
            (self.0)(&name, value.get());
        }
        Ok(())
    }
}

struct Elements<'a>(&'a mut Vec<String>);

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            let json = element.get();
            self.0.push(text(json).unwrap_or_else(|| json.to_owned()));
        }
        Ok(())
    }
}

struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(lossy(bytes))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(String::from_utf8_lossy(bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success(body: impl AsRef<[u8]>) -> Option<bool> {
        Envelope::read(body.as_ref()).success
    }

    #[test]
    fn the_other_members_may_hold_anything() {
        for data in [
            r#""cut \ud83d""#.to_owned(),
            "1e999".into(),
            "-0.0e-999".into(),
            "[".repeat(200) + &"]".repeat(200),
            "{\"a\":".repeat(20_000) + "0" + &"}".repeat(20_000),
        ] {
            let members = [format!(r#""data":{data}"#), r#""success":true"#.into()];
            assert_eq!(success(format!("{{{}}}", members.join(","))), Some(true));
            let members = [r#""error":{"data":"#.into(), data, r#"},"success":false"#.into()];
            assert_eq!(success(format!("{{{}}}", members.concat())), Some(false));
        }
    }

    #[test]
    fn a_body_counts_up_to_where_it_breaks_off() {
        let whole = r#"{"success":true,"data":{"text":"long"}}"#;
        let known_from = r#"{"success":true"#.len();
        for length in 0..=whole.len() {
            let expected = (length >= known_from).then_some(true);
            assert_eq!(success(whole.get(..length).unwrap()), expected, "{length}");
        }
        for rest in ["} trailing", ",\"data\":NaN}", ",'data':0}", ",,", "]"] {
            assert_eq!(success(format!(r#"{{"success":true{rest}"#)), Some(true), "{rest}");
        }
    }

    #[test]
    fn the_error_of_a_body_that_breaks_off_is_whole_once_it_was_read() {
        let whole = r#"{"success":false,"error":{"retryable":true},"data":"long"}"#;
        let known_from = r#"{"success":false,"error":{"retryable":true}"#.len();
        for length in 0..=whole.len() {
            let has_whole_error = Envelope::read(whole.get(..length).unwrap().as_bytes()).has_whole_error;
            assert_eq!(has_whole_error, length >= known_from, "{length}");
        }
        for (body, expected) in [
            (r#"{"success":false}"#, true),
            (r#"{"success":false} trailing"#, true),
            (r#"{"success":false"#, false),
            (r#"{"success":false,"data":NaN,"error":{}}"#, false),
        ] {
            assert_eq!(Envelope::read(body.as_bytes()).has_whole_error, expected, "{body}");
        }
    }

    #[test]
    fn only_a_boolean_is_a_success() {
        for body in [
            "",
            "[]",
            "true",
            "null",
            "\"success\"",
            "{}",
            r#"{"success":null}"#,
            r#"{"success":"true"}"#,
            r#"{"success":1}"#,
            r#"{"success":tru"#,
            r#"{"Success":true}"#,
            r#"[{"success":true}]"#,
            r#"{"data":{"success":true}}"#,
            "<html>",
        ] {
            assert_eq!(success(body), None, "{body}");
        }
        assert_eq!(success("\u{feff} { \"success\" : false }"), Some(false));
        assert_eq!(success(r#"{"succ\u0065ss":true}"#), Some(true));
        assert_eq!(success(r#"{"success":true,"success":false}"#), Some(false));
        assert_eq!(success(b"{\"caf\xe9\":\"\xff\",\"success\":true}"), Some(true));
    }

    #[test]
    fn an_error_is_its_code_and_message() {
        for (error, text, is_retryable) in [
            (r#"{"code":"NO","message":"never","retryable":true}"#, "NO: never", true),
            (
                r#"{"message":"cut \ud83d","retryable":"true"}"#,
                "cut \u{fffd}\u{fffd}\u{fffd}",
                false,
            ),
            (r#"{"code":"NO","message":7}"#, "NO", false),
            (r#""plain""#, "plain", false),
            ("null", "", false),
            ("[1]", "", false),
        ] {
            let envelope = Envelope::read(format!(r#"{{"error":{error}}}"#).as_bytes());
            assert_eq!(
                (envelope.error().as_str(), envelope.is_retryable),
                (text, is_retryable),
                "{error}"
            );
        }
    }

    #[test]
    fn parts_that_were_not_posted_are_counted() {
        let missing = |posted, total| {
            Envelope::read(format!(r#"{{"partsPosted":{posted},"totalParts":{total}}}"#).as_bytes()).missing_parts()
        };
        assert_eq!(missing("3", "7"), Some((3, 7)));
        assert_eq!(missing("0.0", "1"), Some((0, 1)));
        for (posted, total) in [
            ("7", "7"),
            ("8", "7"),
            ("-1", "7"),
            ("\"3\"", "7"),
            ("3", "1e999"),
            ("null", "7"),
        ] {
            assert_eq!(missing(posted, total), None, "{posted} of {total}");
        }
    }

    #[test]
    fn errors_are_a_list_of_texts() {
        for (errors, text) in [
            (r#"["x"]"#, "x"),
            (r#"["x",{"part":2}]"#, r#"x; {"part":2}"#),
            (r#""x""#, "x"),
            ("[]", ""),
            ("null", ""),
        ] {
            assert_eq!(
                Envelope::read(format!(r#"{{"errors":{errors}}}"#).as_bytes()).errors(),
                text
            );
        }
    }
}
