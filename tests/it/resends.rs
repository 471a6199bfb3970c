//! Requests that are sent once more, at once, in another form.

use std::time::Duration;

use result_poster::{
    AgentResult, NextStep, PostResult, SessionStatus,
    credentials::RuntimeCredentials,
    testing::{FakePlatform, Reply},
};

use crate::support::{
    builder, completed, options,
    outbox::{OutboxFixture, replay_soon},
    outcome, platform_and_poster, post, post_outcome,
    provider::{ProviderStep, ScriptedProvider},
    requests::{json, key, route, route_and_token, sent, worker_id},
    send_update, start,
    wait::wait_until,
};

fn credentials(worker: &str, token: &str) -> ProviderStep {
    ProviderStep::Give(RuntimeCredentials::new(worker, token))
}

#[actix_rt::test]
async fn a_403_is_sent_once_more_as_the_worker_of_renewed_credentials() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(403), Reply::ok()]);
    let provider = ScriptedProvider::new([credentials("old", "a"), credentials("new", "b")]);
    let poster = start(options(platform.url()).credential_provider(provider));
    let receipt = post(&poster, "s").await.unwrap();
    assert_eq!(receipt.completion.attempts(), Some(1));
    assert_eq!(
        sent(&platform, route_and_token),
        ["completion a", "completion b", "status b"]
    );
    // The message keeps the worker that the platform has accepted.
    assert_eq!(sent(&platform, worker_id), ["old", "new", "new"]);
    let keys = sent(&platform, key);
    assert_eq!(keys[0], keys[1]);
}

#[actix_rt::test]
async fn a_403_is_final_if_no_other_worker_is_named() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(403).body("not yours")]);
    let provider = ScriptedProvider::new([credentials("w", "a"), credentials("w", "b")]);
    let poster = start(options(platform.url()).credential_provider(provider.clone()));
    assert_eq!(post_outcome(&post(&poster, "s").await), "permanent:403");
    assert_eq!(sent(&platform, route), ["completion", "status"]);
}

#[actix_rt::test]
async fn a_403_to_another_worker_is_final() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(403)]);
    let provider = ScriptedProvider::new([credentials("a", "a"), credentials("b", "b"), credentials("c", "c")]);
    let poster = start(options(platform.url()).credential_provider(provider));
    assert_eq!(post_outcome(&post(&poster, "s").await), "permanent:403");
    assert_eq!(sent(&platform, worker_id), ["a", "b", "b"]);
}

#[actix_rt::test]
async fn a_403_to_the_worker_that_the_message_names_is_final() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(403)]);
    let provider = ScriptedProvider::new([credentials("old", "a"), credentials("new", "b")]);
    let poster = start(options(platform.url()).credential_provider(provider));
    let message = PostResult::new("s", completed()).with_worker_id("own");
    assert_eq!(post_outcome(&poster.send(message).await.unwrap()), "permanent:403");
    assert_eq!(sent(&platform, worker_id), ["own", "own"]);
}

#[actix_rt::test]
async fn another_worker_is_stored_before_a_request_is_sent_as_it() {
    let fixture = OutboxFixture::new();
    let held = Reply::ok().delay(Duration::from_secs(20));
    fixture.platform.script("completion", [Reply::status(403), held]);
    let provider = ScriptedProvider::new([credentials("old", "a"), credentials("new", "b")]);
    let options = builder(fixture.platform.url()).outbox(replay_soon(fixture.path()).build().unwrap());
    let poster = start(options.credential_provider(provider));
    let _pending = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    fixture.platform.wait_for_requests(2).await;
    assert_eq!(sent(&fixture.platform, worker_id), ["old", "new"]);
    // A process that dies now leaves this id to the next one.
    let stored: Vec<_> = fixture.live().into_iter().map(|entry| entry.worker_id).collect();
    assert_eq!(stored, vec![Some("new".to_owned()); 2]);
}

#[actix_rt::test]
async fn a_replay_is_not_sent_as_another_worker() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [403]);
    // The message is stored without a worker, since there are no credentials yet. The replay sets it.
    let missing = vec![ProviderStep::Fail; 2];
    let steps = missing
        .into_iter()
        .chain([credentials("first", "a"), credentials("later", "b")]);
    let provider = ScriptedProvider::new(steps);
    let outbox = replay_soon(fixture.path()).build().unwrap();
    let options = builder(fixture.platform.url()).max_attempts(1).outbox(outbox);
    let poster = start(options.credential_provider(provider));
    assert_eq!(post_outcome(&post(&poster, "s").await), "parked:1;parked:1");
    wait_until(|| fixture.parked().is_empty() && fixture.live().is_empty()).await;
    assert_eq!(
        sent(&fixture.platform, |request| (route(request), worker_id(request))),
        ["completion", "status"].map(|route| (route.to_owned(), "first".into()))
    );
    let dead_letters: Vec<_> = fixture.dead_letters().into_iter().map(|entry| entry.kind).collect();
    assert_eq!(dead_letters, ["completion"]);
}

