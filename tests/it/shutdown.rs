//! What was taken is finished, or cancelled with a reply; then the actor is gone for good.

use std::time::Duration;

use actix::{Addr, MailboxError};
use result_poster::{
    CallError, CancellationToken, CreateComment, GetStats, PostError, PostResult, ResultPoster, Shutdown,
    ShutdownReport,
    testing::{Crash, FakePlatform, ManualClock, Reply},
};

use crate::support::{completed, options, outcome, platform_and_poster, post, post_outcome, routes, start};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);

fn report(report: ShutdownReport) -> (u64, u64, u64) {
    (report.delivered, report.failed, report.cancelled)
}

async fn is_gone(poster: &Addr<ResultPoster>) -> bool {
    matches!(poster.send(GetStats).await, Err(MailboxError::Closed))
}

#[actix_rt::test]
async fn an_idle_poster_stops_at_once_and_for_good() {
    let (_platform, poster) = platform_and_poster();
    post(&poster, "s").await.unwrap();
    assert_eq!(report(poster.send(Shutdown::within(LONG)).await.unwrap()), (0, 0, 0));
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn what_was_taken_is_finished_and_the_report_counts_it() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::ok().delay(SHORT)]);
    platform.script("refused/status", [Reply::status(403)]);
    let poster = start(options(platform.url()).max_in_flight(1));
    let sessions = ["running", "waiting", "refused"];
    let replies = sessions.map(|session| actix_rt::spawn(poster.send(PostResult::new(session, completed()))));
    platform.wait_for_requests(1).await;
    let report = report(poster.send(Shutdown::within(LONG)).await.unwrap());
    let mut outcomes = Vec::new();
    for reply in replies {
        // They were answered before the shutdown was.
        assert!(reply.is_finished());
        outcomes.push(post_outcome(&reply.await.unwrap().unwrap()));
    }
    assert_eq!(outcomes, ["ok", "ok", "permanent:403"]);
    assert_eq!(report, (5, 1, 0));
    // To the last, as the worker that they belong to.
    for request in platform.requests() {
        assert_eq!(request.json().unwrap()["workerId"], "wkr_1");
    }
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn what_comes_later_is_refused_unsent() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(SHORT)]);
    let taken = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    platform.wait_for_requests(1).await;
    let shutdown = actix_rt::spawn(poster.send(Shutdown::within(LONG)));
    actix_rt::task::yield_now().await;
    let error = post(&poster, "later").await.unwrap_err();
    let PostError::Both {
        completion: CallError::ShuttingDown,
        status: CallError::ShuttingDown,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(!error.may_have_been_delivered() && !error.is_retryable());
    let reply = poster.send(CreateComment::new("i", "later")).await.unwrap();
    assert!(matches!(reply, Err(CallError::ShuttingDown)));
    taken.await.unwrap().unwrap().unwrap();
    shutdown.await.unwrap().unwrap();
    assert_eq!(routes(&platform), ["completion", "status"]);
}

#[actix_rt::test]
async fn when_the_time_is_over_the_rest_is_cancelled_with_a_reply() {
    let platform = FakePlatform::start().unwrap();
    platform.script("stalled/completion", [Reply::ok().delay(LONG)]);
    platform.script("failing/completion", [Reply::status(503)]);
    let clock = ManualClock::new();
    let poster = start(
        options(platform.url())
            .base_delay(LONG)
            .max_delay(LONG)
            .clock(clock.clone()),
    );
    // One in the middle of an attempt, one in a backoff, one in its lane behind that.
    let sessions = ["stalled", "failing", "failing"];
    let replies = sessions.map(|session| actix_rt::spawn(poster.send(PostResult::new(session, completed()))));
    clock.sleepers(1).await;
    platform.wait_for_requests(2).await;
    let shutdown = actix_rt::spawn(poster.send(Shutdown::within(Duration::from_secs(10))));
    assert_eq!(clock.sleepers(2).await[0], Duration::from_secs(10));
    clock.advance(Duration::from_secs(10));
    assert_eq!(report(shutdown.await.unwrap().unwrap()), (0, 0, 6));
    for reply in replies {
        assert!(reply.is_finished());
        assert_eq!(post_outcome(&reply.await.unwrap().unwrap()), "cancelled;cancelled");
    }
    // No status after a cancelled completion, and nothing is left running.
    assert_eq!(routes(&platform), ["completion", "completion"]);
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn a_second_shutdown_does_no_harm_and_may_hurry_the_first() {
    let (platform, poster) = platform_and_poster();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let stalled = actix_rt::spawn(poster.send(CreateComment::new("i", "x")));
    platform.wait_for_requests(1).await;
    let first = actix_rt::spawn(poster.send(Shutdown::within(LONG)));
    let second = actix_rt::spawn(poster.send(Shutdown::within(Duration::ZERO)));
    assert_eq!(report(first.await.unwrap().unwrap()), (0, 0, 1));
    assert_eq!(report(second.await.unwrap().unwrap()), (0, 0, 1));
    assert_eq!(outcome(&stalled.await.unwrap().unwrap()), "cancelled");
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn who_has_a_token_of_its_own_is_cancelled_by_a_shutdown_too() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let poster = start(options(platform.url()).max_in_flight(1));
    // One on its way, one behind it, and one that waits for its slot.
    let replies = ["a", "a", "b"].map(|issue| {
        let message = CreateComment::new(issue, "x").with_cancellation(CancellationToken::new());
        actix_rt::spawn(poster.send(message))
    });
    platform.wait_for_requests(1).await;
    let shutdown = poster.send(Shutdown::within(Duration::ZERO));
    let shutdown = actix_rt::time::timeout(Duration::from_secs(10), shutdown).await;
    assert_eq!(report(shutdown.expect("in time").unwrap()), (0, 0, 3));
    for reply in replies {
        assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled");
    }
}

#[actix_rt::test]
async fn a_crash_in_the_middle_of_a_shutdown_changes_nothing() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(SHORT)]);
    let taken = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    platform.wait_for_requests(1).await;
    let shutdown = actix_rt::spawn(poster.send(Shutdown::within(LONG)));
    poster.do_send(Crash::Panic);
    assert_eq!(
        post_outcome(&post(&poster, "later").await),
        "shutting down;shutting down"
    );
    assert_eq!(report(shutdown.await.unwrap().unwrap()), (2, 0, 0));
    taken.await.unwrap().unwrap().unwrap();
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn the_report_counts_from_the_message_on() {
    let (_platform, poster) = platform_and_poster();
    let token = CancellationToken::new();
    token.cancel();
    let cancelled = poster.send(CreateComment::new("i", "x").with_cancellation(token));
    let shutdown = poster.send(Shutdown::within(LONG));
    assert_eq!(report(shutdown.await.unwrap()), (0, 0, 1));
    assert_eq!(outcome(&cancelled.await.unwrap()), "cancelled");
}

#[actix_rt::test]
async fn a_call_that_panics_counts_as_failed() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).customize_client(|_| panic!("a cursed client")));
    let panicked = poster.send(CreateComment::new("i", "x"));
    let shutdown = poster.send(Shutdown::within(LONG));
    assert_eq!(report(shutdown.await.unwrap()), (0, 1, 0));
    assert!(matches!(panicked.await.unwrap(), Err(CallError::Internal { .. })));
}
