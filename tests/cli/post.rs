use result_poster::testing::Reply;
use serde_json::Value;

use crate::support::{Fixture, Ran};

const RESULT: &str = r#"{"status":"completed","summary":"Done."}"#;

#[test]
fn a_result_is_delivered_from_stdin() {
    let fixture = Fixture::new();
    let ran = Ran::with_input(fixture.command().args(["post", "--session", "sess-1", "-"]), RESULT).succeeded();
    let lines: Vec<_> = ran.lines().collect();
    assert!(
        lines[0].starts_with("completion: delivered after 1 attempt in 0."),
        "{ran}"
    );
    assert!(lines[1].starts_with("status: delivered after 1 attempt in 0."), "{ran}");
    let requests = fixture.platform.requests();
    assert_eq!(requests[0].json().unwrap()["workerId"], "wkr_1");
}

#[test]
fn a_retried_attempt_is_reported_once_with_its_reason() {
    let fixture = Fixture::new();
    fixture
        .platform
        .script("completion", [Reply::status(503).body("busy"), Reply::ok()]);
    let file = fixture.file("result.json", RESULT);
    let ran = Ran::of(
        fixture
            .command()
            .env("RESULT_POSTER_MAX_ATTEMPTS", "2")
            .env("RESULT_POSTER_BASE_DELAY", "10ms")
            .args(["post", "--session", "sess-1"])
            .arg(file),
    );
    assert_eq!(ran.status, 0);
    let expected = "result-poster: completion: attempt 1 failed: the platform answered 503; retrying in 10ms\n";
    assert_eq!(ran.errors, expected);
}

#[test]
fn a_rejected_result_is_status_1() {
    let fixture = Fixture::new();
    fixture.platform.script("completion", [Reply::status(409).body("gone")]);
    let file = fixture.file("result.json", RESULT);
    let ran = Ran::of(fixture.command().args(["post", "--session", "sess-1"]).arg(file));
    let error = ran.failed(1);
    assert!(
        error.starts_with("the completion failed, the status was delivered: ") && error.contains("409"),
        "{error}"
    );
    assert!(error.ends_with("; the same result would fail again"), "{error}");
    assert!(
        ran.output.starts_with("completion: not delivered\nstatus: delivered\n"),
        "{}",
        ran.output
    );
}

#[test]
fn a_result_that_the_outbox_can_not_store_is_sent_and_says_so() {
    let fixture = Fixture::new();
    let (path, file) = (fixture.path("outbox.db"), fixture.file("result.json", RESULT));
    let post = || {
        let mut command = fixture.command();
        command.env("RESULT_POSTER_OUTBOX_PATH", &path);
        command.env("RESULT_POSTER_OUTBOX_MAX_BYTES", "1");
        Ran::of(command.args(["post", "--session", "sess-1"]).arg(&file))
    };
    let reason = "the outbox could not store it: no space left: the disk is full or `max_bytes` is reached";
    let ran = post();
    assert_eq!(ran.errors, format!("result-poster: warning: {reason}\n"));
    assert_eq!(ran.status, 0);
    fixture.platform.script("completion", [Reply::status(503)]);
    let ran = post();
    let error = ran.failed(1);
    assert!(error.contains(&format!("; {reason}; ")), "{error}");
}

#[test]
fn a_parked_result_is_status_3_and_is_delivered_by_the_next_one() {
    let fixture = Fixture::new();
    let path = fixture.path("outbox.db");
    fixture
        .platform
        .script("sess-1/completion", [Reply::status(503), Reply::ok()]);
    fixture
        .platform
        .script("sess-1/status", [Reply::status(503), Reply::ok()]);
    let file = fixture.file("result.json", RESULT);
    let post = |session: &str| {
        let mut command = fixture.command();
        command.args(["post", "--json", "--session", session, "--outbox"]);
        Ran::of(command.args([&path, &file]))
    };
    let ran = post("sess-1");
    assert!(
        ran.failed(3)
            .ends_with("; the outbox delivers it when a poster uses the outbox"),
        "{}",
        ran.errors
    );
    let output: Value = serde_json::from_str(&ran.output).unwrap();
    assert_eq!(output["completion"]["state"], "parked");
    assert_eq!(fixture.ids()[0], output["completion"]["id"]);
    let delivered: Value = serde_json::from_str(&post("sess-2").succeeded()).unwrap();
    assert_eq!(delivered["status"]["state"], "delivered");
}

#[test]
fn an_unreadable_result_is_status_2_and_nothing_is_sent() {
    let fixture = Fixture::new();
    for (content, expected) in [
        ("{", "is not a result: "),
        (r#"{"status":"done"}"#, "is not a result: "),
    ] {
        let file = fixture.file("result.json", content);
        let ran = Ran::of(fixture.command().args(["post", "--session", "sess-1"]).arg(file));
        assert!(ran.failed(2).contains(expected), "{}", ran.errors);
    }
    let ran = Ran::of(fixture.command().args(["post", "--session", "sess-1", "/no/such/file"]));
    assert!(
        ran.failed(2).starts_with("can't read /no/such/file: "),
        "{}",
        ran.errors
    );
    let file = fixture.file("result.json", RESULT);
    let ran = Ran::of(fixture.command().args(["post", "--session", " "]).arg(file));
    assert!(ran.failed(2).contains("session"), "{}", ran.errors);
    assert_eq!(fixture.platform.requests().len(), 0);
}
