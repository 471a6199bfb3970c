//! Faults below HTTP, and answers that HTTP has and the platform has not.

use std::{
    error::Error as _,
    io::Write as _,
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use result_poster::{
    AttemptError, CallError, PostResult, UpdateIssueStatus,
    testing::{FakePlatform, ManualClock, Reply},
};

use crate::support::{
    RawPlatform, Step, TOKEN, completed, options, outcome, platform_and_poster, post, post_outcome, read_request,
    routes, start,
};

fn update() -> UpdateIssueStatus {
    UpdateIssueStatus::new("issue-1", "Finished")
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn success() -> Vec<u8> {
    answer("200 OK", r#"{"success":true}"#)
}

#[actix_rt::test]
async fn a_fault_is_tried_again_and_its_last_one_is_the_errors_source() {
    let limit = Duration::from_millis(200);
    for steps in [
        [Step::Silence, Step::Silence, Step::WriteAndClose(Vec::new())],
        [
            Step::WriteAndClose(Vec::new()),
            Step::Write(answer("503 Later", "")),
            Step::Silence,
        ],
    ] {
        let last_is_silence = matches!(steps[2], Step::Silence);
        let platform = RawPlatform::start(steps);
        let error = start(options(&platform.url).timeout(limit)).send(update()).await;
        let error = error.unwrap().unwrap_err();
        assert!(error.is_retryable() && error.may_have_been_delivered());
        let error = error.transient().unwrap();
        assert_eq!((error.attempts, platform.requests().len()), (3, 3));
        let source = error.source().unwrap().to_string();
        if last_is_silence {
            let expected =
                "the deadline of 200ms passed while waiting for the answer, the platform may have taken the request";
            assert_eq!(source, expected);
        } else {
            assert!(matches!(error.last, AttemptError::Disconnected(_)), "{source}");
        }
    }
}

#[actix_rt::test]
async fn a_session_call_is_delivered_by_its_head_whatever_the_body_does() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    // One that goes on to the connection's close, which never comes.
    let endless = "HTTP/1.1 200 OK\r\n\r\n";
    for (first, second) in [
        (Step::Write(head.into()), Step::WriteAndClose(head.into())),
        (Step::Write(endless.into()), Step::Write(endless.into())),
    ] {
        let platform = RawPlatform::start([first, second]);
        let poster = start(options(&platform.url));
        // Long before the deadline of an attempt.
        let reply = actix_rt::time::timeout(Duration::from_secs(15), post(&poster, "s"));
        let receipt = reply.await.expect("no wait for the body").unwrap();
        assert_eq!((receipt.completion.attempts, receipt.status.attempts), (1, 1));
    }
}

#[actix_rt::test]
async fn an_interim_answer_is_not_the_answer() {
    for interim in ["100 Continue", "102 Processing", "103 Early Hints"] {
        let interim = format!("HTTP/1.1 {interim}\r\nlink: </x>\r\n\r\n");
        let refusal = String::from_utf8(answer("404 Not Found", "no")).unwrap();
        let platform = RawPlatform::start([
            Step::Write((interim.repeat(3) + &refusal).into()),
            Step::Write(success()),
            Step::WriteAndClose(interim.into()),
        ]);
        let poster = start(options(&platform.url).max_attempts(1));
        assert_eq!(outcome(&poster.send(update()).await.unwrap()), "permanent:404");
        assert_eq!(outcome(&poster.send(update()).await.unwrap()), "ok");
        assert_eq!(outcome(&poster.send(update()).await.unwrap()), "transient:1");
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
        assert_eq!(routes(&platform), ["completion", "status"]);
    }
}

#[actix_rt::test]
async fn a_page_in_the_platforms_place_is_no_delivery() {
    let (platform, poster) = platform_and_poster();
    let page = Reply::status(200)
        .header("content-type", "text/html; charset=utf-8")
        .body("<html>login</html>");
    platform.script("completion", [page]);
    let error = post(&poster, "s").await.unwrap_err();
    assert!(matches!(
        error.transient().unwrap().last,
        AttemptError::Unrecognized { status_code: 200, .. }
    ));
    assert_eq!(platform.requests().len(), 4);
}

#[actix_rt::test]
async fn an_error_keeps_the_start_of_a_body_whatever_it_holds() {
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
        let error = poster.send(update()).await.unwrap().unwrap_err();
        assert_eq!(error.permanent().unwrap().body, kept);
        // And the client is as good as new.
        platform.script("issue-tracker-proxy", []);
        poster.send(update()).await.unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn a_deadline_covers_a_body_that_drips() {
    let platform = RawPlatform::start(vec![
        Step::Write(
            b"HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\nhalf".to_vec()
        );
        3
    ]);
    let poster = start(options(&platform.url).timeout(Duration::from_millis(100)));
    let error = poster.send(update()).await.unwrap().unwrap_err();
    let AttemptError::Unavailable { status_code, body } = &error.transient().unwrap().last else {
        panic!("{error:?}");
    };
    assert_eq!((*status_code, body.as_str()), (500, "half"));
}

#[actix_rt::test]
async fn an_earlier_attempt_without_an_answer_is_remembered() {
    let platform = RawPlatform::start([
        Step::WriteAndClose(Vec::new()),
        Step::Write(answer("409 Conflict", "done already")),
    ]);
    let error = start(options(&platform.url)).send(update()).await.unwrap().unwrap_err();
    assert_eq!(outcome(&Err(error)), "permanent:409");
    let platform = RawPlatform::start([
        Step::WriteAndClose(Vec::new()),
        Step::Write(answer("409 Conflict", "done already")),
    ]);
    let error = start(options(&platform.url)).send(update()).await.unwrap().unwrap_err();
    assert!(error.may_have_been_delivered());
}

#[actix_rt::test]
async fn a_doubt_is_not_forgotten_when_the_platform_is_gone_afterwards() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(500)]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let poster = start(options(platform.url()).base_delay(second).clock(clock.clone()));
    let reply = actix_rt::spawn(poster.send(update()));
    clock.sleepers(1).await;
    drop(platform);
    for wait in [second, 2 * second] {
        clock.sleepers(1).await;
        clock.advance(wait);
    }
    let error = reply.await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error.transient().unwrap().last, AttemptError::Connect(_)));
    assert!(error.may_have_been_delivered());
}

