//! Faults below HTTP, and HTTP responses that are not the platform's.

use std::{
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, park},
    time::Duration,
};

use futures_util::future::join_all;
use result_poster::{
    AttemptError, CallError, NextStep, OptionsBuilder, PostResult,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    RETRY_LATER, TOKEN, completed, errors, options, outcome, platform_and_poster, post, post_outcome,
    raw_server::{RawStep, ScriptedServer, read_request, response, serve, serve_once, success, unsized_response},
    requests::{json, route, sent},
    send_update, start, status_update,
    wait::within,
};

#[actix_rt::test]
async fn the_last_of_three_faults_is_the_source_of_the_error() {
    let limit = Duration::from_millis(200);
    for steps in [
        [RawStep::Silence, RawStep::Silence, RawStep::write_and_close("")],
        [
            RawStep::write_and_close(""),
            RawStep::write(response(503, "", "")),
            RawStep::Silence,
        ],
    ] {
        let last_is_silence = matches!(steps[2], RawStep::Silence);
        let platform = ScriptedServer::start(steps);
        let poster = start(options(platform.url()).timeout(limit));
        let error = send_update(&poster, "issue-1").await.unwrap_err();
        assert_eq!(error.next_step(), NextStep::RetryLater { after: RETRY_LATER });
        assert!(error.may_have_been_delivered());
        let error = error.transient().unwrap();
        assert_eq!((error.attempts, platform.requests().len()), (3, 3));
        let source = &errors::texts(error)[1];
        if last_is_silence {
            let expected = "timed out after 200ms while waiting for the response; the request may have been processed";
            assert_eq!(source, expected);
        } else {
            assert!(matches!(error.last, AttemptError::ConnectionLost(_)), "{source}");
        }
    }
}

#[actix_rt::test]
async fn a_session_call_is_delivered_by_the_head_of_its_response() {
    let head = unsized_response(200, "content-length: 100\r\n", "");
    // Its body ends with the connection, which is not closed.
    let endless = unsized_response(200, "", "");
    for (first, second) in [
        (RawStep::write(head.clone()), RawStep::write_and_close(head)),
        (RawStep::write(endless.clone()), RawStep::write(endless)),
    ] {
        let platform = ScriptedServer::start([first, second]);
        let poster = start(options(platform.url()));
        // Less than the deadline of an attempt, which a wait for the body would reach.
        let receipt = within(Duration::from_secs(15), post(&poster, "s")).await.unwrap();
        assert_eq!(
            (receipt.completion.attempts(), receipt.status.attempts()),
            (Some(1), Some(1))
        );
    }
}

#[actix_rt::test]
async fn interim_responses_are_skipped() {
    for interim in ["100 Continue", "102 Processing", "103 Early Hints"] {
        let interim = format!("HTTP/1.1 {interim}\r\nlink: </x>\r\n\r\n");
        let platform = ScriptedServer::start([
            RawStep::write(interim.repeat(3) + &response(404, "", "no")),
            RawStep::write(success()),
            RawStep::write_and_close(interim),
        ]);
        let poster = start(options(platform.url()).max_attempts(1));
        assert_eq!(outcome(&send_update(&poster, "issue-1").await), "permanent:404");
        assert_eq!(outcome(&send_update(&poster, "issue-1").await), "ok");
        assert_eq!(outcome(&send_update(&poster, "issue-1").await), "transient:1");
    }
}

#[actix_rt::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (platform, poster) = platform_and_poster();
        platform.script(
            "completion",
            [Reply::status(status).header("location", platform.url() + "/login")],
        );
        let error = post(&poster, "s").await.unwrap_err();
        assert_eq!(error.permanent().unwrap().status_code, status);
        assert_eq!(sent(&platform, route), ["completion", "status"]);
    }
}

#[actix_rt::test]
async fn an_html_page_is_not_a_delivery() {
    let (platform, poster) = platform_and_poster();
    let page = Reply::status(200)
        .header("content-type", "text/html; charset=utf-8")
        .body("<html>login</html>");
    platform.script("completion", [page]);
    let error = post(&poster, "s").await.unwrap_err();
    assert!(matches!(
        error.transient().unwrap().last,
        AttemptError::UnexpectedResponse { status_code: 200, .. }
    ));
    assert_eq!(platform.requests().len(), 4);
}

