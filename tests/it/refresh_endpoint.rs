//! Runtime tokens from the platform itself.

use std::time::Duration;

use actix::Addr;
use result_poster::{
    CallError, CallReceipt, GetCredentialActor, GetCredentials, OptionsBuilder, ResultPoster, UpdateIssueStatus,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{jwt, options, start};

const REFRESH: &str = "refresh-token";

fn with_endpoint(platform: &FakePlatform) -> OptionsBuilder {
    options(platform.url() + "/base")
        .auth_token("")
        .worker_id("wkr/1")
        .refresh_endpoint("registration")
}

async fn update(poster: &Addr<ResultPoster>) -> Result<CallReceipt, CallError> {
    poster
        .send(UpdateIssueStatus::new("issue-1", "Finished"))
        .await
        .unwrap()
}

/// `<path> <token>` of each request.
fn sent(platform: &FakePlatform) -> Vec<String> {
    platform
        .requests()
        .iter()
        .map(|request| {
            format!(
                "{} {}",
                request.path,
                request.header("authorization").unwrap_or_default()
            )
        })
        .collect()
}

#[actix_rt::test]
async fn a_token_is_fetched_kept_and_renewed_when_it_is_rejected() {
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
    // One slot, which the call holds while the token is fetched.
    let poster = start(with_endpoint(&platform).max_in_flight(1).clock(clock));
    update(&poster).await.unwrap();
    assert_eq!(update(&poster).await.unwrap().attempts, 1);
    update(&poster).await.unwrap();
    let (endpoint, proxy) = (
        "/base/api/workers/wkr%2F1/refresh-token",
        "/base/api/issue-tracker-proxy",
    );
    assert_eq!(
        sent(&platform),
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
async fn its_failures_say_what_to_do_and_are_not_retried_within() {
    for (reply, message) in [
        (
            Reply::status(404),
            "the refresh endpoint answered 404: the worker is gone, or the platform has no such endpoint; register it anew",
        ),
        (
            Reply::status(405),
            "the refresh endpoint answered 405: the worker is gone, or the platform has no such endpoint; register it anew",
        ),
        (
            Reply::status(401),
            "the refresh endpoint answered 401: check the registration token",
        ),
        (
            Reply::status(302),
            "the refresh endpoint answered 302: check the registration token",
        ),
        (Reply::status(500), "the refresh endpoint answered 500"),
        (
            Reply::status(200).body("<html>"),
            "the refresh endpoint's answer is not its JSON",
        ),
        (
            Reply::status(200).body("{}"),
            "the refresh endpoint's answer is not its JSON",
        ),
        (
            Reply::status(200).body(r#"["by its position",null]"#),
            "the refresh endpoint's answer is not its JSON",
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
        let error = update(&poster).await.unwrap_err();
        let mut chain = Vec::new();
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(cause) = next {
            chain.push(cause.to_string());
            next = cause.source();
        }
        assert!(chain.iter().any(|cause| cause == message), "{chain:?}");
        // One request for each of the two attempts, and none to the proxy.
        assert_eq!(platform.requests().len(), 2, "{message}");
        assert!(sent(&platform).iter().all(|line| line.contains(REFRESH)));
    }
}

#[actix_rt::test]
async fn an_empty_token_is_none() {
    let platform = FakePlatform::start().unwrap();
    platform.script(REFRESH, [Reply::status(200).body(r#"{"runtimeToken":""}"#)]);
    let error = update(&start(with_endpoint(&platform).max_attempts(1)))
        .await
        .unwrap_err();
    assert_eq!(error.transient().unwrap().attempts, 1);
    assert_eq!(platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_fetch_waits_for_no_slot_and_no_connection() {
    let platform = FakePlatform::start().unwrap();
    let token = |token| Reply::status(200).body(format!(r#"{{"runtimeToken":"{token}"}}"#));
    platform.script(REFRESH, [token("a"), token("b")]);
    platform.script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_millis(300))]);
    let poster = start(with_endpoint(&platform).max_in_flight(1));
    let stalled = actix_rt::spawn({
        let poster = poster.clone();
        async move { update(&poster).await }
    });
    platform.wait_for_requests(2).await;
    let actor = poster.send(GetCredentialActor).await.unwrap();
    actor.send(GetCredentials::default()).await.unwrap().unwrap();
    assert!(!stalled.is_finished());
    stalled.await.unwrap().unwrap();
}
