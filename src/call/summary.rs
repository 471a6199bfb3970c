//! The text of the platform's comment.

use crate::{
    result::{AgentResult, SessionStatus},
    util::trimmed,
};

/// The runner's summary, trimmed. `None` if it is blank.
pub(super) fn given_summary(result: &AgentResult) -> Option<&str> {
    let summary = result.summary.as_deref().map(trimmed);
    summary.filter(|summary| !summary.is_empty())
}

/// The sentence that replaces a blank summary: the platform answers a blank one with a 400.
pub(super) fn placeholder_summary(result: &AgentResult) -> String {
    let text = |field: &Option<String>| field.as_deref().map(trimmed).unwrap_or_default().to_owned();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_trimmed_of_unicode_white_space_and_byte_order_marks() {
        let given = |summary: &str| {
            let result = AgentResult::new(SessionStatus::Completed).with_summary(summary);
            given_summary(&result).map(str::to_owned)
        };
        assert_eq!(given("\u{feff} \u{a0}\u{3000}a b\n\u{feff}").as_deref(), Some("a b"));
        assert_eq!(given(" \n\u{2003}\u{a0}\u{feff}"), None);
    }

    #[test]
    fn a_blank_summary_is_replaced_by_a_sentence() {
        let completed = || AgentResult::new(SessionStatus::Completed);
        let failed = || AgentResult::new(SessionStatus::Failed);
        let url = "https://example.com/pull/1";
        for (result, expected) in [
            (completed(), "The session completed."),
            (
                completed().with_pull_request_url(url),
                "The session completed. Pull request: https://example.com/pull/1",
            ),
            (failed(), "The session failed."),
            (failed().with_pull_request_url(url), "The session failed."),
            (failed().with_error(" out of disk\n"), "The session failed: out of disk"),
            (
                AgentResult::new(SessionStatus::Stopped).with_error("x"),
                "The session was stopped.",
            ),
        ] {
            assert_eq!(placeholder_summary(&result), expected);
        }
    }
}
