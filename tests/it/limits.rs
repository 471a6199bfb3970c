//! How much runs at once, how much waits, and what becomes of the rest.

use std::time::Duration;

use result_poster::{
    PostResult, UpdateIssueStatus,
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
    poster.send(PostResult::new("b", completed())).await.unwrap().unwrap();
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
