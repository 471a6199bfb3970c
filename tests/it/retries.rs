//! Attempts and backoffs, on a clock that the tests move.

use std::{
    error::Error as _,
    pin::pin,
    time::{Duration, SystemTime},
};

use futures_util::future::{Either, select};
use result_poster::{
    AttemptError, CallError, CallReceipt, NextStep,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{options, outcome, platform_and_poster, send_update, start, status_update};

const SECOND: Duration = Duration::from_secs(1);

#[actix_rt::test]
async fn backoffs_double_up_to_the_cap() {
    let (waits, reply) = backoffs([Reply::status(503)], 9).await;
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs));
    let Err(CallError::Transient(error)) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(error.attempts, 9);
    assert!(matches!(
        error.last,
        AttemptError::RetryableResponse { status_code: 503, .. }
    ));
    assert!(error.source().unwrap().is::<AttemptError>());
}

#[actix_rt::test]
async fn a_receipt_counts_attempts_and_elapsed_time() {
    let (waits, reply) = backoffs([Reply::status(503), Reply::status(502), Reply::ok()], 0).await;
    assert_eq!(waits, [SECOND, 2 * SECOND]);
    let receipt = reply.unwrap();
    assert_eq!((receipt.attempts(), receipt.elapsed()), (Some(3), Some(3 * SECOND)));
}

#[actix_rt::test]
async fn retry_after_lengthens_a_backoff() {
    for (value, wait) in [
        ("5".to_owned(), 5),
        ("60".to_owned(), 60),
        ("0".to_owned(), 1),
        ("-5".to_owned(), 1),
        ("soon".to_owned(), 1),
        (String::new(), 1),
        (httpdate::fmt_http_date(SystemTime::UNIX_EPOCH), 1),
    ] {
        let busy = Reply::status(503).header("retry-after", value.clone());
        let (waits, reply) = backoffs([busy, Reply::ok()], 3).await;
        assert_eq!(waits, [Duration::from_secs(wait)], "{value}");
        assert_eq!(reply.unwrap().attempts(), Some(2));
    }
}

#[actix_rt::test]
async fn retry_after_beyond_the_limit_ends_a_429_and_is_reported() {
    let (waits, reply) = backoffs([Reply::status(429).header("retry-after", "61")], 3).await;
    assert!(waits.is_empty());
    let error = reply.unwrap_err();
    let after = Duration::from_secs(61);
    assert_eq!(error.next_step(), NextStep::RetryLater { after });
    let error = error.transient().unwrap();
    assert_eq!((error.attempts, error.retry_after), (1, Some(after)));
}

#[actix_rt::test]
async fn retry_after_beyond_the_limit_of_a_503_is_reported_after_the_ordinary_attempts() {
    let (waits, reply) = backoffs([Reply::status(503).header("retry-after", "61")], 3).await;
    assert_eq!(waits, [SECOND, 2 * SECOND]);
    let error = reply.unwrap_err();
    let after = Duration::from_secs(61);
    assert_eq!(error.next_step(), NextStep::RetryLater { after });
    let error = error.transient().unwrap();
    assert_eq!((error.attempts, error.retry_after), (3, Some(after)));
}

#[actix_rt::test]
async fn a_hint_is_read_in_every_form() {
    let date = |seconds| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let now = date(1_795_766_000);
    for (status, headers, wait) in [
        (429, vec![], 1),
        (429, vec![("x-ratelimit-reset", "2")], 2),
        (429, vec![("ratelimit-reset", "3")], 3),
        (429, vec![("x-ratelimit-reset", "2"), ("ratelimit-reset", "3")], 2),
        (
            429,
            vec![("x-ratelimit-reset", "1795766004"), ("date", now.as_str())],
            4,
        ),
        (429, vec![("retry-after", "soon"), ("x-ratelimit-reset", "5")], 5),
        (429, vec![("retry-after", "1.5")], 2),
        (429, vec![("retry-after", "7"), ("retry-after", "9")], 7),
        (503, vec![("x-ratelimit-reset", "2")], 1),
        (503, vec![("retry-after", "1.5")], 2),
        (408, vec![("retry-after", "1s")], 1),
        (425, vec![], 1),
        (407, vec![], 1),
    ] {
        let busy = headers.iter().fold(Reply::status(status), |reply, (name, value)| {
            reply.header(*name, *value)
        });
        let (waits, reply) = backoffs([busy, Reply::ok()], 3).await;
        assert_eq!(waits, [Duration::from_secs(wait)], "{status} {headers:?}");
        assert_eq!(reply.unwrap().attempts(), Some(2));
    }
}