#[actix_rt::test]
async fn head_and_body_share_one_deadline() {
    // The head comes late, and the rest of the body never.
    let limit = Duration::from_millis(800);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        std::thread::sleep(limit * 3 / 4);
        stream
            .write_all(b"HTTP/1.1 400 Oops\r\ncontent-length: 100\r\n\r\nhalf")
            .unwrap();
        std::thread::sleep(limit * 100);
    });
    let reply = start(options(url).timeout(limit)).send(update());
    // A deadline of its own for the body would make it 1.75 times the limit.
    let reply = actix_rt::time::timeout(limit * 3 / 2, reply)
        .await
        .expect("one deadline");
    assert_eq!(reply.unwrap().unwrap_err().permanent().unwrap().body, "half");
}

#[actix_rt::test]
async fn a_platform_that_hangs_up_again_and_again_costs_no_call() {
    // Three answers on each connection, after which it is closed, whoever may be about to use it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                for _ in 0..3 {
                    if read_request(&mut stream).is_none() || stream.write_all(&success()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let poster = start(options(url).max_in_flight(16));
    let calls = (0..300).map(|number| poster.send(UpdateIssueStatus::new(format!("issue-{number}"), "Finished")));
    for reply in join_all(calls).await {
        reply.unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn options_of_the_wire_reach_the_wire() {
    let platform = FakePlatform::start().unwrap();
    let options = options(platform.url())
        .user_agent("runner/7 (acme)")
        .max_summary_bytes(64);
    let result = completed().with_summary("x".repeat(65));
    start(options)
        .send(PostResult::new("s", result))
        .await
        .unwrap()
        .unwrap();
    let request = &platform.requests()[0];
    assert_eq!(request.header("user-agent"), Some("runner/7 (acme)"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert!(request.json().unwrap()["summary"].as_str().unwrap().len() <= 64);
}

#[actix_rt::test]
async fn a_page_is_a_page_whatever_else_its_type_says() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html; title=\xfc\r\ncontent-length: 0\r\n\r\n";
    let platform = RawPlatform::start(vec![Step::Write(head.to_vec()); 6]);
    let reply = post(&start(options(&platform.url)), "s").await;
    assert_eq!(post_outcome(&reply), "transient:3;transient:3");
}

#[actix_rt::test]
async fn a_customized_client_keeps_what_the_poster_relies_on() {
    let (platform, _) = platform_and_poster();
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
async fn a_panic_in_a_call_costs_that_call() {
    let (platform, _) = platform_and_poster();
    let calls = AtomicUsize::new(0);
    let options = options(platform.url()).customize_client(move |client| {
        assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "the first client is cursed");
        client
    });
    let poster = start(options);
    let error = poster.send(update()).await.unwrap().unwrap_err();
    let CallError::Internal { message } = error else {
        panic!("{error:?}");
    };
    assert_eq!(message, "the first client is cursed");
    poster.send(update()).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn status_is_sent_after_a_panic_in_the_completion() {
    let (platform, _) = platform_and_poster();
    let calls = AtomicUsize::new(0);
    let options = options(platform.url()).customize_client(move |client| {
        assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "the first client is cursed");
        client
    });
    let error = post(&start(options), "s").await.unwrap_err();
    assert!(matches!(error.completion(), Some(CallError::Internal { .. })));
    assert!(error.status().is_none());
    assert_eq!(routes(&platform), ["status"]);
}
