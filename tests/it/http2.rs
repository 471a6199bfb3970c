//! A platform that speaks HTTP/2, and its faults.

use std::{collections::HashSet, time::Duration};

use futures_util::future::join_all;
use h2::Reason;
use result_poster::{AttemptError, AttemptPhase, CallError, PostResult};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    TOKEN, completed, errors,
    http2::{H2, HTTP1, Http2Platform, Http2Request, Http2Step},
    post, post_outcome,
    raw_server::SUCCESS,
    send_update, start,
};

const SECOND: Duration = Duration::from_secs(1);

/// An empty SETTINGS frame.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

#[actix_rt::test]
async fn a_platform_that_speaks_only_http2_is_reached() {
    let platform = Http2Platform::start(&[H2], []);
    let poster = start(platform.options().user_agent("runner/7"));
    let receipt = post(&poster, "s").await.unwrap();
    assert_eq!(
        (receipt.completion.attempts(), receipt.status.attempts()),
        (Some(1), Some(1))
    );
    send_update(&poster, "i").await.unwrap();

    let requests = platform.requests();
    let routes: Vec<_> = requests.iter().map(Http2Request::route).collect();
    assert_eq!(routes, ["completion", "status", "issue-tracker-proxy"]);
    let mut keys = HashSet::new();
    for request in &requests {
        assert_eq!((request.protocol, request.method.as_str()), (H2, "POST"));
        assert_eq!(format!("{}://{}", request.scheme, request.authority), platform.url);
        assert_eq!(
            request.header("authorization"),
            Some(format!("Bearer {TOKEN}").as_str())
        );
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("user-agent"), Some("runner/7"));
        assert_eq!(
            request.header("content-length"),
            Some(request.body.len().to_string().as_str())
        );
        assert_eq!(request.header("host"), None);
        keys.extend(request.header("idempotency-key"));
    }
    assert_eq!(requests[0].json()["summary"], "Done.");
    assert_eq!(
        requests[2].json(),
        json!({"method": "updateIssueStatus", "args": ["i", "Finished"]})
    );
    // Each request has a connection of its own.
    assert_eq!(platform.connections(), [H2; 3]);
}

#[actix_rt::test]
async fn concurrent_calls_get_their_own_responses() {
    let platform = Http2Platform::start(&[H2], vec![Http2Step::Name; 128]);
    let poster = start(platform.options());
    for round in 0..2 {
        let issues: Vec<_> = (0..64).map(|call| format!("issue-{round}-{call}")).collect();
        let replies = join_all(issues.iter().map(|issue| send_update(&poster, issue))).await;
        for (issue, reply) in issues.iter().zip(replies) {
            assert_eq!(reply.unwrap_err().permanent().unwrap().body, format!("X: {issue}"));
        }
    }
    assert_eq!(platform.connections(), [H2; 128]);
}

#[actix_rt::test]
async fn http1_is_preferred() {
    for alpn in [[H2, HTTP1].as_slice(), &[HTTP1, H2], &[HTTP1], &[]] {
        let platform = Http2Platform::start(alpn, []);
        let poster = start(platform.options());
        post(&poster, "s").await.unwrap();
        send_update(&poster, "i").await.unwrap();
        let requests = platform.requests();
        assert!(requests.iter().all(|request| request.protocol == HTTP1), "{alpn:?}");
        assert_eq!(platform.connections().len(), 1, "{alpn:?}");
    }
}

#[actix_rt::test]
async fn a_reset_stream_or_a_closed_connection_is_transient() {
    for step in [
        Http2Step::Reset(Reason::CANCEL),
        Http2Step::Reset(Reason::INTERNAL_ERROR),
        Http2Step::Reset(Reason::NO_ERROR),
        Http2Step::Close,
        Http2Step::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ] {
        let (error, may_have_been_delivered) = fault(step.clone()).await;
        assert!(matches!(error, AttemptError::ConnectionLost(_)), "{step:?}: {error:?}");
        assert!(may_have_been_delivered, "{step:?}");
    }
}

