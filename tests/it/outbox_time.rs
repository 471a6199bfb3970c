//! Delays and expiry in the outbox.

use std::time::{Duration, UNIX_EPOCH};

use result_poster::{
    ParkReason, PostResult,
    credentials::RuntimeCredentials,
    outbox::{OutboxOptions, OutboxOptionsBuilder, Requeue},
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    completed, messages_are_accepted,
    outbox::{OutboxFixture, SHORT_DELAY, replay_soon, shut_down, stats},
    outcome,
    provider::{ProviderStep, ScriptedProvider},
    requests::{route, sent},
    send_update, start, status_update,
    wait::wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than a poster does not look at its outbox unless its process was stopped.
const STOP: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[actix_rt::test]
async fn a_call_whose_parking_is_written_after_its_delay_is_delivered() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    let clock = ManualClock::new();
    let outbox = OutboxOptions::builder(fixture.path());
    let poster = start(fixture.options_with(outbox).clock(clock.clone()));
    // The file is open when the trigger is created.
    stats(&poster).await;
    // As a disk that fails.
    let database = fixture.database();
    database
        .execute_batch("CREATE TRIGGER full BEFORE UPDATE ON calls BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    fixture.script("issue-tracker-proxy", [503]);
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    // Longer than the delay of the call, in steps in which the poster may look at the file.
    for _ in 0..30 {
        clock.advance(SECOND);
        messages_are_accepted(&poster).await;
        stats(&poster).await;
    }
    database.execute_batch("DROP TRIGGER full").unwrap();
    advance_to_the_next_request(&clock, &fixture.platform).await;
    fixture.emptied().await;
}

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
async fn a_requeued_call_is_due_for_a_poster_whose_clock_is_behind() {
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
async fn after_a_stop_no_attempt_is_made_of_a_call_that_another_owner_has_delivered() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503]);
    let clock = ManualClock::new();
    let options = fixture.options_without_replay().max_attempts(2).base_delay(SECOND);
    let poster = start(options.clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    assert_eq!(clock.wait_for_sleepers(1).await, [SECOND]);
    take_over_and_deliver(&fixture);
    clock.advance(STOP);
    let error = reply.await.unwrap().unwrap().unwrap_err();
    for (error, attempts) in [(error.completion(), 1), (error.status(), 0)] {
        let parked = error.unwrap().parked().unwrap();
        assert_eq!((parked.reason, parked.attempts), (ParkReason::LaneParked, attempts));
    }
    assert!(error.may_have_been_delivered());
    assert_eq!(sent(&fixture.platform, route), ["completion"]);
}

#[actix_rt::test]
async fn after_a_stop_no_status_is_sent_that_another_owner_has_delivered() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(25 * SHORT_DELAY);
    fixture.platform.script("completion", [slow]);
    let clock = ManualClock::new();
    let poster = start(fixture.options_without_replay().clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    fixture.platform.wait_for_requests(1).await;
    take_over_and_deliver(&fixture);
    clock.advance(STOP);
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.completion(), None);
    let parked = error.status().unwrap().parked().unwrap();
    assert_eq!((parked.reason, parked.attempts), (ParkReason::LaneParked, 0));
    assert_eq!(sent(&fixture.platform, route), ["completion"]);
}

#[actix_rt::test]
async fn after_a_stop_a_result_that_is_still_its_posters_is_delivered() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503]);
    let clock = ManualClock::new();
    let options = fixture.options_without_replay().max_attempts(2).base_delay(SECOND);
    let poster = start(options.clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    assert_eq!(clock.wait_for_sleepers(1).await, [SECOND]);
    clock.advance(STOP);
    let receipt = reply.await.unwrap().unwrap().unwrap();
    assert_eq!(
        (receipt.completion.attempts(), receipt.status.attempts()),
        (Some(2), Some(1))
    );
    fixture.emptied().await;
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

#[actix_rt::test]
async fn the_age_of_a_call_counts_while_its_poster_runs() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let clock = ManualClock::new();
    let outbox = hourly(OutboxOptions::builder(fixture.path())).expires_after(DAY);
    let poster = start(fixture.options_with(outbox.clone()).clock(clock.clone()));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    // A year without a poster does not count.
    shut_down(&poster).await;
    clock.advance(365 * DAY);
    let poster = start(fixture.options_with(outbox).clock(clock.clone()));
    fixture.platform.wait_for_requests(2).await;
    wait_until(|| fixture.parked().len() == 1).await;
    let before = fixture.parked()[0].age;
    assert!(before < DAY, "{before:?}");
    // A day of attempts does.
    wait_until(|| {
        clock.advance(HOUR / 2);
        !fixture.dead_letters().is_empty()
    })
    .await;
    assert!(fixture.dead_letters()[0].age >= DAY);
    drop(poster);
}

