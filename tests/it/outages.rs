//! Outages of the platform: calls are parked at once, probes find the end, and everything is delivered.

use std::{collections::BTreeSet, time::Duration};

use actix::Addr;
use result_poster::{
    AttemptError, ParkReason, PlatformReachable, ResultPoster,
    events::GetStats,
    testing::{ManualClock, Reply},
};

use crate::support::{
    outbox::{OutboxFixture, replay_late},
    outcome, post, post_outcome, send_update, start,
    wait::wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

/// A poster whose ordinary delays are an hour, in an outage that it knows of, for the tracker.
async fn tracker_outage() -> (OutboxFixture, ManualClock, Addr<ResultPoster>) {
    let fixture = OutboxFixture::new();
    fixture.platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let clock = ManualClock::new();
    let poster = start(fixture.options_with(replay_late(fixture.path())).clock(clock.clone()));
    for issue in 0..5 {
        assert_eq!(outcome(&send_update(&poster, &issue.to_string()).await), "parked:1");
    }
    (fixture, clock, poster)
}

/// The requests so far.
fn requests(fixture: &OutboxFixture) -> usize {
    fixture.platform.requests().len()
}

#[actix_rt::test]
async fn in_an_outage_a_call_is_parked_without_an_attempt() {
    let (fixture, _clock, poster) = tracker_outage().await;
    let error = send_update(&poster, "next").await.unwrap_err();
    let parked = error.parked().unwrap();
    assert_eq!((parked.reason, parked.attempts), (ParkReason::TrackerOutage, 0));
    assert!(matches!(
        parked.last,
        Some(AttemptError::RetryableResponse { status_code: 503, .. })
    ));
    assert!(!error.may_have_been_delivered());
    assert_eq!(requests(&fixture), 5);
    let entries = fixture.parked();
    let next = entries.iter().find(|entry| entry.target_id == "next").unwrap();
    assert_eq!(
        (next.reason.as_deref(), next.next_attempt_at),
        (Some("tracker_outage"), None)
    );
}

#[actix_rt::test]
async fn an_outage_of_the_tracker_does_not_hold_up_results() {
    let (_fixture, _clock, poster) = tracker_outage().await;
    assert_eq!(post_outcome(&post(&poster, "s").await), "ok");
}

#[actix_rt::test]
async fn without_an_outbox_every_call_makes_its_attempts() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(crate::support::options(fixture.platform.url()).max_attempts(1));
    for issue in 0..9 {
        assert_eq!(outcome(&send_update(&poster, &issue.to_string()).await), "transient:1");
    }
}

#[actix_rt::test]
async fn each_probe_is_of_another_lane_and_the_first_success_delivers_all() {
    let (fixture, clock, poster) = tracker_outage().await;
    for issue in ["5", "6", "7"] {
        assert_eq!(outcome(&send_update(&poster, issue).await), "parked:0");
    }
    for probe in 1..=3 {
        wait_until(|| {
            clock.advance(SECOND / 10);
            requests(&fixture) == 5 + probe
        })
        .await;
        // Its failure is written before the next probe is due.
        wait_until(|| fixture.live().is_empty()).await;
    }
    let probes: BTreeSet<_> = fixture
        .platform
        .requests()
        .split_off(5)
        .into_iter()
        .map(|request| {
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            body["args"][0].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(probes.len(), 3, "{probes:?}");
    fixture.end_outage();
    wait_until(|| {
        clock.advance(SECOND / 10);
        fixture.count() == 4
    })
    .await;
    // The first four were parked before the outage was known, and wait for their delay.
    wait_until(|| {
        clock.advance(60 * SECOND);
        fixture.count() == 0
    })
    .await;
    assert!(poster.send(GetStats).await.unwrap().delivered >= 8);
}

#[actix_rt::test]
async fn the_message_that_the_platform_is_reachable_ends_the_wait() {
    let (fixture, _clock, poster) = tracker_outage().await;
    assert_eq!(outcome(&send_update(&poster, "next").await), "parked:0");
    fixture.end_outage();
    // The clock stands still: no probe is due.
    poster.send(PlatformReachable).await.unwrap();
    wait_until(|| {
        fixture
            .parked()
            .iter()
            .all(|entry| entry.reason.as_deref() != Some("tracker_outage"))
    })
    .await;
    assert!(fixture.parked().iter().all(|entry| entry.target_id != "next"));
}

#[actix_rt::test]
async fn a_result_whose_completions_alone_fail_delivers_its_status() {
    let fixture = OutboxFixture::new();
    fixture.platform.script("completion", [Reply::status(504)]);
    let clock = ManualClock::new();
    let poster = start(fixture.options_with(replay_late(fixture.path())).clock(clock.clone()));
    for session in 0..5 {
        assert_eq!(post_outcome(&post(&poster, &session.to_string()).await), "parked:1");
    }
    assert_eq!(post_outcome(&post(&poster, "next").await), "parked:0");
}

#[actix_rt::test]
async fn one_session_that_fails_is_no_outage() {
    let fixture = OutboxFixture::new();
    let clock = ManualClock::new();
    let options = fixture.options_with(replay_late(fixture.path()));
    let poster = start(options.max_attempts(9).base_delay(Duration::ZERO).clock(clock));
    fixture.platform.script(
        "completion",
        std::iter::repeat_n(Reply::status(503), 9).chain([Reply::ok()]),
    );
    assert_eq!(post_outcome(&post(&poster, "bad").await), "parked:9");
    assert_eq!(post_outcome(&post(&poster, "good").await), "ok");
}
