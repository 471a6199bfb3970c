//! The recorded cases of the reference implementation: its requests, and its outcomes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use result_poster::{
    AgentResult, CreateComment, OptionsBuilder, PostResult, TerminalWorkareaLease, UpdateIssueStatus, WireFormat,
    credentials::{RuntimeCredentials, provider_fn},
    testing::{FakePlatform, RecordedRequest, Reply},
};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{builder, outcome, post_outcome, start};

/// What the reference implementation of the first platform sent and concluded.
#[actix_rt::test]
async fn every_case_of_the_baseline_has_the_same_requests_and_outcome() {
    replay(include_str!("../data/wire.json"), WireFormat::Baseline, 29).await;
}

/// What its present version sends and concludes.
#[actix_rt::test]
async fn every_case_of_the_extended_format_has_the_same_requests_and_outcome() {
    replay(include_str!("../data/wire-extended.json"), WireFormat::default(), 27).await;
}

async fn replay(cases: &str, format: WireFormat, count: usize) {
    let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
    assert_eq!(cases.len(), count);
    // At once, since some of them wait for a second.
    join_all(cases.into_iter().map(|case| case.replay(format))).await;
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    call: String,
    base_path: String,
    worker_id: String,
    auth_token: String,
    #[serde(default)]
    credentials: Vec<Credentials>,
    session_id: Option<String>,
    result: Option<Value>,
    terminal_workarea_lease: Option<TerminalWorkareaLease>,
    issue_id: Option<String>,
    text: Option<String>,
    #[serde(default)]
    replies: HashMap<String, Vec<ScriptedReply>>,
    requests: Vec<ExpectedRequest>,
    outcome: String,
}

/// What a provider gives from this request on.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    from_request: usize,
    worker_id: String,
    auth_token: String,
}

#[derive(Deserialize)]
struct ScriptedReply {
    status: u16,
    body: String,
    #[serde(default)]
    headers: HashMap<String, String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExpectedRequest {
    method: String,
    path: String,
    content_type: String,
    authorization: String,
    body: Value,
}

impl Case {
    async fn replay(mut self, format: WireFormat) {
        let platform = Arc::new(FakePlatform::start().unwrap());
        for (route, replies) in self.replies.drain() {
            platform.script(route, replies.into_iter().map(Reply::from));
        }
        let poster = start(self.options(&platform).wire_format(format));

        let (session_id, issue_id, text) = (self.session_id.take(), self.issue_id.take(), self.text.take());
        let concluded = match self.call.as_str() {
            "postResult" | "postResultWithOptions" => {
                let json = self.result.take().unwrap().to_string();
                let result = AgentResult::from_json(json.as_bytes()).unwrap();
                let mut message = PostResult::new(session_id.unwrap(), result);
                if let Some(lease) = self.terminal_workarea_lease.take() {
                    message = message.with_terminal_workarea_lease(lease);
                }
                post_outcome(&poster.send(message).await.unwrap())
            }
            "updateIssueStatus" => {
                let message = UpdateIssueStatus::new(issue_id.unwrap(), text.unwrap());
                outcome(&poster.send(message).await.unwrap())
            }
            "createComment" => {
                let message = CreateComment::new(issue_id.unwrap(), text.unwrap());
                outcome(&poster.send(message).await.unwrap())
            }
            other => panic!("{}: no call named {other}", self.name),
        };

        let sent: Vec<ExpectedRequest> = platform.requests().into_iter().map(ExpectedRequest::from).collect();
        for (request, sent) in self.requests.iter_mut().zip(&sent) {
            request.take_over_made_up_summary(sent);
        }
        assert_eq!(sent, self.requests, "{}", self.name);
        assert_eq!(concluded, self.outcome, "{}", self.name);
    }

    fn options(&self, platform: &Arc<FakePlatform>) -> OptionsBuilder {
        let options = builder(platform.url() + &self.base_path)
            .worker_id(&self.worker_id)
            .auth_token(self.auth_token.as_str())
            .base_delay(Duration::ZERO);
        if self.credentials.is_empty() {
            return options;
        }
        let (credentials, platform) = (self.credentials.clone(), Arc::clone(platform));
        options.credential_provider(provider_fn(async move || {
            let received = platform.requests().len();
            let given = credentials
                .iter()
                .rfind(|given| given.from_request <= received)
                .unwrap();
            Ok(RuntimeCredentials::new(&given.worker_id, given.auth_token.as_str()))
        }))
    }
}

impl From<ScriptedReply> for Reply {
    fn from(reply: ScriptedReply) -> Self {
        let answer = Self::status(reply.status).body(reply.body);
        let headers = reply.headers.into_iter();
        headers.fold(answer, |answer, (name, value)| answer.header(name, value))
    }
}

impl ExpectedRequest {
    /// A summary that the reference has made up is worded differently here, with the same pull request or error.
    fn take_over_made_up_summary(&mut self, sent: &Self) {
        let summary = |request: &Self| request.body.get("summary").and_then(Value::as_str).map(str::to_owned);
        if let (Some(theirs), Some(ours)) = (summary(self), summary(sent))
            && theirs.starts_with("Session ")
            && ours.starts_with("The session ")
        {
            let detail = theirs.split_once(": ").map_or("", |(_, detail)| detail);
            assert!(ours.ends_with(detail), "{ours}");
            self.body["summary"] = ours.into();
        }
    }
}

impl From<RecordedRequest> for ExpectedRequest {
    fn from(request: RecordedRequest) -> Self {
        let header = |name| request.header(name).unwrap_or_default().to_owned();
        Self {
            content_type: header("content-type"),
            authorization: header("authorization"),
            body: request.json().unwrap(),
            method: request.method,
            path: request.path,
        }
    }
}
