//! Results and texts that were seen in the field, and lost their session's result with other runners.

use result_poster::{
    AgentResult, CreateComment, PostReceipt, PostResult, SessionStatus, Warning, WorkResult,
    testing::{FakePlatform, Reply},
};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{
    completed,
    log::{keep_log, logged},
    options, platform_and_poster,
    requests::{json, sent},
    start,
};

#[derive(Deserialize)]
struct Case {
    kind: String,
    name: String,
    input: String,
    expected: String,
}

fn cases(kind: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = serde_json::from_str(include_str!("../data/field.json")).unwrap();
    cases.retain(|case| case.kind == kind);
    cases
}

#[test]
fn every_result_of_the_field_is_read() {
    let cases = cases("result-json");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let read = AgentResult::from_json(case.input.as_bytes());
        if case.name == "an unknown status" {
            let error = read.unwrap_err().to_string();
            assert!(
                ["done", "completed", "failed", "stopped"]
                    .iter()
                    .all(|status| error.contains(status))
            );
            continue;
        }
        let result = read.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let cost = result.cost.clone().unwrap_or_default();
        let warnings: Vec<_> = result.warnings().iter().map(Warning::to_string).collect();
        match case.name.as_str() {
            "half an emoji in the summary" => assert_eq!(result.summary.as_deref(), Some("cut \u{fffd}")),
            "half an emoji in a field that is never sent" | "an error that is an object" => {
                assert_eq!(result.error.as_deref(), Some("boom"));
            }
            "a token count with a fraction" => {
                assert_eq!((cost.input_tokens, cost.total_cost_usd), (Some(1234), Some(0.5)));
            }
            "a cost as text" => {
                assert_eq!((cost.total_cost_usd, result.summary.as_deref()), (None, Some("s")));
                assert_eq!(warnings, ["`cost.totalCostUsd` was left out: it is not a number"]);
            }
            "nested a thousand deep in a report" => assert_eq!(warnings.len(), 1),
            "a blocked work result" => assert_eq!(result.work_result, Some(WorkResult::Blocked)),
            other => panic!("no case named {other}: {}", case.expected),
        }
    }
}

/// Posts a result. Returns the receipt, and the bodies of the completion and the status.
async fn post(result: AgentResult) -> (PostReceipt, Value, Value) {
    let (platform, poster) = platform_and_poster();
    let receipt = poster.send(PostResult::new("s", result)).await.unwrap().unwrap();
    let [completion, status] = sent(&platform, json).try_into().unwrap();
    (receipt, completion, status)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[actix_rt::test]
async fn an_error_of_5_mb_is_cut_and_says_so() {
    let [case, ..] = &cases("text")[..] else { panic!() };
    assert_eq!(case.input, "error: 5,460,059 bytes");
    let result = AgentResult::new(SessionStatus::Failed).with_error("e".repeat(5_460_059));
    let (receipt, _, status) = post(result).await;
    assert!(status.to_string().len() < 128 * 1024);
    let message = text(&status["error"]["message"]);
    let last_line = message.lines().last().unwrap();
    assert!(last_line.ends_with(" of 5460059 bytes cut]"), "{last_line}");
    let warnings: Vec<_> = receipt.warnings().map(Warning::to_string).collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("`error` was cut by "));
}

#[actix_rt::test]
async fn a_summary_of_980_kb_with_colours_is_cut_as_it_is_encoded() {
    let line = "\u{1b}[32mok\u{1b}[0m test \"a\"\n";
    let summary = line.repeat(980 * 1024 / line.len());
    let (_, completion, status) = post(completed().with_summary(summary)).await;
    for body in [completion, status] {
        let encoded = Value::from(text(&body["summary"])).to_string();
        assert!(
            (90 * 1024..=96 * 1024 + 2).contains(&encoded.len()),
            "{}",
            encoded.len()
        );
    }
}

#[actix_rt::test]
async fn a_nul_becomes_a_replacement_character_in_all_texts() {
    let result = AgentResult::new(SessionStatus::Failed)
        .with_summary("a\0b")
        .with_error("c\0d")
        .with_failure_mode("e\0f");
    let (_, completion, status) = post(result).await;
    assert_eq!(completion["summary"], "a\u{fffd}b");
    assert_eq!(status["summary"], "a\u{fffd}b");
    assert_eq!(status["error"]["message"], "c\u{fffd}d");
    assert_eq!(status["failureMode"], "e\u{fffd}f");

    let (platform, poster) = platform_and_poster();
    poster.send(CreateComment::new("i", "g\0h")).await.unwrap().unwrap();
    assert_eq!(sent(&platform, json)[0]["args"][1], "g\u{fffd}h");
}

#[actix_rt::test]
async fn the_warnings_of_a_result_are_in_its_receipt() {
    let result = AgentResult::from_json(br#"{"status":"completed","toolCalls":-1,"manifest":7}"#).unwrap();
    let (receipt, _, status) = post(result).await;
    let warnings: Vec<_> = receipt.warnings().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "`toolCalls` was left out: it is not a whole number in range",
            "`manifest` was left out: it is not an object",
        ]
    );
    assert_eq!((&status["toolCalls"], status.get("manifest")), (&Value::from(0), None));
}

#[actix_rt::test]
async fn a_cut_comment_is_in_the_warnings_of_its_receipt() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_text_bytes(64));
    let comment = CreateComment::new("i", "x".repeat(100));
    let receipt = poster.send(comment).await.unwrap().unwrap();
    assert!(receipt.warnings()[0].to_string().starts_with("`body` was cut by "));
}

#[actix_rt::test]
async fn a_warning_is_logged_with_the_call_and_once_for_all_attempts() {
    keep_log();
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(503), Reply::ok()]);
    let result = AgentResult::from_json(br#"{"status":"completed","resumable":"yes"}"#).unwrap();
    poster.send(PostResult::new("warned", result)).await.unwrap().unwrap();
    let line = "WARN result_poster::telemetry::recorder completion of session \"warned\": `resumable` was left out: \
                it is not true or false kind=completion target_id=\"warned\"";
    let lines: Vec<_> = logged()
        .into_iter()
        .filter(|line| line.contains("`resumable`"))
        .collect();
    assert_eq!(lines, [line]);
}
