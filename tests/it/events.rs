//! Counters, events and log lines.

use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Message};
use result_poster::{
    CallError, CreateComment, PostResult, ResultPoster, UpdateIssueStatus,
    credentials::RuntimeCredentials,
    events::{DeliveryEvent, DeliveryEventKind, GetStats, Subscribe},
    testing::{FakePlatform, ManualClock, Reply},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    actor_without_token, builder, completed,
    log::{LOG_PANICS, keep_log, logged},
    options,
    outbox::OutboxFixture,
    platform_and_poster, post,
    provider::{ProviderStep, ScriptedProvider},
    send_update, start,
    wait::in_time,
};

#[actix_rt::test]
async fn a_subscriber_receives_the_events_of_each_call() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(503), Reply::status(401), Reply::ok()]);
    platform.script("status", [Reply::status(404)]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let options = options(platform.url()).base_delay(second).clock(clock.clone());
    let poster = start(options.credential_provider(ScriptedProvider::tokens(["a", "b", "c"])));
    let watcher = Watcher::default().start();
    poster.send(Subscribe::new(watcher.clone().recipient())).await.unwrap();

    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    clock.wait_for_sleepers(1).await;
    clock.advance(second);
    reply.await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        events(&watcher).await,
        [
            "completion s: accepted",
            "status s: accepted",
            "completion s: attempt 1: the platform answered 503, retrying in Some(1s)",
            "completion s: resending 401",
            "completion s: delivered 2 1s",
            "status s: failed permanent false",
        ]
    );

    let token = CancellationToken::new();
    token.cancel();
    poster
        .send(CreateComment::new("i", "x").with_cancellation(token))
        .await
        .unwrap()
        .unwrap_err();
    poster
        .send(UpdateIssueStatus::new("i", " "))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        events(&watcher).await,
        [
            "createComment i: accepted",
            "createComment i: failed cancelled false",
            "updateIssueStatus i: failed invalid false"
        ]
    );
}

#[actix_rt::test]
async fn an_event_is_serialized_with_its_call_and_target() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [Reply::status(503), Reply::ok()]);
    let poster = start(options(platform.url()).clock(ManualClock::new()));
    let watcher = Watcher::default().start();
    poster.send(Subscribe::new(watcher.clone().recipient())).await.unwrap();
    let message = UpdateIssueStatus::new("i", "Finished");
    let key = message.idempotency_key().to_owned();
    poster.send(message).await.unwrap().unwrap();
    let events = watcher.send(Take).await.unwrap();
    let time = serde_json::to_value(&events[0]).unwrap()["time"].clone();
    let call = |event: serde_json::Value| {
        let mut fields = json!({"kind": "updateIssueStatus", "targetId": "i", "idempotencyKey": key, "time": time});
        fields
            .as_object_mut()
            .unwrap()
            .extend(event.as_object().unwrap().clone());
        fields
    };
    assert_eq!(
        serde_json::to_value(&events).unwrap(),
        json!([
            call(json!({"event": "accepted"})),
            call(json!({
                "event": "attempt_failed",
                "attempt": 1,
                "durationSeconds": 0.0,
                "reason": "the platform answered 503",
                "retryInSeconds": 0.0,
            })),
            call(json!({"event": "delivered", "attempts": 2, "elapsedSeconds": 0.0, "totalSeconds": 0.0})),
        ])
    );
}

#[actix_rt::test]
async fn a_subscriber_of_the_options_receives_the_first_event() {
    let platform = FakePlatform::start().unwrap();
    let watchers = [Watcher::default().start(), Watcher::default().start()];
    let [first, second] = watchers.clone().map(Addr::recipient);
    let poster = start(options(platform.url()).subscriber(first).subscriber(second));
    send_update(&poster, "i").await.unwrap();
    for watcher in watchers {
        assert_eq!(events(&watcher).await[0], "updateIssueStatus i: accepted");
    }
}

