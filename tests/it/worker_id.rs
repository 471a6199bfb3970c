//! The worker id of a result, its headers, and its run.

use result_poster::{
    CallError, CreateComment, PostError, PostResult, UpdateIssueStatus,
    credentials::{RuntimeCredentials, provider_fn},
    testing::{FakePlatform, RecordedRequest, Reply},
};
use serde_json::{Value, json};

use crate::support::{
    TOKEN, builder, completed, errors, options,
    outbox::{OutboxFixture, replay_late},
    platform_and_poster, post, post_outcome,
    provider::ScriptedProvider,
    requests::{json as body, key, sent, worker_id},
    start,
};

#[actix_rt::test]
async fn a_result_carries_the_worker_that_it_names_and_the_token_of_the_credentials() {
    let (platform, poster) = platform_and_poster();
    let message = PostResult::new("s", completed()).with_worker_id("wkr_own");
    poster.send(message).await.unwrap().unwrap();
    assert_eq!(sent(&platform, worker_id), ["wkr_own", "wkr_own"]);
    let authorization = format!("Bearer {TOKEN}");
    assert!((platform.requests().iter()).all(|request| request.header("authorization") == Some(&authorization)));
}

#[actix_rt::test]
async fn the_worker_of_a_message_is_that_of_its_first_attempt() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(503), Reply::ok()]);
    let provider = ScriptedProvider::tokens(["a", "b", "c"]);
    let poster = start(options(platform.url()).credential_provider(provider));
    post(&poster, "s").await.unwrap();
    assert_eq!(sent(&platform, worker_id), ["wkr_a", "wkr_a", "wkr_a"]);
    post(&poster, "t").await.unwrap();
    assert_eq!(sent(&platform, worker_id)[3..], ["wkr_c", "wkr_c"]);
}

/// A platform that is not on loopback, and that is never reached.
const PLATFORM: &str = "https://platform.invalid";

#[actix_rt::test]
async fn a_result_that_no_worker_could_send_is_invalid() {
    let poster = start(builder(PLATFORM).auth_token("t"));
    assert_eq!(post_outcome(&post(&poster, "s").await), "invalid:worker_id");
    let blank = PostResult::new("s", completed()).with_worker_id(" ");
    assert_eq!(post_outcome(&poster.send(blank).await.unwrap()), "invalid:worker_id");
}

#[actix_rt::test]
async fn a_provider_without_a_worker_id_has_no_credentials_yet() {
    let provider = provider_fn(async || Ok(RuntimeCredentials::new("", "t")));
    let poster = start(options(PLATFORM).worker_id("").credential_provider(provider));
    let error = post(&poster, "s").await.unwrap_err();
    assert_eq!(post_outcome(&Err(error.clone())), "transient:3;transient:3");
    let texts = errors::texts(&error.transient().unwrap().last);
    assert_eq!(
        texts,
        [
            "credentials unavailable; the request was not sent",
            "there is no worker id"
        ]
    );
}

#[actix_rt::test]
async fn a_result_without_a_worker_id_yet_is_parked() {
    let fixture = OutboxFixture::new();
    let provider = provider_fn(async || Ok(RuntimeCredentials::new("", "t")));
    let outbox = replay_late(fixture.path()).build().unwrap();
    let options = builder(PLATFORM).max_attempts(1).outbox(outbox);
    let poster = start(options.credential_provider(provider));
    assert_eq!(post_outcome(&post(&poster, "s").await), "parked:1;parked:1");
    assert!(fixture.parked().iter().all(|entry| entry.worker_id.is_none()));
}

#[actix_rt::test]
async fn on_loopback_a_result_is_sent_without_a_worker() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(builder(platform.url()));
    post(&poster, "s").await.unwrap();
    let bodies = sent(&platform, body);
    assert_eq!((bodies[0].get("workerId"), &bodies[1]["workerId"]), (None, &json!("")));
}

