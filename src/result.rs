//! The result of a session, in the runner's format.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::label::labels;

/// The terminal result of a session, in the runner's format.
///
/// Serialized as the runner's JSON (camel case). Only [`status`](Self::status) is
/// required; unknown fields are ignored, and `null` reads as absent. The documentation of each field says whether it is
/// sent to the platform.
///
/// ```
/// use result_poster::{AgentResult, Cost, SessionStatus};
///
/// let result: AgentResult = serde_json::from_str(
///     r#"{"status": "completed", "summary": "Done.", "cost": {"totalCostUsd": 0.42}}"#,
/// )?;
/// let built = AgentResult::new(SessionStatus::Completed)
///     .with_summary("Done.")
///     .with_cost(Cost::default().with_total_cost_usd(0.42));
/// assert_eq!(result, built);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AgentResult {
    /// How the session ended. Sent.
    pub status: SessionStatus,
    /// The provider that ran the agent, such as `claude`. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_name: Option<String>,
    /// The provider's id of the session. Sent with the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_session_id: Option<String>,
    /// The path of the worktree on the runner's host. Sent with the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worktree_path: Option<String>,
    /// The URL of the pull request. Sent only if a completed session has no summary, in the sentence that replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_request_url: Option<String>,
    /// The SHA of the last commit. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_sha: Option<String>,
    /// The text of the comment on the issue. Sent with the completion, trimmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The result of the runner's checks. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_result: Option<WorkResult>,
    /// The cost of the session. Sent with the status, in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// The runner's name for the kind of failure. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<String>,
    /// The error of a failed session. Sent with the status and, if a failed session has no summary, in the sentence
    /// that replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The runner's report on its backstop, as JSON. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backstop_report: Option<Value>,
    /// The runner's report on its quality checks, as JSON. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_report: Option<Value>,
}

impl AgentResult {
    /// A result with this status and nothing else.
    #[must_use]
    pub fn new(status: SessionStatus) -> Self {
        Self {
            status,
            provider_name: None,
            provider_session_id: None,
            worktree_path: None,
            pull_request_url: None,
            commit_sha: None,
            summary: None,
            work_result: None,
            cost: None,
            failure_mode: None,
            error: None,
            backstop_report: None,
            quality_report: None,
        }
    }

    /// Sets [`provider_name`](Self::provider_name).
    #[must_use]
    pub fn with_provider_name(mut self, provider_name: impl Into<String>) -> Self {
        self.provider_name = Some(provider_name.into());
        self
    }

    /// Sets [`provider_session_id`](Self::provider_session_id).
    #[must_use]
    pub fn with_provider_session_id(mut self, provider_session_id: impl Into<String>) -> Self {
        self.provider_session_id = Some(provider_session_id.into());
        self
    }

    /// Sets [`worktree_path`](Self::worktree_path).
    #[must_use]
    pub fn with_worktree_path(mut self, worktree_path: impl Into<String>) -> Self {
        self.worktree_path = Some(worktree_path.into());
        self
    }

    /// Sets [`pull_request_url`](Self::pull_request_url).
    #[must_use]
    pub fn with_pull_request_url(mut self, pull_request_url: impl Into<String>) -> Self {
        self.pull_request_url = Some(pull_request_url.into());
        self
    }

    /// Sets [`commit_sha`](Self::commit_sha).
    #[must_use]
    pub fn with_commit_sha(mut self, commit_sha: impl Into<String>) -> Self {
        self.commit_sha = Some(commit_sha.into());
        self
    }

    /// Sets [`summary`](Self::summary).
    #[must_use]
    pub fn with_summary(mut self, summary: impl Into<String>) -> Self {
        self.summary = Some(summary.into());
        self
    }

    /// Sets [`work_result`](Self::work_result).
    #[must_use]
    pub fn with_work_result(mut self, work_result: WorkResult) -> Self {
        self.work_result = Some(work_result);
        self
    }

    /// Sets [`cost`](Self::cost).
    #[must_use]
    pub fn with_cost(mut self, cost: Cost) -> Self {
        self.cost = Some(cost);
        self
    }

    /// Sets [`failure_mode`](Self::failure_mode).
    #[must_use]
    pub fn with_failure_mode(mut self, failure_mode: impl Into<String>) -> Self {
        self.failure_mode = Some(failure_mode.into());
        self
    }

    /// Sets [`error`](Self::error).
    #[must_use]
    pub fn with_error(mut self, error: impl Into<String>) -> Self {
        self.error = Some(error.into());
        self
    }

    /// Sets [`backstop_report`](Self::backstop_report).
    #[must_use]
    pub fn with_backstop_report(mut self, backstop_report: Value) -> Self {
        self.backstop_report = Some(backstop_report);
        self
    }

    /// Sets [`quality_report`](Self::quality_report).
    #[must_use]
    pub fn with_quality_report(mut self, quality_report: Value) -> Self {
        self.quality_report = Some(quality_report);
        self
    }
}

/// How a session ended. In JSON and as text `completed`, `failed` or `stopped`, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionStatus {
    /// The agent finished its work.
    Completed,
    /// The session ended with an error.
    Failed,
    /// The session was stopped on purpose.
    Stopped,
}

labels!(SessionStatus, "session status", {
    Completed => "completed",
    Failed => "failed",
    Stopped => "stopped",
});

