//! Responses from the field, which `tests/data/field_answers.json` describes: what the poster makes of each.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use result_poster::{
    CallError, PostResult,
    credentials::RuntimeTokenFile,
    testing::{FakePlatform, ManualClock, Reply},
};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{
    builder, completed, options,
    outbox::OutboxFixture,
    requests::{key, sent, token},
    send_update, start, status_update,
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Case {
    kind: String,
    name: String,
    input: Value,
    expected: String,
}

#[derive(Deserialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

fn cases(kind: &str) -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../data/field_answers.json")).unwrap();
    cases.into_iter().filter(|case| case.kind == kind).collect()
}

#[actix_rt::test]
async fn every_answer_of_the_proxy_ends_as_expected() {
    for case in cases("proxy-answer") {
        let platform = FakePlatform::start().unwrap();
        let status = case
            .name
            .rsplit_once("HTTP ")
            .map_or(200, |(_, status)| status.parse().unwrap());
        let reply = Reply::status(status).body(case.input.as_str().unwrap());
        platform.script("issue-tracker-proxy", [reply]);
        let outcome = match send_update(&start(options(platform.url())), "i").await {
            Ok(_) => "delivered, one request",
            Err(error) => {
                let rejection = error.permanent().unwrap();
                assert_eq!(
                    (rejection.status_code, rejection.body.as_str()),
                    (401, "AUTH_ERROR: tracker")
                );
                "permanent 401 with that message; provider asked no second time; token still valid; one request"
            }
        };
        assert_eq!(outcome, case.expected, "{}", case.name);
        assert_eq!(platform.requests().len(), 1, "{}", case.name);
    }
}

/// How a result ends whose completion, or status, gets this answer and then success.
async fn outcome(step: &str, answer: &Answer) -> String {
    let platform = FakePlatform::start().unwrap();
    let clock = ManualClock::new();
    let server_now = clock.now() + 70 * SECOND;
    let mut reply = Reply::status(answer.status).body(answer.body.clone());
    for (name, value) in &answer.headers {
        let value = match value.as_str() {
            "now+70s" => httpdate::fmt_http_date(server_now),
            "now+72s (IMF date)" => httpdate::fmt_http_date(server_now + 2 * SECOND),
            value => value.to_owned(),
        };
        reply = reply.header(name, value);
    }
    platform.script(step, [reply, Reply::ok()]);
    let poster = start(options(platform.url()).base_delay(SECOND).clock(clock.clone()));
    let mut result = pin!(poster.send(PostResult::new("s", completed())));
    let mut waits = Vec::new();
    let reply = loop {
        match select(result, pin!(clock.wait_for_sleepers(1))).await {
            Either::Left((reply, _)) => break reply.unwrap(),
            Either::Right((sleepers, pending)) => {
                clock.advance(sleepers[0]);
                waits.push(sleepers[0].as_secs());
                result = pending;
            }
        }
    };
    let keys = sent(&platform, key);
    let reduced = keys.iter().filter(|key| key.ends_with("-reduced")).count();
    let warnings = reply.iter().flat_map(|receipt| receipt.warnings());
    let warnings: Vec<_> = warnings.map(ToString::to_string).collect();
    let end = match &reply {
        Ok(_) => "delivered".to_owned(),
        Err(error) => {
            let rejection = error.permanent().unwrap();
            format!(
                "permanent {} {:?}; {}",
                rejection.status_code,
                rejection.location(),
                rejection.advice()
            )
        }
    };
    format!(
        "{end}; {} requests, waits {waits:?}, {reduced} reduced, {warnings:?}",
        platform.requests().len()
    )
}

