//! A reader of JSON that loses a value rather than the whole document.

// serde_json refuses the whole document for half a surrogate, a number out of range, `NaN` (which Python writes), a
// raw line break in a text, or a report that is nested too deep.

use serde_json::{Map, Value};

use crate::warning::{Warning, Warnings};

/// How deep values may be nested. serde_json's own limit is 128.
const MAX_DEPTH: usize = 100;

/// The text that is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) reason: &'static str,
    /// The offset in bytes.
    pub(super) at: usize,
}

/// A value, and the members that were left out of it.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) warnings: Warnings,
}

/// Reads a document. A value that can't be read is left out of its object, and becomes `null` in an array. Half a
/// surrogate and bytes that are not UTF-8 become U+FFFD. A byte order mark is skipped.
pub(super) fn read(json: &[u8]) -> Result<Document, SyntaxError> {
    let text = String::from_utf8_lossy(json);
    let mut reader = Reader {
        text: text.strip_prefix('\u{feff}').unwrap_or(&text),
        at: 0,
        path: Vec::new(),
        warnings: Warnings::default(),
    };
    let value = reader.value()?;
    reader.skip_whitespace();
    match reader.peek() {
        None => Ok(Document {
            value: value.unwrap_or_default(),
            warnings: reader.warnings,
        }),
        Some(_) => Err(reader.error("more text after the value")),
    }
}

