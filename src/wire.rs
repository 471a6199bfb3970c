//! What is sent: paths, bodies and idempotency keys. Pure.

use std::{borrow::Cow, rc::Rc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    classify::Endpoint,
    journal::Subject,
    result::{AgentResult, SessionStatus},
    text::prefix,
};
#[cfg(feature = "outbox")]
use crate::{lanes::Key, outbox::ClaimedCall};

/// What may stand in a path segment as it is (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whether `id`, percent-encoded, is one segment of a path wherever it is decoded: not so `.` and `..`, which no
/// encoding keeps from being taken for directories.
pub(crate) fn is_segment(id: &str) -> bool {
    !matches!(id, "" | "." | "..")
}

/// What all calls to one platform share.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    /// The platform's URL, with its own path and without a slash at the end.
    pub(crate) base: String,
    pub(crate) organization_id: Option<String>,
    pub(crate) max_summary_bytes: usize,
}

/// One call, with everything settled but the credentials.
#[derive(Debug)]
pub(crate) struct Call {
    /// The id of the session or issue that it is about.
    subject: Rc<str>,
    pub(crate) endpoint: Endpoint,
    pub(crate) url: String,
    /// The same on every attempt.
    pub(crate) idempotency_key: String,
    body: Body,
}

/// What a call says, in the form that the outbox keeps it in.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Body {
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

/// What the issue-tracker proxy can be asked to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Method {
    UpdateIssueStatus,
    CreateComment,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UpdateIssueStatus => "updateIssueStatus",
            Self::CreateComment => "createComment",
        }
    }
}

impl Body {
    fn name(&self) -> &'static str {
        match self {
            Self::Completion { .. } => "completion",
            Self::Status(_) => "status",
            Self::Proxy { method, .. } => method.name(),
        }
    }
}

impl Platform {
    /// The two calls that deliver a result: completion, then status.
    ///
    /// Their keys come from the session and the whole result, so that a second send of the same
    /// result has the same keys, whoever sends it and with whatever credentials.
    pub(crate) fn session_calls(&self, session_id: &Rc<str>, mut result: Box<AgentResult>) -> [Call; 2] {
        let digest = digest(session_id, &result);
        let summary = summary(&result, self.max_summary_bytes);
        // What is not sent is not kept either, in memory or in the outbox.
        *result = AgentResult {
            provider_session_id: result.provider_session_id.take(),
            worktree_path: result.worktree_path.take(),
            error: result.error.take(),
            cost: result.cost.take(),
            ..AgentResult::new(result.status)
        };
        [Body::Completion { summary }, Body::Status(result)].map(|body| {
            let idempotency_key = [&digest, "-", body.name()].concat();
            self.call(Rc::clone(session_id), idempotency_key, body)
        })
    }

    /// A call, wherever it comes from.
    fn call(&self, subject: Rc<str>, idempotency_key: String, body: Body) -> Call {
        let (endpoint, url) = match &body {
            Body::Completion { .. } | Body::Status(_) => {
                let session_id = Cow::from(utf8_percent_encode(&subject, SEGMENT));
                let url = [&self.base, "/api/sessions/", &session_id, "/", body.name()].concat();
                (Endpoint::Session, url)
            }
            Body::Proxy { .. } => (Endpoint::Proxy, format!("{}/api/issue-tracker-proxy", self.base)),
        };
        Call {
            subject,
            endpoint,
            url,
            idempotency_key,
            body,
        }
    }

    /// Where a worker gets a new runtime token.
    pub(crate) fn refresh_url(&self, worker_id: &str) -> String {
        let worker_id = utf8_percent_encode(worker_id, SEGMENT);
        format!("{}/api/workers/{worker_id}/refresh-token", self.base)
    }

    /// A call to the issue-tracker proxy.
    pub(crate) fn proxy_call(&self, method: Method, issue_id: &Rc<str>, text: String, idempotency_key: String) -> Call {
        let body = Body::Proxy {
            method,
            args: [issue_id.to_string(), text],
            organization_id: self.organization_id.clone(),
        };
        self.call(Rc::clone(issue_id), idempotency_key, body)
    }
}

#[cfg(feature = "outbox")]
impl Platform {
    /// A call that the outbox has kept.
    pub(crate) fn restore(&self, kept: &ClaimedCall) -> serde_json::Result<Call> {
        let body = serde_json::from_slice(&kept.body)?;
        Ok(self.call(kept.subject.as_str().into(), kept.idempotency_key().to_owned(), body))
    }
}

impl Call {
    /// The lane that it goes by.
    #[cfg(feature = "outbox")]
    pub(crate) fn key(&self) -> Key {
        match self.endpoint {
            Endpoint::Session => Key::Session(self.subject.clone()),
            Endpoint::Proxy => Key::Issue(self.subject.clone()),
        }
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject(self.body.name(), &self.subject)
    }

    /// What the outbox keeps of it, beside its subject and its key.
    #[cfg(feature = "outbox")]
    pub(crate) fn stored_body(&self) -> String {
        // Only a map with keys that are no strings could fail here, and there is none.
        serde_json::to_string(&self.body).unwrap_or_default()
    }

