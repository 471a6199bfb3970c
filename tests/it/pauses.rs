//! Pauses of all session calls or of all tracker calls, on a clock that the tests move.

use std::time::Duration;

use actix::Addr;
use actix_rt::task::JoinHandle;
use result_poster::{
    CallError, CallReceipt, CancellationToken, CancelledBy, ResultPoster, Shutdown,
    events::GetStats,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    options, outcome, post,
    requests::{issue_and_text, sent},
    start, status_update,
};

const PROXY: &str = "issue-tracker-proxy";
const SECOND: Duration = Duration::from_secs(1);

/// A platform, and a poster whose clock the test moves.
struct Fixture {
    platform: FakePlatform,
    clock: ManualClock,
    poster: Addr<ResultPoster>,
}

/// The reply to come.
type Pending = JoinHandle<Result<Result<CallReceipt, CallError>, actix::MailboxError>>;

impl Fixture {
    fn new(replies: impl IntoIterator<Item = Reply>) -> Self {
        let platform = FakePlatform::start().unwrap();
        platform.script(PROXY, replies);
        let clock = ManualClock::new();
        let poster = start(options(platform.url()).base_delay(SECOND).clock(clock.clone()));
        Self {
            platform,
            clock,
            poster,
        }
    }

    fn send(&self, issue: &str) -> Pending {
        actix_rt::spawn(self.poster.send(status_update(issue)))
    }

    /// Waits until so many calls sleep, and returns for how long.
    async fn sleepers(&self, count: usize) -> Vec<Duration> {
        self.clock.wait_for_sleepers(count).await
    }

    /// How many messages wait for a pause, how many hold a permit, and how many pauses there were.
    async fn stats(&self) -> (u64, u64, u64) {
        let stats = self.poster.send(GetStats).await.unwrap();
        (stats.paused, stats.in_flight, stats.pauses)
    }

    fn issues(&self) -> Vec<String> {
        sent(&self.platform, |request| issue_and_text(request).0)
    }
}

fn limited(seconds: &str) -> Reply {
    Reply::status(429).header("x-ratelimit-reset", seconds)
}

#[actix_rt::test]
async fn a_429_makes_the_other_calls_of_its_group_wait() {
    let test = Fixture::new([limited("2"), Reply::ok()]);
    let first = test.send("a");
    assert_eq!(test.sleepers(1).await, [2 * SECOND]);
    let others: Vec<_> = (0..3).map(|issue| test.send(&format!("b{issue}"))).collect();
    assert_eq!(test.sleepers(4).await, [2 * SECOND; 4]);
    // The other group does not wait.
    post(&test.poster, "s").await.unwrap();
    assert_eq!(test.stats().await, (3, 0, 1));
    assert_eq!(test.platform.requests().len(), 3);
    test.clock.advance(2 * SECOND);
    assert_eq!(first.await.unwrap().unwrap().unwrap().attempts(), Some(2));
    for other in others {
        // The pause has cost no attempt.
        assert_eq!(other.await.unwrap().unwrap().unwrap().attempts(), Some(1));
    }
    assert_eq!(test.stats().await, (0, 0, 1));
}

