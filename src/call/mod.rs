//! The calls of a message: URLs, bodies and idempotency keys. Pure.

mod kind;
mod proxy_body;
mod reduce;
mod session_body;
mod structured;
mod summary;
mod text;
mod wire_format;

use std::{borrow::Cow, cell::OnceCell, rc::Rc};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use thiserror::Error;

pub(crate) use self::kind::CallRef;
pub use self::{
    kind::{CallKind, Endpoint, PlatformRoute, Target},
    wire_format::WireFormat,
};
use self::{
    proxy_body::{Method, proxy_body},
    reduce::reduced,
    session_body::session_bodies,
    text::limited,
};
use crate::{
    call_id::CallId,
    error::InvalidMessageError,
    label::UnknownNameError,
    message::{Headers, PostResult, check_headers},
    util::lossy,
    warning::Warnings,
};

/// The characters that a path segment may hold unencoded (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One call: everything that its requests have in common. Only the credentials are added for each attempt.
#[derive(Debug)]
pub struct Call {
    /// The id in the outbox, once the call is stored.
    pub(crate) id: Option<CallId>,
    pub(crate) kind: CallKind,
    pub(crate) target: Target,
    /// The same on every attempt.
    pub(crate) idempotency_key: String,
    /// The headers that the message adds.
    pub(crate) headers: Headers,
    /// The JSON body without the worker id.
    body: String,
    /// The losses of the call, for its receipt.
    pub(crate) warnings: Warnings,
    /// The reduced form, once the platform has refused the whole body as too large.
    reduced: OnceCell<Box<Self>>,
}

impl Call {
    pub(crate) fn as_ref(&self) -> CallRef<'_> {
        CallRef {
            kind: self.kind,
            target_id: self.target.id(),
            id: self.id,
            idempotency_key: Some(&self.idempotency_key),
        }
    }

    /// The JSON body. A completion without a worker leaves the worker id out; a status has it always.
    pub fn encode(&self, worker_id: &str) -> Bytes {
        match self.kind {
            CallKind::Completion if worker_id.is_empty() => self.body.clone().into(),
            CallKind::Completion | CallKind::Status => with_worker(&self.body, worker_id),
            CallKind::UpdateIssueStatus | CallKind::CreateComment => self.body.clone().into(),
        }
    }

    /// From now on, the call is sent in reduced form: every string cut to 4 KiB, every list to 64 elements, without the
    /// manifest and added fields,
    /// under a key of its own.
    pub(crate) fn reduce(&self) {
        self.reduced.get_or_init(|| Box::new(self.reduced()));
    }

    pub(crate) fn is_reduced(&self) -> bool {
        self.reduced.get().is_some()
    }

    /// The form in which the call is sent.
    pub(crate) fn form(&self) -> &Self {
        self.reduced.get().map_or(self, Box::as_ref)
    }

    fn reduced(&self) -> Self {
        Self {
            id: self.id,
            kind: self.kind,
            target: self.target.clone(),
            idempotency_key: [&self.idempotency_key, "-reduced"].concat(),
            headers: self.headers.clone(),
            body: reduced(&self.body),
            warnings: Warnings::default(),
            reduced: OnceCell::new(),
        }
    }

    /// The body as the outbox stores it: as it is sent, without the worker id.
    pub fn stored_body(&self) -> &str {
        &self.body
    }

    /// The headers as the outbox stores them, if there are any.
    pub fn stored_headers(&self) -> Option<String> {
        // A map of texts can't fail.
        (!self.headers.is_empty()).then(|| serde_json::to_string(&self.headers).unwrap_or_default())
    }
}

/// An object with the worker id as its first member.
fn with_worker(object: &str, worker_id: &str) -> Bytes {
    const START: &str = r#"{"workerId":"#;
    let members = object.trim_start().strip_prefix('{').unwrap_or_default().trim_start();
    let length = [START, worker_id, "\"\",", members].map(str::len).iter().sum();
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(START.as_bytes());
    // A text can't fail.
    let _ = serde_json::to_writer(&mut body, worker_id);
    if !members.starts_with('}') {
        body.push(b',');
    }
    body.extend_from_slice(members.as_bytes());
    body.into()
}

/// A call as the outbox stores it.
#[derive(Debug, Clone, Copy)]
pub struct StoredForm<'a> {
    pub kind: &'a str,
    pub target_id: &'a str,
    pub idempotency_key: &'a str,
    pub headers: Option<&'a str>,
    pub body: &'a [u8],
}