#[actix_rt::test]
async fn an_html_page_without_a_type_is_not_a_delivery() {
    for page in ["<!DOCTYPE html><title>login</title>", "<html>login</html>"] {
        let sized = response(200, "", page);
        let ended_by_close = unsized_response(200, "", page);
        for step in [
            RawStep::write(sized),
            RawStep::write_and_close(ended_by_close.clone()),
            // The connection stays open: the page is known by its beginning.
            RawStep::write(ended_by_close),
        ] {
            let platform = ScriptedServer::start(vec![step; 2]);
            let poster = start(options(platform.url()).max_attempts(1));
            assert_eq!(post_outcome(&post(&poster, "s").await), "transient:1;transient:1");
        }
    }
}

#[actix_rt::test]
async fn the_warnings_of_a_body_that_ends_with_the_connection_are_in_the_receipt() {
    let partly = unsized_response(200, "", r#"{"partsPosted":3,"totalParts":7}"#);
    let platform = ScriptedServer::start([RawStep::write_and_close(partly), RawStep::write(success())]);
    let receipt = post(&start(options(platform.url())), "s").await.unwrap();
    let warnings: Vec<_> = receipt.warnings().map(ToString::to_string).collect();
    assert_eq!(warnings, ["the platform posted 3 of 7 parts of the comment"]);
}

#[actix_rt::test]
async fn error_bodies_are_truncated_decoded_and_scrubbed() {
    let echo = format!("Bearer {TOKEN} is wrong");
    for (body, kept) in [
        ("x".repeat(10 * 1024 * 1024).into_bytes(), "x".repeat(4096)),
        ("日".repeat(2000).into_bytes(), "日".repeat(1365)),
        (b"caf\xe9 \xe6\x97".to_vec(), "caf\u{fffd} \u{fffd}".to_owned()),
        (echo.into_bytes(), "Bearer [REDACTED] is wrong".to_owned()),
        (b" \n".to_vec(), String::new()),
    ] {
        let (platform, poster) = platform_and_poster();
        platform.script("issue-tracker-proxy", [Reply::status(400).body(body)]);
        let error = send_update(&poster, "issue-1").await.unwrap_err();
        assert_eq!(error.permanent().unwrap().body, kept);
        // The next call is not affected.
        platform.script("issue-tracker-proxy", []);
        send_update(&poster, "issue-1").await.unwrap();
    }
}

#[actix_rt::test]
async fn the_deadline_covers_a_stalled_body() {
    let platform = ScriptedServer::start(vec![
        RawStep::write(unsized_response(
            500,
            "content-length: 100\r\n",
            "half"
        ));
        3
    ]);
    let poster = start(options(platform.url()).timeout(Duration::from_millis(100)));
    let error = send_update(&poster, "issue-1").await.unwrap_err();
    let AttemptError::RetryableResponse { status_code, body } = &error.transient().unwrap().last else {
        panic!("{error:?}");
    };
    assert_eq!((*status_code, body.as_str()), (500, "half"));
}

#[actix_rt::test]
async fn may_have_been_delivered_survives_a_later_rejection() {
    let platform = ScriptedServer::start([
        RawStep::write_and_close(""),
        RawStep::write(response(409, "", "done already")),
    ]);
    let error = send_update(&start(options(platform.url())), "issue-1")
        .await
        .unwrap_err();
    assert_eq!(error.permanent().unwrap().status_code, 409);
    assert!(error.may_have_been_delivered());
}

#[actix_rt::test]
async fn may_have_been_delivered_survives_later_connect_errors() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(500)]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let poster = start(options(platform.url()).base_delay(second).clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(status_update("issue-1")));
    clock.wait_for_sleepers(1).await;
    drop(platform);
    for wait in [second, 2 * second] {
        clock.wait_for_sleepers(1).await;
        clock.advance(wait);
    }
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error.transient().unwrap().last, AttemptError::Connect(_)));
    assert!(error.may_have_been_delivered());
}

#[actix_rt::test]
async fn the_head_and_the_body_share_one_deadline() {
    // The head comes late, and the rest of the body does not come.
    let limit = Duration::from_millis(800);
    let server = serve_once(move |mut stream| {
        read_request(&mut stream).unwrap();
        thread::sleep(limit * 3 / 4);
        let half = unsized_response(400, "content-length: 100\r\n", "half");
        stream.write_all(half.as_bytes()).unwrap();
        park();
    });
    let poster = start(options(server.url()).timeout(limit));
    // With a deadline of its own for the body, the reply would come after 1.75 times the limit.
    let reply = within(limit * 3 / 2, send_update(&poster, "issue-1")).await;
    assert_eq!(reply.unwrap_err().permanent().unwrap().body, "half");
}