#[actix_rt::test]
async fn the_events_of_a_stored_call_have_its_id_and_a_parked_one_counts_from_its_storing() {
    let outbox = OutboxFixture::new();
    outbox.script("issue-tracker-proxy", [503]);
    let watcher = Watcher::default().start();
    let poster = start(outbox.options().subscriber(watcher.clone().recipient()));
    let Err(CallError::Parked(parked)) = send_update(&poster, "i").await else {
        panic!("it was not parked");
    };
    outbox.emptied().await;
    wait_for_delivered(&poster, 1).await;
    let events = watcher.send(Take).await.unwrap();
    for event in &events {
        assert_eq!(
            event.call.as_ref().and_then(|call| call.id),
            Some(parked.id),
            "{event:?}"
        );
    }
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(
        (
            stats.parked_time.count(),
            stats.delivery_time.count(),
            stats.attempt_time.count()
        ),
        (1, 0, 2)
    );
    let Some(DeliveryEventKind::Delivered { elapsed, total, .. }) = events.last().map(|event| &event.event) else {
        panic!("{events:?}");
    };
    assert!(total > elapsed, "{events:?}");
}

#[actix_rt::test]
async fn credentials_fail_and_recover_once_however_many_calls_find_it() {
    let platform = FakePlatform::start().unwrap();
    platform.script("issue-tracker-proxy", [401, 401, 401, 401, 200].map(Reply::status));
    let clock = ManualClock::new();
    let watcher = Watcher::default().start();
    let options = options(platform.url()).max_attempts(1).clock(clock.clone());
    let poster = start(options.subscriber(watcher.clone().recipient()));
    for issue in ["a", "b"] {
        send_update(&poster, issue).await.unwrap_err();
    }
    platform.script("issue-tracker-proxy", []);
    clock.advance(Duration::from_secs(7));
    send_update(&poster, "c").await.unwrap();
    let mut events = events(&watcher).await;
    events.retain(|event| event.starts_with("poster"));
    assert_eq!(events.len(), 2, "{events:#?}");
    assert!(
        events[0].starts_with("poster: credentials failed: the platform rejected the call with status 401"),
        "{events:?}"
    );
    assert_eq!(events[1], "poster: credentials recovered after 7s");
}

#[actix_rt::test]
async fn a_failing_provider_fails_the_credentials_until_it_works() {
    let (platform, provider) = (
        FakePlatform::start().unwrap(),
        ScriptedProvider::new([
            ProviderStep::FailWith("sealed"),
            ProviderStep::FailWith("sealed"),
            ProviderStep::Give(RuntimeCredentials::new("w", "t")),
        ]),
    );
    let watcher = Watcher::default().start();
    let options = builder(platform.url())
        .worker_id("w")
        .max_attempts(1)
        .credential_provider(provider);
    let poster = start(options.subscriber(watcher.clone().recipient()));
    for issue in ["a", "b"] {
        send_update(&poster, issue).await.unwrap_err();
    }
    send_update(&poster, "c").await.unwrap();
    let mut events = events(&watcher).await;
    events.retain(|event| event.starts_with("poster"));
    assert_eq!(
        events[0],
        "poster: credentials failed: the credential provider failed: sealed"
    );
    assert!(
        events[1].starts_with("poster: credentials recovered after "),
        "{events:?}"
    );
    assert_eq!(events.len(), 2);
}

#[actix_rt::test]
async fn a_delivery_time_counts_the_wait_for_the_turn() {
    let platform = FakePlatform::start().unwrap();
    platform.script("a/completion", [Reply::status(503), Reply::ok()]);
    let clock = ManualClock::new();
    let poster = start(
        options(platform.url())
            .base_delay(Duration::from_secs(9))
            .clock(clock.clone()),
    );
    let replies = [(); 2].map(|()| actix_rt::spawn(poster.send(PostResult::new("a", completed()))));
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(9));
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(
        (stats.delivery_time.count(), stats.delivery_time.sum()),
        (4, Duration::from_secs(36))
    );
    assert_eq!(
        (stats.attempt_time.count(), stats.attempt_time.sum()),
        (5, Duration::ZERO)
    );
    assert_eq!(stats.parked_time.count(), 0);
}

#[actix_rt::test]
async fn full_and_stopped_subscribers_do_not_affect_deliveries() {
    #[derive(Default)]
    struct Stuck;
    impl Actor for Stuck {
        type Context = Context<Self>;
        fn started(&mut self, context: &mut Context<Self>) {
            use actix::{AsyncContext as _, WrapFuture as _};
            context.wait(std::future::pending().into_actor(self));
        }
    }
    impl Handler<DeliveryEvent> for Stuck {
        type Result = ();
        fn handle(&mut self, _: DeliveryEvent, _: &mut Context<Self>) {}
    }

    let (_platform, poster) = platform_and_poster();
    let arbiter = actix_rt::Arbiter::new();
    let gone = Watcher::start_in_arbiter(&arbiter.handle(), |_| Watcher::default());
    poster.send(Subscribe::new(Stuck.start().recipient())).await.unwrap();
    poster.send(Subscribe::new(gone.recipient())).await.unwrap();
    arbiter.stop();
    arbiter.join().unwrap();
    for session in 0..20 {
        post(&poster, &format!("s{session}")).await.unwrap();
    }
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(stats.delivered, 40);
    // Each result has four events; some fit into the mailbox of the stuck subscriber.
    assert!((40..80).contains(&stats.events_dropped), "{}", stats.events_dropped);
}