#[actix_rt::test]
async fn every_answer_to_a_result_ends_as_expected() {
    let expected = BTreeMap::from([
        (
            "429 without Retry-After",
            ("completion", "delivered; 3 requests, waits [1], 0 reduced, []"),
        ),
        (
            "429 with a reset in seconds",
            ("completion", "delivered; 3 requests, waits [2], 0 reduced, []"),
        ),
        (
            "429 with a fraction",
            ("completion", "delivered; 3 requests, waits [2], 0 reduced, []"),
        ),
        (
            "503 with a date, server clock 70 s ahead",
            ("completion", "delivered; 3 requests, waits [2], 0 reduced, []"),
        ),
        (
            "408 on a kept connection",
            ("completion", "delivered; 3 requests, waits [1], 0 reduced, []"),
        ),
        (
            "403 as HTML",
            ("completion", "delivered; 3 requests, waits [1], 0 reduced, []"),
        ),
        (
            "409 of a receiver that wants newer fields",
            (
                "completion",
                "permanent 409 None; the body of the response says why; 2 requests, waits [], 0 reduced, []",
            ),
        ),
        (
            "413 on status",
            ("status", "delivered; 3 requests, waits [], 1 reduced, []"),
        ),
        (
            "completion partly posted",
            (
                "completion",
                r#"delivered; 2 requests, waits [], 0 reduced, ["the platform posted 3 of 7 parts of the comment", "the platform reported errors: x"]"#,
            ),
        ),
        (
            "301 to https",
            (
                "completion",
                r#"permanent 301 Some("https://x/"); redirects are not followed: set the platform URL to the new address; 2 requests, waits [], 0 reduced, []"#,
            ),
        ),
    ]);
    let cases = cases("answer");
    assert_eq!(cases.len(), expected.len());
    for case in cases {
        let (step, expected) = expected[case.name.as_str()];
        let answer = serde_json::from_value(case.input).unwrap();
        assert_eq!(
            outcome(step, &answer).await,
            expected,
            "{}: {}",
            case.name,
            case.expected
        );
    }
}

#[actix_rt::test]
async fn a_408_on_a_kept_connection_is_retried_on_another() {
    let case = cases("answer").into_iter().find(|case| case.input["status"] == 408);
    let case = case.unwrap();
    assert_eq!(case.expected, "transient; retried on a new connection");
    let answer: Answer = serde_json::from_value(case.input).unwrap();
    let headers = answer.headers.into_iter();
    let timed_out = headers.fold(Reply::status(408), |reply, (name, value)| reply.header(name, value));
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::ok(), timed_out, Reply::ok()]);
    let poster = start(options(platform.url()));
    for attempts in [1, 2] {
        let receipt = send_update(&poster, "i").await.unwrap();
        assert_eq!(receipt.attempts(), Some(attempts));
    }
    assert_eq!(sent(&platform, |request| request.connection), [0, 0, 1]);
}

#[actix_rt::test]
async fn an_answer_of_something_in_between_is_parked_with_an_outbox() {
    for (status, content_type) in [
        (301, "text/plain"),
        (403, "text/html"),
        (404, "text/html"),
        (408, "text/plain"),
    ] {
        let fixture = OutboxFixture::new();
        let reply = Reply::status(status)
            .header("content-type", content_type)
            .body("<html>");
        fixture.platform.script("issue-tracker-proxy", [reply]);
        let error = send_update(&start(fixture.options_without_replay()), "i")
            .await
            .unwrap_err();
        let CallError::Parked(parked) = error else {
            panic!("{status}: {error:?}");
        };
        assert_eq!(parked.attempts, 1);
        assert!(parked.last.unwrap().to_string().contains(&status.to_string()));
        assert!(fixture.dead_letters().is_empty());
    }
}

#[actix_rt::test]
async fn a_token_file_that_is_renewed_late_costs_nothing() {
    let case = cases("token-file").pop().unwrap();
    assert!(case.expected.starts_with("delivered with attempt 3 (0 s, 1 s, 3 s)"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runtime.json");
    let write = |token: &str| {
        let content = format!(r#"{{"workerId":"w","runtimeToken":"{token}"}}"#);
        std::fs::write(&path, content).unwrap();
    };
    write("stale");
    let platform = FakePlatform::start().unwrap();
    let unauthorized = Reply::status(401).body("expired");
    platform.script("issue-tracker-proxy", [unauthorized.clone(), unauthorized, Reply::ok()]);
    let clock = ManualClock::new();
    let options = builder(platform.url()).credential_provider(RuntimeTokenFile::new(&path));
    let poster = start(options.clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    assert_eq!(clock.wait_for_sleepers(1).await, [SECOND]);
    clock.advance(SECOND);
    assert_eq!(clock.wait_for_sleepers(1).await, [2 * SECOND]);
    clock.advance(SECOND / 2);
    write("fresh");
    clock.advance(3 * SECOND / 2);
    assert_eq!(reply.await.unwrap().unwrap().unwrap().attempts(), Some(3));
    assert_eq!(sent(&platform, token), ["stale", "stale", "fresh"]);
}