/// Why a stored call can't be read: its file was damaged.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error(transparent)]
    Kind(#[from] UnknownNameError),
    #[error("its headers are not an object of texts")]
    Headers(#[source] serde_json::Error),
    #[error(transparent)]
    Header(#[from] InvalidMessageError),
    #[error("its body is not JSON")]
    Body(#[source] serde_json::Error),
    #[error("its body is not an object")]
    NotAnObject,
}

/// The platform as all calls see it.
#[derive(Debug, Clone)]
pub struct Platform {
    /// The platform's URL, with its own path and without a trailing slash.
    pub base: String,
    pub organization_id: Option<String>,
    pub wire_format: WireFormat,
    /// The longest summary, error or comment, as encoded in JSON.
    pub max_text_bytes: usize,
}

impl Platform {
    /// The two calls of a result: completion, then status.
    ///
    /// The idempotency keys are derived from the session id, the run and the content, not from the worker or the token.
    /// The same result has the same keys in every process.
    pub fn session_calls(&self, session_id: &Rc<str>, message: &PostResult) -> Vec<Call> {
        // Each text is written here first, and then copied: it grows no more, and has no spare room.
        let mut buffer = Vec::with_capacity(RESULT_BYTES);
        let digest = digest(message, &mut buffer);
        let kinds = [CallKind::Completion, CallKind::Status];
        let bodies = session_bodies(message, self.wire_format, self.max_text_bytes, &mut buffer);
        let call = |(kind, body): (CallKind, session_body::SessionBody)| {
            let idempotency_key = [&digest, "-", kind.as_str()].concat();
            let mut call = self.call(kind, Rc::clone(session_id), idempotency_key, body.json);
            call.warnings = body.warnings;
            call
        };
        kinds.into_iter().zip(bodies).map(call).collect()
    }

    /// The call that moves an issue to a status.
    pub(crate) fn update_issue_status(&self, issue_id: &Rc<str>, status: &str, idempotency_key: String) -> Call {
        let body = proxy_body(
            Method::UpdateIssueStatus,
            issue_id,
            status,
            self.organization_id.as_deref(),
        );
        self.call(CallKind::UpdateIssueStatus, Rc::clone(issue_id), idempotency_key, body)
    }

    /// The call that writes a comment on an issue.
    pub(crate) fn create_comment(&self, issue_id: &Rc<str>, text: &str, idempotency_key: String) -> Call {
        let mut warnings = Warnings::default();
        let text = limited(text, self.max_text_bytes, "body", &mut warnings);
        let body = proxy_body(Method::CreateComment, issue_id, &text, self.organization_id.as_deref());
        let mut call = self.call(CallKind::CreateComment, Rc::clone(issue_id), idempotency_key, body);
        call.warnings = warnings;
        call
    }

    /// A call that the outbox stored.
    pub fn restore(&self, stored: StoredForm<'_>) -> Result<Call, RestoreError> {
        let kind = stored.kind.parse()?;
        let headers = stored.headers.map_or(Ok(Headers::new()), serde_json::from_str);
        let headers = headers.map_err(RestoreError::Headers)?;
        check_headers(&headers)?;
        let body = String::from_utf8_lossy(stored.body).into_owned();
        serde_json::from_str::<IgnoredAny>(&body).map_err(RestoreError::Body)?;
        if !body.trim_start().starts_with('{') {
            return Err(RestoreError::NotAnObject);
        }
        let mut call = self.call(kind, stored.target_id.into(), stored.idempotency_key.to_owned(), body);
        call.headers = headers;
        Ok(call)
    }

    fn call(&self, kind: CallKind, target_id: Rc<str>, idempotency_key: String, body: String) -> Call {
        let target = match kind.endpoint() {
            Endpoint::Session => Target::Session(target_id),
            Endpoint::Proxy => Target::Issue(target_id),
        };
        Call {
            id: None,
            kind,
            target,
            idempotency_key,
            headers: Headers::new(),
            body,
            warnings: Warnings::default(),
            reduced: OnceCell::new(),
        }
    }

    /// The URL of the requests of a call.
    pub(crate) fn url(&self, call: &Call) -> String {
        match &call.target {
            Target::Session(id) => {
                let segment = Cow::from(utf8_percent_encode(id, SEGMENT));
                [&self.base, "/api/sessions/", &segment, "/", call.kind.as_str()].concat()
            }
            Target::Issue(_) => [&self.base, "/api/issue-tracker-proxy"].concat(),
        }
    }

    /// The endpoint at which a worker renews its runtime token.
    pub(crate) fn refresh_url(&self, worker_id: &str) -> String {
        let worker_id = utf8_percent_encode(worker_id, SEGMENT);
        format!("{}/api/workers/{worker_id}/refresh-token", self.base)
    }
}

/// The usual length of a result in JSON, in bytes.
const RESULT_BYTES: usize = 1024;

/// A fingerprint of a result, in hexadecimal. The JSON of the result is added to `buffer`, which is empty.
fn digest(message: &PostResult, buffer: &mut Vec<u8>) -> String {
    let content = (
        &message.session_id,
        message.run,
        &message.result,
        &message.status_fields,
        &message.terminal_workarea_lease,
    );
    // Only a map with keys that are not strings could fail here, and there is none.
    let _ = serde_json::to_writer(&mut *buffer, &content);
    let mut digits = [0; 64];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(Sha256::digest(buffer)) {
        pair.copy_from_slice(&[byte >> 4, byte & 0xf].map(hex_digit));
    }
    lossy(&digits).into_owned()
}

/// The digit of a number below 16, in lower case.
fn hex_digit(number: u8) -> u8 {
    b"0123456789abcdef"
        .get(usize::from(number))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{session_body::MAX_BODY_BYTES, *};
    use crate::{
        message::TerminalWorkareaLease,
        result::{AgentResult, Cost, SessionStatus},
        warning::Warning,
    };

    fn platform() -> Platform {
        Platform {
            base: "http://127.0.0.1:1/base".into(),
            organization_id: None,
            wire_format: WireFormat::Extended,
            max_text_bytes: 100,
        }
    }

    fn completed() -> AgentResult {
        AgentResult::new(SessionStatus::Completed)
    }

    fn calls_of(message: &PostResult) -> [Call; 2] {
        let id = message.session_id.as_str().into();
        platform().session_calls(&id, message).try_into().unwrap()
    }

    fn session_calls(id: &str, result: AgentResult) -> [Call; 2] {
        calls_of(&PostResult::new(id, result))
    }

    fn body(call: &Call, worker_id: &str) -> Value {
        serde_json::from_slice(&call.encode(worker_id)).unwrap()
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
            let urls = session_calls(id, completed()).map(|call| platform().url(&call));
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
            .with_work_result("".into())
            .with_resumable(false)
            .with_cost(Cost::default().with_total_cost_usd(-0.0).with_input_tokens(0));
        let [completion, status] = session_calls("s", result);
        assert_eq!(
            body(&completion, ""),
            json!({"summary": "The session completed.", "result": "success"})
        );
        assert_eq!(
            body(&status, ""),
            json!({"workerId": "", "status": "completed", "toolCalls": 0})
        );
    }

    #[test]
    fn the_worker_id_comes_first() {
        let [completion, status] = session_calls("s", completed());
        for call in [completion, status] {
            let encoded = String::from_utf8(call.encode("w\"1").to_vec()).unwrap();
            assert!(encoded.starts_with(r#"{"workerId":"w\"1",""#), "{encoded}");
        }
        assert_eq!(with_worker("{}", "w"), r#"{"workerId":"w"}"#);
        assert_eq!(with_worker(" { }", "w"), r#"{"workerId":"w"}"#);
    }

    #[test]
    fn a_lease_replaces_the_worktree_path_and_an_invalid_one_does_not() {
        let id = |prefix: &str| prefix.to_owned() + &"0".repeat(32);
        let lease = |lease_id| TerminalWorkareaLease::new(lease_id, id("wa_"), id("tr_"), "2026-10-01T12:30:00Z");
        let status = |lease_id: String| {
            let result = completed().with_worktree_path("/wt");
            let message = PostResult::new("s", result).with_terminal_workarea_lease(lease(lease_id));
            let [_, status] = calls_of(&message);
            status
        };
        let valid = status(id("twl_"));
        assert_eq!(body(&valid, "w").get("worktreePath"), None);
        assert_eq!(
            body(&valid, "w")["terminalWorkareaLease"]["expiresAt"],
            "2026-10-01T12:30:00.000Z"
        );
        let invalid = status("twl_1".into());
        assert_eq!(body(&invalid, "w")["worktreePath"], "/wt");
        assert_eq!(body(&invalid, "w").get("terminalWorkareaLease"), None);
        assert_eq!(invalid.warnings.len(), 1);
    }

    #[test]
    fn an_added_field_is_sent_with_the_status() {
        let message = PostResult::new("s", completed()).with_status_field("laterField", json!({"a": [1]}));
        let [completion, status] = calls_of(&message);
        assert_eq!(body(&status, "w")["laterField"], json!({"a": [1]}));
        assert_eq!(body(&completion, "w").get("laterField"), None);
    }

    #[test]
    fn the_baseline_has_neither_new_fields_nor_added_ones_nor_a_lease() {
        let platform = Platform {
            wire_format: WireFormat::Baseline,
            ..platform()
        };
        let id = |prefix: &str| prefix.to_owned() + &"0".repeat(32);
        let lease = TerminalWorkareaLease::new(id("twl_"), id("wa_"), id("tr_"), "2026-10-01T12:30:00Z");
        let result = completed()
            .with_summary("s")
            .with_worktree_path("/wt")
            .with_tool_calls(3);
        let message = PostResult::new("s", result)
            .with_status_field("laterField", 1)
            .with_terminal_workarea_lease(lease);
        let calls = platform.session_calls(&"s".into(), &message);
        assert_eq!(body(&calls[0], "w"), json!({"workerId": "w", "summary": "s"}));
        assert_eq!(
            body(&calls[1], "w"),
            json!({"workerId": "w", "status": "completed", "worktreePath": "/wt"})
        );
        assert_eq!(calls[1].warnings.len(), 1);
    }

    #[test]
    fn a_cost_that_is_not_finite_is_left_out_alone() {
        for usd in [f64::NAN, f64::INFINITY] {
            let cost = Cost::default().with_total_cost_usd(usd).with_input_tokens(7);
            let [_, status] = session_calls("s", completed().with_cost(cost));
            let body = body(&status, "w");
            assert_eq!((&body["inputTokens"], body.get("totalCostUsd")), (&json!(7), None));
            assert_eq!(status.warnings.len(), 1);
        }
    }

    #[test]
    fn a_body_of_more_than_512_kib_is_sent_without_its_manifest_and_added_fields() {
        let long = "x".repeat(300 * 1024);
        let result = completed()
            .with_failure_mode("f")
            .with_manifest(json!({"summary": long}));
        let message = PostResult::new("s", result.clone()).with_status_field("laterField", long.as_str());
        let [_, status] = calls_of(&message);
        assert_eq!(
            body(&status, "w"),
            json!({"workerId": "w", "status": "completed", "failureMode": "f", "toolCalls": 0})
        );
        assert_eq!(status.warnings.len(), 2);
        let [_, status] = session_calls("s", result);
        assert_eq!(body(&status, "w")["manifest"]["summary"], long);
    }

    #[test]
    fn a_body_of_at_most_487_kib_keeps_its_manifest_and_with_its_worker_fits_into_512_kib() {
        const KIB: usize = 1024;
        let status = |length| {
            let manifest = json!({"summary": "x".repeat(length)});
            let [_, status] = session_calls("s", completed().with_manifest(manifest));
            status
        };
        let around = status(1).body.len() - 1;
        let longest = status(487 * KIB - around);
        assert_eq!((longest.body.len(), longest.warnings.len()), (487 * KIB, 0));
        assert!(longest.encode(&"\u{1}".repeat(4096)).len() <= 512 * KIB);
        assert_eq!(status(487 * KIB - around + 1).warnings.len(), 1);
    }

    #[test]
    fn a_body_that_is_still_too_long_is_reduced() {
        let [_, status] = session_calls("s", completed().with_failure_mode("x".repeat(600 * 1024)));
        assert!(status.encode("w").len() < 8 * 1024);
        assert_eq!(status.warnings[..], [Warning::BodyReduced]);
    }

    #[test]
    fn a_reduced_body_is_short_whatever_a_refusal_lists() {
        let dimensions = vec!["x".repeat(4000); 5000];
        let refusal = json!({"code": "c", "dimensions": dimensions});
        let result = completed()
            .with_execution_security_refusal(refusal)
            .with_error("e".repeat(9000));
        let [_, status] = session_calls("s", result);
        assert!(status.body.len() <= MAX_BODY_BYTES, "{}", status.body.len());
        assert_eq!(status.warnings.last(), Some(&Warning::BodyReduced));
        assert_eq!(
            body(&status, "w")["executionSecurityRefusal"]["dimensions"][63],
            dimensions[63]
        );
    }

    #[test]
    fn the_longest_call_of_the_tracker_fits_into_512_kib() {
        let longest = "\u{1}".repeat(4096);
        let platform = Platform {
            organization_id: Some(longest.clone()),
            max_text_bytes: 192 * 1024,
            ..platform()
        };
        let id = longest.as_str().into();
        let comment = platform.create_comment(&id, &"x".repeat(1024 * 1024), "key".into());
        let update = platform.update_issue_status(&id, &longest, "key".into());
        for call in [comment, update] {
            assert!(call.encode("w").len() <= 512 * 1024);
        }
    }

    #[test]
    fn a_reduced_call_has_a_key_of_its_own() {
        let [_, status] = session_calls("s", completed());
        let reduced = status.reduced();
        assert_eq!(reduced.idempotency_key, status.idempotency_key.clone() + "-reduced");
        assert_eq!(body(&reduced, "w"), body(&status, "w"));
    }

    #[test]
    fn proxy_calls_carry_the_organization() {
        let platform = Platform {
            organization_id: Some("org-1".into()),
            ..platform()
        };
        let call = platform.create_comment(&"i-1".into(), "hi", "key".into());
        assert_eq!(
            body(&call, "wkr_1"),
            json!({"method": "createComment", "args": ["i-1", "hi"], "organizationId": "org-1"})
        );
        assert_eq!(call.as_ref().to_string(), r#"createComment of issue "i-1""#);
    }

    #[test]
    fn a_long_comment_is_cut() {
        let call = platform().create_comment(&"i-1".into(), &"x".repeat(200), "key".into());
        let text = body(&call, "")["args"][1].as_str().unwrap().to_owned();
        assert!(text.len() <= 100 && text.ends_with(" of 200 bytes cut]"));
        assert_eq!(call.warnings.len(), 1);
    }

    #[test]
    fn a_restored_call_equals_the_stored_one() {
        let [completion, status] = session_calls("s/1", completed().with_summary("x").with_error("y"));
        let mut comment = platform().create_comment(&"i".into(), "hi", "key".into());
        comment.headers = Headers::from([("traceparent".to_owned(), "00-1".to_owned())]);
        for call in [completion, status, comment] {
            let restored = platform().restore(StoredForm {
                kind: call.kind.as_str(),
                target_id: call.target.id(),
                idempotency_key: &call.idempotency_key,
                headers: call.stored_headers().as_deref(),
                body: call.stored_body().as_bytes(),
            });
            assert_eq!(format!("{:?}", restored.unwrap()), format!("{call:?}"));
        }
    }

    #[test]
    fn a_damaged_call_is_not_restored() {
        let stored = StoredForm {
            kind: "status",
            target_id: "s",
            idempotency_key: "key",
            headers: None,
            body: b"{}",
        };
        let error = |stored| {
            platform()
                .restore(stored)
                .map(|call| call.kind)
                .unwrap_err()
                .to_string()
        };
        assert!(platform().restore(stored).is_ok());
        assert_eq!(error(StoredForm { kind: "x", ..stored }), r#"unknown kind of call "x""#);
        assert_eq!(error(StoredForm { body: b"{", ..stored }), "its body is not JSON");
        assert_eq!(error(StoredForm { body: b"[]", ..stored }), "its body is not an object");
        let headers = Some("[]");
        assert_eq!(
            error(StoredForm { headers, ..stored }),
            "its headers are not an object of texts"
        );
        let headers = Some(r#"{"host":"x"}"#);
        assert_eq!(
            error(StoredForm { headers, ..stored }),
            "`header` names `host`, which a message can't set"
        );
    }

    #[test]
    fn a_key_is_unique_to_a_call_of_a_result() {
        let keys = |message: PostResult| calls_of(&message).map(|call| call.idempotency_key);
        let message = |id: &str, summary: &str| PostResult::new(id, completed().with_summary(summary));
        let first = keys(message("s", "a"));
        assert_eq!(first, keys(message("s", "a")));
        assert_eq!(
            first,
            keys(message("s", "a").with_worker_id("w").with_header("traceparent", "00-1"))
        );
        let mut all: Vec<_> = [
            first,
            keys(message("s", "b")),
            keys(message("t", "a")),
            keys(message("s", "a").with_run(1)),
            keys(message("s", "a").with_run(2)),
            keys(message("s", "a").with_status_field("laterField", 1)),
            keys(PostResult::new("s", completed().with_summary("a").with_commit_sha("c"))),
        ]
        .concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 14);
    }
}
