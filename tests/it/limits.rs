//! How much runs at once, how much waits, and what becomes of the rest.

use std::time::Duration;

use result_poster::{
    GetStats, OutboxOptions, PostResult, UpdateIssueStatus,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{completed, options, outcome, post_outcome, start};

#[actix_rt::test]
async fn what_is_too_much_is_refused_at_once_unsent() {
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
    // At most two at once need at most two connections.
    assert_eq!(platform.connections(), 2);
    // And there is room again.
    poster.send(PostResult::new("s5", completed())).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn an_outage_fills_the_queue_and_no_more() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let options = options(platform.url())
        .max_in_flight(2)
        .max_queued(3)
        .base_delay(second)
        .max_attempts(2);
    let poster = start(options.clock(clock.clone()));
    let mut replies = Vec::new();
    for issue in 0..5 {
        let message = UpdateIssueStatus::new(format!("i{issue}"), "Finished");
        replies.push(actix_rt::spawn(poster.send(message)));
        // It has failed, and waits, before the next comes.
        clock.sleepers(issue + 1).await;
    }
    let refused = poster
        .send(UpdateIssueStatus::new("one more", "Finished"))
        .await
        .unwrap();
    assert_eq!(outcome(&refused), "overloaded");
    clock.advance(second);
    for reply in replies {
        assert_eq!(outcome(&reply.await.unwrap().unwrap()), "transient:2");
    }
}

#[actix_rt::test]
async fn ten_thousand_at_once_are_all_answered() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_queued(10_000));
    let replies: Vec<_> = (0..10_000)
        .map(|number| {
            let message = UpdateIssueStatus::new(format!("issue-{}", number % 1000), "Finished");
            actix_rt::spawn(poster.send(message))
        })
        .collect();
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(
        (stats.delivered, stats.running, stats.waiting, stats.lanes),
        (10_000, 0, 0, 0)
    );
    assert!(platform.connections() <= 64, "{}", platform.connections());
}

#[actix_rt::test]
async fn a_call_that_waits_for_its_next_attempt_holds_no_slot() {
    let platform = FakePlatform::start().unwrap();
    platform.script("a/completion", [Reply::status(503), Reply::ok()]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let poster = start(
        options(platform.url())
            .max_in_flight(1)
            .clock(clock.clone())
            .base_delay(second),
    );
    let waiting = actix_rt::spawn(poster.send(PostResult::new("a", completed())));
    clock.sleepers(1).await;
    let other = poster.send(PostResult::new("b", completed()));
    let other = actix_rt::time::timeout(Duration::from_secs(10), other).await;
    other.expect("a slot").unwrap().unwrap();
    clock.advance(second);
    waiting.await.unwrap().unwrap().unwrap();
}

#[actix_rt::test]
async fn an_issue_call_that_is_too_much_says_so() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(UpdateIssueStatus::new("a", "Finished")));
    let second = actix_rt::spawn(poster.send(UpdateIssueStatus::new("b", "Finished")));
    assert_eq!(outcome(&first.await.unwrap().unwrap()), "ok");
    let refused = second.await.unwrap().unwrap();
    assert_eq!(outcome(&refused), "overloaded");
    assert!(refused.unwrap_err().is_retryable());
}

#[actix_rt::test]
async fn an_invalid_message_takes_no_place() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_in_flight(1).max_queued(0));
    let invalid = actix_rt::spawn(poster.send(UpdateIssueStatus::new("a", " ")));
    let good = actix_rt::spawn(poster.send(UpdateIssueStatus::new("b", "Finished")));
    assert_eq!(outcome(&invalid.await.unwrap().unwrap()), "invalid:status");
    assert_eq!(outcome(&good.await.unwrap().unwrap()), "ok");
}

#[actix_rt::test]
async fn the_time_that_a_call_took_does_not_count_its_wait_for_a_slot() {
    for outbox in [false, true] {
        let (platform, folder) = (FakePlatform::start().unwrap(), tempfile::tempdir().unwrap());
        platform.script(
            "issue-tracker-proxy",
            [Reply::ok().delay(Duration::from_millis(100)), Reply::ok()],
        );
        let clock = ManualClock::new();
        let mut options = options(platform.url()).max_in_flight(1).clock(clock.clone());
        if outbox {
            options = options.outbox(OutboxOptions::at(folder.path().join("outbox.db")));
        }
        let poster = start(options);
        let replies = ["a", "b"].map(|issue| actix_rt::spawn(poster.send(UpdateIssueStatus::new(issue, "Finished"))));
        platform.wait_for_requests(1).await;
        let minute = Duration::from_secs(60);
        clock.advance(minute);
        let [first, second] = replies.map(async |reply| reply.await.unwrap().unwrap().unwrap().elapsed);
        assert_eq!((first.await, second.await), (minute, Duration::ZERO), "{outbox}");
    }
}
