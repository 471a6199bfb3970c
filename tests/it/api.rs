//! The public types: their traits, their names in text and JSON, and the texts of the errors along their sources.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt::{Debug, Display},
    hash::Hash,
    net::SocketAddr,
    str::FromStr,
    time::Duration,
};

use actix::{Addr, Message};
use h2::Reason;
use jiff::Timestamp;
use result_poster::{
    AgentResult, AttemptError, AttemptPhase, CallError, CallId, CallKind, CallReceipt, CancelledBy, Clock, Cost,
    CreateComment, CredentialError, FailureKind, InvalidMessageError, NextStep, Options, OptionsBuilder, OptionsError,
    OutboxError, ParkReason, ParkedError, ParseCallIdError, PermanentError, PostError, PostReceipt, PostResult,
    ReadResultError, ResultPoster, SessionStatus, SharedError, Shutdown, ShutdownReport, TerminalWorkareaLease,
    TransientError, UnknownNameError, UpdateIssueStatus, Warning, WireFormat, WorkResult,
    credentials::{
        CredentialActor, CredentialActorBuilder, GetCredentialActor, GetCredentials, InvalidateCredentials,
        IssuedCredentials, RefreshCredentials, RuntimeCredentials, RuntimeTokenFile,
    },
    events::{
        DeliveryEvent, DeliveryEventKind, EventCall, GetStats, Histogram, Metric, MetricKind, PosterStats, Subscribe,
    },
    health::{CredentialsHealth, GetHealth, Health, OutboxHealth, PlatformHealth, ShutdownProgress},
    outbox::{
        AwaitDelivery, DeadLetter, Delivery, DeliveryEnd, DeliveryState, Discard, DiscardTarget, DiscardedTarget,
        EntryOwner, EntryQuery, EntryState, GetDelivery, GetOutboxStats, ListEntries, OutboxEntry, OutboxInspector,
        OutboxOptions, OutboxOptionsBuilder, OutboxStats, Requeue,
    },
    testing::{Crash, FakePlatform, ManualClock, PlatformRules, RecordedRequest, Reply},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::{
    builder, completed,
    errors::{self, texts},
    http2::{H2, Http2Platform, Http2Step},
    options,
    outbox::OutboxFixture,
    platform_and_poster, post,
    provider::{ProviderStep, ScriptedProvider},
    raw_server::{RawStep, ScriptedServer},
    send_update, start, status_update,
};

#[test]
fn errors_can_be_cloned_compared_and_sent_to_any_thread() {
    fn check<E: Error + Clone + PartialEq + Send + Sync + 'static>() {}
    check::<AttemptError>();
    check::<CallError>();
    check::<CredentialError>();
    check::<InvalidMessageError>();
    check::<OptionsError>();
    check::<OutboxError>();
    check::<ParkedError>();
    check::<ParseCallIdError>();
    check::<PermanentError>();
    check::<PostError>();
    check::<ReadResultError>();
    check::<TransientError>();
    check::<UnknownNameError>();

    // Not an error itself, since it dereferences to one.
    fn check_shared<E: Debug + Display + Clone + PartialEq + Send + Sync + 'static>() {}
    check_shared::<SharedError>();
}

#[test]
fn messages_can_be_sent_stored_and_compared() {
    fn check<M: Message + Send + Serialize + DeserializeOwned + PartialEq + Clone + Debug>() {}
    check::<PostResult>();
    check::<UpdateIssueStatus>();
    check::<CreateComment>();
    check::<Shutdown>();
    check::<ListEntries>();
    check::<Requeue>();
    check::<Discard>();
    check::<DiscardTarget>();
    check::<GetDelivery>();
    check::<AwaitDelivery>();
    check::<GetOutboxStats>();

    fn check_local<M: Message + Send + Clone + Debug>() {}
    check_local::<GetStats>();
    check_local::<GetHealth>();
    check_local::<Subscribe>();
    check_local::<DeliveryEvent>();
    check_local::<GetCredentials>();
    check_local::<RefreshCredentials>();
    check_local::<InvalidateCredentials>();
    check_local::<GetCredentialActor>();
    check_local::<Crash>();
}

#[test]
fn options_replies_and_events_can_be_sent_to_any_thread() {
    fn check<T: Clone + Debug + Send + Sync + 'static>() {}
    check::<Options>();
    check::<OptionsBuilder>();
    check::<OutboxOptions>();
    check::<OutboxOptionsBuilder>();
    check::<CredentialActorBuilder>();
    check::<RuntimeCredentials>();
    check::<RuntimeTokenFile>();
    check::<IssuedCredentials>();
    check::<AgentResult>();
    check::<TerminalWorkareaLease>();
    check::<Warning>();
    check::<WireFormat>();
    check::<Cost>();
    check::<CallReceipt>();
    check::<PostReceipt>();
    check::<ShutdownReport>();
    check::<PosterStats>();
    check::<OutboxStats>();
    check::<Metric>();
    check::<DeliveryEvent>();
    check::<DeliveryEventKind>();
    check::<EventCall>();
    check::<Histogram>();
    check::<Health>();
    check::<PlatformHealth>();
    check::<CredentialsHealth>();
    check::<OutboxHealth>();
    check::<ShutdownProgress>();
    check::<OutboxEntry>();
    check::<DeadLetter>();
    check::<Delivery>();
    check::<DeliveryState>();
    check::<DeliveryEnd>();
    check::<DiscardedTarget>();
    check::<EntryOwner>();
    check::<EntryQuery>();
    check::<CallId>();
    check::<NextStep>();
    check::<CancelledBy>();
    check::<Clock>();
    check::<ManualClock>();
    check::<Reply>();
    check::<RecordedRequest>();
    check::<PlatformRules>();
    check::<Addr<ResultPoster>>();
    check::<Addr<CredentialActor>>();

    fn check_unique<T: Debug + Send + Sync + 'static>() {}
    check_unique::<FakePlatform>();
    check_unique::<OutboxInspector>();
}

#[test]
fn events_statistics_receipts_and_entries_can_be_serialized() {
    fn check<T: Serialize + PartialEq + Debug>() {}
    check::<DeliveryEvent>();
    check::<DeliveryEventKind>();
    check::<EventCall>();
    check::<Histogram>();
    check::<Health>();
    check::<PlatformHealth>();
    check::<CredentialsHealth>();
    check::<OutboxHealth>();
    check::<ShutdownProgress>();
    check::<PosterStats>();
    check::<Metric>();
    check::<CallReceipt>();
    check::<PostReceipt>();
    check::<ShutdownReport>();
    check::<OutboxEntry>();
    check::<DeadLetter>();
    check::<Delivery>();
    check::<DeliveryState>();
    check::<DeliveryEnd>();
    check::<DiscardedTarget>();
    check::<EntryOwner>();
    check::<OutboxStats>();
    check::<NextStep>();
    check::<CancelledBy>();
    check::<CallId>();
    check::<CallKind>();
    check::<FailureKind>();
    check::<MetricKind>();
    check::<EntryState>();
    check::<ParkReason>();
    check::<AttemptPhase>();
    check::<Warning>();
}

#[test]
fn labels_are_ordered_and_have_one_name_in_text_and_json() {
    /// The names of all labels of a type, which are given in their order.
    fn names<L>(labels: &[L]) -> Vec<String>
    where
        L: Clone + Ord + Hash + Debug + Display + FromStr<Err: Debug> + Serialize + DeserializeOwned,
    {
        assert!(labels.is_sorted_by(|one, next| one < next), "{labels:?}");
        let name = |label: &L| {
            let name = label.to_string();
            assert_eq!(name.parse::<L>().unwrap(), *label);
            let json = serde_json::to_value(label).unwrap();
            assert_eq!(json, Value::from(name.as_str()));
            assert_eq!(serde_json::from_value::<L>(json).unwrap(), *label);
            name
        };
        labels.iter().map(name).collect()
    }
    use CallKind::{Completion, CreateComment, Status, UpdateIssueStatus};
    assert_eq!(
        names(&[Completion, Status, UpdateIssueStatus, CreateComment]),
        ["completion", "status", "updateIssueStatus", "createComment"]
    );
    assert_eq!(
        names(&[
            FailureKind::Invalid,
            FailureKind::NoCredentials,
            FailureKind::Permanent,
            FailureKind::Transient,
            FailureKind::Parked,
            FailureKind::Cancelled,
            FailureKind::Overloaded,
            FailureKind::ShuttingDown,
            FailureKind::Internal,
        ]),
        [
            "invalid",
            "no_credentials",
            "permanent",
            "transient",
            "parked",
            "cancelled",
            "overloaded",
            "shutting_down",
            "internal"
        ]
    );
    assert_eq!(
        names(&[WireFormat::Extended, WireFormat::Baseline]),
        ["extended", "baseline"]
    );
    assert_eq!(names(&[MetricKind::Counter, MetricKind::Gauge]), ["counter", "gauge"]);
    assert_eq!(
        names(&[EntryState::Live, EntryState::Parked, EntryState::DeadLetter]),
        ["live", "parked", "dead_letter"]
    );
    assert_eq!(
        names(&[SessionStatus::Completed, SessionStatus::Failed, SessionStatus::Stopped]),
        ["completed", "failed", "stopped"]
    );
    assert_eq!(
        names(&[
            WorkResult::Passed,
            WorkResult::Failed,
            WorkResult::Blocked,
            WorkResult::Unknown,
            WorkResult::Other("flaky".into()),
        ]),
        ["passed", "failed", "blocked", "unknown", "flaky"]
    );
    assert_eq!(
        names(&[AttemptPhase::Connecting, AttemptPhase::Sending, AttemptPhase::Waiting]),
        ["connecting", "sending", "waiting"]
    );
    assert_eq!(
        names(&[CancelledBy::Token, CancelledBy::Shutdown]),
        ["token", "shutdown"]
    );
    let reasons = names(&[
        ParkReason::AttemptsFailed,
        ParkReason::LaneParked,
        ParkReason::QueueFull,
        ParkReason::NoCredentials,
        ParkReason::Unauthorized,
        ParkReason::TrackerUnauthorized,
        ParkReason::Shutdown,
        ParkReason::AlreadyStored,
        ParkReason::Requeued,
    ]);
    assert!(reasons.iter().all(|reason| !reason.is_empty()));
    assert_eq!(
        "nonsense".parse::<CallKind>().unwrap_err().to_string(),
        r#"unknown kind of call "nonsense""#
    );
}

#[actix_rt::test]
async fn a_reply_is_serialized_as_it_is_documented() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options().clock(ManualClock::new()));
    let delivered = json!({"state": "delivered", "attempts": 1, "elapsedSeconds": 0.0});
    assert_eq!(
        serde_json::to_value(post(&poster, "s").await.unwrap()).unwrap(),
        json!({"completion": delivered, "status": delivered})
    );
    let stored = poster.send(status_update("i").reply_when_durable()).await.unwrap();
    let stored = stored.unwrap();
    assert_eq!(
        serde_json::to_value(&stored).unwrap(),
        json!({"state": "stored", "id": stored.call_id()})
    );
    let report = poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();
    let expected =
        json!({"delivered": report.delivered, "failed": 0, "cancelled": 0, "parked": 0, "outbox_is_open": false});
    assert_eq!(serde_json::to_value(report).unwrap(), expected);
}