struct Reader<'a> {
    text: &'a str,
    /// The offset of the next character.
    at: usize,
    /// The names of the members around the value that is read.
    path: Vec<String>,
    warnings: Warnings,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at = self.at.saturating_add(next.len_utf8());
        Some(next)
    }

    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.next();
        }
    }

    fn error(&self, reason: &'static str) -> SyntaxError {
        SyntaxError { reason, at: self.at }
    }

    fn leave_out(&mut self, reason: &'static str) {
        self.warnings
            .push_with(|| Warning::left_out(self.path.join("."), reason));
    }

    /// The next value, or `None` if it is left out.
    fn value(&mut self) -> Result<Option<Value>, SyntaxError> {
        self.skip_whitespace();
        match self.peek() {
            Some('{' | '[') if self.path.len() >= MAX_DEPTH => {
                self.skip_nested()?;
                self.leave_out("it is nested too deep");
                Ok(None)
            }
            Some('{') => self.object().map(Some),
            Some('[') => self.array().map(Some),
            Some('"') => self.string().map(|text| Some(Value::String(text))),
            Some(_) => self.word(),
            None => Err(self.error("the text ends before the value does")),
        }
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        let mut members = Map::new();
        self.next();
        self.skip_whitespace();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_whitespace();
            if self.peek() != Some('"') {
                return Err(self.error("expected the name of a member"));
            }
            let name = self.string()?;
            self.skip_whitespace();
            if self.peek() != Some(':') {
                return Err(self.error("expected a colon"));
            }
            self.next();
            self.path.push(name);
            let value = self.value()?;
            let name = self.path.pop().unwrap_or_default();
            // The last of equal names counts, even if its value is left out.
            match value {
                Some(value) => members.insert(name, value),
                None => members.remove(&name),
            };
            if self.ends_after_comma('}')? {
                return Ok(Value::Object(members));
            }
        }
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        let mut elements = Vec::new();
        self.next();
        self.skip_whitespace();
        if self.peek() == Some(']') {
            self.next();
            return Ok(Value::Array(elements));
        }
        loop {
            self.path.push(elements.len().to_string());
            let element = self.value()?;
            self.path.pop();
            elements.push(element.unwrap_or_default());
            if self.ends_after_comma(']')? {
                return Ok(Value::Array(elements));
            }
        }
    }

    /// Reads the comma before the next member or element, or the end of the object or array.
    fn ends_after_comma(&mut self, end: char) -> Result<bool, SyntaxError> {
        self.skip_whitespace();
        match self.peek() {
            Some(',') => {
                self.next();
                Ok(false)
            }
            Some(next) if next == end => {
                self.next();
                Ok(true)
            }
            Some(_) => Err(self.error("expected a comma")),
            None => Err(self.error("the text ends before the value does")),
        }
    }

    /// A number or a literal.
    fn word(&mut self) -> Result<Option<Value>, SyntaxError> {
        let is_in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        let rest = self.rest();
        let end = rest.find(|c| !is_in_word(c)).unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default();
        let value = match word {
            "null" => Some(Value::Null),
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => word.parse().ok().map(Value::Number),
        };
        // `NaN`, `Infinity`, `1e999`, `01`.
        let is_other_number = value.is_none() && word.parse::<f64>().is_ok();
        if value.is_none() && !is_other_number {
            return Err(self.error("expected a value"));
        }
        self.at = self.at.saturating_add(end);
        if is_other_number {
            self.leave_out("it is not a number in JSON");
        }
        Ok(value)
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let mut text = String::new();
        self.next();
        loop {
            let rest = self.rest();
            let end = rest.find(['"', '\\']).unwrap_or(rest.len());
            text.push_str(rest.get(..end).unwrap_or_default());
            self.at = self.at.saturating_add(end);
            match self.next() {
                Some('"') => return Ok(text),
                Some(_) => text.push(self.escape()?),
                None => return Err(self.error("the text ends within a string")),
            }
        }
    }

    /// The character of an escape, after its backslash.
    fn escape(&mut self) -> Result<char, SyntaxError> {
        Ok(match self.next() {
            Some(same @ ('"' | '\\' | '/')) => same,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let first = self.code_unit()?;
                let second = || {
                    let rest = self.rest().strip_prefix("\\u")?;
                    code_unit(rest).filter(|unit| (0xdc00..=0xdfff).contains(unit))
                };
                match (first, second()) {
                    (0xd800..=0xdbff, Some(second)) => {
                        self.at = self.at.saturating_add(r"\uDC00".len());
                        let mut decoded = char::decode_utf16([first, second]);
                        decoded
                            .next()
                            .and_then(Result::ok)
                            .unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    _ => char::from_u32(first.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            _ => return Err(self.error("an unknown escape")),
        })
    }

    fn code_unit(&mut self) -> Result<u16, SyntaxError> {
        let unit = code_unit(self.rest()).ok_or_else(|| self.error("expected four hexadecimal digits"))?;
        self.at = self.at.saturating_add(4);
        Ok(unit)
    }

    /// Skips an object or an array, without recursion.
    fn skip_nested(&mut self) -> Result<(), SyntaxError> {
        let mut depth: usize = 0;
        loop {
            match self.peek() {
                Some('"') => {
                    self.string()?;
                    continue;
                }
                Some('{' | '[') => depth = depth.saturating_add(1),
                Some('}' | ']') => depth = depth.saturating_sub(1),
                Some(_) => {}
                None => return Err(self.error("the text ends before the value does")),
            }
            self.next();
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// The code unit that four hexadecimal digits stand for.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.get(..4)?;
    let are_digits = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    are_digits.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value(json: &str) -> (Value, Vec<String>) {
        let document = read(json.as_bytes()).unwrap();
        let warnings = document.warnings.iter().map(Warning::to_string).collect();
        (document.value, warnings)
    }

    fn reads_as(json: &str, expected: &Value) {
        assert_eq!(value(json), (expected.clone(), vec![]), "{json}");
    }

    #[test]
    fn half_a_surrogate_becomes_a_replacement_character() {
        reads_as(r#""cut \ud83d""#, &json!("cut \u{fffd}"));
        reads_as(r#""\ude00 first""#, &json!("\u{fffd} first"));
        reads_as(r#""\ud83d\ud83d\ude00""#, &json!("\u{fffd}\u{1f600}"));
        reads_as(r#""\ud83d\u0041""#, &json!("\u{fffd}A"));
        reads_as(r#""\ud83d\n""#, &json!("\u{fffd}\n"));
        reads_as(r#"{"a\udead":1}"#, &json!({"a\u{fffd}": 1}));
        reads_as(r#""\uD83D\uDE00""#, &json!("\u{1f600}"));
    }

    #[test]
    fn bytes_that_are_not_utf8_become_replacement_characters() {
        let document = read(b"\"a\xffb\"").unwrap();
        assert_eq!(document.value, json!("a\u{fffd}b"));
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        reads_as("\u{feff} {}", &json!({}));
    }

    #[test]
    fn a_raw_control_character_in_a_text_is_kept() {
        reads_as("\"a\nb\t\u{1b}[1m\"", &json!("a\nb\t\u{1b}[1m"));
    }

    #[test]
    fn a_hostile_text_makes_few_warnings() {
        let name = "n".repeat(100_000);
        let (_, warnings) = value(&format!(r#"{{"{name}":[{}1]}}"#, "NaN,".repeat(100_000)));
        assert_eq!(warnings.len(), 33);
        assert_eq!(warnings[32], "99968 more warnings");
        assert!(warnings.iter().all(|warning| warning.len() < 200));
    }

    #[test]
    fn a_number_of_another_language_is_left_out_alone() {
        for number in [
            "NaN",
            "Infinity",
            "-Infinity",
            "nan",
            "inf",
            "1e999",
            "01",
            "+1",
            "1.",
            ".5",
        ] {
            let (read, warnings) = value(&format!(r#"{{"a":{{"b":{number},"c":1}}}}"#));
            assert_eq!(read, json!({"a": {"c": 1}}), "{number}");
            assert_eq!(warnings, ["`a.b` was left out: it is not a number in JSON"]);
            assert_eq!(value(&format!("[{number}, 1]")).0, json!([null, 1]));
        }
    }

    #[test]
    fn the_last_of_equal_names_counts_even_if_it_is_left_out() {
        reads_as(r#"{"a":1,"a":2}"#, &json!({"a": 2}));
        assert_eq!(value(r#"{"a":1,"a":NaN}"#).0, json!({}));
    }

    #[test]
    fn a_value_that_is_nested_too_deep_is_left_out() {
        let nested = |depth: usize| format!(r#"{{"a":{}"]"{},"b":1}}"#, "[".repeat(depth), "]".repeat(depth));
        let (read, warnings) = value(&nested(98));
        assert!(read["a"].is_array() && warnings.is_empty());
        for depth in [100, 1_000, 1_000_000] {
            let (read, warnings) = value(&nested(depth));
            assert_eq!(read["b"], 1);
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].ends_with("was left out: it is nested too deep"));
        }
    }

    #[test]
    fn a_text_that_is_not_json_fails() {
        for (json, reason, at) in [
            ("", "the text ends before the value does", 0),
            ("{", "expected the name of a member", 1),
            (r#"{"a""#, "expected a colon", 4),
            (r#"{"a":"#, "the text ends before the value does", 5),
            (r#"{"a":1"#, "the text ends before the value does", 6),
            (r#"{"a":1,}"#, "expected the name of a member", 7),
            (r#"{"a":1 "b":2}"#, "expected a comma", 7),
            (r#"{"a":"cut"#, "the text ends within a string", 9),
            (r#"{"a":undefined}"#, "expected a value", 5),
            (r#""\u12"#, "expected four hexadecimal digits", 3),
            (r#""\x""#, "an unknown escape", 3),
            ("{a:1}", "expected the name of a member", 1),
            ("{} {}", "more text after the value", 3),
            ("[1}", "expected a comma", 2),
        ] {
            assert_eq!(read(json.as_bytes()).unwrap_err(), SyntaxError { reason, at }, "{json}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn valid_json_reads_as_serde_json_reads_it(value in any_json()) {
            for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let document = read(json.as_bytes()).unwrap();
                prop_assert_eq!(&document.value, &value);
                prop_assert!(document.warnings.is_empty());
            }
        }

        #[test]
        fn a_text_that_serde_json_reads_is_read_alike(json in r#"[\[\]{}:,"\\ud83eE0-9.truefalsnl \n-]{0,24}"#) {
            if let Ok(value) = serde_json::from_str::<Value>(&json) {
                prop_assert_eq!(read(json.as_bytes()).unwrap().value, value);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