fn too_large() -> Reply {
    Reply::status(413)
        .header("content-type", "text/html")
        .body("<html>too large</html>")
}

#[actix_rt::test]
async fn a_call_that_is_too_large_is_sent_once_more_in_reduced_form() {
    let (platform, poster) = platform_and_poster();
    platform.script("status", [too_large(), Reply::ok()]);
    let result = AgentResult::new(SessionStatus::Failed).with_error("x".repeat(10_000));
    let receipt = poster.send(PostResult::new("s", result)).await.unwrap().unwrap();
    // The repetition is not an attempt.
    assert_eq!(receipt.status.attempts(), Some(1));
    assert_eq!(sent(&platform, route), ["completion", "status", "status"]);
    let keys = sent(&platform, key);
    assert_eq!(keys[2], format!("{}-reduced", keys[1]));
    let errors = sent(&platform, |request| {
        json(request)["error"]["message"].as_str().map(str::len)
    });
    assert_eq!(errors[..2], [None, Some(10_000)]);
    assert!(errors[2].is_some_and(|length| length <= 4096), "{errors:?}");
}

#[actix_rt::test]
async fn the_reduced_form_is_classified_by_its_own_answer() {
    for (status, expected) in [(413, "permanent:413"), (409, "permanent:409"), (503, "transient:3")] {
        let (platform, poster) = platform_and_poster();
        // A rejected call is not sent a third time, which would be accepted.
        let last = (status != 503).then(Reply::ok);
        let replies = [too_large(), Reply::status(status)].into_iter().chain(last);
        platform.script("completion", replies);
        assert_eq!(post_outcome(&post(&poster, "s").await), expected);
        let keys: Vec<_> = platform.requests().iter().map(key).collect();
        let is_reduced: Vec<_> = keys.iter().map(|key| key.ends_with("-reduced")).collect();
        // The later attempts keep the reduced form.
        assert!(!is_reduced[0] && is_reduced[1..is_reduced.len() - 1].iter().all(|reduced| *reduced));
    }
}

#[actix_rt::test]
async fn a_tracker_call_has_no_reduced_form() {
    let (platform, poster) = platform_and_poster();
    platform.script("issue-tracker-proxy", [too_large()]);
    assert_eq!(outcome(&send_update(&poster, "i").await), "permanent:413");
    assert_eq!(platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_delivery_in_part_is_reported() {
    let platform = FakePlatform::start().unwrap();
    let body = r#"{"posted":true,"partsPosted":3,"totalParts":7,"errors":["x"]}"#;
    platform.script("completion", [Reply::status(200).body(body)]);
    let receipt = post(&start(options(platform.url())), "s").await.unwrap();
    let warnings: Vec<_> = receipt.warnings().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "the platform posted 3 of 7 parts of the comment",
            "the platform reported errors: x"
        ]
    );
}

#[actix_rt::test]
async fn a_page_of_a_firewall_is_not_a_rejection() {
    for status in [200, 403, 404, 421] {
        let (platform, poster) = platform_and_poster();
        let page = Reply::status(status)
            .header("content-type", "text/html")
            .body("<html>challenge</html>");
        platform.script("completion", [page, Reply::ok()]);
        assert_eq!(
            post(&poster, "s").await.unwrap().completion.attempts(),
            Some(2),
            "{status}"
        );
    }
}

#[actix_rt::test]
async fn the_advice_on_a_refusal_does_not_guess() {
    let (platform, poster) = platform_and_poster();
    let body = "unsupported local completion result";
    platform.script("completion", [Reply::status(409).body(body)]);
    let error = post(&poster, "s").await.unwrap_err();
    assert_eq!(error.next_step(), NextStep::GiveUp);
    let rejection = error.permanent().unwrap();
    assert_eq!(rejection.body, body);
    assert_eq!(rejection.advice(), "the body of the response says why");
}

#[actix_rt::test]
async fn the_outbox_remembers_that_a_call_is_reduced() {
    let fixture = OutboxFixture::new();
    let replies = [too_large(), Reply::status(503), Reply::ok()];
    fixture.platform.script("status", replies);
    let poster = start(fixture.options());
    assert_eq!(post_outcome(&post(&poster, "s").await), "parked:1");
    let requests = fixture.platform.wait_for_requests(4).await;
    let is_reduced = requests.iter().map(|request| key(request).ends_with("-reduced"));
    assert_eq!(is_reduced.collect::<Vec<_>>(), [false, false, true, true]);
}
