//! Delays and expiry in the outbox.

use std::time::{Duration, UNIX_EPOCH};

use result_poster::{
    outbox::OutboxOptions,
    testing::{FakePlatform, ManualClock},
};

use crate::support::{
    outbox::{OutboxFixture, SHORT_DELAY, replay_soon, shut_down},
    outcome, send_update, start, status_update,
    wait::wait_until,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[actix_rt::test]
async fn an_expired_call_becomes_a_dead_letter() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_with(replay_soon(fixture.path()).expires_after(5 * SHORT_DELAY)));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    wait_until(|| !fixture.dead_letters().is_empty()).await;
    let dead = &fixture.dead_letters()[0];
    assert_eq!(
        dead.last_error.as_deref(),
        Some("expired; gave up after 1 attempt: the platform answered 503")
    );
    assert!(dead.attempts > 1);
}

#[actix_rt::test]
async fn clock_jumps_during_a_run_neither_expire_nor_delay_a_call() {
    let fixture = OutboxFixture::new();
    let clock = ManualClock::new();
    let outbox = OutboxOptions::builder(fixture.path());
    let poster = start(fixture.options_with(outbox).clock(clock.clone()));
    fixture.script("issue-tracker-proxy", [503, 503]);
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    let ten_years_ahead = clock.now() + 3650 * DAY;
    for time in [ten_years_ahead, UNIX_EPOCH] {
        clock.set_time_of_day(time);
        advance_to_the_next_request(&clock, &fixture.platform).await;
    }
    fixture.emptied().await;
    assert!(fixture.dead_letters().is_empty());
    shut_down(&poster).await;
}

#[actix_rt::test]
async fn clock_jumps_between_runs_neither_expire_nor_delay_a_call() {
    let fixture = OutboxFixture::new();
    let outbox = OutboxOptions::builder(fixture.path());
    let clock_at_day = |day| {
        let clock = ManualClock::new();
        clock.set_time_of_day(UNIX_EPOCH + 20_000 * DAY + day * DAY);
        clock
    };
    for (first_day, second_day) in [(40, 1), (1, 7)] {
        fixture.script("issue-tracker-proxy", [503]);
        let poster = start(fixture.options_with(outbox.clone()).clock(clock_at_day(first_day)));
        assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
        shut_down(&poster).await;
        let _poster = start(fixture.options_with(outbox.clone()).clock(clock_at_day(second_day)));
        fixture.emptied().await;
        assert!(fixture.dead_letters().is_empty());
    }
}

#[actix_rt::test]
async fn a_requeued_call_is_due_for_a_poster_with_a_slow_clock() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    // Behind the clock of the tool that requeues, as after the host was suspended.
    let clock = ManualClock::new();
    clock.set_time_of_day(UNIX_EPOCH);
    let poster = start(fixture.options_without_replay().clock(clock.clone()));
    send_update(&poster, "i").await.unwrap_err();
    fixture.requeue(&fixture.parked()[0]);
    let before = clock.now();
    wait_until(|| {
        clock.advance(SHORT_DELAY);
        fixture.count() == 0
    })
    .await;
    assert!(clock.now().duration_since(before).unwrap() < Duration::from_secs(60 * 60));
}

#[actix_rt::test]
async fn the_outbox_adds_no_sleepers_to_a_manual_clock() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    let clock = ManualClock::new();
    let options = fixture.options_without_replay().max_attempts(2).base_delay(SECOND);
    let poster = start(options.clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    // The backoff, and nothing else.
    assert_eq!(clock.wait_for_sleepers(1).await, [SECOND]);
    clock.advance(SECOND);
    assert_eq!(reply.await.unwrap().unwrap().unwrap().attempts(), Some(2));
}

#[actix_rt::test]
async fn the_delay_of_a_parked_call_doubles() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503, 503, 503]);
    let clock = ManualClock::new();
    let outbox = OutboxOptions::builder(fixture.path())
        .base_delay(8 * SECOND)
        .max_delay(100 * SECOND);
    let poster = start(fixture.options_with(outbox).clock(clock.clone()));
    send_update(&poster, "i").await.unwrap_err();
    for longest in [8, 16, 32] {
        wait_until(|| !fixture.parked().is_empty()).await;
        let next_attempt_at = fixture.parked()[0].next_attempt_at.unwrap();
        let delay = next_attempt_at.duration_since(clock.now()).unwrap();
        // Jitter shortens it by up to a half; and the clock has gone on since the call was parked.
        assert!(
            delay > (longest / 2 - 2) * SECOND && delay <= longest * SECOND,
            "{delay:?}"
        );
        advance_to_the_next_request(&clock, &fixture.platform).await;
    }
    fixture.emptied().await;
}

/// Moves the clock on, second by second, until there is another request.
async fn advance_to_the_next_request(clock: &ManualClock, platform: &FakePlatform) {
    let before = platform.requests().len();
    wait_until(|| {
        clock.advance(SECOND);
        platform.requests().len() > before
    })
    .await;
}
