//! Small helpers: caught panics, error chains, cutting and escaping text.

use std::{
    any::Any,
    borrow::Cow,
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures_util::FutureExt as _;

/// The output of `work`, or the message of its panic.
pub(crate) fn catch_panic<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    let work = AssertUnwindSafe(work).catch_unwind();
    work.map(|output| output.map_err(|panic| panic_message(panic.as_ref())))
}

/// Runs `work` and discards its panic: a faulty log backend must not fail a call.
pub(crate) fn ignore_panic(work: impl FnOnce()) {
    // The panic hook has already reported it.
    let _ = catch_unwind(AssertUnwindSafe(work));
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// An error and all of its sources, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

/// `bytes` as text, with U+FFFD for what is not UTF-8.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    // The check alone is several times as fast as the conversion.
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// `text` without whitespace and byte order marks around it.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// The longest prefix of `text` that has at most `max` bytes and ends at a character boundary.
pub(crate) fn prefix(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// The first `max` characters of `text`.
pub(crate) fn prefix_chars(text: &str, max: usize) -> &str {
    let end = text.char_indices().nth(max).map_or(text.len(), |(end, _)| end);
    text.get(..end).unwrap_or_default()
}

/// `text` with control characters, line separators and bidirectional overrides escaped, so that it can neither break a line nor steer a
/// terminal.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// A body as the end of a line, escaped so that it can neither break the line nor steer a terminal.
pub(crate) fn after_colon(body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!(": {}", printable(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_between_characters() {
        assert_eq!(prefix("日本", 6), "日本");
        assert_eq!(prefix("日本", 5), "日");
        assert_eq!(prefix("日本", 3), "日");
        assert_eq!(prefix("日本", 2), "");
        assert_eq!(prefix("日本", 0), "");
        assert_eq!(prefix("", 9), "");
    }

    #[test]
    fn a_panic_is_caught_with_its_message() {
        let panics = catch_panic(async { panic!("on purpose") });
        assert_eq!(panics.now_or_never(), Some(Err::<(), _>("on purpose".to_owned())));
        assert_eq!(catch_panic(async { 7 }).now_or_never(), Some(Ok(7)));
    }
}