#[actix_rt::test]
async fn a_call_that_the_tracker_does_not_authorize_expires_after_a_day() {
    let fixture = OutboxFixture::new();
    let rejected = Reply::status(401).body(r#"{"success":false}"#);
    fixture.platform.script("issue-tracker-proxy", [rejected]);
    let clock = ManualClock::new();
    let outbox = hourly(OutboxOptions::builder(fixture.path()));
    let poster = start(fixture.options_with(outbox).clock(clock.clone()));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    wait_until(|| {
        clock.advance(HOUR / 2);
        !fixture.dead_letters().is_empty()
    })
    .await;
    // Any other call is tried for 7 days.
    let age = fixture.dead_letters()[0].age;
    assert!((DAY..2 * DAY).contains(&age), "{age:?}");
}

#[actix_rt::test]
async fn the_wait_for_a_permit_is_no_age() {
    let fixture = OutboxFixture::new();
    let held = Reply::ok().delay(Duration::from_millis(200));
    fixture
        .platform
        .script("issue-tracker-proxy", [held, Reply::status(503)]);
    let clock = ManualClock::new();
    let outbox = OutboxOptions::builder(fixture.path()).expires_after(DAY);
    let poster = start(fixture.options_with(outbox).max_in_flight(1).clock(clock.clone()));
    let first = actix_rt::spawn(poster.send(status_update("a")));
    fixture.platform.wait_for_requests(1).await;
    let second = actix_rt::spawn(poster.send(status_update("b")));
    wait_until(|| fixture.count() == 2).await;
    clock.advance(2 * DAY);
    first.await.unwrap().unwrap().unwrap();
    assert_eq!(outcome(&second.await.unwrap().unwrap()), "parked:1");
    assert!(fixture.parked()[0].age < DAY);
}

#[actix_rt::test]
async fn a_wait_that_other_credentials_cut_short_is_no_age() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::status(401), Reply::status(503)]);
    let clock = ManualClock::new();
    let give = |token| ProviderStep::Give(RuntimeCredentials::new("w", token));
    let provider = ScriptedProvider::new([give("a"), give("a"), give("b")]);
    let outbox = OutboxOptions::builder(fixture.path()).base_delay(DAY).max_delay(DAY);
    let options = fixture.options_with(outbox).credential_provider(provider);
    let poster = start(options.clock(clock.clone()));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    let first_wait = fixture.parked()[0].age;
    advance_to_the_next_request(&clock, &fixture.platform).await;
    wait_until(|| fixture.parked().iter().any(|entry| entry.attempts == 2)).await;
    // Each wait is an hour, the longest one. The first one has ended after seconds.
    assert!(first_wait >= HOUR && fixture.parked()[0].age < 3 * HOUR / 2);
}

#[actix_rt::test]
async fn a_probe_of_rejected_credentials_does_not_wait_for_the_delay_of_its_lane() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [401, 401]);
    let clock = ManualClock::new();
    let provider = ScriptedProvider::new([ProviderStep::Give(RuntimeCredentials::new("w", "a"))]);
    let outbox = OutboxOptions::builder(fixture.path()).base_delay(HOUR).max_delay(HOUR);
    let options = fixture.options_with(outbox).credential_provider(provider);
    let poster = start(options.clock(clock.clone()));
    for (issue, expected) in [("a", "parked:1"), ("b", "parked:0")] {
        assert_eq!(outcome(&send_update(&poster, issue).await), expected);
    }
    let started = clock.now();
    for requests in [2, 3] {
        advance_to_the_next_request(&clock, &fixture.platform).await;
        assert_eq!(fixture.platform.requests().len(), requests);
        wait_until(|| fixture.live().is_empty()).await;
    }
    assert!(clock.now().duration_since(started).unwrap() < HOUR / 4);
}

