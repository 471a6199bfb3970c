//! The recorded cases of the reference implementation: its requests, and its outcomes.

use serde::Deserialize;
use serde_json::Value;

use result_poster::{
    AgentResult, CreateComment, Options, PostResult, ResultPoster, UpdateIssueStatus,
    testing::{FakePlatform, RecordedRequest, Reply},
};

use crate::support::{outcome, post_outcome};

#[actix_rt::test]
async fn every_recorded_case_has_the_same_requests_and_outcome() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../data/wire.json")).unwrap();
    assert_eq!(cases.len(), 29);
    for case in cases {
        let platform = FakePlatform::start().unwrap();
        for (route, replies) in case.replies {
            let replies = replies
                .into_iter()
                .map(|reply| Reply::status(reply.status).body(reply.body));
            platform.script(route, replies);
        }
        let options = Options::builder(platform.url() + &case.base_path)
            .worker_id(case.worker_id)
            .auth_token(case.auth_token)
            .base_delay(std::time::Duration::ZERO)
            .build()
            .unwrap();
        let poster = ResultPoster::start_supervised(options);

        let concluded = match case.call.as_str() {
            "postResult" => {
                let message = PostResult::new(case.session_id.unwrap(), case.result.unwrap());
                post_outcome(&poster.send(message).await.unwrap())
            }
            "updateIssueStatus" => {
                let message = UpdateIssueStatus::new(case.issue_id.unwrap(), case.text.unwrap());
                outcome(&poster.send(message).await.unwrap())
            }
            "createComment" => {
                let message = CreateComment::new(case.issue_id.unwrap(), case.text.unwrap());
                outcome(&poster.send(message).await.unwrap())
            }
            other => panic!("{}: no call named {other}", case.name),
        };

        let sent: Vec<ExpectedRequest> = platform.requests().into_iter().map(ExpectedRequest::from).collect();
        assert_eq!(sent, case.requests, "{}", case.name);
        assert_eq!(concluded, case.outcome, "{}", case.name);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    call: String,
    base_path: String,
    worker_id: String,
    auth_token: String,
    session_id: Option<String>,
    result: Option<AgentResult>,
    issue_id: Option<String>,
    text: Option<String>,
    #[serde(default)]
    replies: std::collections::HashMap<String, Vec<ScriptedReply>>,
    requests: Vec<ExpectedRequest>,
    outcome: String,
}

#[derive(Deserialize)]
struct ScriptedReply {
    status: u16,
    body: String,
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
