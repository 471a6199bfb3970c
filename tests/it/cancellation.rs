//! A cancelled message is answered as cancelled, at any step, and sends nothing more.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    io::Write as _,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::park,
    time::Duration,
};

use actix::Addr;
use result_poster::{
    CallError, CancellationToken, CancelledBy, PostError, PostResult, ResultPoster,
    credentials::{RuntimeCredentials, provider_fn},
    events::GetStats,
    testing::{FakePlatform, ManualClock, Reply},
};
use tokio::{io::AsyncReadExt as _, sync::oneshot};

use crate::support::{
    builder, completed, options, platform_and_poster, post_outcome,
    raw_server::{read_request, serve_once, success},
    requests::{route, sent},
    send_update, start, status_update,
};

const LONG: Duration = Duration::from_secs(600);

#[actix_rt::test]
async fn a_message_cancelled_before_it_is_sent_is_not_sent() {
    let (platform, poster) = platform_and_poster();
    let token = CancellationToken::new();
    token.cancel();
    let reply = poster
        .send(PostResult::new("s", completed()).with_cancellation(token))
        .await
        .unwrap();
    assert_eq!(post_outcome(&reply), "cancelled by token;cancelled by token");
    assert!(!reply.unwrap_err().may_have_been_delivered());
    assert!(platform.requests().is_empty());
}

#[actix_rt::test]
async fn cancellation_during_the_completion_prevents_the_status() {
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
            by: CancelledBy::Token,
            may_have_been_delivered: true,
            ..
        }
    ));
    assert!(matches!(
        status,
        CallError::Cancelled {
            by: CancelledBy::Token,
            may_have_been_delivered: false,
            ..
        }
    ));
    assert_eq!(sent(&platform, route), ["completion"]);
    assert_idle(&poster).await;
}

#[actix_rt::test]
async fn cancellation_during_a_backoff_ends_the_call() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let clock = ManualClock::new();
    let poster = start(
        options(platform.url())
            .base_delay(LONG)
            .max_delay(LONG)
            .clock(clock.clone()),
    );
    let token = CancellationToken::new();
    let message = status_update("i").with_cancellation(token.clone());
    let reply = actix_rt::spawn(poster.send(message));
    clock.wait_for_sleepers(1).await;
    token.cancel();
    let reply = reply.await.unwrap().unwrap();
    assert!(matches!(
        reply,
        Err(CallError::Cancelled {
            by: CancelledBy::Token,
            may_have_been_delivered: true,
            ..
        })
    ));
    assert_eq!(platform.requests().len(), 1);
    assert_idle(&poster).await;
}

#[actix_rt::test]
async fn cancelling_a_waiting_message_does_not_affect_the_message_ahead() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(100))]);
    let token = CancellationToken::new();
    let first = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    let second = actix_rt::spawn(poster.send(PostResult::new("s", completed()).with_cancellation(token.clone())));
    platform.wait_for_requests(1).await;
    token.cancel();
    assert_eq!(
        post_outcome(&second.await.unwrap().unwrap()),
        "cancelled by token;cancelled by token"
    );
    assert_eq!(sent(&platform, route), ["completion"]);
    first.await.unwrap().unwrap().unwrap();
    assert_eq!(sent(&platform, route), ["completion", "status"]);
}

#[actix_rt::test]
async fn cancellation_during_the_status_is_reported_for_the_status_only() {
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
            by: CancelledBy::Token,
            may_have_been_delivered: true,
            ..
        })
    ));
}

#[actix_rt::test]
async fn dropping_the_future_does_not_cancel_an_accepted_message() {
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(50))]);
    let request = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    platform.wait_for_requests(1).await;
    request.abort();
    platform.wait_for_requests(2).await;
    assert_eq!(sent(&platform, route), ["completion", "status"]);
}

#[actix_rt::test]
async fn a_token_shared_by_a_lane_cancels_all_of_its_messages() {
    let (platform, poster) = platform_and_poster();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let token = CancellationToken::new();
    let send = |issue: &str| {
        let message = status_update(issue).with_cancellation(token.clone());
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
async fn a_token_shared_by_calls_waiting_for_a_permit_cancels_all_of_them() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::ok().delay(LONG)]);
    let poster = start(options(platform.url()).max_in_flight(2));
    let token = CancellationToken::new();
    let replies: Vec<_> = (0..20)
        .map(|issue| {
            let message = status_update(format!("i{issue}")).with_cancellation(token.clone());
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
async fn cancellation_during_the_credential_fetch_sends_nothing() {
    let platform = FakePlatform::start().unwrap();
    let token = CancellationToken::new();
    let (cancelled, was_fetched) = (token.clone(), AtomicBool::new(false));
    let provider = provider_fn(async move || {
        if was_fetched.swap(true, Ordering::Relaxed) {
            cancelled.cancel();
        }
        Ok(RuntimeCredentials::new("wkr_1", "token"))
    });
    let poster = start(builder(platform.url()).credential_provider(provider));
    // Opens a connection, on which the next request would be sent at once.
    send_update(&poster, "i").await.unwrap();
    let reply = poster.send(status_update("i").with_cancellation(token));
    let error = reply.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Cancelled {
                by: CancelledBy::Token,
                may_have_been_delivered: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(platform.requests().len(), 1);
}

#[cfg(unix)]
#[actix_rt::test]
async fn a_response_that_arrives_with_a_cancellation_counts() {
    let (received, was_received) = oneshot::channel();
    let (go, may_answer) = mpsc::channel();
    let (answered, was_answered) = mpsc::channel();
    // The poster's thread learns of the cancellation as it learns of the response: from a socket.
    let (mut canceller, cancellation) = UnixStream::pair().unwrap();
    let server = serve_once(move |mut stream| {
        read_request(&mut stream).unwrap();
        received.send(()).unwrap();
        may_answer.recv().unwrap();
        canceller.write_all(b"x").unwrap();
        stream.write_all(success().as_bytes()).unwrap();
        answered.send(()).unwrap();
        // Both sockets stay open.
        park();
    });
    let token = CancellationToken::new();
    cancellation.set_nonblocking(true).unwrap();
    let mut cancellation = tokio::net::UnixStream::from_std(cancellation).unwrap();
    let cancelled = token.clone();
    actix_rt::spawn(async move {
        cancellation.read_u8().await.unwrap();
        cancelled.cancel();
    });
    let poster = start(options(server.url()));
    let message = status_update("i").with_cancellation(token.clone());
    let reply = actix_rt::spawn(poster.send(message));
    was_received.await.unwrap();
    // The poster's thread stands still until both have been sent, and then finds both.
    go.send(()).unwrap();
    was_answered.recv().unwrap();
    reply.await.unwrap().unwrap().unwrap();
    assert!(token.is_cancelled());
}

/// The poster has no running and no waiting calls, and no lanes.
async fn assert_idle(poster: &Addr<ResultPoster>) {
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.in_flight, stats.queued, stats.active_lanes), (0, 0, 0));
}