#[actix_rt::test]
async fn an_entry_is_serialized_as_it_is_documented() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay().clock(ManualClock::new()));
    send_update(&poster, "i").await.unwrap_err();
    let entry = fixture.parked().remove(0);
    let json = serde_json::to_value(&entry).unwrap();
    let next_attempt_at: Timestamp = json["nextAttemptAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(Some(next_attempt_at.into()), entry.next_attempt_at);
    assert_eq!(
        json,
        json!({
            "id": entry.id,
            "state": "parked",
            "kind": "updateIssueStatus",
            "targetId": "i",
            "queue": fixture.platform.url(),
            "owner": null,
            "reason": "attempts_failed",
            "ageSeconds": entry.age.as_secs_f64(),
            "workerId": "wkr_1",
            "idempotencyKey": entry.idempotency_key,
            "body": entry.body,
            "attempts": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "parkedAt": "2026-01-01T00:00:00Z",
            "nextAttemptAt": json["nextAttemptAt"],
            "statusCode": null,
            "lastError": "gave up after 1 attempt: the platform answered 503",
        })
    );
}

#[actix_rt::test]
async fn a_message_from_json_is_delivered_with_its_key() {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()));
    let comment = CreateComment::new("i", "text");
    let json = serde_json::to_string(&comment).unwrap();
    let read: CreateComment = serde_json::from_str(&json).unwrap();
    assert_eq!(read, comment);
    for message in [comment, read] {
        poster.send(message).await.unwrap().unwrap();
    }
    let result = PostResult::new("s", completed());
    let read: PostResult = serde_json::from_str(&serde_json::to_string(&result).unwrap()).unwrap();
    assert_eq!(read, result);
    for message in [result, read] {
        poster.send(message).await.unwrap().unwrap();
    }
    let requests = platform.requests();
    assert_eq!(requests.len(), 6);
    for (sent, sent_again) in [(0, 1), (2, 4), (3, 5)] {
        let [sent, sent_again] = [&requests[sent], &requests[sent_again]];
        assert_eq!(sent.path, sent_again.path);
        assert_eq!(sent.body, sent_again.body);
        assert_eq!(sent.header("idempotency-key"), sent_again.header("idempotency-key"));
    }
}

