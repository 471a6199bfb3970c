//! A cancelled message says so, wherever it is, and nothing more of it is sent.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    convert::Infallible,
    io::Write as _,
    net::TcpListener,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use actix::Addr;
use result_poster::{
    CallError, CancellationToken, GetStats, PostError, PostResult, ResultPoster, RuntimeCredentials, UpdateIssueStatus,
    provider_fn,
    testing::{FakePlatform, ManualClock, Reply},
};
use tokio::{io::AsyncReadExt as _, sync::oneshot};

use crate::support::{builder, completed, options, platform_and_poster, post_outcome, read_request, routes, start};

const LONG: Duration = Duration::from_secs(600);

/// Nothing runs, nothing waits, and no lane is left.
async fn assert_idle(poster: &Addr<ResultPoster>) {
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.running, stats.waiting, stats.lanes), (0, 0, 0));
}

#[actix_rt::test]
async fn cancelled_before_it_is_sent() {
    let (platform, poster) = platform_and_poster();
    let token = CancellationToken::new();
    token.cancel();
    let reply = poster
        .send(PostResult::new("s", completed()).with_cancellation(token))
        .await
        .unwrap();
    assert_eq!(post_outcome(&reply), "cancelled;cancelled");
    assert!(!reply.unwrap_err().may_have_been_delivered());
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn cancelled_in_the_middle_of_an_attempt() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(LONG)]);
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed()).with_cancellation(token.clone())));
    platform.wait_for_requests(1).await;
    token.cancel();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    let PostError::Both { completion, status } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(
        completion,
        CallError::Cancelled {
            may_have_been_delivered: true
        }
    ));
    assert!(matches!(
        status,
        CallError::Cancelled {
            may_have_been_delivered: false
        }
    ));
    assert_eq!(routes(&platform), ["completion"]);
    assert_idle(&poster).await;
}

#[actix_rt::test]
async fn cancelled_in_a_backoff() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let clock = ManualClock::new();
    let poster = start(options(platform.url()).base_delay(LONG).clock(clock.clone()));
    let token = CancellationToken::new();
    let message = UpdateIssueStatus::new("i", "Finished").with_cancellation(token.clone());
    let reply = actix_rt::spawn(poster.send(message));
    clock.sleepers(1).await;
    token.cancel();
    let reply = reply.await.unwrap().unwrap();
    assert!(matches!(
        reply,
        Err(CallError::Cancelled {
            may_have_been_delivered: true
        })
    ));
    assert_eq!(platform.requests().len(), 1);
    assert_idle(&poster).await;
}

#[actix_rt::test]
async fn cancelled_in_its_lane_while_the_one_before_goes_on() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(100))]);
    let token = CancellationToken::new();
    let first = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    let second = actix_rt::spawn(poster.send(PostResult::new("s", completed()).with_cancellation(token.clone())));
    platform.wait_for_requests(1).await;
    token.cancel();
    assert_eq!(post_outcome(&second.await.unwrap().unwrap()), "cancelled;cancelled");
    assert_eq!(routes(&platform), ["completion"]);
    first.await.unwrap().unwrap().unwrap();
    assert_eq!(routes(&platform), ["completion", "status"]);
}

#[actix_rt::test]
async fn a_result_that_is_cancelled_between_its_calls_tells_them_apart() {
    let (platform, poster) = platform_and_poster();
    platform.script("status", [Reply::ok().delay(LONG)]);
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed()).with_cancellation(token.clone())));
    platform.wait_for_requests(2).await;
    token.cancel();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert!(matches!(
        error,
        PostError::Status(CallError::Cancelled {
            may_have_been_delivered: true
        })
    ));
}

#[actix_rt::test]
async fn dropping_the_request_cancels_nothing_that_was_taken() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(50))]);
    let request = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    platform.wait_for_requests(1).await;
    request.abort();
    platform.wait_for_requests(2).await;
    assert_eq!(routes(&platform), ["completion", "status"]);
}

