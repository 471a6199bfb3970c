//! How an answer may be framed, and misframed: what the poster makes of it, and whether the connection serves again.

use std::time::Duration;

use result_poster::{AttemptError, CallError, UpdateIssueStatus};

use crate::support::{RawPlatform, Step, options, start};

const OK: &str = r#"{"success":true}"#;

/// What becomes of a call whose every attempt gets the same answer.
#[derive(Debug, PartialEq)]
enum Outcome {
    Delivered,
    /// There was no answer, as far as HTTP goes.
    Disconnected,
    /// There was an answer, with this status, and it is not the platform's.
    Unrecognized(u16),
}

use Outcome::{Delivered, Disconnected, Unrecognized};

/// The outcome of two calls, and the connections that they took.
async fn fate(answer: &str, closes: bool) -> (Outcome, usize) {
    let step = if closes { Step::WriteAndClose } else { Step::Write };
    let platform = RawPlatform::start(vec![step(answer.into()); 4]);
    let poster = start(options(&platform.url).max_attempts(1));
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let call = poster.send(UpdateIssueStatus::new("issue-1", "Finished"));
        // Nothing here takes until a deadline.
        let reply = actix_rt::time::timeout(Duration::from_secs(10), call).await;
        outcomes.push(match reply.expect("an answer").unwrap() {
            Ok(_) => Delivered,
            Err(CallError::Transient(error)) => match error.last {
                AttemptError::Disconnected(_) => Disconnected,
                AttemptError::Unrecognized { status_code, .. } => Unrecognized(status_code),
                other => panic!("{other:?}"),
            },
            Err(other) => panic!("{other:?}"),
        });
    }
    let second = outcomes.pop().unwrap();
    assert_eq!(outcomes, [second]);
    let ports = platform.requests();
    let mut ports: Vec<_> = ports.iter().map(|line| line.split(' ').next().unwrap()).collect();
    ports.dedup();
    (outcomes.remove(0), ports.len())
}

#[actix_rt::test]
async fn answers_that_stay_on_their_connection() {
    let many_headers: String = (0..10_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long_header = format!("x: {}\r\n", "a".repeat(1024 * 1024));
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    for (what, answer, outcome, connections) in [
        (
            "sized",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{OK}"),
            Delivered,
            1,
        ),
        (
            "chunked",
            format!("HTTP/1.1 200 OK\r\n{chunked}8\r\n{{\"succes\r\n8\r\ns\":true}}\r\n0\r\n\r\n"),
            Delivered,
            1,
        ),
        (
            "both, of which chunked counts",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n{chunked}10\r\n{OK}\r\n0\r\n\r\n"),
            Delivered,
            1,
        ),
        (
            "bare line feeds",
            format!("HTTP/1.1 200 OK\ncontent-length: 16\n\n{OK}"),
            Delivered,
            1,
        ),
        (
            "HTTP/1.0",
            format!("HTTP/1.0 200 OK\r\ncontent-length: 16\r\n\r\n{OK}"),
            Delivered,
            2,
        ),
        (
            "HTTP/1.0 with keep-alive",
            format!("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 16\r\n\r\n{OK}"),
            Delivered,
            1,
        ),
        (
            "two answers to one request",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{OK}HTTP/1.1 404 No\r\n\r\n"),
            Delivered,
            2,
        ),
        (
            "longer than it says",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{OK}"),
            Unrecognized(200),
            2,
        ),
        (
            "no body",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into(),
            Unrecognized(200),
            1,
        ),
        (
            "unknown status",
            format!("HTTP/1.1 999 Odd\r\ncontent-length: 16\r\n\r\n{OK}"),
            Unrecognized(999),
            1,
        ),
        (
            "a hint before the answer",
            format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{OK}"),
            Delivered,
            1,
        ),
        (
            "two hints before the answer",
            format!(
                "HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{OK}"
            ),
            Delivered,
            1,
        ),
        (
            "another protocol",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx".into(),
            Unrecognized(101),
            2,
        ),
        (
            "two lengths",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 16\r\ncontent-length: 5\r\n\r\n{OK}"),
            Disconnected,
            2,
        ),
        (
            "a negative length",
            format!("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{OK}"),
            Disconnected,
            2,
        ),
        (
            "a length beyond all numbers",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{OK}"),
            Disconnected,
            2,
        ),
        (
            "no status",
            format!("HTTP/1.1 000 None\r\ncontent-length: 16\r\n\r\n{OK}"),
            Disconnected,
            2,
        ),
        (
            "another version",
            format!("HTTP/2.0 200 OK\r\ncontent-length: 16\r\n\r\n{OK}"),
            Disconnected,
            2,
        ),
        (
            "ten thousand headers",
            format!("HTTP/1.1 200 OK\r\n{many_headers}content-length: 16\r\n\r\n{OK}"),
            Disconnected,
            2,
        ),
        (
            "a header of a megabyte",
            format!("HTTP/1.1 200 OK\r\n{long_header}content-length: 16\r\n\r\n{OK}"),
            Disconnected,
            2,
        ),
    ] {
        assert_eq!(fate(&answer, false).await, (outcome, connections), "{what}");
    }
}

#[actix_rt::test]
async fn answers_that_end_with_their_connection() {
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    for (what, answer, outcome) in [
        (
            "HTTP/1.0, ended by its close",
            format!("HTTP/1.0 200 OK\r\n\r\n{OK}"),
            Delivered,
        ),
        (
            "longer than what came, which is whole JSON",
            format!("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{OK}"),
            Delivered,
        ),
        (
            "longer than what came, which is not",
            "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"succ".into(),
            Unrecognized(200),
        ),
        (
            "chunked, without its end",
            format!("HTTP/1.1 200 OK\r\n{chunked}10\r\n{OK}\r\n"),
            Delivered,
        ),
        (
            "chunked, cut short",
            format!("HTTP/1.1 200 OK\r\n{chunked}10\r\n{{\"succ"),
            Unrecognized(200),
        ),
        (
            "chunked garbage",
            format!("HTTP/1.1 200 OK\r\n{chunked}zz\r\nxxx"),
            Unrecognized(200),
        ),
        (
            "HTTP/1.1, ended by its close",
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{OK}"),
            Delivered,
        ),
    ] {
        assert_eq!(fate(&answer, true).await, (outcome, 2), "{what}");
    }
}
