//! The requests that a platform recorded, reduced to the part that a test is about.
//!
//! `sent(&platform, route)`, `sent(&platform, token)`, …: one element per request, in order.

use result_poster::testing::{FakePlatform, RecordedRequest};
use serde_json::Value;

/// This part of each recorded request.
pub(crate) fn sent<T>(platform: &FakePlatform, part: impl FnMut(&RecordedRequest) -> T) -> Vec<T> {
    platform.requests().iter().map(part).collect()
}

/// The last segment of the path: `completion`, `status`, `issue-tracker-proxy`, `refresh-token`.
pub(crate) fn route(request: &RecordedRequest) -> String {
    request.path.rsplit('/').next().unwrap().to_owned()
}

/// The bearer token, or nothing.
pub(crate) fn token(request: &RecordedRequest) -> String {
    let header = request.header("authorization").unwrap_or_default();
    header.trim_start_matches("Bearer ").to_owned()
}

/// `<route> <token>`.
pub(crate) fn route_and_token(request: &RecordedRequest) -> String {
    format!("{} {}", route(request), token(request))
}

/// The idempotency key.
pub(crate) fn key(request: &RecordedRequest) -> String {
    request.header("idempotency-key").unwrap().to_owned()
}

/// The body.
pub(crate) fn json(request: &RecordedRequest) -> Value {
    request.json().unwrap()
}

/// The worker id in the body of a session call.
pub(crate) fn worker_id(request: &RecordedRequest) -> Value {
    json(request)["workerId"].clone()
}

/// The issue id and the text in the body of an issue call.
pub(crate) fn issue_and_text(request: &RecordedRequest) -> (String, String) {
    let args = &json(request)["args"];
    let text = |index: usize| args[index].as_str().unwrap().to_owned();
    (text(0), text(1))
}
