//! The time that the outbox goes by.

use std::time::Duration;

use result_poster::{OutboxFile, OutboxOptions, testing::ManualClock};

use crate::{
    outbox::{SOON, Scene, count, late, shut_down, soon, update, wait_until},
    support::{outcome, start},
};

#[actix_rt::test]
async fn what_has_expired_is_a_dead_letter() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(soon(scene.path()).expires_after(5 * SOON)));
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    wait_until(|| !scene.dead_letters().is_empty()).await;
    let dead = &scene.dead_letters()[0];
    assert!(
        dead.error
            .starts_with("expired; attempts spent: the platform answered 503"),
        "{}",
        dead.error
    );
    assert!(dead.attempts > 1);
}

/// Moves the clock on until the condition holds.
async fn advance_until(clock: &ManualClock, step: Duration, mut is_so: impl FnMut() -> bool) {
    wait_until(|| {
        clock.advance(step);
        is_so()
    })
    .await;
}

#[actix_rt::test]
async fn a_clock_that_jumps_neither_expires_a_call_nor_holds_it_back() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let scene = Scene::new();
    let clock = ManualClock::new();
    let outbox = OutboxOptions::at(scene.path());
    let poster = start(scene.options_with(outbox.clone()).clock(clock.clone()));
    scene.script("issue-tracker-proxy", [503, 503]);
    assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
    // Ten years on, and a hundred back, while it runs.
    for time in [clock.now() + 3650 * DAY, std::time::UNIX_EPOCH] {
        clock.set_time_of_day(time);
        let before = scene.platform.requests().len();
        advance_until(&clock, Duration::from_secs(1), || {
            scene.platform.requests().len() > before
        })
        .await;
    }
    scene.emptied().await;
    assert!(scene.dead_letters().is_empty());
    shut_down(&poster).await;

    // Back and on between two runs: it is due all the same, and not yet expired.
    for (from, to) in [(40, 1), (1, 7)] {
        let clock = ManualClock::new();
        let day = |day| std::time::UNIX_EPOCH + 20_000 * DAY + day * DAY;
        clock.set_time_of_day(day(from));
        scene.script("issue-tracker-proxy", [503]);
        let poster = start(scene.options_with(outbox.clone()).clock(clock.clone()));
        assert_eq!(outcome(&poster.send(update("i")).await.unwrap()), "transient:1");
        shut_down(&poster).await;
        let clock = ManualClock::new();
        clock.set_time_of_day(day(to));
        let _poster = start(scene.options_with(outbox.clone()).clock(clock.clone()));
        scene.emptied().await;
        assert!(scene.dead_letters().is_empty());
    }
}

#[actix_rt::test]
async fn a_call_that_a_tool_requeues_is_due_by_whatever_clock() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503]);
    // Behind the tool's, as after the host was suspended.
    let clock = ManualClock::new();
    clock.set_time_of_day(std::time::UNIX_EPOCH);
    let poster = start(scene.options_with(late(scene.path())).clock(clock.clone()));
    poster.send(update("i")).await.unwrap().unwrap_err();
    let id = scene.parked()[0].id;
    assert!(OutboxFile::open(scene.path()).unwrap().requeue(id).unwrap());
    let before = clock.now();
    advance_until(&clock, SOON, || count(&scene.path()) == 0).await;
    assert!(clock.now().duration_since(before).unwrap() < Duration::from_secs(60 * 60));
}

#[actix_rt::test]
async fn a_backoff_is_the_only_sleeper_of_a_clock_that_a_test_moves() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let options = scene
        .options_with(late(scene.path()))
        .max_attempts(2)
        .base_delay(second);
    let poster = start(options.clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(update("i")));
    assert_eq!(clock.sleepers(1).await, [second]);
    clock.advance(second);
    assert_eq!(reply.await.unwrap().unwrap().unwrap().attempts, 2);
}

#[actix_rt::test]
async fn a_parked_call_waits_longer_each_time() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [503, 503, 503]);
    let clock = ManualClock::new();
    let seconds = Duration::from_secs;
    let outbox = OutboxOptions::at(scene.path()).delays(seconds(8), seconds(100));
    let poster = start(scene.options_with(outbox).clock(clock.clone()));
    poster.send(update("i")).await.unwrap().unwrap_err();
    for longest in [8, 16, 32] {
        wait_until(|| !scene.parked().is_empty()).await;
        let due_at = scene.parked()[0].due_at;
        let wait = due_at.duration_since(clock.now()).unwrap();
        // Shortened by up to a half, and what has passed since.
        assert!(wait > seconds(longest / 2 - 2) && wait <= seconds(longest), "{wait:?}");
        let before = scene.platform.requests().len();
        advance_until(&clock, seconds(1), || scene.platform.requests().len() > before).await;
    }
    scene.emptied().await;
}