#[actix_rt::test]
async fn each_text_of_an_error_is_printed_once_along_its_sources() {
    let errors = call_errors().await;
    for (error, expected) in &errors {
        let texts = texts(error);
        errors::assert_told_apart(&texts);
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, start) in texts.iter().zip(expected) {
            assert!(text.starts_with(start), "{texts:?}");
        }
    }
    let kinds: BTreeSet<_> = errors.iter().map(|(error, _)| error.kind()).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

#[actix_rt::test]
async fn each_text_of_a_result_error_is_printed_once_along_its_sources() {
    let errors: Vec<_> = call_errors().await.into_iter().map(|(error, _)| error).collect();
    for (index, error) in errors.iter().enumerate() {
        for (result_error, own) in [
            (
                PostError::Completion(error.clone()),
                "the completion failed, the status was delivered",
            ),
            (
                PostError::Status(error.clone()),
                "the completion was delivered, the status failed",
            ),
        ] {
            let texts_of_both = texts(&result_error);
            assert_eq!(texts_of_both[0], own);
            assert_eq!(texts_of_both[1..], texts(error));
            errors::assert_told_apart(&texts_of_both);
        }
        // Two causes: both chains are in the text, and there is no source.
        let other = &errors[(index + 1) % errors.len()];
        let both = PostError::Both {
            completion: error.clone(),
            status: other.clone(),
        };
        let [completion, status] = [error, other].map(|error| texts(error).join(": "));
        assert_eq!(
            texts(&both),
            [format!(
                "the completion failed: {completion}; the status failed: {status}"
            )]
        );
    }
}