    /// The JSON body. `worker_id` is the one that goes with the token in the header.
    pub(crate) fn encode(&self, worker_id: &str) -> serde_json::Result<Vec<u8>> {
        match &self.body {
            Body::Completion { summary } => serde_json::to_vec(&CompletionBody { worker_id, summary }),
            Body::Status(result) => serde_json::to_vec(&StatusBody::new(worker_id, result)),
            Body::Proxy {
                method,
                args,
                organization_id,
            } => serde_json::to_vec(&ProxyBody {
                method: method.name(),
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
    method: &'a str,
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

/// The text for the platform's comment: never empty, since the platform answers 400 to that, and
/// never longer than `max` bytes.
fn summary(result: &AgentResult, max: usize) -> String {
    let given = result.summary.as_deref().unwrap_or_default().trim();
    if given.is_empty() {
        shorten(&stand_in(result), max)
    } else {
        shorten(given, max)
    }
}

/// A sentence in place of an empty summary.
fn stand_in(result: &AgentResult) -> String {
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

/// `text` in at most `max` bytes, with a last line that says how much is missing.
fn shorten(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let note = |cut: usize| format!("\n\n[{cut} of {} bytes cut]", text.len());
    // The note is longest where all is cut.
    let kept = prefix(text, max.saturating_sub(note(text.len()).len())).trim_end();
    let cut = text.len().saturating_sub(kept.len());
    format!("{kept}{}", note(cut))
}

/// A fingerprint of what is delivered, in hexadecimal.
fn digest(session_id: &str, result: &AgentResult) -> String {
    // Only a map with keys that are no strings could fail here, and there is none.
    let content = serde_json::to_vec(&(session_id, result)).unwrap_or_default();
    let digits = |byte: u8| [byte >> 4, byte & 0xf].map(|digit| char::from_digit(digit.into(), 16));
    let mut hex = String::with_capacity(64);
    hex.extend(Sha256::digest(&content).into_iter().flat_map(digits).flatten());
    hex
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::result::Cost;

    fn platform() -> Platform {
        Platform {
            base: "http://127.0.0.1:1/base".into(),
            organization_id: None,
            max_summary_bytes: 100,
        }
    }

    fn completed() -> AgentResult {
        AgentResult::new(SessionStatus::Completed)
    }

    fn body(call: &Call, worker_id: &str) -> Value {
        serde_json::from_slice(&call.encode(worker_id).unwrap()).unwrap()
    }

    #[test]
    fn a_session_id_is_one_path_segment_whatever_it_holds() {
        for (id, segment) in [
            ("sess-1", "sess-1"),
            ("A_b~c.d", "A_b~c.d"),
            ("../../admin?x#y", "..%2F..%2Fadmin%3Fx%23y"),
            ("a b%2F\\c\n", "a%20b%252F%5Cc%0A"),
            ("日", "%E6%97%A5"),
            ("a;b=c&d:e@f", "a%3Bb%3Dc%26d%3Ae%40f"),
        ] {
            let [completion, status] = platform().session_calls(&id.into(), completed().into());
            assert_eq!(
                completion.url,
                format!("http://127.0.0.1:1/base/api/sessions/{segment}/completion")
            );
            assert_eq!(
                status.url,
                format!("http://127.0.0.1:1/base/api/sessions/{segment}/status")
            );
        }
    }

    #[test]
    fn what_is_empty_or_zero_is_left_out() {
        let result = completed()
            .with_provider_session_id("")
            .with_worktree_path("")
            .with_error("")
            .with_cost(Cost::default().with_total_cost_usd(-0.0).with_input_tokens(0));
        let [completion, status] = platform().session_calls(&"s".into(), result.into());
        assert_eq!(body(&completion, ""), json!({"summary": "The session completed."}));
        assert_eq!(body(&status, ""), json!({"workerId": "", "status": "completed"}));
    }

    #[test]
    fn an_organization_goes_with_the_proxys_calls() {
        let platform = Platform {
            organization_id: Some("org-1".into()),
            ..platform()
        };
        let call = platform.proxy_call(Method::CreateComment, &"i-1".into(), "hi".into(), "key".into());
        assert_eq!(
            body(&call, "wkr_1"),
            json!({"method": "createComment", "args": ["i-1", "hi"], "organizationId": "org-1"})
        );
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
            (AgentResult::new(SessionStatus::Failed), "The session failed."),
            (
                AgentResult::new(SessionStatus::Failed).with_error(" out of disk\n"),
                "The session failed: out of disk",
            ),
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
        assert_eq!(
            summary(&completed().with_summary("x".repeat(100)), 100),
            "x".repeat(100)
        );
        assert!(
            summary(
                &AgentResult::new(SessionStatus::Failed).with_error("x".repeat(500)),
                100
            )
            .len()
                <= 100
        );
    }

    #[test]
    fn a_key_belongs_to_one_step_of_one_result_of_one_session() {
        let keys = |id: &str, result: AgentResult| {
            let [completion, status] = platform().session_calls(&id.into(), result.into());
            [completion.idempotency_key, status.idempotency_key]
        };
        let first = keys("s", completed().with_summary("a"));
        assert_eq!(first, keys("s", completed().with_summary("a")));
        let mut all: Vec<_> = [
            first,
            keys("s", completed().with_summary("b")),
            keys("t", completed().with_summary("a")),
            keys("s", completed().with_summary("a").with_commit_sha("c")),
        ]
        .concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8);
    }
}
