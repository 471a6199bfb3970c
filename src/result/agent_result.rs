//! The result of a session.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    cost::Cost,
    setters::setters,
    status::{SessionStatus, WorkResult},
};
use crate::warning::{Warning, Warnings};

/// The terminal result of a session, in the runner's format.
///
/// [`from_json`](Self::from_json) reads the runner's JSON, and loses a field rather than the result. Serialized as the
/// runner's JSON (camel case). `Deserialize` is strict: only [`status`](Self::status) is required, unknown fields are
/// ignored, `null` reads as absent, and a wrong type fails.
///
/// The documentation of each field says whether it is sent to the platform; those marked "extended" are not sent with
/// [`WireFormat::Baseline`](crate::WireFormat::Baseline). Absent, empty and zero fields are not sent. In the structured
/// fields, a member with a wrong type is left out alone, with a [`Warning`].
///
/// ```
/// use result_poster::{AgentResult, Cost, SessionStatus};
///
/// let result = AgentResult::from_json(br#"{"status": "completed", "summary": "Done.", "cost": {"totalCostUsd": 0.42}}"#)?;
/// let built = AgentResult::new(SessionStatus::Completed)
///     .with_summary("Done.")
///     .with_cost(Cost::default().with_total_cost_usd(0.42));
/// assert_eq!(result, built);
/// # Ok::<_, result_poster::ReadResultError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AgentResult {
    /// How the session ended. Sent with the status, and with the completion (extended) as `result`: `success` if
    /// completed, otherwise `failure`.
    pub status: SessionStatus,
    /// The provider that ran the agent, such as `claude`. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_name: Option<String>,
    /// The provider's id of the session. Sent with the status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_session_id: Option<String>,
    /// The path of the worktree on the runner's host. Sent with the status, unless the message has a
    /// [lease](crate::TerminalWorkareaLease).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worktree_path: Option<String>,
    /// The path of the work area on the runner's host. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workarea_root: Option<String>,
    /// The URL of the pull request. Sent with the status (extended), and in the sentence that replaces the summary of a
    /// completed session that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_request_url: Option<String>,
    /// The SHA of the last commit. Sent with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_sha: Option<String>,
    /// The text of the comment on the issue. Sent with the completion and, unless it is blank, with the status (extended).
    /// It is trimmed, and cut at [`max_text_bytes`](crate::OptionsBuilder::max_text_bytes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The result of the runner's checks. Sent with the status (extended) as `result`, with a `resultMarker` if it is
    /// passed, failed or blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_result: Option<WorkResult>,
    /// The verdict of a review. Sent with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review_verdict: Option<String>,
    /// The runner's name for the kind of failure. Sent with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<String>,
    /// The error of a failed session. Sent with the status and, if a failed session has no summary, in the sentence
    /// that replaces it. It is cut at [`max_text_bytes`](crate::OptionsBuilder::max_text_bytes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many tools the agent called. Sent with the status (extended), 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<u64>,
    /// Whether the session can be resumed. Sent with the status (extended) if true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumable: Option<bool>,
    /// The cost of the session. Sent with the status, in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// The manifest of the work: `schemaVersion`, `verdict`, `summary`, `blockedReason`, `pullRequestUrl`, `commitSha`,
    /// `reviewVerdict` and `repositories`. These members are sent with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Value>,
    /// How often turns were continued: `continued`, `unproductive`, `retried`, `limit`, `ceiling` and `exhausted`. Sent
    /// with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_continuations: Option<Value>,
    /// The budget that the session exceeded: `cap` and `detail`. Sent with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_breach: Option<Value>,
    /// Where the session can be resumed: `branch` and `commitSha`. Sent with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_checkpoint: Option<Value>,
    /// Why the runner refused to run the session: `code` and `dimensions`. Sent with the status (extended).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_security_refusal: Option<Value>,
    /// The error of the model's provider: `httpStatus`, `providerCode`, `providerMessage` and `resetAt`. Sent with the
    /// status (extended) as `upstreamError`, if it has a status, a code or a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Value>,
    /// The runner's report on the session's isolation. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_security: Option<Value>,
    /// The runner's report on the session's resources. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seat_budget: Option<Value>,
    /// The runner's report on its backstop. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backstop_report: Option<Value>,
    /// The runner's report on its quality checks. Not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_report: Option<Value>,
    /// The fields that were lost when the result was read.
    #[serde(skip)]
    pub(crate) warnings: Warnings,
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
            workarea_root: None,
            pull_request_url: None,
            commit_sha: None,
            summary: None,
            work_result: None,
            review_verdict: None,
            failure_mode: None,
            error: None,
            tool_calls: None,
            resumable: None,
            cost: None,
            manifest: None,
            turn_continuations: None,
            budget_breach: None,
            resume_checkpoint: None,
            execution_security_refusal: None,
            upstream: None,
            execution_security: None,
            seat_budget: None,
            backstop_report: None,
            quality_report: None,
            warnings: Warnings::default(),
        }
    }

    /// The fields that [`from_json`](Self::from_json) could not read. These warnings are logged when the result is posted,
    /// and are in its receipt. They are compared by `==`, and not serialized.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    setters! {
        with_provider_name => provider_name: impl Into<String>,
        with_provider_session_id => provider_session_id: impl Into<String>,
        with_worktree_path => worktree_path: impl Into<String>,
        with_workarea_root => workarea_root: impl Into<String>,
        with_pull_request_url => pull_request_url: impl Into<String>,
        with_commit_sha => commit_sha: impl Into<String>,
        with_summary => summary: impl Into<String>,
        with_work_result => work_result: WorkResult,
        with_review_verdict => review_verdict: impl Into<String>,
        with_failure_mode => failure_mode: impl Into<String>,
        with_error => error: impl Into<String>,
        with_tool_calls => tool_calls: u64,
        with_resumable => resumable: bool,
        with_cost => cost: Cost,
        with_manifest => manifest: Value,
        with_turn_continuations => turn_continuations: Value,
        with_budget_breach => budget_breach: Value,
        with_resume_checkpoint => resume_checkpoint: Value,
        with_execution_security_refusal => execution_security_refusal: Value,
        with_upstream => upstream: Value,
        with_execution_security => execution_security: Value,
        with_seat_budget => seat_budget: Value,
        with_backstop_report => backstop_report: Value,
        with_quality_report => quality_report: Value,
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