#[actix_rt::test]
async fn every_call_is_counted_once() {
    let platform = FakePlatform::start().unwrap();
    platform.script("rejected/completion", [Reply::status(404)]);
    platform.script("down/completion", [Reply::status(503)]);
    platform.script("flaky/status", [Reply::status(503), Reply::ok()]);
    let provider = ScriptedProvider::tokens(["t"]);
    let poster = start(
        options(platform.url())
            .max_queued(0)
            .max_in_flight(1)
            .credential_provider(provider),
    );
    for session in ["fine", "rejected", "down", "flaky"] {
        let _ = post(&poster, session).await;
    }
    let _ = post(&poster, "").await;
    let token = CancellationToken::new();
    token.cancel();
    let _ = poster
        .send(PostResult::new("c", completed()).with_cancellation(token))
        .await
        .unwrap();
    let [first, second] = ["a", "b"].map(|issue| actix_rt::spawn(poster.send(CreateComment::new(issue, "x"))));
    first.await.unwrap().unwrap().unwrap();
    assert!(matches!(
        second.await.unwrap().unwrap(),
        Err(CallError::Overloaded { .. })
    ));

    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.accepted, stats.refused), (11, 3));
    assert_eq!(
        (stats.delivered, stats.permanent, stats.transient, stats.cancelled),
        (7, 1, 1, 2)
    );
    assert_eq!(
        (stats.attempts, stats.retries, stats.credential_fetches),
        (12, 3, Some(12))
    );
    assert_eq!((stats.internal_errors, stats.restarts, stats.events_dropped), (0, 0, 0));
    assert_eq!((stats.in_flight, stats.queued, stats.active_lanes), (0, 0, 0));
}

#[actix_rt::test]
async fn gauges_count_messages_in_flight_and_queued() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(100))]);
    let poster = start(options(platform.url()).max_in_flight(2));
    let replies: Vec<_> = ["a", "a", "b", "c", "c"]
        .map(|session| actix_rt::spawn(poster.send(PostResult::new(session, completed()))))
        .into();
    platform.wait_for_requests(2).await;
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.in_flight, stats.queued, stats.active_lanes), (2, 3, 3));
    // No call counts as delivered before the platform has acknowledged it.
    assert_eq!((stats.accepted, stats.attempts, stats.delivered), (10, 2, 0));
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn log_lines_have_levels_and_keys() {
    keep_log();
    let (platform, poster) = platform_and_poster();
    platform.script("log-1/completion", [Reply::status(503), Reply::ok()]);
    platform.script("log-1/status", [Reply::status(404)]);
    post(&poster, "log-1").await.unwrap_err();
    let lines = lines_about("log-1");
    let count = |level: &str, text: &str, keys: &[&str]| {
        let start = format!("{level} result_poster::telemetry::recorder {text}");
        let fits = |line: &&String| line.starts_with(&start) && keys.iter().all(|key| line.contains(key));
        lines.iter().filter(fits).count()
    };
    assert_eq!(
        count(
            "WARN",
            r#"completion of session "log-1": attempt 1 of 3 failed: the platform answered 503; retrying at once"#,
            &[" kind=completion", " attempt=1", " retry_in=Some(0ns)"],
        ),
        1,
        "{lines:#?}"
    );
    assert_eq!(
        count(
            "DEBUG",
            r#"completion of session "log-1": delivered in "#,
            &[" kind=completion", " attempts=2", " elapsed="],
        ),
        1,
        "{lines:#?}"
    );
    assert_eq!(
        count(
            "ERROR",
            r#"status of session "log-1": the platform rejected the call with status 404 (check the session or issue id"#,
            &[" kind=status", " failure=permanent"],
        ),
        1,
        "{lines:#?}"
    );
}

