//! A result: the completion, then the status.

use result_poster::{
    AgentResult, CallError, Cost, PostError, PostResult, SessionStatus,
    testing::{FakePlatform, Reply},
};

use crate::support::{builder, completed, options, platform_and_poster, post, post_outcome, routes, start};

#[actix_rt::test]
async fn a_result_is_delivered_with_one_attempt_each() {
    let (platform, poster) = platform_and_poster();
    let receipt = post(&poster, "sess-1").await.unwrap();
    assert_eq!((receipt.completion.attempts, receipt.status.attempts), (1, 1));
    assert_eq!(routes(&platform), ["completion", "status"]);
}

#[actix_rt::test]
async fn both_calls_share_a_connection_and_carry_the_headers() {
    let (platform, poster) = platform_and_poster();
    post(&poster, "sess-1").await.unwrap();
    assert_eq!(platform.connections(), 1);
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
async fn status_is_sent_whatever_became_of_the_completion() {
    for (status, expected, attempts) in [
        (403, "permanent:403", 1),
        (503, "transient:3", 3),
        (302, "permanent:302", 1),
    ] {
        let (platform, poster) = platform_and_poster();
        platform.script("completion", [Reply::status(status)]);
        let reply = post(&poster, "sess-1").await;
        assert_eq!(post_outcome(&reply), expected);
        assert!(matches!(reply, Err(PostError::Completion(_))));
        let mut sent = vec!["completion"; attempts];
        sent.push("status");
        assert_eq!(routes(&platform), sent);
    }
}

#[actix_rt::test]
async fn a_status_that_fails_alone_is_named() {
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
    assert!(
        error
            .to_string()
            .starts_with("completion was delivered; status failed: ")
    );
    assert!(!error.is_retryable());
}

#[actix_rt::test]
async fn both_failures_are_told() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(422)]);
    platform.script("status", [Reply::status(500)]);
    let error = post(&poster, "sess-1").await.unwrap_err();
    assert_eq!(error.permanent().unwrap().status_code, 422);
    assert_eq!(error.transient().unwrap().attempts, 3);
    assert!(error.is_retryable());
}

#[actix_rt::test]
async fn invalid_results_are_refused_unsent() {
    let (platform, poster) = platform_and_poster();
    let costly = |usd| completed().with_cost(Cost::default().with_total_cost_usd(usd));
    for (session_id, result, field) in [
        ("", completed(), "session_id"),
        (" \t\u{2003}", completed(), "session_id"),
        ("..", completed(), "session_id"),
        (&"x".repeat(4097), completed(), "session_id"),
        (".", completed(), "session_id"),
        ("s", costly(f64::NAN), "cost.total_cost_usd"),
        ("s", costly(f64::INFINITY), "cost.total_cost_usd"),
    ] {
        let reply = poster.send(PostResult::new(session_id, result)).await.unwrap();
        assert_eq!(post_outcome(&reply), format!("invalid:{field}"));
        let error = reply.unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        assert!(!error.is_retryable() && !error.may_have_been_delivered());
    }
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn a_session_id_can_not_reach_another_route() {
    let (platform, poster) = platform_and_poster();
    let long = "日".repeat(300);
    for (session_id, segment) in [
        ("../../admin?x#y", "..%2F..%2Fadmin%3Fx%23y".to_owned()),
        (&long, "%E6%97%A5".repeat(300)),
    ] {
        post(&poster, session_id).await.unwrap();
        let paths: Vec<_> = platform
            .requests()
            .into_iter()
            .rev()
            .take(2)
            .map(|request| request.path)
            .collect();
        assert_eq!(
            paths,
            [
                format!("/api/sessions/{segment}/status"),
                format!("/api/sessions/{segment}/completion")
            ]
        );
    }
}

#[actix_rt::test]
async fn a_summary_of_a_megabyte_arrives_whole_and_a_longer_one_is_cut() {
    let (platform, poster) = platform_and_poster();
    for (length, cut) in [(1024 * 1024, false), (1024 * 1024 + 1, true)] {
        let result = AgentResult::new(SessionStatus::Completed).with_summary("x".repeat(length));
        poster.send(PostResult::new("sess-1", result)).await.unwrap().unwrap();
        let requests = platform.requests();
        let body = requests[requests.len() - 2].json().unwrap();
        let summary = body["summary"].as_str().unwrap();
        assert!(summary.len() <= 1024 * 1024);
        assert_eq!(summary.ends_with(" bytes cut]"), cut);
        assert_eq!(summary.len() == length, !cut);
    }
}

#[actix_rt::test]
async fn results_of_one_session_go_one_after_another_and_of_two_side_by_side() {
    let platform = FakePlatform::start().unwrap();
    let clock = result_poster::testing::ManualClock::new();
    let second = std::time::Duration::from_secs(1);
    let poster = start(options(platform.url()).clock(clock.clone()).base_delay(second));
    platform.script("a/completion", [Reply::status(503), Reply::ok()]);

    let first = actix_rt::spawn(poster.send(PostResult::new("a", completed().with_summary("first"))));
    let next = actix_rt::spawn(poster.send(PostResult::new("a", completed().with_summary("next"))));
    clock.sleepers(1).await;
    // The first waits for its second attempt: the next stays behind it, another session overtakes both.
    post(&poster, "b").await.unwrap();
    clock.advance(second);
    first.await.unwrap().unwrap().unwrap();
    next.await.unwrap().unwrap().unwrap();

    let paths: Vec<_> = platform
        .requests()
        .iter()
        .map(|request| request.path.trim_start_matches("/api/sessions/").to_owned())
        .collect();
    assert_eq!(
        paths,
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
async fn a_token_is_needed_but_on_loopback() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(result_poster::Options::builder(platform.url()));
    post(&poster, "sess-1").await.unwrap();
    assert!(
        platform
            .requests()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );

    let poster = start(builder("https://app.example.com").worker_id("wkr_1"));
    let reply = post(&poster, "sess-1").await;
    assert_eq!(post_outcome(&reply), "no credentials;no credentials");
    assert!(!reply.unwrap_err().may_have_been_delivered());
}
