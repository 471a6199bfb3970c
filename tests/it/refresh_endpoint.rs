//! Runtime tokens from the platform's refresh endpoint.

use std::time::Duration;

use result_poster::{
    OptionsBuilder,
    credentials::{GetCredentialActor, GetCredentials},
    testing::{FakePlatform, ManualClock, RecordedRequest, Reply},
};

use crate::support::{
    errors::texts,
    options, post, post_outcome,
    provider::jwt,
    requests::{route, sent},
    send_update, start, status_update,
};

const REFRESH: &str = "refresh-token";

#[actix_rt::test]
async fn a_token_is_cached_and_refreshed_after_a_401() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let first = jwt("first", clock.now() + Duration::from_secs(3600));
    platform.script(
        REFRESH,
        [
            Reply::status(200).body(format!(r#"{{"runtimeToken":"{first}"}}"#)),
            Reply::status(200).body(r#"{"runtimeToken":"second","runtimeTokenExpiresAt":"2026-01-01T02:00:00+01:00"}"#),
        ],
    );
    platform.script("issue-tracker-proxy", [Reply::ok(), Reply::status(401), Reply::ok()]);
    // The call holds the only permit while the token is fetched.
    let poster = start(with_endpoint(&platform).max_in_flight(1).clock(clock));
    send_update(&poster, "issue-1").await.unwrap();
    assert_eq!(send_update(&poster, "issue-1").await.unwrap().attempts(), Some(1));
    send_update(&poster, "issue-1").await.unwrap();
    let (endpoint, proxy) = (
        "/base/api/workers/wkr%2F1/refresh-token",
        "/base/api/issue-tracker-proxy",
    );
    assert_eq!(
        sent(&platform, path_and_authorization),
        [
            format!("{endpoint} Bearer registration"),
            format!("{proxy} Bearer {first}"),
            format!("{proxy} Bearer {first}"),
            format!("{endpoint} Bearer registration"),
            format!("{proxy} Bearer second"),
            format!("{proxy} Bearer second"),
        ]
    );
}

#[actix_rt::test]
async fn a_failed_refresh_is_not_retried_within_an_attempt() {
    for (reply, message) in [
        (
            Reply::status(404)
                .header("content-type", "text/html")
                .body("<html>not found</html>"),
            "the refresh endpoint answered 404",
        ),
        (
            Reply::status(401),
            "the refresh endpoint rejected the registration token with status 401",
        ),
        (
            Reply::status(302),
            "the refresh endpoint rejected the registration token with status 302",
        ),
        (Reply::status(500), "the refresh endpoint answered 500"),
        (
            Reply::status(200).body("<html>"),
            "the refresh endpoint's response is not the expected JSON",
        ),
        (
            Reply::status(200).body("{}"),
            "the refresh endpoint's response is not the expected JSON",
        ),
        (
            Reply::status(200).body(r#"["by its position",null]"#),
            "the refresh endpoint's response is not the expected JSON",
        ),
        (
            Reply::ok().delay(Duration::from_secs(60)),
            "the credential provider did not answer within 100ms",
        ),
    ] {
        let platform = FakePlatform::start().unwrap();
        platform.script(REFRESH, [reply]);
        let poster = start(
            with_endpoint(&platform)
                .max_attempts(2)
                .credential_timeout(Duration::from_millis(100)),
        );
        let error = send_update(&poster, "issue-1").await.unwrap_err();
        let texts = texts(&error);
        assert!(texts.iter().any(|text| text == message), "{texts:?}");
        // One request to the endpoint for each of the two attempts, and none to the issue-tracker proxy.
        assert_eq!(platform.requests().len(), 2, "{message}");
        assert_eq!(sent(&platform, route), [REFRESH; 2]);
    }
}

#[actix_rt::test]
async fn rejected_workers_cost_one_refresh_a_minute() {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let token = jwt("t", clock.now() + Duration::from_secs(3600));
    platform.script(
        REFRESH,
        [Reply::status(200).body(format!(r#"{{"runtimeToken":"{token}"}}"#))],
    );
    platform.script("completion", [Reply::status(403)]);
    let poster = start(with_endpoint(&platform).clock(clock.clone()));
    let refreshes = || sent(&platform, route).iter().filter(|route| *route == REFRESH).count();
    for (session, refreshed) in [("a", 1), ("b", 1), ("c", 2), ("d", 2)] {
        if session == "c" {
            clock.advance(Duration::from_secs(60));
        }
        assert_eq!(post_outcome(&post(&poster, session).await), "permanent:403");
        assert_eq!(refreshes(), refreshed, "{session}");
    }
}

#[actix_rt::test]
async fn an_empty_token_is_a_failure() {
    let platform = FakePlatform::start().unwrap();
    platform.script(REFRESH, [Reply::status(200).body(r#"{"runtimeToken":""}"#)]);
    let poster = start(with_endpoint(&platform).max_attempts(1));
    let error = send_update(&poster, "issue-1").await.unwrap_err();
    assert_eq!(error.transient().unwrap().attempts, 1);
    assert_eq!(platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_fetch_needs_no_permit_and_no_free_connection() {
    let platform = FakePlatform::start().unwrap();
    let token = |token| Reply::status(200).body(format!(r#"{{"runtimeToken":"{token}"}}"#));
    platform.script(REFRESH, [token("a"), token("b")]);
    platform.script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_millis(300))]);
    let poster = start(with_endpoint(&platform).max_in_flight(1));
    let stalled = actix_rt::spawn(poster.send(status_update("issue-1")));
    platform.wait_for_requests(2).await;
    let actor = poster.send(GetCredentialActor).await.unwrap();
    actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert!(!stalled.is_finished());
    stalled.await.unwrap().unwrap().unwrap();
}

fn with_endpoint(platform: &FakePlatform) -> OptionsBuilder {
    options(platform.url() + "/base")
        .auth_token("")
        .worker_id("wkr/1")
        .refresh_endpoint("registration")
}

fn path_and_authorization(request: &RecordedRequest) -> String {
    let authorization = request.header("authorization").unwrap_or_default();
    format!("{} {authorization}", request.path)
}
