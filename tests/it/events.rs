//! What can be watched: counters, events, log lines.

use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Message};
use result_poster::{
    CallError, CreateComment, DeliveryEvent, DeliveryEventKind, GetStats, PostResult, Subscribe, UpdateIssueStatus,
    testing::{FakePlatform, ManualClock, Reply},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    LOG_PANICS, ScriptedProvider, builder, completed, keep_log, logged, options, platform_and_poster, post, start,
};

/// Keeps the events that it is told.
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

async fn events(watcher: &Addr<Watcher>) -> Vec<String> {
    let describe = |event: DeliveryEvent| {
        let kind = match event.kind {
            DeliveryEventKind::Accepted => "accepted".to_owned(),
            DeliveryEventKind::AttemptFailed {
                attempt, reason, wait, ..
            } => format!("attempt {attempt}: {reason}, {wait:?}"),
            DeliveryEventKind::Reauthenticating { status_code, .. } => format!("reauthenticating {status_code}"),
            DeliveryEventKind::Delivered { attempts, elapsed, .. } => format!("delivered {attempts} {elapsed:?}"),
            DeliveryEventKind::Failed {
                failure,
                may_have_been_delivered,
                ..
            } => format!("failed {failure:?} {may_have_been_delivered}"),
            other => panic!("{other:?}"),
        };
        format!("{} {}: {kind}", event.call, event.subject)
    };
    watcher.send(Take).await.unwrap().into_iter().map(describe).collect()
}

#[actix_rt::test]
async fn a_subscriber_hears_of_every_calls_fate() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::status(503), Reply::status(401), Reply::ok()]);
    platform.script("status", [Reply::status(404)]);
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let options = options(platform.url()).base_delay(second).clock(clock.clone());
    let poster = start(options.credential_provider(ScriptedProvider::tokens(["a", "b", "c"])));
    let watcher = Watcher::default().start();
    poster.send(Subscribe(watcher.clone().recipient())).await.unwrap();

    let reply = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    clock.sleepers(1).await;
    clock.advance(second);
    reply.await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        events(&watcher).await,
        [
            "completion s: accepted",
            "status s: accepted",
            "completion s: attempt 1: the platform answered 503, Some(1s)",
            "completion s: reauthenticating 401",
            "completion s: delivered 2 1s",
            "status s: failed Permanent false",
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
            "createComment i: failed Cancelled false",
            "updateIssueStatus i: failed Invalid false"
        ]
    );
}

#[actix_rt::test]
async fn a_subscriber_that_is_full_or_gone_costs_nothing() {
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
    poster.send(Subscribe(Stuck.start().recipient())).await.unwrap();
    poster.send(Subscribe(gone.recipient())).await.unwrap();
    arbiter.stop();
    arbiter.join().unwrap();
    for session in 0..20 {
        post(&poster, &format!("s{session}")).await.unwrap();
    }
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(stats.delivered, 40);
    // Four events each; some fit into the mailbox of the one that is stuck.
    assert!((40..80).contains(&stats.events_missed), "{}", stats.events_missed);
}

#[actix_rt::test]
async fn every_call_is_counted_once() {
    let platform = FakePlatform::start().unwrap();
    platform.script("rejected/completion", [Reply::status(403)]);
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
    assert_eq!((stats.attempts, stats.retries, stats.refreshes), (12, 3, 12));
    assert_eq!((stats.panics, stats.restarts, stats.events_missed), (0, 0, 0));
    assert_eq!((stats.running, stats.waiting, stats.lanes), (0, 0, 0));
}

#[actix_rt::test]
async fn gauges_tell_who_runs_and_who_waits() {
    let platform = FakePlatform::start().unwrap();
    platform.script("completion", [Reply::ok().delay(Duration::from_millis(100))]);
    let poster = start(options(platform.url()).max_in_flight(2));
    let replies: Vec<_> = ["a", "a", "b", "c", "c"]
        .map(|session| actix_rt::spawn(poster.send(PostResult::new(session, completed()))))
        .into();
    platform.wait_for_requests(2).await;
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.running, stats.waiting, stats.lanes), (2, 3, 3));
    // Nothing counts as delivered before the platform has said so.
    assert_eq!((stats.accepted, stats.attempts, stats.delivered), (10, 2, 0));
    for reply in replies {
        reply.await.unwrap().unwrap().unwrap();
    }
}

#[actix_rt::test]
async fn log_lines_have_levels_and_keys_and_no_bodies() {
    keep_log();
    let (platform, poster) = platform_and_poster();
    let body = "a body that is nobody's business";
    platform.script("log-1/completion", [Reply::status(503).body(body), Reply::ok()]);
    platform.script("log-1/status", [Reply::status(404).body(body)]);
    post(&poster, "log-1").await.unwrap_err();
    let lines: Vec<_> = logged()
        .into_iter()
        .filter(|line| line.contains(r#"subject="log-1""#))
        .collect();
    let has = |level: &str, parts: &[&str]| {
        let fits = |line: &&String| line.starts_with(level) && parts.iter().all(|part| line.contains(part));
        lines.iter().filter(fits).count()
    };
    let attempt = [
        "attempt failed: the platform answered 503",
        "call=completion",
        "attempt=1",
        "verdict=transient",
        "wait=",
    ];
    assert_eq!(has("WARN", &attempt), 1, "{lines:#?}");
    assert_eq!(has("DEBUG", &["delivered", "call=completion", "attempts=2"]), 1);
    assert_eq!(
        has(
            "ERROR",
            &[
                "not delivered: rejected with status 404",
                "call=status",
                "failure=Permanent"
            ]
        ),
        1
    );
    platform.script("log-2/completion", [Reply::status(503).body(body)]);
    post(&poster, "log-2").await.unwrap_err();
    let spent = |line: &String| line.starts_with("ERROR") && line.contains(r#"subject="log-2""#);
    assert!(logged().iter().any(spent));
    assert!(!logged().iter().any(|line| line.contains(body)));
}

#[actix_rt::test]
async fn a_log_that_panics_costs_its_line_and_no_more() {
    keep_log();
    let (platform, poster) = platform_and_poster();
    platform.script("completion", [Reply::status(503), Reply::status(404)]);
    let error = post(&poster, LOG_PANICS).await.unwrap_err();
    assert_eq!(error.permanent().unwrap().status_code, 404);
    assert_eq!(platform.requests().len(), 3);
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!(
        (stats.accepted, stats.delivered, stats.permanent, stats.panics),
        (2, 1, 1, 0)
    );
}

#[actix_rt::test]
async fn calls_without_credentials_are_counted_as_failed() {
    let poster = start(builder("https://app.example.com"));
    post(&poster, "s").await.unwrap_err();
    let stats = poster.send(GetStats).await.unwrap();
    assert_eq!((stats.accepted, stats.permanent, stats.refused), (2, 2, 0));
}