#[actix_rt::test]
async fn a_truncated_tracker_response_is_transient() {
    let (error, may_have_been_delivered) = fault(Http2Step::BreakOff).await;
    assert!(
        matches!(error, AttemptError::UnexpectedResponse { status_code: 200, .. }),
        "{error:?}"
    );
    assert!(may_have_been_delivered);
}

#[actix_rt::test]
async fn a_session_call_is_delivered_by_the_head_of_a_truncated_response() {
    let platform = Http2Platform::start(&[H2], vec![Http2Step::BreakOff; 2]);
    let receipt = post(&start(platform.options()), "s").await.unwrap();
    assert_eq!(
        (receipt.completion.attempts(), receipt.status.attempts()),
        (Some(1), Some(1))
    );
}

#[actix_rt::test]
async fn a_missing_response_is_a_timeout() {
    let platform = Http2Platform::start(&[H2], [Http2Step::Stall, Http2Step::Stall]);
    let poster = start(platform.options().timeout(SECOND).max_attempts(2));
    let error = send_update(&poster, "i").await.unwrap_err();
    assert!(
        matches!(
            error.transient().unwrap().last,
            AttemptError::Timeout {
                phase: AttemptPhase::Waiting,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.may_have_been_delivered());
    send_update(&poster, "i").await.unwrap();
}

#[actix_rt::test]
async fn interim_responses_are_skipped() {
    // `:status: 103`; `:status: 200`; the body.
    let interim = b"\0\0\x05\x01\x04\0\0\0\x01\x08\x03103".as_slice();
    let head = b"\0\0\x01\x01\x04\0\0\0\x01\x88".as_slice();
    let body = [b"\0\0\x10\0\x01\0\0\0\x01", SUCCESS.as_bytes()].concat();
    let platform = Http2Platform::start(
        &[H2],
        [Http2Step::Raw([SETTINGS, interim, interim, head, &body].concat())],
    );
    send_update(&start(platform.options().max_attempts(1)), "i")
        .await
        .unwrap();
}

#[actix_rt::test]
async fn a_long_response_is_read_up_to_the_limit() {
    let platform = Http2Platform::start(&[H2], vec![Http2Step::Answer(400, "x".repeat(4 << 20)); 3]);
    let poster = start(platform.options());
    for _ in 0..3 {
        let error = send_update(&poster, "i").await.unwrap_err();
        assert_eq!(error.permanent().unwrap().body.len(), 4096);
    }
    send_update(&poster, "i").await.unwrap();
}

#[actix_rt::test]
async fn a_long_request_is_sent_whole() {
    let platform = Http2Platform::start(&[H2], []);
    let poster = start(platform.options());
    poster.send(long_result("s")).await.unwrap().unwrap();
    assert_eq!(platform.requests()[0].json()["summary"], "x".repeat(LONG));
}

#[actix_rt::test]
async fn an_early_response_to_a_long_request_counts() {
    let platform = Http2Platform::start(&[H2], [Http2Step::AnswerEarly(422)]);
    let poster = start(platform.options());
    let reply = poster.send(long_result("s")).await.unwrap();
    assert_eq!(post_outcome(&reply), "permanent:422");
}

#[actix_rt::test]
async fn a_change_of_protocol_is_followed_within_an_attempt() {
    let platform = Http2Platform::start(&[H2], []);
    let poster = start(platform.options().max_attempts(1));
    for protocol in [H2, HTTP1, H2, HTTP1] {
        platform.speak(&[protocol]);
        let issues: Vec<_> = (0..8).map(|call| format!("issue-{call}")).collect();
        for reply in join_all(issues.iter().map(|issue| send_update(&poster, issue))).await {
            reply.unwrap();
        }
        let requests = platform.requests();
        assert!(
            requests
                .iter()
                .rev()
                .take(8)
                .all(|request| request.protocol == protocol)
        );
        platform.hang_up().await;
    }
}

#[actix_rt::test]
async fn a_platform_is_reached_over_http1_after_it_drops_alpn() {
    let platform = Http2Platform::start(&[H2], []);
    let poster = start(platform.options().max_attempts(1));
    send_update(&poster, "i").await.unwrap();
    platform.hang_up().await;
    platform.speak(&[]);
    for _ in 0..3 {
        send_update(&poster, "i").await.unwrap();
    }
    // The first two calls have connections of their own; the next two share one, as in HTTP/1.1.
    let connections: Vec<_> = platform.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1, 2, 2]);
}