#[actix_rt::test]
async fn the_headers_of_a_message_are_in_each_of_its_requests() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(503), Reply::ok()]);
    let message = PostResult::new("s", completed())
        .with_header("Traceparent", "00-1")
        .with_header("traceparent", "00-2");
    poster.send(message).await.unwrap().unwrap();
    let comment = CreateComment::new("i", "hi").with_header("x-run", "7");
    poster.send(comment).await.unwrap().unwrap();
    let headers = |name: &str| {
        let requests = platform.requests();
        requests
            .iter()
            .map(|request| request.header(name).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let traced = Some("00-2".to_owned());
    assert_eq!(headers("traceparent"), [traced.clone(), traced.clone(), traced, None]);
    assert_eq!(headers("x-run"), [None, None, None, Some("7".to_owned())]);
}

#[actix_rt::test]
async fn a_reserved_header_or_field_is_invalid() {
    let (platform, poster) = platform_and_poster();
    let result = || PostResult::new("s", completed());
    for message in [
        result().with_header("Authorization", "Bearer x"),
        result().with_header("Content-Length", "1"),
        result().with_header("a", "b\r\nc: d"),
        result().with_status_field("manifest", json!({})),
        result().with_status_field("", 1),
    ] {
        let error = poster.send(message).await.unwrap().unwrap_err();
        let PostError::Invalid(error) = error else {
            panic!("{error:?}")
        };
        assert!(["header", "status_field"].contains(&error.field));
    }
    let update = UpdateIssueStatus::new("i", "Finished").with_header("cookie", "x");
    assert!(matches!(poster.send(update).await.unwrap(), Err(CallError::Invalid(_))));
    assert_eq!(platform.requests().len(), 0);
}

#[actix_rt::test]
async fn two_runs_of_a_session_have_different_keys() {
    let (platform, poster) = platform_and_poster();
    let run = |number| PostResult::new("s", completed()).with_run(number);
    for message in [run(1), run(2), run(1).with_worker_id("wkr_2")] {
        poster.send(message).await.unwrap().unwrap();
    }
    let keys = sent(&platform, key);
    assert_eq!(keys[..2], keys[4..]);
    assert!(keys[..2].iter().all(|key| !keys[2..4].contains(key)));
}

#[actix_rt::test]
async fn an_added_field_is_in_the_status_alone() {
    let (platform, poster) = platform_and_poster();
    let message = PostResult::new("s", completed()).with_status_field("laterField", json!([1, {"a": null}]));
    poster.send(message).await.unwrap().unwrap();
    let bodies: Vec<Value> = sent(&platform, body);
    assert_eq!(bodies[0].get("laterField"), None);
    assert_eq!(bodies[1]["laterField"], json!([1, {"a": null}]));
}

#[actix_rt::test]
async fn a_replay_has_the_worker_and_the_headers_of_the_message() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503]);
    fixture.script("status", [503]);
    let poster = start(fixture.options().worker_id("wkr_now"));
    let message = PostResult::new("s", completed())
        .with_worker_id("wkr_own")
        .with_header("traceparent", "00-1");
    poster.send(message).await.unwrap().unwrap_err();
    fixture.emptied().await;
    let seen = |request: &RecordedRequest| (worker_id(request), request.header("traceparent").map(str::to_owned));
    let expected = (json!("wkr_own"), Some("00-1".to_owned()));
    assert_eq!(sent(&fixture.platform, seen), vec![expected; 4]);
}

#[actix_rt::test]
async fn a_stored_body_is_the_sent_one_without_the_worker() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    let stored: Vec<Value> = (fixture.parked().iter())
        .map(|entry| serde_json::from_str(&entry.body).unwrap())
        .collect();
    let mut bodies = sent(&fixture.platform, body);
    for body in &mut bodies {
        assert_eq!(body.as_object_mut().unwrap().remove("workerId"), Some(json!("wkr_1")));
    }
    assert_eq!(stored, bodies);
}
