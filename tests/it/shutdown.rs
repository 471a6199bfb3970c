//! Shutdown: accepted messages are finished, or cancelled with a reply; then the actor is gone.

use std::time::Duration;

use actix::{Addr, MailboxError};
use result_poster::{
    CallError, CancellationToken, CreateComment, NextStep, PostError, PostResult, ResultPoster, Shutdown,
    ShutdownReport,
    events::GetStats,
    testing::{Crash, FakePlatform, ManualClock, Reply},
};

use crate::support::{
    completed, options, outcome, platform_and_poster, post, post_outcome,
    requests::{route, sent, worker_id},
    start,
    wait::in_time,
};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(100);

#[actix_rt::test]
async fn an_idle_poster_stops_at_once() {
    let (_platform, poster) = platform_and_poster();
    post(&poster, "s").await.unwrap();
    assert_eq!(
        delivered_failed_cancelled(poster.send(Shutdown::within(LONG)).await.unwrap()),
        (0, 0, 0)
    );
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn a_poster_on_another_arbiter_is_not_restarted_after_a_shutdown() {
    let platform = FakePlatform::start().unwrap();
    let arbiter = actix_rt::Arbiter::new();
    let options = options(platform.url()).build().unwrap();
    let poster = ResultPoster::start_supervised_in_arbiter(&arbiter.handle(), options);
    post(&poster, "s").await.unwrap();
    poster.send(Shutdown::within(LONG)).await.unwrap();
    assert!(is_gone(&poster).await);
    arbiter.stop();
    arbiter.join().unwrap();
}

#[actix_rt::test]
async fn accepted_messages_are_finished_and_counted_in_the_report() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::ok().delay(SHORT)]);
    platform.script("refused/status", [Reply::status(403)]);
    let poster = start(options(platform.url()).max_in_flight(1));
    let sessions = ["running", "waiting", "refused"];
    let replies = sessions.map(|session| actix_rt::spawn(poster.send(PostResult::new(session, completed()))));
    platform.wait_for_requests(1).await;
    let counts = delivered_failed_cancelled(poster.send(Shutdown::within(LONG)).await.unwrap());
    let mut outcomes = Vec::new();
    for reply in replies {
        // Each message was answered before the shutdown was.
        assert!(reply.is_finished());
        outcomes.push(post_outcome(&reply.await.unwrap().unwrap()));
    }
    assert_eq!(outcomes, ["ok", "ok", "permanent:403"]);
    assert_eq!(counts, (5, 1, 0));
    // The worker id is known to the last call.
    assert_eq!(sent(&platform, worker_id), ["wkr_1"; 6]);
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn messages_after_a_shutdown_are_refused_unsent() {
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
    assert_eq!(error.next_step(), NextStep::UseNextPoster);
    assert!(!error.may_have_been_delivered());
    let reply = poster.send(CreateComment::new("i", "later")).await.unwrap();
    assert!(matches!(reply, Err(CallError::ShuttingDown)));
    taken.await.unwrap().unwrap().unwrap();
    shutdown.await.unwrap().unwrap();
    assert_eq!(sent(&platform, route), ["completion", "status"]);
}

#[actix_rt::test]
async fn unfinished_messages_are_cancelled_at_the_deadline() {
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
    // A completion in its attempt, one in a backoff, and a message waiting behind that.
    let sessions = ["stalled", "failing", "failing"];
    let replies = sessions.map(|session| actix_rt::spawn(poster.send(PostResult::new(session, completed()))));
    clock.wait_for_sleepers(1).await;
    platform.wait_for_requests(2).await;
    let shutdown = actix_rt::spawn(poster.send(Shutdown::within(Duration::from_secs(10))));
    assert_eq!(clock.wait_for_sleepers(2).await[0], Duration::from_secs(10));
    clock.advance(Duration::from_secs(10));
    assert_eq!(delivered_failed_cancelled(shutdown.await.unwrap().unwrap()), (0, 0, 6));
    for reply in replies {
        assert!(reply.is_finished());
        let reply = reply.await.unwrap().unwrap();
        assert_eq!(post_outcome(&reply), "cancelled by shutdown;cancelled by shutdown");
        assert_eq!(reply.unwrap_err().next_step(), NextStep::UseNextPoster);
    }
    // No status follows a cancelled completion.
    assert_eq!(sent(&platform, route), ["completion", "completion"]);
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn a_second_shutdown_can_shorten_the_first() {
    let (platform, poster) = platform_and_poster();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let stalled = actix_rt::spawn(poster.send(CreateComment::new("i", "x")));
    platform.wait_for_requests(1).await;
    let first = actix_rt::spawn(poster.send(Shutdown::within(LONG)));
    let second = actix_rt::spawn(poster.send(Shutdown::within(Duration::ZERO)));
    assert_eq!(delivered_failed_cancelled(first.await.unwrap().unwrap()), (0, 0, 1));
    assert_eq!(delivered_failed_cancelled(second.await.unwrap().unwrap()), (0, 0, 1));
    let stalled = stalled.await.unwrap().unwrap();
    assert_eq!(outcome(&stalled), "cancelled by shutdown");
    assert_eq!(stalled.unwrap_err().next_step(), NextStep::UseNextPoster);
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn shutdown_cancels_messages_with_a_token_of_their_own() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let poster = start(options(platform.url()).max_in_flight(1));
    // A running call, a call waiting behind it, and a call waiting for a permit.
    let replies = ["a", "a", "b"].map(|issue| {
        let message = CreateComment::new(issue, "x").with_cancellation(CancellationToken::new());
        actix_rt::spawn(poster.send(message))
    });
    platform.wait_for_requests(1).await;
    let shutdown = in_time(poster.send(Shutdown::within(Duration::ZERO))).await;
    assert_eq!(delivered_failed_cancelled(shutdown.unwrap()), (0, 0, 3));
    for reply in replies {
        assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled by shutdown");
    }
}

#[actix_rt::test]
async fn a_crash_during_a_shutdown_changes_nothing() {
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
    assert_eq!(delivered_failed_cancelled(shutdown.await.unwrap().unwrap()), (2, 0, 0));
    taken.await.unwrap().unwrap().unwrap();
    assert!(is_gone(&poster).await);
}

#[actix_rt::test]
async fn the_report_counts_from_the_shutdown_message_on() {
    let (_platform, poster) = platform_and_poster();
    let token = CancellationToken::new();
    token.cancel();
    let cancelled = poster.send(CreateComment::new("i", "x").with_cancellation(token));
    let shutdown = poster.send(Shutdown::within(LONG));
    assert_eq!(delivered_failed_cancelled(shutdown.await.unwrap()), (0, 0, 1));
    let cancelled = cancelled.await.unwrap();
    assert_eq!(outcome(&cancelled), "cancelled by token");
    assert_eq!(cancelled.unwrap_err().next_step(), NextStep::Nothing);
}

#[actix_rt::test]
async fn a_panicking_call_counts_as_failed() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).customize_client(|_| panic!("a client that panics")));
    let panicked = poster.send(CreateComment::new("i", "x"));
    let shutdown = poster.send(Shutdown::within(LONG));
    assert_eq!(delivered_failed_cancelled(shutdown.await.unwrap()), (0, 1, 0));
    assert!(matches!(panicked.await.unwrap(), Err(CallError::Internal { .. })));
}

fn delivered_failed_cancelled(report: ShutdownReport) -> (u64, u64, u64) {
    (report.delivered, report.failed, report.cancelled)
}

async fn is_gone(poster: &Addr<ResultPoster>) -> bool {
    matches!(poster.send(GetStats).await, Err(MailboxError::Closed))
}
