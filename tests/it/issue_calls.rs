//! The two calls to the issue-tracker proxy.

use std::time::Duration;

use result_poster::{
    CallError, CreateComment, UpdateIssueStatus,
    testing::{FakePlatform, Reply},
};
use serde_json::json;

use crate::support::{
    options, outcome, platform_and_poster,
    requests::{json, sent},
    send_update, start, status_update,
};

const PROXY: &str = "issue-tracker-proxy";

#[actix_rt::test]
async fn calls_for_one_issue_are_sent_in_order() {
    let platform = FakePlatform::start().unwrap();
    // The first call takes two attempts; the second must not overtake it.
    platform.script(
        PROXY,
        [Reply::status(503).delay(Duration::from_millis(50)), Reply::ok()],
    );
    let poster = start(options(platform.url()));
    let comment = actix_rt::spawn(poster.send(CreateComment::new("issue-1", "first")));
    let update = actix_rt::spawn(poster.send(status_update("issue-1")));
    assert_eq!(comment.await.unwrap().unwrap().unwrap().attempts(), Some(2));
    assert_eq!(update.await.unwrap().unwrap().unwrap().attempts(), Some(1));
    assert_eq!(
        sent(&platform, json).split_off(1),
        [
            json!({"method": "createComment", "args": ["issue-1", "first"]}),
            json!({"method": "updateIssueStatus", "args": ["issue-1", "Finished"]}),
        ]
    );
}

#[actix_rt::test]
async fn issue_calls_carry_the_organization_id() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).organization_id("org-1"));
    let comment = CreateComment::new("issue-1", "first");
    poster.send(comment).await.unwrap().unwrap();
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(
        sent(&platform, json),
        [
            json!({"method": "createComment", "args": ["issue-1", "first"], "organizationId": "org-1"}),
            json!({"method": "updateIssueStatus", "args": ["issue-1", "Finished"], "organizationId": "org-1"}),
        ]
    );
}

#[actix_rt::test]
async fn the_status_and_body_of_a_tracker_response_determine_the_verdict() {
    for (status, body, expected, attempts) in [
        (200, r#"{"success":true}"#, "ok", 1),
        (200, r#"{"success":false}"#, "permanent:200", 1),
        (200, r#"{"success":false,"error":{"retryable":true}}"#, "transient:3", 3),
        (200, r#"{"success":false,"error":{"retr"#, "transient:3", 3),
        (200, "", "transient:3", 3),
        (200, r#"{"success":tr"#, "transient:3", 3),
        (200, "<html>", "transient:3", 3),
        (401, "", "permanent:401", 1),
        (404, "", "permanent:404", 1),
        (409, r#"{"error":{"retryable":true}}"#, "transient:3", 3),
        (500, r#"{"success":true}"#, "transient:3", 3),
    ] {
        let (platform, poster) = platform_and_poster();
        platform.script(PROXY, [Reply::status(status).body(body)]);
        let reply = send_update(&poster, "issue-1").await;
        assert_eq!(outcome(&reply), expected, "{status} {body}");
        assert_eq!(platform.requests().len(), attempts, "{status} {body}");
    }
}

#[actix_rt::test]
async fn a_tracker_refusal_carries_its_reason() {
    let (platform, poster) = platform_and_poster();
    let body = r#"{"success":false,"error":{"code":"NO_CLIENT","message":"not configured for tok-s3cret"}}"#;
    platform.script(PROXY, [Reply::status(200).body(body)]);
    let error = poster
        .send(CreateComment::new("issue-1", "hi"))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error.permanent().unwrap().body,
        "NO_CLIENT: not configured for [REDACTED]"
    );
    assert_eq!(error.permanent().unwrap().advice(), "the body of the response says why");
    assert_eq!(
        error.to_string(),
        "the platform rejected the call with status 200: NO_CLIENT: not configured for [REDACTED]"
    );
}

#[actix_rt::test]
async fn blank_and_endless_fields_are_rejected_before_sending() {
    let (platform, poster) = platform_and_poster();
    let endless = "x".repeat(4097);
    for (issue_id, text, field) in [
        (&*endless, "x", "issue_id"),
        ("i", &*endless, "status"),
        ("", "x", "issue_id"),
        (" \n", "x", "issue_id"),
        ("i", "", "status"),
        ("i", " ", "status"),
    ] {
        let reply = poster.send(UpdateIssueStatus::new(issue_id, text)).await.unwrap();
        assert_eq!(outcome(&reply), format!("invalid:{field}"));
    }
    let reply = poster.send(CreateComment::new(endless, "x")).await.unwrap();
    assert_eq!(outcome(&reply), "invalid:issue_id");
    let reply = poster.send(CreateComment::new("i", "\t")).await.unwrap();
    let Err(CallError::Invalid(error)) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(error.to_string(), "`body` is empty or blank");
    assert!(platform.requests().is_empty());
}
