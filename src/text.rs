//! Cutting text without breaking it, and showing it without harm.

/// The longest start of `text` that has at most `max` bytes and ends between two characters.
pub(crate) fn prefix(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

/// `text` with control characters, and those that change the direction of what follows, escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_prefix_ends_between_characters() {
        assert_eq!(prefix("日本", 6), "日本");
        assert_eq!(prefix("日本", 5), "日");
        assert_eq!(prefix("日本", 3), "日");
        assert_eq!(prefix("日本", 2), "");
        assert_eq!(prefix("日本", 0), "");
        assert_eq!(prefix("", 9), "");
    }
}