#[actix_rt::test]
async fn a_date_is_counted_from_the_platforms_clock() {
    let server_now = ManualClock::new().now() + Duration::from_secs(70);
    let date = |seconds| httpdate::fmt_http_date(server_now + Duration::from_secs(seconds));
    let busy = Reply::status(503)
        .header("date", date(0))
        .header("retry-after", date(2));
    let (waits, _) = backoffs([busy, Reply::ok()], 3).await;
    assert_eq!(waits, [2 * SECOND]);
}

#[actix_rt::test]
async fn retry_after_adds_no_attempt() {
    let (waits, reply) = backoffs([Reply::status(429).header("retry-after", "2")], 3).await;
    assert_eq!(waits, [2 * SECOND, 2 * SECOND]);
    assert_eq!(reply.unwrap_err().transient().unwrap().attempts, 3);
}

#[actix_rt::test]
async fn a_rejection_is_not_retried() {
    for status in [301, 308, 400, 401, 403, 404, 409, 410, 413, 421, 422] {
        let (platform, poster) = platform_and_poster();
        platform.script("issue-tracker-proxy", [Reply::status(status)]);
        let error = send_update(&poster, "issue-1").await.unwrap_err();
        assert_eq!(error.permanent().unwrap().status_code, status);
        assert_eq!(platform.requests().len(), 1);
    }
}

#[actix_rt::test]
async fn the_cap_on_backoffs_is_configurable() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let clock = ManualClock::new();
    let options = options(platform.url()).base_delay(2 * SECOND).max_delay(3 * SECOND);
    let poster = start(options.clock(clock.clone()).max_attempts(3));
    let reply = actix_rt::spawn(poster.send(status_update("issue-1")));
    for wait in [2 * SECOND, 3 * SECOND] {
        assert_eq!(clock.wait_for_sleepers(1).await, [wait]);
        clock.advance(wait);
    }
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "transient:3");
}

#[actix_rt::test]
async fn the_limit_on_retry_after_is_configurable() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(429).header("retry-after", "3")]);
    let options = options(platform.url()).max_retry_after(2 * SECOND);
    let poster = start(options.clock(ManualClock::new()).max_attempts(2));
    let error = send_update(&poster, "issue-1").await.unwrap_err();
    assert_eq!(error.transient().unwrap().attempts, 1);
}

#[actix_rt::test]
async fn jitter_keeps_each_backoff_within_its_share() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503)]);
    let clock = ManualClock::new();
    let options = options(platform.url()).base_delay(SECOND).jitter(0.5).max_attempts(2);
    let poster = start(options.clock(clock.clone()));
    let replies: Vec<_> = (0..20)
        .map(|issue| actix_rt::spawn(poster.send(status_update(format!("issue-{issue}")))))
        .collect();
    let waits = clock.wait_for_sleepers(20).await;
    assert!(
        waits.iter().all(|wait| (SECOND / 2..=3 * SECOND / 2).contains(wait)),
        "{waits:?}"
    );
    assert!(waits.first() < waits.last());
    clock.advance(2 * SECOND);
    for reply in replies {
        assert!(reply.await.unwrap().unwrap().is_err());
    }
}

/// The backoffs between the attempts of a call to a platform with these answers, and its outcome.
async fn backoffs(
    replies: impl IntoIterator<Item = Reply>,
    max_attempts: u32,
) -> (Vec<Duration>, Result<CallReceipt, CallError>) {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", replies);
    let clock = ManualClock::new();
    let options = options(platform.url()).base_delay(SECOND).max_attempts(max_attempts);
    let poster = start(options.clock(clock.clone()));
    let mut reply = actix_rt::spawn(poster.send(status_update("issue-1")));
    let mut waits = Vec::new();
    loop {
        match select(reply, pin!(clock.wait_for_sleepers(1))).await {
            Either::Left((reply, _)) => return (waits, reply.unwrap().unwrap()),
            Either::Right((sleepers, pending)) => {
                clock.advance(sleepers[0]);
                waits.extend(sleepers);
                reply = pending;
            }
        }
    }
}