#[actix_rt::test]
async fn each_text_of_an_invalid_result_is_printed_once_along_its_sources() {
    let (_platform, poster) = platform_and_poster();
    let error = post(&poster, " ").await.unwrap_err();
    assert!(matches!(error, PostError::Invalid(_)));
    assert_eq!(
        texts(&error),
        [
            "the result is invalid; nothing was sent",
            "`session_id` is empty or blank"
        ]
    );
}

#[test]
fn each_text_of_an_options_error_is_printed_once_along_its_sources() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = OutboxOptions::new(folder.path().join("none").join("outbox.db"));
    let error = options("https://app.example.com").outbox(outbox).build().unwrap_err();
    let texts = texts(&error);
    assert!(texts.len() >= 2, "{texts:?}");
    errors::assert_told_apart(&texts);
}

/// An error of each kind, and how its text and those of its sources begin.
async fn call_errors() -> Vec<(CallError, Vec<&'static str>)> {
    let cancelled = |by, may_have_been_delivered| CallError::Cancelled {
        by,
        attempts: 1,
        may_have_been_delivered,
    };
    let internal = CallError::Internal {
        message: "a panic".into(),
    };
    let overloaded = |may_have_been_delivered| CallError::Overloaded {
        may_have_been_delivered,
    };
    let mut errors = vec![
        (
            CallError::NoCredentials,
            vec!["there is no token for this platform; the request was not sent"],
        ),
        (
            cancelled(CancelledBy::Token, true),
            vec!["cancelled by its token; the request may have been processed"],
        ),
        (
            cancelled(CancelledBy::Shutdown, false),
            vec!["cancelled by a shutdown; the request was not processed"],
        ),
        (
            overloaded(false),
            vec!["the message could not be kept until its turn; it was not sent"],
        ),
        (
            overloaded(true),
            vec![
                "the message could not be kept until its turn; it may have been stored, and be delivered nevertheless",
            ],
        ),
        (
            CallError::ShuttingDown,
            vec!["the poster is shutting down; the message was not sent"],
        ),
        (
            internal,
            vec!["internal error; the request may have been processed: a panic"],
        ),
    ];
    errors.extend(answered_errors().await);
    errors.extend(unanswered_errors().await);
    errors.extend(credential_errors().await);
    errors.extend(parked_errors().await);
    errors
}