#[actix_rt::test]
async fn log_lines_hold_no_bodies() {
    keep_log();
    let (platform, poster) = platform_and_poster();
    let body = "a confidential body";
    platform.script("log-2/completion", [Reply::status(503).body(body)]);
    platform.script("log-2/status", [Reply::status(404).body(body)]);
    post(&poster, "log-2").await.unwrap_err();
    let errors = lines_about("log-2")
        .into_iter()
        .filter(|line| line.starts_with("ERROR"));
    assert_eq!(errors.count(), 2);
    assert!(!logged().iter().any(|line| line.contains(body)));
}

#[actix_rt::test]
async fn a_panicking_logger_does_not_affect_deliveries() {
    keep_log();
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(503), Reply::status(404)]);
    let error = post(&poster, LOG_PANICS).await.unwrap_err();
    assert_eq!(error.permanent().unwrap().status_code, 404);
    assert_eq!(platform.requests().len(), 3);
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(
        (stats.accepted, stats.delivered, stats.permanent, stats.internal_errors),
        (2, 1, 1, 0)
    );
}

#[actix_rt::test]
async fn calls_without_credentials_are_counted_as_failed() {
    let options = builder("https://platform.test").credential_actor(actor_without_token().await);
    let poster = start(options);
    post(&poster, "s").await.unwrap_err();
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.accepted, stats.permanent, stats.refused), (2, 2, 0));
}

#[actix_rt::test]
async fn the_fetches_of_a_shared_credential_actor_are_not_counted() {
    let options = builder("https://platform.test").credential_actor(actor_without_token().await);
    let stats = start(options).send(GetStats).await.unwrap();
    assert_eq!(stats.credential_fetches, None);
    assert!(stats.metrics().all(|metric| metric.name != "credential_fetches"));
}

/// Waits until the poster has counted this many delivered calls: the outbox is empty a little before that.
async fn wait_for_delivered(poster: &Addr<ResultPoster>, calls: u64) {
    in_time(async { while poster.send(GetStats).await.unwrap().delivered < calls {} }).await;
}

/// Keeps the events that it receives.
#[derive(Default)]
struct Watcher(Vec<DeliveryEvent>);

impl Actor for Watcher {
    type Context = Context<Self>;
    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(1000);
    }
}

impl Handler<DeliveryEvent> for Watcher {
    type Result = ();
    fn handle(&mut self, event: DeliveryEvent, _: &mut Context<Self>) {
        self.0.push(event);
    }
}

struct Take;

impl Message for Take {
    type Result = Vec<DeliveryEvent>;
}

impl Handler<Take> for Watcher {
    type Result = Vec<DeliveryEvent>;
    fn handle(&mut self, _: Take, _: &mut Context<Self>) -> Vec<DeliveryEvent> {
        std::mem::take(&mut self.0)
    }
}

/// The events since the last call of this, in short.
async fn events(watcher: &Addr<Watcher>) -> Vec<String> {
    let describe = |event: DeliveryEvent| {
        let what = match event.event {
            DeliveryEventKind::Accepted => "accepted".to_owned(),
            DeliveryEventKind::AttemptFailed {
                attempt,
                reason,
                retry_in,
                ..
            } => format!("attempt {attempt}: {reason}, retrying in {retry_in:?}"),
            DeliveryEventKind::Resending { status_code, .. } => format!("resending {status_code}"),
            DeliveryEventKind::Delivered { attempts, elapsed, .. } => format!("delivered {attempts} {elapsed:?}"),
            DeliveryEventKind::Failed {
                failure,
                may_have_been_delivered,
                ..
            } => format!("failed {failure} {may_have_been_delivered}"),
            DeliveryEventKind::CredentialsFailed { reason, .. } => format!("credentials failed: {reason}"),
            DeliveryEventKind::CredentialsRecovered { outage, .. } => format!("credentials recovered after {outage:?}"),
            DeliveryEventKind::DeadLetter {
                reason, status_code, ..
            } => format!("dead letter {status_code:?} {reason}"),
            other => panic!("{other:?}"),
        };
        let of = event
            .call
            .map_or("poster".to_owned(), |call| format!("{} {}", call.kind, call.target_id));
        format!("{of}: {what}")
    };
    watcher.send(Take).await.unwrap().into_iter().map(describe).collect()
}

/// The log lines about the calls of this session.
fn lines_about(session_id: &str) -> Vec<String> {
    let key = format!(r#" target_id="{session_id}""#);
    let mut lines = logged();
    lines.retain(|line| line.contains(&key));
    lines
}