#[actix_rt::test]
async fn a_call_does_not_expire_before_a_failed_attempt() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    let clock = ManualClock::new();
    let outbox = OutboxOptions::builder(fixture.path()).expires_after(DAY);
    let _poster = start(fixture.options_with(outbox).clock(clock.clone()));
    assert_eq!(outcome(&send_update(&_poster, "i").await), "parked:1");
    clock.advance(30 * DAY);
    advance_to_the_next_request(&clock, &fixture.platform).await;
    fixture.emptied().await;
}

#[actix_rt::test]
async fn a_requeue_gives_a_call_a_fresh_expiry() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let clock = ManualClock::new();
    let outbox = hourly(OutboxOptions::builder(fixture.path())).expires_after(DAY);
    let poster = start(fixture.options_with(outbox).clock(clock.clone()));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    wait_until(|| {
        clock.advance(HOUR / 2);
        !fixture.dead_letters().is_empty()
    })
    .await;
    let id = fixture.dead_letters()[0].id;
    let before = fixture.platform.requests().len();
    poster.send(Requeue::new(id)).await.unwrap().unwrap();
    fixture.platform.wait_for_requests(before + 1).await;
    wait_until(|| fixture.live().is_empty()).await;
    assert_eq!(fixture.dead_letters(), []);
    assert!(fixture.parked()[0].age < DAY);
}

#[actix_rt::test]
async fn a_poster_with_a_wrong_clock_neither_dead_letters_nor_delays_the_calls_of_another() {
    for years in [-50_i32, 0, 10] {
        let fixture = OutboxFixture::new();
        let outbox = OutboxOptions::builder(fixture.path());
        let clock = ManualClock::new();
        let poster = start(fixture.options_with(outbox.clone()).clock(clock.clone()));
        fixture.begin_outage();
        // Too few failures for an outage, whose end would count instead of the delays.
        for issue in 0..4 {
            assert_eq!(outcome(&send_update(&poster, &issue.to_string()).await), "parked:1");
        }
        let wrong = ManualClock::new();
        let difference = years.unsigned_abs() * 365 * DAY;
        wrong.set_time_of_day(if years < 0 {
            clock.now() - difference
        } else {
            clock.now() + difference
        });
        let other = start(fixture.options_with(outbox).clock(wrong.clone()));
        // Its own call, while it may claim those of its neighbor.
        let reply = send_update(&other, "other").await;
        assert!(outcome(&reply).starts_with("parked"), "{reply:?}");
        for _ in 0..10 {
            wrong.advance(3 * SECOND);
            messages_are_accepted(&other).await;
        }
        shut_down(&other).await;
        assert_eq!(fixture.dead_letters(), [], "{years} years");
        assert_eq!(fixture.parked().len() + fixture.live().len(), 5);
        fixture.end_outage();
        let before = clock.now();
        wait_until(|| {
            clock.advance(SECOND);
            fixture.count() == 0
        })
        .await;
        // The neighbor's delays are at most 10 s by now. The clock goes on while the platform answers.
        assert!(clock.now().duration_since(before).unwrap() < DAY, "{years} years");
    }
}

#[actix_rt::test]
async fn two_posters_whose_clocks_are_years_apart_keep_the_delays_of_a_lane() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let posters = [0_u32, 10].map(|years| {
        let clock = ManualClock::new();
        clock.set_time_of_day(clock.now() + years * 365 * DAY);
        let outbox = OutboxOptions::builder(fixture.path())
            .base_delay(100 * SECOND)
            .max_delay(100 * SECOND);
        (start(fixture.options_with(outbox).clock(clock.clone())), clock)
    });
    assert_eq!(outcome(&send_update(&posters[0].0, "i").await), "parked:1");
    // Each second of both clocks is a chance to claim the lane.
    for _ in 0..200 {
        for (poster, clock) in &posters {
            clock.advance(SECOND);
            messages_are_accepted(poster).await;
            stats(poster).await;
        }
    }
    wait_until(|| fixture.live().is_empty()).await;
    // One attempt at first, and at most one per poster in each 50 s.
    let requests = fixture.platform.requests().len();
    assert!(requests <= 1 + 2 * 4, "{requests}");
}

/// Delays of an hour, so that a day has few attempts.
fn hourly(outbox: OutboxOptionsBuilder) -> OutboxOptionsBuilder {
    outbox.base_delay(HOUR).max_delay(HOUR)
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

/// Makes the lanes those of another owner, which delivers their calls.
fn take_over_and_deliver(fixture: &OutboxFixture) {
    fixture
        .database()
        .execute_batch("DELETE FROM calls; DELETE FROM lanes")
        .unwrap();
}