/// The errors of calls that the platform answered, and of an invalid one.
async fn answered_errors() -> [(CallError, Vec<&'static str>); 4] {
    let platform = FakePlatform::start().unwrap();
    let poster = start(options(platform.url()).max_attempts(1));
    let page = Reply::status(200).body("<html>");
    platform.script(
        "issue-tracker-proxy",
        [
            Reply::status(404).body("no such issue"),
            Reply::status(503).body("later"),
            page,
        ],
    );
    let invalid = UpdateIssueStatus::new("i", " ");
    [
        (
            poster.send(invalid).await.unwrap().unwrap_err(),
            vec!["the message is invalid; nothing was sent", "`status` is empty or blank"],
        ),
        (
            send_update(&poster, "i").await.unwrap_err(),
            vec!["the platform rejected the call with status 404: no such issue"],
        ),
        (
            send_update(&poster, "i").await.unwrap_err(),
            vec!["gave up after 1 attempt", "the platform answered 503: later"],
        ),
        (
            send_update(&poster, "i").await.unwrap_err(),
            vec!["gave up after 1 attempt", "unexpected response with status 200: "],
        ),
    ]
}

/// The errors of calls without an answer.
async fn unanswered_errors() -> [(CallError, Vec<&'static str>); 5] {
    // Bound, so that no other process gets the port, but not listening.
    let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    closed
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let closed = closed.local_addr().unwrap().as_socket().unwrap();
    let silent = ScriptedServer::start([RawStep::Silence]);
    let closing = ScriptedServer::start([RawStep::write_and_close("")]);
    let resetting = ScriptedServer::start([RawStep::Reset]);
    let refusing = Http2Platform::start(&[H2], [Http2Step::Reset(Reason::REFUSED_STREAM)]);
    let error = async |options: OptionsBuilder| {
        let options = options.max_attempts(1).timeout(Duration::from_secs(1));
        send_update(&start(options), "i").await.unwrap_err()
    };
    [
        (
            error(options(format!("http://{closed}"))).await,
            vec![
                "gave up after 1 attempt",
                "could not connect; the request was not sent",
                "connecting to 127.0.0.1:",
                "Connection refused",
            ],
        ),
        (
            error(options(silent.url())).await,
            vec![
                "gave up after 1 attempt",
                "timed out after 1s while waiting for the response; the request may have been processed",
            ],
        ),
        (
            error(options(closing.url())).await,
            vec![
                "gave up after 1 attempt",
                "connection lost before a response; the request may have been processed",
                "closed without a response",
            ],
        ),
        (
            error(options(resetting.url())).await,
            vec![
                "gave up after 1 attempt",
                "connection lost before a response; the request may have been processed",
                "Connection reset by peer",
            ],
        ),
        (
            error(refusing.options()).await,
            vec![
                "gave up after 1 attempt",
                "the platform refused the request before processing it",
                "HTTP/2: ",
            ],
        ),
    ]
}

/// The errors of calls without credentials.
async fn credential_errors() -> [(CallError, Vec<&'static str>); 2] {
    let platform = FakePlatform::start().unwrap();
    let error = async |step| {
        let options = builder(platform.url()).max_attempts(1);
        let poster = start(options.credential_provider(ScriptedProvider::new([step])));
        send_update(&poster, "i").await.unwrap_err()
    };
    [
        (
            error(ProviderStep::Fail).await,
            vec![
                "gave up after 1 attempt",
                "credentials unavailable; the request was not sent",
                "the credential provider failed",
                "the vault is sealed",
            ],
        ),
        (
            error(ProviderStep::Give(RuntimeCredentials::default())).await,
            vec![
                "gave up after 1 attempt",
                "credentials unavailable; the request was not sent",
                "the credential provider returned no token",
            ],
        ),
    ]
}

/// The error of a call that was parked after an attempt, and that of the next call of its lane.
async fn parked_errors() -> [(CallError, Vec<&'static str>); 2] {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    [
        (
            send_update(&poster, "i").await.unwrap_err(),
            vec!["parked in the outbox as ", "the platform answered 503"],
        ),
        (
            send_update(&poster, "i").await.unwrap_err(),
            vec!["parked in the outbox as "],
        ),
    ]
}
