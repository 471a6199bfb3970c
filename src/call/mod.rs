//! The calls of a message: URLs, bodies and idempotency keys. Pure.

mod body;
mod kind;
mod summary;

use std::{borrow::Cow, rc::Rc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

pub(crate) use self::kind::CallRef;
pub use self::kind::{CallKind, Endpoint, Target};
use self::{body::Body, summary::summary};
use crate::{result::AgentResult, warning::Warning};

/// The characters that a path segment may hold unencoded (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One call: everything that its requests have in common. Only the credentials are added for each attempt.
#[derive(Debug)]
pub struct Call {
    pub(crate) kind: CallKind,
    pub(crate) target: Target,
    pub(crate) url: String,
    /// The same on every attempt.
    pub(crate) idempotency_key: String,
    body: Body,
    /// What the call has lost; for its receipt.
    pub(crate) warnings: Vec<Warning>,
}

impl Call {
    pub(crate) fn as_ref(&self) -> CallRef<'_> {
        CallRef {
            kind: self.kind,
            target_id: self.target.id(),
        }
    }

    /// The JSON body. `worker_id` belongs to the token in the header.
    pub fn encode(&self, worker_id: &str) -> serde_json::Result<Vec<u8>> {
        self.body.encode(worker_id)
    }

    /// The body as the outbox stores it.
    pub fn stored_body(&self) -> String {
        // Only a map with keys that are not strings could fail here, and there is none.
        serde_json::to_string(&self.body).unwrap_or_default()
    }
}

/// The platform as all calls see it.
#[derive(Debug, Clone)]
pub struct Platform {
    /// The platform's URL, with its own path and without a trailing slash.
    pub base: String,
    pub organization_id: Option<String>,
    pub max_summary_bytes: usize,
}

impl Platform {
    /// The two calls of a result: completion, then status.
    ///
    /// The idempotency keys are derived from the session id and the whole result, not from the credentials. The same
    /// result has the same keys in every process.
    pub fn session_calls(&self, session_id: &Rc<str>, mut result: Box<AgentResult>) -> Vec<Call> {
        let digest = digest(session_id, &result);
        let summary = summary(&result, self.max_summary_bytes);
        // Fields that are not sent are not kept either, in memory or in the outbox.
        *result = AgentResult {
            provider_session_id: result.provider_session_id.take(),
            worktree_path: result.worktree_path.take(),
            error: result.error.take(),
            cost: result.cost.take(),
            ..AgentResult::new(result.status)
        };
        [Body::Completion { summary }, Body::Status(result)]
            .map(|body| {
                let idempotency_key = [&digest, "-", body.kind().as_str()].concat();
                self.call(Rc::clone(session_id), idempotency_key, body)
            })
            .into()
    }

    /// The call that moves an issue to a status.
    pub(crate) fn update_issue_status(&self, issue_id: &Rc<str>, status: String, idempotency_key: String) -> Call {
        self.proxy_call(body::Method::UpdateIssueStatus, issue_id, status, idempotency_key)
    }

    /// The call that writes a comment on an issue.
    pub(crate) fn create_comment(&self, issue_id: &Rc<str>, text: String, idempotency_key: String) -> Call {
        self.proxy_call(body::Method::CreateComment, issue_id, text, idempotency_key)
    }

    fn proxy_call(&self, method: body::Method, issue_id: &Rc<str>, text: String, idempotency_key: String) -> Call {
        let body = Body::Proxy {
            method,
            args: [issue_id.to_string(), text],
            organization_id: self.organization_id.clone(),
        };
        self.call(Rc::clone(issue_id), idempotency_key, body)
    }

    /// A call that the outbox stored: its target, its key, and its [`stored_body`](Call::stored_body).
    pub fn restore(&self, target_id: &str, idempotency_key: String, body: &[u8]) -> serde_json::Result<Call> {
        Ok(self.call(target_id.into(), idempotency_key, serde_json::from_slice(body)?))
    }

