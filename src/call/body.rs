//! The JSON bodies of calls.

use serde::{Deserialize, Serialize};

use super::kind::CallKind;
use crate::result::{AgentResult, SessionStatus};

/// The content of a call, in the form in which the outbox stores it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Body {
    Completion {
        summary: String,
    },
    Status(Box<AgentResult>),
    Proxy {
        method: Method,
        args: [String; 2],
        organization_id: Option<String>,
    },
}

/// A method of the issue-tracker proxy.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Method {
    UpdateIssueStatus,
    CreateComment,
}

impl Body {
    pub(super) fn kind(&self) -> CallKind {
        match self {
            Self::Completion { .. } => CallKind::Completion,
            Self::Status(_) => CallKind::Status,
            Self::Proxy { method, .. } => match method {
                Method::UpdateIssueStatus => CallKind::UpdateIssueStatus,
                Method::CreateComment => CallKind::CreateComment,
            },
        }
    }

    /// The body as it is sent.
    pub(super) fn encode(&self, worker_id: &str) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Completion { summary } => serde_json::to_vec(&CompletionBody { worker_id, summary }),
            Self::Status(result) => serde_json::to_vec(&StatusBody::new(worker_id, result)),
            Self::Proxy {
                method,
                args,
                organization_id,
            } => serde_json::to_vec(&ProxyBody {
                method: *method,
                args,
                organization_id: organization_id.as_deref(),
            }),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CompletionBody<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    worker_id: &'a str,
    summary: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusBody<'a> {
    worker_id: &'a str,
    status: SessionStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worktree_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_cost_usd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyBody<'a> {
    method: Method,
    args: &'a [String; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    organization_id: Option<&'a str>,
}

impl<'a> StatusBody<'a> {
    fn new(worker_id: &'a str, result: &'a AgentResult) -> Self {
        let cost = result.cost.as_ref();
        let tokens = |count: Option<u64>| count.filter(|&count| count != 0);
        Self {
            worker_id,
            status: result.status,
            provider_session_id: non_empty(&result.provider_session_id),
            worktree_path: non_empty(&result.worktree_path),
            error: non_empty(&result.error).map(|message| ErrorBody { message }),
            total_cost_usd: cost.and_then(|cost| cost.total_cost_usd).filter(|&usd| usd != 0.0),
            input_tokens: tokens(cost.and_then(|cost| cost.input_tokens)),
            output_tokens: tokens(cost.and_then(|cost| cost.output_tokens)),
        }
    }
}

fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}
