//! Removal of secrets from the text that errors keep. Pure.

use std::fmt;

use crate::util::prefix;

/// The longest excerpt of a text that an error keeps, in bytes.
const EXCERPT_LIMIT: usize = 4 * 1024;

/// The replacement for a secret.
const REDACTED: &str = "[REDACTED]";

/// The shortest start of a secret that is removed from the end of a text, in bytes. A shorter one may be part of a
/// word.
const MIN_FRAGMENT: usize = 4;

/// The secrets of one request: its token and the credentials of its proxy. Its `Debug` shows neither.
///
/// The secrets are borrowed from the request, so that an attempt whose response needs no redaction copies nothing.
#[derive(Clone, Copy, Default)]
pub struct Redactor<'a> {
    secrets: [Option<&'a str>; 2],
}

impl<'a> Redactor<'a> {
    pub fn new(token: Option<&'a str>, proxy_credentials: Option<&'a str>) -> Self {
        Self {
            secrets: [token, proxy_credentials],
        }
    }

    /// `text` without the secrets: neither in full nor, at the end of `text`, their first bytes.
    pub(crate) fn scrub(&self, text: &str) -> String {
        // An empty secret would match everywhere.
        let secrets = self.secrets.iter().flatten().filter(|secret| !secret.is_empty());
        secrets.fold(text.to_owned(), |text, secret| scrub_secret(&text, secret))
    }

    /// The start of `text` that an error keeps: scrubbed, trimmed, and at most 4 KiB long.
    pub(crate) fn excerpt(&self, text: &str) -> String {
        // Scrubbed first: a cut through a secret would leave its start.
        let scrubbed = self.scrub(text);
        prefix(scrubbed.trim(), EXCERPT_LIMIT).trim_end().to_owned()
    }
}

impl fmt::Debug for Redactor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

fn scrub_secret(text: &str, secret: &str) -> String {
    // As sent, and as JSON may escape it.
    let forms = [secret.to_owned(), secret.replace('/', r"\/")];
    let mut scrubbed = forms
        .iter()
        .fold(text.to_owned(), |text, form| text.replace(form, REDACTED));
    // A body that is read in part may end within the secret.
    let fragment = forms
        .iter()
        .flat_map(|form| (MIN_FRAGMENT..form.len()).filter_map(|length| form.get(..length)))
        .filter(|start| scrubbed.ends_with(start))
        .map(str::len)
        .max();
    if let Some(length) = fragment {
        scrubbed.truncate(scrubbed.len().saturating_sub(length));
        scrubbed.push_str(REDACTED);
    }
    scrubbed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, secret: &str) -> String {
        Redactor::new(Some(secret), None).excerpt(text)
    }

    #[test]
    fn a_secret_is_removed_as_sent_and_as_json_escapes_it() {
        assert_eq!(excerpt(" bad token s3cret! \n", "s3cret"), "bad token [REDACTED]!");
        assert_eq!(
            excerpt(r#"{"token":"ab\/cd=="}"#, "ab/cd=="),
            r#"{"token":"[REDACTED]"}"#
        );
    }

    #[test]
    fn the_start_of_a_secret_is_removed_from_the_end_of_a_text() {
        assert_eq!(excerpt("cut short: s3cre", "s3cret"), "cut short: [REDACTED]");
        assert_eq!(excerpt(r#"{"token":"ab\/cd"#, "ab/cd=="), r#"{"token":"[REDACTED]"#);
    }

    #[test]
    fn every_secret_is_removed() {
        let redactor = Redactor::new(Some("s3cret"), Some("cHJveHk="));
        assert_eq!(redactor.scrub("s3cret cHJveHk="), "[REDACTED] [REDACTED]");
        let redactor = Redactor::new(None, Some("cHJveHk="));
        assert_eq!(redactor.scrub("s3cret cHJveHk="), "s3cret [REDACTED]");
    }

    #[test]
    fn a_text_is_unchanged_without_a_secret() {
        assert_eq!(Redactor::default().scrub(" s3cret "), " s3cret ");
        assert_eq!(excerpt("anything", ""), "anything");
    }

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        let long = Redactor::default().excerpt(&"日".repeat(5000));
        assert_eq!(long.len(), 4095);
        assert!(long.chars().all(|character| character == '日'));
    }

    #[test]
    fn an_excerpt_is_scrubbed_before_it_is_cut() {
        let text = format!("{}s3cret", "x".repeat(EXCERPT_LIMIT - 3));
        assert!(!excerpt(&text, "s3cret").contains("s3c"));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let debug = format!("{:?}", Redactor::new(Some("s3cret"), Some("hunter2")));
        assert!(!debug.contains("s3cret") && !debug.contains("hunter2"), "{debug}");
    }
}
