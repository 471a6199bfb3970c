//! The bodies of the two calls of a result, without the worker id.

use std::borrow::Cow;

use serde::Serialize;

use super::{
    reduce::reduced,
    structured::{
        BudgetBreach, ExecutionSecurityRefusal, Manifest, ResumeCheckpoint, TurnContinuations, UpstreamError,
    },
    summary::{given_summary, placeholder_summary},
    text::{limited, without_nul},
    wire_format::WireFormat,
};
use crate::{
    message::{PostResult, StatusFields, TerminalWorkareaLease},
    result::{AgentResult, SessionStatus, WorkResult},
    util::lossy,
    warning::{Warning, Warnings},
};

/// The longest body without its worker id. With the longest one, in which JSON encodes each byte in six, the platform is
/// sent 512 KiB at most.
pub(super) const MAX_BODY_BYTES: usize = 487 * 1024;

/// A body, and what was left out of it.
pub(super) struct SessionBody {
    pub(super) json: String,
    pub(super) warnings: Warnings,
}

/// The bodies of both calls: the completion's and the status's. What `buffer` holds is replaced.
pub(super) fn session_bodies(
    message: &PostResult,
    format: WireFormat,
    max_text_bytes: usize,
    buffer: &mut Vec<u8>,
) -> [SessionBody; 2] {
    let mut warnings = message.result.warnings.clone();
    let given =
        given_summary(&message.result).map(|summary| limited(summary, max_text_bytes, "summary", &mut warnings));
    let summary = match &given {
        Some(summary) => Cow::Borrowed(&**summary),
        // The error that it may hold is reported by the status.
        None => limited(
            &placeholder_summary(&message.result),
            max_text_bytes,
            "summary",
            &mut Warnings::default(),
        )
        .into_owned()
        .into(),
    };
    let completion = CompletionBody {
        summary,
        result: (format == WireFormat::Extended).then(|| completion_result(message.result.status)),
    };
    let completion = SessionBody {
        json: encode(&completion, buffer),
        warnings,
    };
    let status = status_body(message, given.as_deref(), format, max_text_bytes, buffer);
    [completion, status]
}

fn status_body(
    message: &PostResult,
    summary: Option<&str>,
    format: WireFormat,
    max_text_bytes: usize,
    buffer: &mut Vec<u8>,
) -> SessionBody {
    let mut warnings = Warnings::default();
    let mut body = StatusBody::baseline(&message.result, max_text_bytes, &mut warnings);
    match format {
        WireFormat::Extended => body.extend(message, summary, &mut warnings),
        WireFormat::Baseline => {
            let reason = "the wire format is `Baseline`";
            warnings.extend(message.status_fields.keys().map(|name| Warning::left_out(name, reason)));
        }
    }
    let mut json = encode(&body, buffer);
    if json.len() > MAX_BODY_BYTES {
        let reason = "the body would be longer than 512 KiB";
        let manifest = body.manifest.take().map(|_| "manifest");
        let added = body.added.take().into_iter().flat_map(StatusFields::keys);
        let names = manifest.into_iter().chain(added.map(String::as_str));
        warnings.extend(names.map(|name| Warning::left_out(name, reason)));
        json = encode(&body, buffer);
    }
    if json.len() > MAX_BODY_BYTES {
        warnings.push(Warning::BodyReduced);
        json = reduced(&json);
    }
    SessionBody { json, warnings }
}

fn encode(body: &impl Serialize, buffer: &mut Vec<u8>) -> String {
    buffer.clear();
    // Only a map with keys that are not strings could fail here, and there is none.
    let _ = serde_json::to_writer(&mut *buffer, body);
    lossy(buffer).into_owned()
}

#[derive(Serialize)]
struct CompletionBody<'a> {
    summary: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
}

fn completion_result(status: SessionStatus) -> &'static str {
    match status {
        SessionStatus::Completed => "success",
        SessionStatus::Failed | SessionStatus::Stopped => "failure",
    }
}

/// The members in the order of the reference implementation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusBody<'a> {
    status: SessionStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_session_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worktree_path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_cost_usd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_mode: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_marker: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_sha: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull_request_url: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Manifest<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    review_verdict: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    terminal_workarea_lease: Option<TerminalWorkareaLease>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_security_refusal: Option<ExecutionSecurityRefusal<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn_continuations: Option<TurnContinuations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_breach: Option<BudgetBreach<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume_checkpoint: Option<ResumeCheckpoint<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_error: Option<UpstreamError<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<u64>,
    #[serde(flatten)]
    added: Option<&'a StatusFields>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    message: Cow<'a, str>,
}

