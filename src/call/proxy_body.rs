//! The body of a call to the issue-tracker proxy.

use serde::Serialize;

/// A method of the issue-tracker proxy.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Method {
    UpdateIssueStatus,
    CreateComment,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyBody<'a> {
    method: Method,
    args: [&'a str; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    organization_id: Option<&'a str>,
}

pub(super) fn proxy_body(method: Method, issue_id: &str, text: &str, organization_id: Option<&str>) -> String {
    let body = ProxyBody {
        method,
        args: [issue_id, text],
        organization_id,
    };
    // Only a map with keys that are not strings could fail here, and there is none.
    serde_json::to_string(&body).unwrap_or_default()
}
