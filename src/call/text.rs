//! Texts as the platform can keep them.

use std::borrow::Cow;

use crate::{
    util::prefix,
    warning::{Warning, Warnings},
};

/// `text` without NUL, which the platform's database can't store.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// `text` without NUL, and in at most `max` bytes as encoded in JSON. If it is cut, its last line says how much was cut.
pub(super) fn limited<'a>(text: &'a str, max: usize, field: &str, warnings: &mut Warnings) -> Cow<'a, str> {
    let text = without_nul(text);
    match cut(&text, max) {
        None => text,
        Some(Cut { text: shorter, bytes }) => {
            warnings.push(Warning::TextCut {
                field: field.to_owned(),
                cut: bytes,
                total: text.len(),
            });
            shorter.into()
        }
    }
}

/// A text that was cut.
pub(super) struct Cut {
    pub(super) text: String,
    /// How many bytes were cut.
    pub(super) bytes: usize,
}

/// Cuts a text that has more than `max` bytes as encoded in JSON, between two characters.
pub(super) fn cut(text: &str, max: usize) -> Option<Cut> {
    // No character is encoded in fewer bytes than it has.
    if text.len() <= max / MAX_EXPANSION || encoded_prefix(text, max).len() == text.len() {
        return None;
    }
    let note = |bytes: usize| format!("\n\n[{bytes} of {} bytes cut]", text.len());
    // The note is longest if everything is cut. Its two line breaks are encoded in two bytes each.
    let longest_note = note(text.len()).len().saturating_add(2);
    let kept = encoded_prefix(text, max.saturating_sub(longest_note)).trim_end();
    let bytes = text.len().saturating_sub(kept.len());
    Some(Cut {
        text: format!("{kept}{}", note(bytes)),
        bytes,
    })
}

/// The most bytes in which JSON encodes one byte.
const MAX_EXPANSION: usize = 6;

/// The longest prefix that has at most `max` bytes as encoded in JSON.
fn encoded_prefix(text: &str, max: usize) -> &str {
    let mut encoded: usize = 0;
    let end = text.bytes().position(|byte| {
        encoded = encoded.saturating_add(encoded_len(byte));
        encoded > max
    });
    // The end of a cut character is moved to its start.
    prefix(text, end.unwrap_or(text.len()))
}

fn encoded_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 2,
        0x00..=0x1f => MAX_EXPANSION,
        _ => 1,
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a panic is a failed test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_fits_is_not_cut() {
        assert!(cut(&"x".repeat(100), 100).is_none());
        assert!(cut(&"\n".repeat(50), 100).is_none());
        assert!(cut("", 0).is_none());
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        let text = "日".repeat(100);
        let Cut { text: cut, bytes } = cut(&text, 100).unwrap();
        let (kept, note) = cut.split_once("\n\n").unwrap();
        assert!(text.starts_with(kept) && !kept.is_empty());
        assert_eq!(bytes, 300 - kept.len());
        assert_eq!(note, format!("[{bytes} of 300 bytes cut]"));
    }

    #[test]
    fn escapes_count_as_they_are_encoded() {
        let colours = "\u{1b}[31mred".repeat(100);
        assert!(cut(&colours, colours.len()).is_some());
    }

    #[test]
    fn a_nul_becomes_a_replacement_character() {
        let mut warnings = Warnings::default();
        assert_eq!(limited("a\0b", 100, "summary", &mut warnings), "a\u{fffd}b");
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_warning_tells_how_much_was_cut() {
        let mut warnings = Warnings::default();
        let text = limited("0123456789012345678901234567890123456789", 35, "error", &mut warnings).into_owned();
        assert!(text.len() < 40, "{text}");
        assert_eq!(warnings.len(), 1);
        let warning = warnings[0].to_string();
        assert!(
            warning.starts_with("`error` was cut by ") && warning.ends_with(" of 40 bytes"),
            "{warning}"
        );
    }

    proptest! {
        #[test]
        fn a_cut_text_is_a_prefix_that_fits(text in any::<String>(), max in 40usize..200) {
            let text = text.repeat(9);
            let encoded = |text: &str| serde_json::to_string(text).unwrap().len() - 2;
            match cut(&text, max) {
                None => prop_assert!(encoded(&text) <= max),
                Some(cut) => {
                    prop_assert!(encoded(&text) > max);
                    prop_assert!(encoded(&cut.text) <= max);
                    let kept = cut.text.rsplit_once("\n\n").unwrap().0;
                    prop_assert!(text.starts_with(kept));
                    prop_assert_eq!(cut.bytes, text.len() - kept.len());
                }
            }
        }
    }
}
