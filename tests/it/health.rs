//! The health of a poster.

use std::time::Duration;

use actix::Addr;
use result_poster::{
    PostResult, ResultPoster, Shutdown,
    events::GetStats,
    health::{GateState, GetHealth, Health, PlatformHealth},
    outbox::OutboxOptions,
    testing::{FakePlatform, ManualClock, Reply},
};
use serde_json::{Value, json};

use crate::support::{
    builder, completed,
    log::keep_log,
    options,
    outbox::OutboxFixture,
    platform_and_poster, post,
    provider::{ProviderStep, ScriptedProvider},
    send_update, start, status_update,
    wait::in_time,
};

const SECOND: Duration = Duration::from_secs(1);

async fn health(poster: &Addr<ResultPoster>) -> Health {
    poster.send(GetHealth).await.unwrap()
}

/// Waits for a state that a later count of the outbox shows.
async fn health_when(poster: &Addr<ResultPoster>, is_met: impl Fn(&Health) -> bool) -> Health {
    in_time(async {
        loop {
            let health = health(poster).await;
            if is_met(&health) {
                return health;
            }
            actix_rt::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

fn is_counted(health: &Health) -> bool {
    health.outbox.as_ref().unwrap().stats.is_some()
}

#[actix_rt::test]
async fn a_new_poster_is_ready() {
    let (_platform, poster) = platform_and_poster();
    let health = health(&poster).await;
    assert_eq!(health.platform, PlatformHealth::Unknown);
    assert!(health.gates.iter().all(|gate| gate.state == GateState::Open));
    assert_eq!(
        (health.in_hand, health.oldest_age, health.free_places),
        (0, None, 10_064)
    );
    assert!(health.is_ready() && health.may_take_work() && health.problems().is_empty());
}

#[actix_rt::test]
async fn the_platform_is_unreachable_from_five_failures_in_a_row_until_it_answers() {
    let clock = ManualClock::new();
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let poster = start(options(platform.url()).max_attempts(1).clock(clock.clone()));
    for failures in 1..=5 {
        send_update(&poster, "i").await.unwrap_err();
        clock.advance(SECOND);
        let is_unreachable = matches!(health(&poster).await.platform, PlatformHealth::Unreachable { .. });
        assert_eq!(is_unreachable, failures == 5, "{failures}");
    }
    let unreachable = health(&poster).await;
    let json = serde_json::to_value(&unreachable.platform).unwrap();
    let reason = "the platform answered 503";
    assert_eq!(
        json,
        json!({"state": "unreachable", "outageSeconds": 5.0, "reason": reason})
    );
    assert!(!unreachable.is_ready());
    assert_eq!(
        unreachable.problems(),
        [format!("the platform has not been reached for 5s: {reason}")]
    );

    // Any other answer will do.
    platform.script("issue-tracker-proxy", [Reply::status(404)]);
    send_update(&poster, "i").await.unwrap_err();
    clock.advance(SECOND);
    let json = serde_json::to_value(health(&poster).await.platform).unwrap();
    assert_eq!(json, json!({"state": "reachable", "answeredAgoSeconds": 1.0}));
}

#[actix_rt::test]
async fn rejected_credentials_are_named_until_the_platform_accepts_some() {
    let clock = ManualClock::new();
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(401)]);
    let poster = start(options(platform.url()).max_attempts(1).clock(clock.clone()));
    send_update(&poster, "i").await.unwrap_err();
    clock.advance(SECOND);
    let failing = health(&poster).await;
    assert_eq!(failing.credentials.outage, Some(SECOND));
    assert!(
        failing.credentials.reason.as_ref().unwrap().contains("401"),
        "{failing:?}"
    );
    assert!(!failing.may_take_work());
    platform.script("issue-tracker-proxy", []);
    send_update(&poster, "i").await.unwrap();
    assert_eq!(health(&poster).await.credentials, Default::default());
}

#[actix_rt::test]
async fn a_failing_provider_is_named_while_the_fixed_token_is_used() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([ProviderStep::FailWith("sealed")]);
    let poster = start(options(platform.url()).credential_provider(provider));
    send_update(&poster, "i").await.unwrap();
    let health = health(&poster).await;
    assert_eq!((health.credentials.outage, health.may_take_work()), (None, true));
    let problems = health.problems();
    assert_eq!(
        problems,
        ["the credential provider fails: the credential provider failed: sealed"]
    );
}

#[actix_rt::test]
async fn pauses_and_the_oldest_message_are_shown() {
    let clock = ManualClock::new();
    let platform = FakePlatform::start().unwrap();
    platform.script(
        "completion",
        [Reply::status(429).header("retry-after", "9"), Reply::ok()],
    );
    let poster = start(options(platform.url()).clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    clock.wait_for_sleepers(1).await;
    clock.advance(2 * SECOND);
    let paused = health(&poster).await;
    assert_eq!((paused.session_pause, paused.tracker_pause), (Some(7 * SECOND), None));
    assert_eq!((paused.in_hand, paused.oldest_age), (1, Some(2 * SECOND)));
    assert!(paused.is_ready());
    clock.advance(7 * SECOND);
    reply.await.unwrap().unwrap().unwrap();
    let over = health(&poster).await;
    assert_eq!((over.session_pause, over.in_hand, over.oldest_age), (None, 0, None));
}

#[actix_rt::test]
async fn a_poster_that_shuts_down_says_how_many_messages_are_left() {
    let clock = ManualClock::new();
    let platform = FakePlatform::start().unwrap();
    for route in ["a/completion", "b/completion"] {
        platform.script(route, [Reply::status(503), Reply::ok()]);
    }
    let poster = start(options(platform.url()).base_delay(SECOND).clock(clock.clone()));
    let replies = ["a", "b"].map(|session| actix_rt::spawn(poster.send(PostResult::new(session, completed()))));
    clock.wait_for_sleepers(2).await;
    assert_eq!(health(&poster).await.shutdown, None);
    let shutdown = actix_rt::spawn(poster.send(Shutdown::within(30 * SECOND)));
    clock.wait_for_sleepers(3).await;
    let health = health(&poster).await;
    let progress = serde_json::to_value(health.shutdown).unwrap();
    assert_eq!(progress, json!({"left": 2, "remainingSeconds": 30.0}));
    assert!(!health.is_ready());
    clock.advance(SECOND);
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(shutdown.await.unwrap().unwrap().delivered, 4);
}

#[actix_rt::test]
async fn the_outbox_is_counted_and_says_how_long_it_lasts() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let outbox = OutboxOptions::builder(fixture.path()).max_bytes(10_000_000);
    let poster = start(fixture.options_with(outbox));
    let fresh = health_when(&poster, is_counted).await.outbox.unwrap();
    assert_eq!((fresh.stats.unwrap().parked, fresh.lasts), (0, None));
    for session in ["a", "b"] {
        post(&poster, session).await.unwrap_err();
    }
    let health = health_when(&poster, |health| {
        health.outbox.as_ref().unwrap().stats.as_ref().unwrap().parked == 4
    })
    .await;
    assert!(health.oldest_age.is_some());
    let outbox = health.outbox.as_ref().unwrap();
    assert!(outbox.is_writable() && health.is_ready());
    // Two results of about 1.5 KiB, taken as those of half a minute.
    assert!((80..160).contains(&outbox.bytes_per_second), "{outbox:?}");
    let bytes = outbox.stats.as_ref().unwrap().bytes;
    assert_eq!(
        outbox.lasts.unwrap().as_secs(),
        (10_000_000 - bytes) / outbox.bytes_per_second
    );
}

#[actix_rt::test]
async fn a_locked_outbox_is_named_and_health_is_answered_meanwhile() {
    keep_log();
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    send_update(&poster, "i").await.unwrap();
    let lock = fixture.lock();
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    let failing = health_when(&poster, |health| health.outbox.as_ref().unwrap().error.is_some()).await;
    assert!(!failing.outbox.as_ref().unwrap().is_writable());
    assert!(failing.problems()[0].starts_with("the outbox fails: "), "{failing:?}");
    // The platform still works.
    assert!(failing.is_ready());
    drop(lock);
    reply.await.unwrap().unwrap().unwrap();
    health_when(&poster, |health| health.outbox.as_ref().unwrap().error.is_none()).await;
}

#[actix_rt::test]
async fn all_fields_are_serialized_in_camel_case_with_seconds() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let health = serde_json::to_value(health_when(&poster, is_counted).await).unwrap();
    assert_eq!(
        health["gates"][0],
        json!({"route": "completion", "state": "open", "closedForSeconds": null, "lastError": null})
    );
    assert_eq!(
        health["credentials"],
        json!({"outageSeconds": null, "reason": null, "providerError": null})
    );
    for field in [
        "sessionPauseSeconds",
        "trackerPauseSeconds",
        "oldestAgeSeconds",
        "shutdown",
    ] {
        assert_eq!(health[field], Value::Null, "{field}");
    }
    for field in ["error", "lastsSeconds"] {
        assert_eq!(health["outbox"][field], Value::Null, "{field}");
    }
    assert_eq!(health["outbox"]["bytesPerSecond"], 0);
    assert_eq!(health["outbox"]["stats"]["parked"], 0);
}

#[actix_rt::test]
async fn a_poster_without_credentials_may_take_no_work() {
    let platform = FakePlatform::start().unwrap();
    let provider = ScriptedProvider::new([ProviderStep::FailWith("sealed")]);
    let poster = start(builder(platform.url()).credential_provider(provider).max_attempts(1));
    send_update(&poster, "i").await.unwrap_err();
    assert!(!health(&poster).await.may_take_work());
    assert_eq!(poster.send(GetStats).await.unwrap().transient, 1);
}
