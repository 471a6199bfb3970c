//! A result: the completion, then the status.

use std::time::Duration;

use result_poster::{
    AgentResult, CallError, NextStep, Options, PostError, PostResult, SessionStatus,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    RETRY_LATER, actor_without_token, builder, completed, errors, options, platform_and_poster, post, post_outcome,
    requests::{json, route, sent, token},
    start,
};

#[actix_rt::test]
async fn a_result_is_delivered_with_one_attempt_per_call() {
    let (platform, poster) = platform_and_poster();
    let receipt = post(&poster, "sess-1").await.unwrap();
    assert_eq!(
        (receipt.completion.attempts(), receipt.status.attempts()),
        (Some(1), Some(1))
    );
    assert_eq!(sent(&platform, route), ["completion", "status"]);
}

#[actix_rt::test]
async fn both_calls_share_a_connection() {
    let (platform, poster) = platform_and_poster();
    post(&poster, "sess-1").await.unwrap();
    assert_eq!(platform.connections(), 1);
}

#[actix_rt::test]
async fn both_calls_carry_the_headers() {
    let (platform, poster) = platform_and_poster();
    post(&poster, "sess-1").await.unwrap();
    for request in platform.requests() {
        assert_eq!(request.method, "POST");
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("authorization"), Some("Bearer tok-s3cret"));
        assert_eq!(
            request.header("user-agent"),
            Some(concat!("result-poster/", env!("CARGO_PKG_VERSION")))
        );
        assert!(request.header("idempotency-key").is_some());
        assert_eq!(
            request.headers.iter().filter(|(name, _)| name == "user-agent").count(),
            1
        );
    }
}

#[actix_rt::test]
async fn the_status_is_sent_after_a_failed_completion() {
    for (status, failure, attempts) in [
        (403, "permanent:403", 1),
        (503, "transient:3", 3),
        (302, "permanent:302", 1),
    ] {
        let (platform, poster) = platform_and_poster();
        platform.script("completion", [Reply::status(status)]);
        let reply = post(&poster, "sess-1").await;
        assert_eq!(post_outcome(&reply), failure);
        assert!(matches!(reply, Err(PostError::Completion(_))));
        let mut expected = vec!["completion"; attempts];
        expected.push("status");
        assert_eq!(sent(&platform, route), expected);
    }
}

#[actix_rt::test]
async fn a_failed_status_is_reported_alone() {
    let (platform, poster) = platform_and_poster();
    platform.script("status", [Reply::status(404).body(r#"{"error":"Not Found"}"#)]);
    let error = post(&poster, "sess-1").await.unwrap_err();
    let PostError::Status(CallError::Permanent(refusal)) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (refusal.status_code, refusal.body.as_str()),
        (404, r#"{"error":"Not Found"}"#)
    );
    assert_eq!(
        errors::texts(&error),
        [
            "the completion was delivered, the status failed",
            r#"the platform rejected the call with status 404: {"error":"Not Found"}"#
        ]
    );
    assert_eq!(error.next_step(), NextStep::GiveUp);
}

#[actix_rt::test]
async fn both_failures_are_reported() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(422)]);
    platform.script("status", [Reply::status(500)]);
    let error = post(&poster, "sess-1").await.unwrap_err();
    assert_eq!(error.permanent().unwrap().status_code, 422);
    assert_eq!(error.transient().unwrap().attempts, 3);
    assert_eq!(error.next_step(), NextStep::RetryLater { after: RETRY_LATER });
    assert_eq!(
        errors::texts(&error),
        [
            "the completion failed: the platform rejected the call with status 422; \
          the status failed: gave up after 3 attempts: the platform answered 500"
        ]
    );
}

#[actix_rt::test]
async fn invalid_results_are_rejected_before_sending() {
    let (platform, poster) = platform_and_poster();
    for session_id in ["", " \t\u{2003}\u{feff}", "..", &"x".repeat(4097), "."] {
        let reply = post(&poster, session_id).await;
        assert_eq!(post_outcome(&reply), "invalid:session_id");
        let error = reply.unwrap_err();
        let texts = errors::texts(&error);
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert_eq!(texts[0], "the result is invalid; nothing was sent");
        assert!(texts[1].starts_with("`session_id` is "), "{texts:?}");
        assert_eq!(error.next_step(), NextStep::GiveUp);
        assert!(!error.may_have_been_delivered());
    }
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn a_session_id_cannot_reach_another_route() {
    let (platform, poster) = platform_and_poster();
    let long = "日".repeat(300);
    for (session_id, segment) in [
        ("../../admin?x#y", "..%2F..%2Fadmin%3Fx%23y".to_owned()),
        (&long, "%E6%97%A5".repeat(300)),
    ] {
        post(&poster, session_id).await.unwrap();
        let mut paths = sent(&platform, |request| request.path.clone());
        assert_eq!(
            paths.split_off(paths.len() - 2),
            [
                format!("/api/sessions/{segment}/completion"),
                format!("/api/sessions/{segment}/status")
            ]
        );
    }
}

#[actix_rt::test]
async fn a_summary_is_cut_above_96_kib() {
    let (platform, poster) = platform_and_poster();
    for (length, cut) in [(96 * 1024, false), (96 * 1024 + 1, true)] {
        let result = AgentResult::new(SessionStatus::Completed).with_summary("x".repeat(length));
        poster.send(PostResult::new("sess-1", result)).await.unwrap().unwrap();
        let bodies = sent(&platform, json);
        let body = &bodies[bodies.len() - 2];
        let summary = body["summary"].as_str().unwrap();
        assert!(summary.len() <= 96 * 1024);
        assert_eq!(summary.ends_with(" bytes cut]"), cut);
        assert_eq!(summary.len() == length, !cut);
    }
}

#[actix_rt::test]
async fn results_are_ordered_only_within_their_session() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let poster = start(options(platform.url()).clock(clock.clone()).base_delay(second));
    platform.script("a/completion", [Reply::status(503), Reply::ok()]);

    let first = actix_rt::spawn(poster.send(PostResult::new("a", completed().with_summary("first"))));
    let next = actix_rt::spawn(poster.send(PostResult::new("a", completed().with_summary("next"))));
    clock.wait_for_sleepers(1).await;
    // The first result is in its backoff: the next of its session waits behind it, and another session overtakes both.
    post(&poster, "b").await.unwrap();
    clock.advance(second);
    first.await.unwrap().unwrap().unwrap();
    next.await.unwrap().unwrap().unwrap();

    assert_eq!(
        sent(&platform, |request| request
            .path
            .trim_start_matches("/api/sessions/")
            .to_owned()),
        [
            "a/completion",
            "b/completion",
            "b/status",
            "a/completion",
            "a/status",
            "a/completion",
            "a/status"
        ]
    );
}

#[actix_rt::test]
async fn a_result_is_sent_without_a_token_to_a_platform_on_loopback() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(Options::builder(platform.url()));
    post(&poster, "sess-1").await.unwrap();
    assert_eq!(sent(&platform, token), ["", ""]);
}

#[actix_rt::test]
async fn a_result_without_a_token_is_not_sent_to_another_host() {
    // Only the actor of a poster on loopback may be without a token and without a provider.
    let options = builder("https://platform.test").credential_actor(actor_without_token().await);
    let reply = post(&start(options), "sess-1").await;
    assert_eq!(post_outcome(&reply), "no credentials;no credentials");
    let error = reply.unwrap_err();
    assert_eq!(error.next_step(), NextStep::RenewCredentials);
    assert!(!error.may_have_been_delivered());
}