#[actix_rt::test]
async fn an_unread_request_is_a_timeout() {
    let platform = Http2Platform::start(&[H2], [Http2Step::NeverRead, Http2Step::NeverRead]);
    let poster = start(platform.options().timeout(SECOND).max_attempts(2));
    let error = poster.send(long_result("s")).await.unwrap().unwrap_err();
    let completion = error.completion().unwrap();
    assert!(
        matches!(
            completion.transient().unwrap().last,
            AttemptError::Timeout {
                phase: AttemptPhase::Sending,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(completion.may_have_been_delivered());
    assert!(error.status().is_none());
    // Each attempt, and the status, had a connection of its own.
    assert_eq!(platform.connections(), [H2; 3]);
    poster.send(long_result("s")).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn cancelling_a_partly_sent_request_does_not_affect_other_requests() {
    let platform = Http2Platform::start(&[H2], [Http2Step::NeverRead]);
    let poster = start(platform.options().max_attempts(1));
    let cancellation = CancellationToken::new();
    let cancelled = poster.send(long_result("s").with_cancellation(cancellation.clone()));
    let cancelled = actix_rt::spawn(cancelled);
    platform.wait_for_requests(1).await;
    let concurrent = ["a", "b", "c"].map(|session| actix_rt::spawn(poster.send(long_result(session))));
    actix_rt::task::yield_now().await;
    cancellation.cancel();
    for reply in join_all(concurrent).await {
        reply.unwrap().unwrap().unwrap();
    }
    let error = cancelled.await.unwrap().unwrap().unwrap_err();
    assert!(error.completion().unwrap().may_have_been_delivered(), "{error:?}");
    poster.send(long_result("s")).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn a_refused_stream_is_reported_as_not_delivered() {
    // GOAWAY before the first stream.
    let go_away = [SETTINGS, b"\0\0\x08\x07\0\0\0\0\0", &[0; 8]].concat();
    for step in [Http2Step::Reset(Reason::REFUSED_STREAM), Http2Step::Raw(go_away)] {
        let (error, may_have_been_delivered) = fault(step.clone()).await;
        assert!(matches!(error, AttemptError::StreamRefused(_)), "{step:?}: {error:?}");
        assert!(!may_have_been_delivered, "{step:?}");
    }
}

#[actix_rt::test]
async fn goaway_debug_data_is_not_printed() {
    let debug_data: &[u8; 24] = b"the token was tok-s3cret";
    let mut go_away = [SETTINGS, b"\0\0\x20\x07\0\0\0\0\0"].concat();
    // No stream was processed; the reason is ENHANCE_YOUR_CALM.
    go_away.extend([0, 0, 0, 0, 0, 0, 0, 11]);
    go_away.extend(debug_data);
    let (error, _) = fault(Http2Step::Raw(go_away)).await;
    let texts = errors::texts(&error);
    assert!(!format!("{error:?} {texts:?}").contains("s3cret"), "{error:?}");
    assert!(texts[1].starts_with("HTTP/2: "), "{texts:?}");
}

/// More than the window of a stream, which is 64 KiB, and as long as a summary may be.
const LONG: usize = 96 * 1024;

fn long_result(session_id: &str) -> PostResult {
    PostResult::new(session_id, completed().with_summary("x".repeat(LONG)))
}

/// The last attempt's error against a platform that answers three requests with this step.
async fn fault(step: Http2Step) -> (AttemptError, bool) {
    let platform = Http2Platform::start(&[H2], vec![step.clone(); 3]);
    let poster = start(platform.options());
    let error = send_update(&poster, "i").await.unwrap_err();
    let may_have_been_delivered = error.may_have_been_delivered();
    let CallError::Transient(error) = error else {
        panic!("{step:?}: {error:?}");
    };
    assert_eq!(error.attempts, 3, "{step:?}");
    // The next call is not affected.
    assert_eq!(send_update(&poster, "i").await.unwrap().attempts(), Some(1), "{step:?}");
    (error.last, may_have_been_delivered)
}