#[actix_rt::test]
async fn one_token_for_a_whole_queue_lets_nothing_more_out() {
    let (platform, poster) = platform_and_poster();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let token = CancellationToken::new();
    let send = |issue: &str| {
        let message = UpdateIssueStatus::new(issue, "Finished").with_cancellation(token.clone());
        actix_rt::spawn(poster.send(message))
    };
    let replies = ["i", "i", "i"].map(send);
    platform.wait_for_requests(1).await;
    token.cancel();
    let mut sent = Vec::new();
    for reply in replies {
        sent.push(reply.await.unwrap().unwrap().unwrap_err().may_have_been_delivered());
    }
    assert_eq!(sent, [true, false, false]);
    assert_eq!(platform.requests().len(), 1);
}

#[actix_rt::test]
async fn one_token_for_all_who_wait_for_a_slot_lets_nothing_more_out() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let poster = start(options(platform.url()).max_in_flight(2));
    let token = CancellationToken::new();
    let replies: Vec<_> = (0..20)
        .map(|issue| {
            let message = UpdateIssueStatus::new(format!("i{issue}"), "Finished").with_cancellation(token.clone());
            actix_rt::spawn(poster.send(message))
        })
        .collect();
    platform.wait_for_requests(2).await;
    token.cancel();
    let mut sent = 0;
    for reply in replies {
        sent += usize::from(reply.await.unwrap().unwrap().unwrap_err().may_have_been_delivered());
    }
    assert_eq!((sent, platform.connections()), (2, 2));
    assert_idle(&poster).await;
}

#[actix_rt::test]
async fn cancelled_together_with_the_credentials() {
    let platform = FakePlatform::start().unwrap();
    let token = CancellationToken::new();
    let (cancelled, asked) = (token.clone(), AtomicBool::new(false));
    let provider = provider_fn(async move || {
        if asked.swap(true, Ordering::Relaxed) {
            cancelled.cancel();
        }
        Ok::<_, Infallible>(RuntimeCredentials::new("wkr_1", "token"))
    });
    let poster = start(builder(platform.url()).credential_provider(provider));
    // So that there is a connection, on which a request would be sent at once.
    poster
        .send(UpdateIssueStatus::new("i", "Started"))
        .await
        .unwrap()
        .unwrap();
    let reply = poster.send(UpdateIssueStatus::new("i", "Finished").with_cancellation(token));
    let error = reply.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Cancelled {
                may_have_been_delivered: false
            }
        ),
        "{error:?}"
    );
    assert_eq!(platform.requests().len(), 1);
}

#[cfg(unix)]
#[actix_rt::test]
async fn an_answer_that_comes_together_with_a_cancellation_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let poster = start(options(format!("http://{}", listener.local_addr().unwrap())));
    let token = CancellationToken::new();
    let message = UpdateIssueStatus::new("i", "Finished").with_cancellation(token.clone());
    let reply = actix_rt::spawn(poster.send(message));
    // Who cancels hears of it as the poster hears of the answer: from a socket.
    let (mut cancel, heard) = UnixStream::pair().unwrap();
    heard.set_nonblocking(true).unwrap();
    let mut heard = tokio::net::UnixStream::from_std(heard).unwrap();
    let cancelled = token.clone();
    actix_rt::spawn(async move {
        heard.read_u8().await.unwrap();
        cancelled.cancel();
    });
    let (asked, was_asked) = oneshot::channel();
    let (go, may_answer) = mpsc::channel();
    let (answered, was_answered) = mpsc::channel();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        asked.send(()).unwrap();
        may_answer.recv().unwrap();
        cancel.write_all(b"x").unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"success\":true}")
            .unwrap();
        answered.send(()).unwrap();
        // Open until the poster has read it.
        (stream, cancel)
    });
    was_asked.await.unwrap();
    // The poster's thread stands still meanwhile, and finds both.
    go.send(()).unwrap();
    was_answered.recv().unwrap();
    reply.await.unwrap().unwrap().unwrap();
    assert!(token.is_cancelled());
    drop(server.join());
}