    fn call(&self, target_id: Rc<str>, idempotency_key: String, body: Body) -> Call {
        let kind = body.kind();
        let (target, url) = match kind.endpoint() {
            Endpoint::Session => {
                let segment = Cow::from(utf8_percent_encode(&target_id, SEGMENT));
                let url = [&self.base, "/api/sessions/", &segment, "/", kind.as_str()].concat();
                (Target::Session(target_id), url)
            }
            Endpoint::Proxy => {
                let url = [&self.base, "/api/issue-tracker-proxy"].concat();
                (Target::Issue(target_id), url)
            }
        };
        Call {
            kind,
            target,
            url,
            idempotency_key,
            body,
            warnings: Vec::new(),
        }
    }

    /// The endpoint at which a worker renews its runtime token.
    pub(crate) fn refresh_url(&self, worker_id: &str) -> String {
        let worker_id = utf8_percent_encode(worker_id, SEGMENT);
        format!("{}/api/workers/{worker_id}/refresh-token", self.base)
    }
}

/// A fingerprint of a session's result, in hexadecimal.
fn digest(session_id: &str, result: &AgentResult) -> String {
    // Only a map with keys that are not strings could fail here, and there is none.
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
    use crate::result::{Cost, SessionStatus};

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

    fn session_calls(id: &str, result: AgentResult) -> [Call; 2] {
        platform().session_calls(&id.into(), result.into()).try_into().unwrap()
    }

    fn body(call: &Call, worker_id: &str) -> Value {
        serde_json::from_slice(&call.encode(worker_id).unwrap()).unwrap()
    }

    #[test]
    fn any_session_id_is_encoded_as_one_path_segment() {
        for (id, segment) in [
            ("sess-1", "sess-1"),
            ("A_b~c.d", "A_b~c.d"),
            ("../../admin?x#y", "..%2F..%2Fadmin%3Fx%23y"),
            ("a b%2F\\c\n", "a%20b%252F%5Cc%0A"),
            ("日", "%E6%97%A5"),
            ("a;b=c&d:e@f", "a%3Bb%3Dc%26d%3Ae%40f"),
        ] {
            let urls = session_calls(id, completed()).map(|call| call.url);
            let url = |step| format!("http://127.0.0.1:1/base/api/sessions/{segment}/{step}");
            assert_eq!(urls, [url("completion"), url("status")]);
        }
    }

    #[test]
    fn empty_and_zero_fields_are_left_out() {
        let result = completed()
            .with_provider_session_id("")
            .with_worktree_path("")
            .with_error("")
            .with_cost(Cost::default().with_total_cost_usd(-0.0).with_input_tokens(0));
        let [completion, status] = session_calls("s", result);
        assert_eq!(body(&completion, ""), json!({"summary": "The session completed."}));
        assert_eq!(body(&status, ""), json!({"workerId": "", "status": "completed"}));
    }

    #[test]
    fn proxy_calls_carry_the_organization() {
        let platform = Platform {
            organization_id: Some("org-1".into()),
            ..platform()
        };
        let call = platform.create_comment(&"i-1".into(), "hi".into(), "key".into());
        assert_eq!(
            body(&call, "wkr_1"),
            json!({"method": "createComment", "args": ["i-1", "hi"], "organizationId": "org-1"})
        );
        assert_eq!(call.as_ref().to_string(), r#"createComment of issue "i-1""#);
    }

    #[test]
    fn a_restored_call_equals_the_stored_one() {
        let [completion, status] = session_calls("s/1", completed().with_summary("x").with_error("y"));
        let comment = platform().create_comment(&"i".into(), "hi".into(), "key".into());
        for call in [completion, status, comment] {
            let key = call.idempotency_key.clone();
            let restored = platform()
                .restore(call.target.id(), key, call.stored_body().as_bytes())
                .unwrap();
            assert_eq!(format!("{restored:?}"), format!("{call:?}"));
        }
    }

    #[test]
    fn a_key_is_unique_to_a_call_of_a_result() {
        let keys = |id: &str, result: AgentResult| session_calls(id, result).map(|call| call.idempotency_key);
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
