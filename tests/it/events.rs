//! Counters, events and log lines.

use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Message};
use result_poster::{
    CallError, CreateComment, PostResult, UpdateIssueStatus,
    events::{DeliveryEvent, DeliveryEventKind, GetStats, Subscribe},
    testing::{FakePlatform, ManualClock, Reply},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    actor_without_token, builder, completed,
    log::{LOG_PANICS, keep_log, logged},
    options, platform_and_poster, post,
    provider::ScriptedProvider,
    send_update, start,
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
    let poster = start(options(platform.url()));
    let watcher = Watcher::default().start();
    poster.send(Subscribe::new(watcher.clone().recipient())).await.unwrap();
    send_update(&poster, "i").await.unwrap();
    let events = watcher.send(Take).await.unwrap();
    let Some(DeliveryEventKind::Delivered { elapsed, .. }) = events.last().map(|event| &event.event) else {
        panic!("{events:?}");
    };
    assert_eq!(
        serde_json::to_value(&events).unwrap(),
        json!([
            {"kind": "updateIssueStatus", "targetId": "i", "event": "accepted"},
            {
                "kind": "updateIssueStatus",
                "targetId": "i",
                "event": "attempt_failed",
                "attempt": 1,
                "reason": "the platform answered 503",
                "retryInSeconds": 0.0,
            },
            {"kind": "updateIssueStatus", "targetId": "i", "event": "delivered", "attempts": 2, "elapsedSeconds": elapsed.as_secs_f64()},
        ])
    );
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
    assert!(matches!(second.await.unwrap().unwrap(), Err(CallError::Overloaded)));

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
        let start = format!("{level} result_poster::telemetry {text}");
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
            other => panic!("{other:?}"),
        };
        format!("{} {}: {what}", event.kind, event.target_id)
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
