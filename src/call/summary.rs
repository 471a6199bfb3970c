//! The text of the platform's comment.

use crate::{
    result::{AgentResult, SessionStatus},
    util::prefix,
};

/// The summary of a result, at most `max` bytes long. Never empty: the platform answers an empty summary with a 400.
pub(super) fn summary(result: &AgentResult, max: usize) -> String {
    let given = result.summary.as_deref().unwrap_or_default().trim();
    if given.is_empty() {
        truncate_with_note(&placeholder_summary(result), max)
    } else {
        truncate_with_note(given, max)
    }
}

/// The sentence that replaces an empty summary.
fn placeholder_summary(result: &AgentResult) -> String {
    let text = |field: &Option<String>| field.as_deref().map(str::trim).unwrap_or_default().to_owned();
    match result.status {
        SessionStatus::Completed => match text(&result.pull_request_url) {
            url if url.is_empty() => "The session completed.".to_owned(),
            url => format!("The session completed. Pull request: {url}"),
        },
        SessionStatus::Failed => match text(&result.error) {
            error if error.is_empty() => "The session failed.".to_owned(),
            error => format!("The session failed: {error}"),
        },
        SessionStatus::Stopped => "The session was stopped.".to_owned(),
    }
}

/// `text` in at most `max` bytes, with a last line that says how much was cut.
fn truncate_with_note(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let note = |cut: usize| format!("\n\n[{cut} of {} bytes cut]", text.len());
    // The note is longest if everything is cut.
    let kept = prefix(text, max.saturating_sub(note(text.len()).len())).trim_end();
    let cut = text.len().saturating_sub(kept.len());
    format!("{kept}{}", note(cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed() -> AgentResult {
        AgentResult::new(SessionStatus::Completed)
    }

    fn failed() -> AgentResult {
        AgentResult::new(SessionStatus::Failed)
    }

    #[test]
    fn an_empty_summary_is_replaced_by_a_sentence() {
        let url = "https://example.com/pull/1";
        for (result, expected) in [
            (completed(), "The session completed."),
            (completed().with_summary(" \n\u{2003}\u{a0}"), "The session completed."),
            (
                completed().with_pull_request_url(url),
                "The session completed. Pull request: https://example.com/pull/1",
            ),
            (failed(), "The session failed."),
            (failed().with_error(" out of disk\n"), "The session failed: out of disk"),
            (
                AgentResult::new(SessionStatus::Stopped).with_error("x"),
                "The session was stopped.",
            ),
        ] {
            assert_eq!(summary(&result, 1000), expected);
        }
    }

    #[test]
    fn a_long_summary_is_cut_between_characters_and_says_so() {
        let text = "日".repeat(100);
        let cut = summary(&completed().with_summary(&text), 100);
        assert!(cut.len() <= 100, "{}", cut.len());
        let (kept, note) = cut.split_once("\n\n").unwrap();
        assert!(text.starts_with(kept));
        assert_eq!(note, format!("[{} of 300 bytes cut]", 300 - kept.len()));
        let fits = "x".repeat(100);
        assert_eq!(summary(&completed().with_summary(&fits), 100), fits);
        assert!(summary(&failed().with_error("x".repeat(500)), 100).len() <= 100);
    }
}
