//! The limits on running and waiting messages, and the refusal of more.

use std::time::Duration;

use result_poster::{
    NextStep, PostResult, UpdateIssueStatus,
    events::GetStats,
    outbox::OutboxOptions,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    completed, options, outcome, post, post_outcome, send_update, start, status_update,
    wait::{in_time, wait_until},
};

const SECOND: Duration = Duration::from_secs(1);

#[actix_rt::test]
async fn messages_beyond_the_queue_limit_are_refused_unsent() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(200))]);
    let poster = start(options(platform.url()).max_in_flight(2).max_queued(3));
    let replies: Vec<_> = (0..6)
        .map(|session| actix_rt::spawn(poster.send(PostResult::new(format!("s{session}"), completed()))))
        .collect();
    let mut outcomes = Vec::new();
    for reply in replies {
        outcomes.push(post_outcome(&reply.await.unwrap().unwrap()));
    }
    assert_eq!(outcomes, ["ok", "ok", "ok", "ok", "ok", "overloaded;overloaded"]);
    assert_eq!(platform.requests().len(), 10);
    assert!(!platform.requests().iter().any(|request| request.path.contains("s5")));
    // At most two calls in flight need at most two connections.
    assert_eq!(platform.connections(), 2);
    // By now there is room again.
    post(&poster, "s5").await.unwrap();
}

#[actix_rt::test]
async fn messages_in_backoff_count_towards_the_queue_limit() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let clock = ManualClock::new();
    let options = options(platform.url())
        .max_in_flight(2)
        .max_queued(3)
        .base_delay(SECOND)
        .max_attempts(2);
    let poster = start(options.clock(clock.clone()));
    let mut replies = Vec::new();
    for issue in 0..5 {
        let message = status_update(format!("i{issue}"));
        replies.push(actix_rt::spawn(poster.send(message)));
        // Its first attempt has failed before the next message is sent.
        clock.wait_for_sleepers(issue + 1).await;
    }
    assert_eq!(outcome(&send_update(&poster, "one more").await), "overloaded");
    clock.advance(SECOND);
    for reply in replies {
        assert_eq!(outcome(&reply.await.unwrap().unwrap()), "transient:2");
    }
}

#[actix_rt::test]
async fn ten_thousand_concurrent_messages_are_all_answered() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_queued(10_000));
    let replies: Vec<_> = (0..10_000)
        .map(|number| {
            let message = status_update(format!("issue-{}", number % 1000));
            actix_rt::spawn(poster.send(message))
        })
        .collect();
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(
        (stats.delivered, stats.in_flight, stats.queued, stats.active_lanes),
        (10_000, 0, 0, 0)
    );
    assert!(platform.connections() <= 64, "{}", platform.connections());
}

#[actix_rt::test]
async fn a_call_in_backoff_holds_no_permit() {
    let platform = FakePlatform::start().unwrap();
    platform.script("a/completion", [Reply::status(503), Reply::ok()]);
    let clock = ManualClock::new();
    let poster = start(
        options(platform.url())
            .max_in_flight(1)
            .clock(clock.clone())
            .base_delay(SECOND),
    );
    let waiting = actix_rt::spawn(poster.send(PostResult::new("a", completed())));
    clock.wait_for_sleepers(1).await;
    in_time(post(&poster, "b")).await.unwrap();
    clock.advance(SECOND);
    waiting.await.unwrap().unwrap().unwrap();
}

#[actix_rt::test]
async fn the_next_step_of_an_overloaded_call_is_a_retry_after_one_second() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(status_update("a")));
    let second = actix_rt::spawn(poster.send(status_update("b")));
    assert_eq!(outcome(&first.await.unwrap().unwrap()), "ok");
    let refused = second.await.unwrap().unwrap();
    assert_eq!(outcome(&refused), "overloaded");
    assert_eq!(refused.unwrap_err().next_step(), NextStep::RetryLater { after: SECOND });
}

#[actix_rt::test]
async fn an_invalid_message_takes_no_place_in_the_queue() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_in_flight(1).max_queued(0));
    let invalid = actix_rt::spawn(poster.send(UpdateIssueStatus::new("a", " ")));
    let good = actix_rt::spawn(poster.send(status_update("b")));
    assert_eq!(outcome(&invalid.await.unwrap().unwrap()), "invalid:status");
    assert_eq!(outcome(&good.await.unwrap().unwrap()), "ok");
}

#[actix_rt::test]
async fn the_elapsed_time_excludes_the_wait_for_a_permit() {
    for outbox in [false, true] {
        let (platform, folder) = (FakePlatform::start().unwrap(), tempfile::tempdir().unwrap());
        platform.script(
            "issue-tracker-proxy",
            [Reply::ok().delay(Duration::from_millis(100)), Reply::ok()],
        );
        let clock = ManualClock::new();
        let mut options = options(platform.url()).max_in_flight(1).clock(clock.clone());
        if outbox {
            options = options.outbox(OutboxOptions::new(folder.path().join("outbox.db")));
        }
        let poster = start(options);
        let replies = ["a", "b"].map(|issue| actix_rt::spawn(poster.send(status_update(issue))));
        platform.wait_for_requests(1).await;
        clock.advance(60 * SECOND);
        let [first, second] = replies.map(async |reply| reply.await.unwrap().unwrap().unwrap().elapsed());
        assert_eq!(
            (first.await, second.await),
            (Some(60 * SECOND), Some(Duration::ZERO)),
            "{outbox}"
        );
    }
}

#[actix_rt::test]
async fn a_request_that_hangs_gives_back_its_permit_after_5_s() {
    let platform = FakePlatform::start().unwrap();
    platform.script("hangs/completion", [Reply::hang()]);
    let clock = ManualClock::new();
    let poster = start(options(platform.url()).max_in_flight(1).clock(clock.clone()));
    let hung = actix_rt::spawn(poster.send(PostResult::new("hangs", completed())));
    platform.wait_for_requests(1).await;
    let next = actix_rt::spawn(poster.send(PostResult::new("next", completed())));
    let began = clock.now();
    wait_until(|| {
        clock.advance(SECOND / 10);
        platform.requests().len() > 1
    })
    .await;
    assert!(clock.now().duration_since(began).unwrap() >= 5 * SECOND);
    assert_eq!(post_outcome(&next.await.unwrap().unwrap()), "ok");
    // It still waits for its answer.
    assert!(!hung.is_finished());
}
