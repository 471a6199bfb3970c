//! What became of stored calls: asked for, awaited, and discarded by their target.

use std::time::Duration;

use actix::Addr;
use result_poster::{
    CallError, CallId, CancelledBy, NextStep, OutboxError, ResultPoster, Shutdown,
    outbox::{
        AwaitDelivery, Delivery, DeliveryEnd, DeliveryState, Discard, DiscardTarget, DiscardedTarget, GetDelivery,
        PendingDelivery, Requeue,
    },
    testing::Reply,
};
use serde_json::json;

use crate::support::{
    outbox::{OutboxFixture, shut_down},
    platform_and_poster, post, send_update, start, status_update,
    wait::in_time,
};

async fn deliveries(poster: &Addr<ResultPoster>, of: GetDelivery) -> Vec<Delivery> {
    poster.send(of).await.unwrap().unwrap()
}

async fn awaited(poster: &Addr<ResultPoster>, id: CallId) -> Result<PendingDelivery, OutboxError> {
    poster.send(AwaitDelivery::new(id)).await.unwrap()
}

async fn discard(poster: &Addr<ResultPoster>, of: DiscardTarget) -> DiscardedTarget {
    poster.send(of).await.unwrap().unwrap()
}

/// The id of a call that is parked, or stays so.
async fn parked_call(poster: &Addr<ResultPoster>, issue_id: &str) -> CallId {
    send_update(poster, issue_id).await.unwrap_err().parked().unwrap().id
}

fn names(deliveries: &[Delivery]) -> Vec<String> {
    let name = |delivery: &Delivery| {
        let state = match &delivery.state {
            DeliveryState::Delivered { .. } => "delivered",
            DeliveryState::Live => "live",
            DeliveryState::Parked { .. } => "parked",
            DeliveryState::DeadLetter { .. } => "dead",
            other => panic!("{other:?}"),
        };
        format!("{} of {}: {state}", delivery.kind.unwrap(), delivery.target_id)
    };
    deliveries.iter().map(name).collect()
}

#[actix_rt::test]
async fn a_call_is_found_by_its_id_and_by_its_target_in_each_state() {
    let fixture = OutboxFixture::new();
    fixture.script("s/completion", [404]);
    fixture.platform.script("s/status", [Reply::status(503)]);
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    post(&poster, "other").await.unwrap();
    let of_session = deliveries(&poster, GetDelivery::of_session("s")).await;
    assert_eq!(names(&of_session), ["completion of s: dead", "status of s: parked"]);
    for delivery in &of_session {
        assert_eq!(
            deliveries(&poster, GetDelivery::of_call(delivery.id)).await,
            std::slice::from_ref(delivery)
        );
    }
    let DeliveryState::Parked {
        since,
        until,
        attempts,
        last_error,
        ..
    } = &of_session[1].state
    else {
        panic!("{of_session:?}");
    };
    assert!(until.unwrap() > since.unwrap());
    assert_eq!((*attempts, last_error.is_some()), (1, true));
    let DeliveryState::DeadLetter { status_code, .. } = &of_session[0].state else {
        panic!("{of_session:?}");
    };
    assert_eq!(*status_code, Some(404));

    let of_other = deliveries(&poster, GetDelivery::of_session("other")).await;
    assert_eq!(
        names(&of_other),
        ["completion of other: delivered", "status of other: delivered"]
    );
    assert_eq!(deliveries(&poster, GetDelivery::of_issue("s")).await, []);
    assert_eq!(deliveries(&poster, GetDelivery::of_session("unknown")).await, []);
}

#[actix_rt::test]
async fn a_live_call_is_live_until_it_is_delivered() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_millis(300))]);
    let poster = start(fixture.options());
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    let live = deliveries(&poster, GetDelivery::of_issue("i")).await;
    assert_eq!(names(&live), ["updateIssueStatus of i: live"]);
    let end = awaited(&poster, live[0].id).await.unwrap();
    reply.await.unwrap().unwrap().unwrap();
    assert_eq!(in_time(end).await, Ok(DeliveryEnd::Delivered));
    let delivered = deliveries(&poster, GetDelivery::of_call(live[0].id)).await;
    assert_eq!(names(&delivered), ["updateIssueStatus of i: delivered"]);
    let json = serde_json::to_value(&delivered[0]).unwrap();
    assert_eq!(
        (&json["state"], &json["kind"]),
        (&json!("delivered"), &json!("updateIssueStatus"))
    );
    assert!(json["agoSeconds"].is_number());
}

#[actix_rt::test]
async fn the_end_of_a_parked_call_is_awaited() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503, 404]);
    let poster = start(fixture.options_without_replay());
    let id = parked_call(&poster, "i").await;
    let [first, second] = [awaited(&poster, id).await.unwrap(), awaited(&poster, id).await.unwrap()];
    poster.send(Requeue::new(id)).await.unwrap().unwrap();
    for end in [first, second] {
        let DeliveryEnd::DeadLetter { status_code, .. } = in_time(end).await.unwrap() else {
            panic!("it is no dead letter");
        };
        assert_eq!(status_code, Some(404));
    }
    // It has ended already.
    let end = awaited(&poster, id).await.unwrap().await.unwrap();
    assert!(
        matches!(
            end,
            DeliveryEnd::DeadLetter {
                status_code: Some(404),
                ..
            }
        ),
        "{end:?}"
    );

    let end = awaited(&poster, id).await.unwrap().await;
    assert!(end.is_ok());
    poster.send(Requeue::new(id)).await.unwrap().unwrap();
    fixture.emptied().await;
    let end = in_time(awaited(&poster, id).await.unwrap()).await;
    assert_eq!(end, Ok(DeliveryEnd::Delivered));
}