#[actix_rt::test]
async fn a_pause_without_a_hint_lasts_for_the_backoff_of_its_call() {
    let test = Fixture::new([Reply::status(429), Reply::ok()]);
    let first = test.send("a");
    assert_eq!(test.sleepers(1).await, [SECOND]);
    let second = test.send("b");
    assert_eq!(test.sleepers(2).await, [SECOND; 2]);
    test.clock.advance(SECOND);
    for reply in [first, second] {
        reply.await.unwrap().unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn a_429_beyond_the_limit_ends_its_call_and_pauses_for_the_limit() {
    let test = Fixture::new([limited("3600"), Reply::ok()]);
    let reply = test.send("a").await.unwrap().unwrap();
    assert_eq!(outcome(&reply), "transient:1");
    let second = test.send("b");
    assert_eq!(test.sleepers(1).await, [60 * SECOND]);
    test.clock.advance(60 * SECOND);
    second.await.unwrap().unwrap().unwrap();
}

#[actix_rt::test]
async fn one_call_is_sent_first_after_a_pause() {
    let held = Reply::ok().delay(Duration::from_millis(200));
    let test = Fixture::new([limited("2"), held.clone(), held, Reply::ok()]);
    let mut replies = vec![test.send("a")];
    test.sleepers(1).await;
    replies.extend((0..7).map(|issue| test.send(&format!("b{issue}"))));
    test.sleepers(8).await;
    test.clock.advance(2 * SECOND);
    // While the first is in flight, the others wait.
    test.platform.wait_for_requests(2).await;
    assert_eq!(test.stats().await, (7, 1, 1));
    // Its success lets two go.
    test.platform.wait_for_requests(4).await;
    assert!(test.stats().await.1 <= 2);
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(test.platform.requests().len(), 9);
}

#[actix_rt::test]
async fn a_503_with_a_hint_delays_its_own_call_alone() {
    let test = Fixture::new([Reply::status(503).header("retry-after", "5"), Reply::ok()]);
    let first = test.send("a");
    assert_eq!(test.sleepers(1).await, [5 * SECOND]);
    test.send("b").await.unwrap().unwrap().unwrap();
    assert_eq!(test.stats().await.2, 0);
    test.clock.advance(5 * SECOND);
    first.await.unwrap().unwrap().unwrap();
}

#[actix_rt::test]
async fn a_503_to_a_second_target_pauses_the_group() {
    let busy = Reply::status(503).header("retry-after", "5");
    let test = Fixture::new([busy.clone(), busy, Reply::ok()]);
    let mut replies = vec![test.send("a")];
    test.sleepers(1).await;
    replies.push(test.send("b"));
    test.sleepers(2).await;
    replies.push(test.send("c"));
    assert_eq!(test.sleepers(3).await, [5 * SECOND; 3]);
    assert_eq!(test.stats().await, (1, 0, 1));
    test.clock.advance(5 * SECOND);
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
    assert_eq!(test.issues().len(), 5);
}

#[actix_rt::test]
async fn a_call_that_waits_for_a_pause_ends_at_once_when_it_is_cancelled() {
    let test = Fixture::new([limited("9")]);
    let _first = test.send("a");
    test.sleepers(1).await;
    let token = CancellationToken::new();
    let message = status_update("b").with_cancellation(token.clone());
    let second = actix_rt::spawn(test.poster.send(message));
    test.sleepers(2).await;
    token.cancel();
    let error = second.await.unwrap().unwrap().unwrap_err();
    let expected = CallError::Cancelled {
        by: CancelledBy::Token,
        attempts: 0,
        may_have_been_delivered: false,
    };
    assert_eq!(error, expected);
    assert_eq!((test.issues(), test.stats().await.0), (vec!["a".to_owned()], 0));
}

#[actix_rt::test]
async fn a_call_that_waits_for_a_pause_ends_at_the_deadline_of_a_shutdown() {
    let test = Fixture::new([limited("9")]);
    let replies = [test.send("a"), {
        test.sleepers(1).await;
        test.send("b")
    }];
    test.sleepers(2).await;
    let report = test.poster.send(Shutdown::within(Duration::ZERO)).await.unwrap();
    assert_eq!(report.cancelled, 2);
    for reply in replies {
        assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled by shutdown");
    }
}

#[actix_rt::test]
async fn a_cancelled_call_lets_the_next_one_go_after_a_pause() {
    let held = Reply::ok().delay(Duration::from_secs(20));
    let test = Fixture::new([limited("2"), held, Reply::ok()]);
    let calls = ["a", "b"].map(|issue| (issue, CancellationToken::new()));
    let mut replies = Vec::new();
    for (issue, token) in &calls {
        let message = status_update(*issue).with_cancellation(token.clone());
        replies.push(actix_rt::spawn(test.poster.send(message)));
        test.sleepers(replies.len()).await;
    }
    test.clock.advance(2 * SECOND);
    test.platform.wait_for_requests(2).await;
    let in_flight = test.issues()[1].clone();
    let is_in_flight = calls.each_ref().map(|(issue, _)| *issue == in_flight);
    for ((_, token), _) in calls.iter().zip(is_in_flight).filter(|(_, is_in_flight)| *is_in_flight) {
        token.cancel();
    }
    for (reply, is_in_flight) in replies.into_iter().zip(is_in_flight) {
        assert_eq!(reply.await.unwrap().unwrap().is_err(), is_in_flight);
    }
}