#[actix_rt::test]
async fn closing_connections_after_three_responses_loses_no_call() {
    // A connection is closed after its third response, even if a call is about to use it.
    let server = serve(|mut stream| {
        for _ in 0..3 {
            if read_request(&mut stream).is_none() || stream.write_all(success().as_bytes()).is_err() {
                return;
            }
        }
    });
    let poster = start(options(server.url()).max_in_flight(16));
    let calls = (0..300).map(|number| poster.send(status_update(format!("issue-{number}"))));
    for reply in join_all(calls).await {
        reply.unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn the_user_agent_is_configurable() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).user_agent("runner/7 (acme)"));
    post(&poster, "s").await.unwrap();
    let request = &platform.requests()[0];
    assert_eq!(request.header("user-agent"), Some("runner/7 (acme)"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
}

#[actix_rt::test]
async fn the_summary_limit_is_configurable() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_text_bytes(64));
    let result = completed().with_summary("x".repeat(65));
    poster.send(PostResult::new("s", result)).await.unwrap().unwrap();
    let body = &sent(&platform, json)[0];
    assert!(body["summary"].as_str().unwrap().len() <= 64);
}

#[actix_rt::test]
async fn an_html_page_with_an_invalid_content_type_is_not_a_delivery() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html; title=\xfc\r\ncontent-length: 0\r\n\r\n";
    let platform = ScriptedServer::start(vec![RawStep::write(head); 6]);
    let reply = post(&start(options(platform.url())), "s").await;
    assert_eq!(post_outcome(&reply), "transient:3;transient:3");
}

#[actix_rt::test]
async fn a_session_call_with_an_opaque_answer_is_delivered_on_a_kept_connection() {
    let head = "transfer-encoding: gzip, chunked\r\n";
    let answer = unsized_response(200, head, "4\r\n\x1f\x08\x00\x00\r\n0\r\n\r\n");
    let server = serve(
        move |mut stream| {
            while read_request(&mut stream).is_some() && stream.write_all(answer.as_bytes()).is_ok() {}
        },
    );
    let poster = start(options(server.url()));
    for _ in 0..3 {
        within(Duration::from_secs(5), post(&poster, "s")).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[actix_rt::test]
async fn a_poster_without_keep_alive_uses_each_connection_once() {
    let closes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&closes);
    let server = serve(move |mut stream| {
        while let Some(request) = read_request(&mut stream) {
            seen.lock().unwrap().push(request.header("connection") == Some("close"));
            let _ = stream.write_all(success().as_bytes());
        }
    });
    for (options, connections) in [
        (options(server.url()), 1),
        (options(server.url()).without_keep_alive(), 1 + 3),
    ] {
        let poster = start(options);
        for _ in 0..3 {
            send_update(&poster, "i").await.unwrap();
        }
        assert_eq!(server.connections(), connections);
    }
    assert_eq!(*closes.lock().unwrap(), [false, false, false, true, true, true]);
}

#[actix_rt::test]
async fn a_customized_client_keeps_the_settings_of_the_poster() {
    let platform = FakePlatform::start().unwrap();
    let options = options(platform.url()).customize_client(|client| {
        client
            .add_default_header(("x-runner", "7"))
            .add_default_header(("user-agent", "someone else"))
            .max_redirects(10)
            .timeout(Duration::from_nanos(1))
    });
    platform.script("completion", [Reply::status(302).header("location", "/login")]);
    let error = post(&start(options), "s").await.unwrap_err();
    assert_eq!(error.permanent().unwrap().status_code, 302);
    let requests = platform.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].header("x-runner"), Some("7"));
    assert_ne!(requests[0].header("user-agent"), Some("someone else"));
}

#[actix_rt::test]
async fn a_panic_in_a_call_affects_only_that_call() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(with_panicking_first_client(&platform));
    let error = send_update(&poster, "issue-1").await.unwrap_err();
    let CallError::Internal { message } = error else {
        panic!("{error:?}");
    };
    assert_eq!(message, "the first client panics");
    send_update(&poster, "issue-1").await.unwrap();
}

#[actix_rt::test]
async fn the_status_is_sent_after_a_panic_in_the_completion() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(with_panicking_first_client(&platform));
    let error = post(&poster, "s").await.unwrap_err();
    assert!(matches!(error.completion(), Some(CallError::Internal { .. })));
    assert!(error.status().is_none());
    assert_eq!(sent(&platform, route), ["status"]);
}

/// Options with which the client panics when it is built for the first time.
fn with_panicking_first_client(platform: &FakePlatform) -> OptionsBuilder {
    let builds = AtomicUsize::new(0);
    options(platform.url()).customize_client(move |client| {
        assert!(builds.fetch_add(1, Ordering::Relaxed) > 0, "the first client panics");
        client
    })
}