#[actix_rt::test]
async fn a_discarded_call_ends_its_wait_and_an_unknown_one_can_not_be_awaited() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    let id = parked_call(&poster, "i").await;
    let end = awaited(&poster, id).await.unwrap();
    poster.send(Discard::new(id)).await.unwrap().unwrap();
    assert_eq!(in_time(end).await, Ok(DeliveryEnd::Discarded));
    assert_eq!(awaited(&poster, id).await.unwrap_err(), OutboxError::NoSuchCall);
    let (_platform, without_outbox) = platform_and_poster();
    assert_eq!(
        awaited(&without_outbox, id).await.unwrap_err(),
        OutboxError::NotConfigured
    );
}

#[actix_rt::test]
async fn a_call_that_another_process_ends_is_gone() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    let id = parked_call(&poster, "i").await;
    let end = awaited(&poster, id).await.unwrap();
    fixture.open().discard(id).unwrap();
    assert_eq!(in_time(end).await, Ok(DeliveryEnd::Gone));
}

#[actix_rt::test]
async fn a_shutdown_ends_the_wait_with_an_error() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    let id = parked_call(&poster, "i").await;
    let end = awaited(&poster, id).await.unwrap();
    shut_down(&poster).await;
    assert_eq!(in_time(end).await, Err(OutboxError::Stopped));
}

#[actix_rt::test]
async fn all_calls_of_a_target_are_discarded() {
    let fixture = OutboxFixture::new();
    fixture.script("s/completion", [404]);
    fixture.platform.script("s/status", [Reply::status(503)]);
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    let other = parked_call_of_other_target(&fixture, &poster).await;
    let of_session = deliveries(&poster, GetDelivery::of_session("s")).await;
    let end = awaited(&poster, of_session[1].id).await.unwrap();
    let discarded = discard(&poster, DiscardTarget::session("s")).await;
    assert_eq!(
        discarded.removed,
        of_session.iter().map(|delivery| delivery.id).collect::<Vec<_>>()
    );
    assert!(discarded.delivered.is_empty() && discarded.not_removed.is_empty());
    assert_eq!(in_time(end).await, Ok(DeliveryEnd::Discarded));
    assert_eq!(deliveries(&poster, GetDelivery::of_session("s")).await, []);
    assert_eq!(
        fixture.parked().iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [other]
    );
    assert_eq!(
        discard(&poster, DiscardTarget::session("s")).await,
        DiscardedTarget::default()
    );
}

/// A parked call about an issue whose id is that of the session.
async fn parked_call_of_other_target(fixture: &OutboxFixture, poster: &Addr<ResultPoster>) -> CallId {
    fixture.platform.script("issue-tracker-proxy", [Reply::status(503)]);
    parked_call(poster, "s").await
}

#[actix_rt::test]
async fn a_call_in_flight_is_withdrawn_with_its_target_and_so_are_those_behind_it() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_secs(60))]);
    let poster = start(fixture.options());
    let replies = fixture.running_and_waiting_call(&poster).await;
    let discarded = in_time(discard(&poster, DiscardTarget::issue("i"))).await;
    assert_eq!(discarded.removed.len(), 2, "{discarded:?}");
    for reply in replies {
        let error = reply.await.unwrap().unwrap().unwrap_err();
        assert!(
            matches!(
                error,
                CallError::Cancelled {
                    by: CancelledBy::Discard,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(error.next_step(), NextStep::Nothing);
        assert!(error.to_string().starts_with("cancelled by a discard"), "{error}");
    }
    assert_eq!(fixture.count(), 0);
    // Later messages are sent.
    fixture.end_outage();
    send_update(&poster, "i").await.unwrap();
}

#[actix_rt::test]
async fn a_call_that_is_replayed_is_withdrawn_with_its_target() {
    let fixture = OutboxFixture::new();
    fixture.platform.script(
        "issue-tracker-proxy",
        [Reply::status(503), Reply::ok().delay(Duration::from_secs(60))],
    );
    let poster = start(fixture.options());
    let id = parked_call(&poster, "i").await;
    fixture.platform.wait_for_requests(2).await;
    let discarded = in_time(discard(&poster, DiscardTarget::issue("i"))).await;
    assert_eq!(discarded.removed, [id]);
    assert_eq!(fixture.count(), 0);
}

#[actix_rt::test]
async fn a_live_call_of_another_poster_is_not_removed() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_secs(60))]);
    let [sender, other] = [(); 2].map(|()| start(fixture.options()));
    let _reply = actix_rt::spawn(sender.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    let live = deliveries(&other, GetDelivery::of_issue("i")).await;
    assert_eq!(names(&live), ["updateIssueStatus of i: live"]);
    let discarded = discard(&other, DiscardTarget::issue("i")).await;
    assert_eq!((discarded.removed.len(), discarded.not_removed), (0, vec![live[0].id]));
    sender.send(Shutdown::within(Duration::ZERO)).await.unwrap();
}
