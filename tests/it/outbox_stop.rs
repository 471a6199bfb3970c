//! What is in the outbox, or on its way to it, when it is cancelled or the poster shuts down.

use std::time::Duration;

use result_poster::{CancellationToken, PostResult, Shutdown, testing::Reply};

use crate::{
    outbox::{SOON, Scene, count, shut_down, soon, update, wait_until},
    support::{Ask, ScriptedProvider, builder, completed, outcome, start},
};

#[actix_rt::test]
async fn a_call_that_is_cancelled_is_not_delivered_later() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_secs(60))]);
    let poster = start(scene.options());
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(update("i").with_cancellation(token.clone())));
    scene.platform.wait_for_requests(1).await;
    token.cancel();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled");
    assert_eq!(count(&scene.path()), 0);
}

#[actix_rt::test]
async fn a_shutdown_leaves_what_is_not_delivered_parked() {
    let scene = Scene::new();
    scene
        .platform
        .script("completion", [Reply::ok().delay(Duration::from_secs(60))]);
    // With a lease that nobody waits for: what is left is given back.
    let options = || scene.options_with(soon(scene.path()).lease(Duration::from_secs(60 * 60)));
    let poster = start(options().max_in_flight(1));
    let replies: Vec<_> = ["a", "b"]
        .map(|session| poster.send(PostResult::new(session, completed())))
        .into();
    let replies: Vec<_> = replies.into_iter().map(actix_rt::spawn).collect();
    scene.platform.wait_for_requests(1).await;
    let report = poster.send(Shutdown::within(SOON)).await.unwrap();
    assert_eq!(
        (report.parked, report.delivered, report.failed, report.cancelled),
        (4, 0, 0, 0)
    );
    for (index, reply) in replies.into_iter().enumerate() {
        let error = reply.await.unwrap().unwrap().unwrap_err();
        assert!(error.completion().unwrap().transient().unwrap().is_parked());
        assert!(error.status().unwrap().transient().unwrap().is_parked());
        assert_eq!(error.may_have_been_delivered(), index == 0);
    }
    scene.up();
    // The reply does not wait for the disk, since its time was over.
    wait_until(|| scene.parked().len() == 4).await;
    let _poster = start(options());
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 5);
}

#[actix_rt::test]
async fn a_shutdown_does_not_wait_for_a_provider_that_hangs() {
    let scene = Scene::new();
    let options = builder(scene.platform.url()).credential_provider(ScriptedProvider::new([Ask::Hang]));
    let poster = start(options.outbox(soon(scene.path())));
    let waiting = actix_rt::spawn(poster.send(update("i")));
    // Less than the ten seconds that a fetch may take.
    let report = actix_rt::time::timeout(Duration::from_secs(5), poster.send(Shutdown::within(SOON)));
    report.await.expect("in time").unwrap();
    assert!(waiting.await.unwrap().unwrap().is_err());
    assert!(scene.platform.requests().is_empty());
}

#[actix_rt::test]
async fn who_cancels_does_not_wait_for_a_file_that_is_held() {
    let scene = Scene::new();
    let poster = start(scene.options());
    let held = scene.hold();
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(update("i").with_cancellation(token.clone())));
    actix_rt::time::sleep(SOON).await;
    token.cancel();
    let reply = actix_rt::time::timeout(Duration::from_secs(2), reply)
        .await
        .expect("in time");
    assert_eq!(outcome(&reply.unwrap().unwrap()), "cancelled");
    drop(held);
    // It has been written meanwhile, and is withdrawn.
    poster.send(update("j")).await.unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn what_is_cancelled_on_its_way_to_the_file_is_not_sent_from_there() {
    let scene = Scene::new();
    let slow = Reply::ok().delay(25 * SOON);
    scene.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let poster = start(scene.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    // There is no room for it in memory, and a look at what is parked waits for the file behind it.
    let held = scene.hold();
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(update("j").with_cancellation(token.clone())));
    actix_rt::time::sleep(10 * SOON).await;
    token.cancel();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled");
    drop(held);
    first.await.unwrap().unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn what_is_shut_down_on_its_way_to_the_file_is_not_in_it() {
    let scene = Scene::new();
    let poster = start(scene.options());
    let held = scene.hold();
    let reply = actix_rt::spawn(poster.send(update("i")));
    actix_rt::time::sleep(SOON).await;
    poster.send(Shutdown::within(SOON)).await.unwrap();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled");
    drop(held);
    // Behind whatever was to be written.
    let other = start(scene.options().worker_id("wkr_2"));
    other.send(update("j")).await.unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn who_has_cancelled_a_message_is_never_told_that_it_is_kept() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(10 * SOON), Reply::ok()]);
    let poster = start(scene.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    let token = CancellationToken::new();
    token.cancel();
    let message = update("j").with_cancellation(token).reply_when_durable();
    assert_eq!(outcome(&poster.send(message).await.unwrap()), "cancelled");
    first.await.unwrap().unwrap().unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 1);
}