/// The result of the runner's checks. In JSON and as text `passed`, `failed` or `unknown`; every other word reads as
/// `unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkResult {
    /// The work passed.
    Passed,
    /// The work failed.
    Failed,
    /// The verdict is not known.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for WorkResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

impl FromStr for WorkResult {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(match name {
            "passed" => Self::Passed,
            "failed" => Self::Failed,
            _ => Self::Unknown,
        })
    }
}

/// The cost of a session. A number that is absent or zero is not sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Cost {
    /// Tokens read by the model. Sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens written by the model. Sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Tokens read from the provider's cache. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<u64>,
    /// The total price in US dollars. A message with a number that is not finite is refused. Sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_cost_usd: Option<f64>,
    /// How many turns the agent took. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_turns: Option<u64>,
}

impl Cost {
    /// Sets [`input_tokens`](Self::input_tokens).
    #[must_use]
    pub fn with_input_tokens(mut self, input_tokens: u64) -> Self {
        self.input_tokens = Some(input_tokens);
        self
    }

    /// Sets [`output_tokens`](Self::output_tokens).
    #[must_use]
    pub fn with_output_tokens(mut self, output_tokens: u64) -> Self {
        self.output_tokens = Some(output_tokens);
        self
    }

    /// Sets [`cached_input_tokens`](Self::cached_input_tokens).
    #[must_use]
    pub fn with_cached_input_tokens(mut self, cached_input_tokens: u64) -> Self {
        self.cached_input_tokens = Some(cached_input_tokens);
        self
    }

    /// Sets [`total_cost_usd`](Self::total_cost_usd).
    #[must_use]
    pub fn with_total_cost_usd(mut self, total_cost_usd: f64) -> Self {
        self.total_cost_usd = Some(total_cost_usd);
        self
    }

    /// Sets [`num_turns`](Self::num_turns).
    #[must_use]
    pub fn with_num_turns(mut self, num_turns: u64) -> Self {
        self.num_turns = Some(num_turns);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> serde_json::Result<AgentResult> {
        serde_json::from_value(value)
    }

    #[test]
    fn every_field_survives_the_round_trip() {
        let value = json!({
            "status": "failed",
            "providerName": "claude",
            "providerSessionId": "p-1",
            "worktreePath": "/wt",
            "pullRequestUrl": "https://example.com/pull/1",
            "commitSha": "abc",
            "summary": "words",
            "workResult": "passed",
            "cost": {
                "inputTokens": 1, "outputTokens": 2, "cachedInputTokens": 3, "totalCostUsd": 0.5, "numTurns": 4
            },
            "failureMode": "timeout",
            "error": "too late",
            "backstopReport": {"pushed": true},
            "qualityReport": [1, 2],
        });
        assert_eq!(serde_json::to_value(read(value.clone()).unwrap()).unwrap(), value);
        let built = AgentResult::new(SessionStatus::Failed)
            .with_provider_name("claude")
            .with_provider_session_id("p-1")
            .with_worktree_path("/wt")
            .with_pull_request_url("https://example.com/pull/1")
            .with_commit_sha("abc")
            .with_summary("words")
            .with_work_result(WorkResult::Passed)
            .with_cost(
                Cost::default()
                    .with_input_tokens(1)
                    .with_output_tokens(2)
                    .with_cached_input_tokens(3)
                    .with_total_cost_usd(0.5)
                    .with_num_turns(4),
            )
            .with_failure_mode("timeout")
            .with_error("too late")
            .with_backstop_report(json!({"pushed": true}))
            .with_quality_report(json!([1, 2]));
        assert_eq!(serde_json::to_value(built).unwrap(), value);
    }

    #[test]
    fn null_reads_as_absent_and_unknown_fields_are_ignored() {
        let value = json!({
            "status": "stopped", "summary": null, "cost": null, "workResult": null, "error": null,
            "backstopReport": null, "later": {"more": 1}
        });
        assert_eq!(read(value).unwrap(), AgentResult::new(SessionStatus::Stopped));
        let cost = json!({"status": "stopped", "cost": {"inputTokens": null, "currency": "EUR"}});
        assert_eq!(read(cost).unwrap().cost, Some(Cost::default()));
    }

    #[test]
    fn an_unknown_work_result_reads_as_unknown() {
        let result = read(json!({"status": "completed", "workResult": "flaky"})).unwrap();
        assert_eq!(result.work_result, Some(WorkResult::Unknown));
        assert_eq!("flaky".parse(), Ok(WorkResult::Unknown));
    }

    #[test]
    fn names_are_parsed_as_they_are_displayed() {
        for status in [SessionStatus::Completed, SessionStatus::Failed, SessionStatus::Stopped] {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        for result in [WorkResult::Passed, WorkResult::Failed, WorkResult::Unknown] {
            assert_eq!(result.to_string().parse(), Ok(result));
        }
        let error = "Completed".parse::<SessionStatus>().unwrap_err();
        assert_eq!(error.to_string(), r#"unknown session status "Completed""#);
    }

    #[test]
    fn a_missing_or_unknown_status_fails() {
        for value in [
            json!({}),
            json!({"status": null}),
            json!({"status": ""}),
            json!({"status": "Completed"}),
            json!({"status": "done"}),
            json!({"status": 1}),
        ] {
            let error = read(value.clone()).unwrap_err().to_string();
            assert!(
                error.contains("status") || error.contains("completed") || error.contains("invalid type"),
                "{error}"
            );
        }
    }
}