impl<'a> StatusBody<'a> {
    fn baseline(result: &'a AgentResult, max_text_bytes: usize, warnings: &mut Warnings) -> Self {
        let error = result.error.as_deref().filter(|error| !error.is_empty());
        let cost = result.cost.as_ref();
        let usd = cost.and_then(|cost| cost.total_cost_usd).filter(|&usd| usd != 0.0);
        let is_finite = usd.is_none_or(f64::is_finite);
        if !is_finite {
            warnings.push(Warning::left_out("cost.totalCostUsd", "it is not a finite number"));
        }
        Self {
            status: result.status,
            provider_session_id: text(&result.provider_session_id),
            worktree_path: text(&result.worktree_path),
            error: error.map(|error| ErrorBody {
                message: limited(error, max_text_bytes, "error", warnings),
            }),
            total_cost_usd: usd.filter(|_| is_finite),
            input_tokens: count(cost.and_then(|cost| cost.input_tokens)),
            output_tokens: count(cost.and_then(|cost| cost.output_tokens)),
            cache_read_tokens: None,
            cache_write_tokens: None,
            reasoning_tokens: None,
            failure_mode: None,
            summary: None,
            result: None,
            result_marker: None,
            commit_sha: None,
            pull_request_url: None,
            manifest: None,
            review_verdict: None,
            terminal_workarea_lease: None,
            execution_security_refusal: None,
            turn_continuations: None,
            budget_breach: None,
            resumable: None,
            resume_checkpoint: None,
            upstream_error: None,
            tool_calls: None,
            added: None,
        }
    }

    fn extend(&mut self, message: &'a PostResult, summary: Option<&'a str>, warnings: &mut Warnings) {
        let result = &*message.result;
        let cost = result.cost.as_ref();
        self.cache_read_tokens = count(cost.and_then(|cost| cost.cached_input_tokens));
        self.cache_write_tokens = count(cost.and_then(|cost| cost.cache_write_tokens));
        self.reasoning_tokens = count(cost.and_then(|cost| cost.reasoning_tokens));
        self.failure_mode = text(&result.failure_mode);
        self.summary = summary;
        let work_result = result.work_result.as_ref();
        self.result = work_result
            .map(WorkResult::as_str)
            .filter(|word| !word.is_empty())
            .map(without_nul);
        self.result_marker = work_result.and_then(marker);
        self.commit_sha = text(&result.commit_sha);
        self.pull_request_url = text(&result.pull_request_url);
        self.review_verdict = text(&result.review_verdict);
        self.resumable = result.resumable.filter(|&resumable| resumable);
        self.tool_calls = Some(result.tool_calls.unwrap_or_default());
        self.added = Some(&message.status_fields);

        let manifest = result.manifest.as_ref();
        self.manifest = manifest.and_then(|value| Manifest::read(value, warnings));
        let refusal = result.execution_security_refusal.as_ref();
        self.execution_security_refusal = refusal.and_then(|value| ExecutionSecurityRefusal::read(value, warnings));
        let continuations = result.turn_continuations.as_ref();
        self.turn_continuations = continuations.and_then(|value| TurnContinuations::read(value, warnings));
        let breach = result.budget_breach.as_ref();
        self.budget_breach = breach.and_then(|value| BudgetBreach::read(value, warnings));
        let checkpoint = result.resume_checkpoint.as_ref();
        self.resume_checkpoint = checkpoint.and_then(|value| ResumeCheckpoint::read(value, warnings));
        let upstream = result.upstream.as_ref();
        self.upstream_error = upstream.and_then(|value| UpstreamError::read(value, warnings));

        match message
            .terminal_workarea_lease
            .as_ref()
            .map(TerminalWorkareaLease::normalized)
        {
            None => {}
            Some(Ok(lease)) => {
                self.terminal_workarea_lease = Some(lease);
                // The platform releases the work area by its lease.
                self.worktree_path = None;
            }
            Some(Err(reason)) => warnings.push(Warning::left_out("terminalWorkareaLease", reason)),
        }
    }
}

fn text(field: &Option<String>) -> Option<Cow<'_, str>> {
    field.as_deref().filter(|text| !text.is_empty()).map(without_nul)
}

fn count(count: Option<u64>) -> Option<u64> {
    count.filter(|&count| count != 0)
}

/// The marker that the platform looks for.
fn marker(work_result: &WorkResult) -> Option<&'static str> {
    match work_result {
        WorkResult::Passed => Some("<!-- WORK_RESULT:passed -->"),
        WorkResult::Failed => Some("<!-- WORK_RESULT:failed -->"),
        WorkResult::Blocked => Some("<!-- WORK_RESULT:blocked -->"),
        WorkResult::Unknown | WorkResult::Other(_) => None,
    }
}
