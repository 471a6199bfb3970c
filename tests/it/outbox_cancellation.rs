//! Cancellation and shutdown with an outbox: the calls in the file, and the inserts that are pending.

use std::time::Duration;

use result_poster::{
    CancellationToken, NextStep, ParkReason, PostResult, Shutdown,
    outbox::{EntryQuery, ListEntries},
    testing::Reply,
};

use crate::support::{
    builder, completed, messages_are_accepted,
    outbox::{OutboxFixture, SHORT_DELAY, replay_soon, shut_down},
    outcome,
    provider::{ProviderStep, ScriptedProvider},
    send_update, start, status_update,
    wait::{wait_until, within},
};

#[actix_rt::test]
async fn a_cancelled_call_is_removed_from_the_outbox() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::ok().delay(Duration::from_secs(60))]);
    let poster = start(fixture.options());
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(status_update("i").with_cancellation(token.clone())));
    fixture.platform.wait_for_requests(1).await;
    token.cancel();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled by token");
    assert_eq!(fixture.count(), 0);
}

#[actix_rt::test]
async fn shutdown_parks_undelivered_calls() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("completion", [Reply::ok().delay(Duration::from_secs(60))]);
    // Nothing is taken over in this test: the second poster can only get calls that the first one released.
    let hour = Duration::from_secs(60 * 60);
    let options = || fixture.options_with(replay_soon(fixture.path()).heartbeat_timeout(hour));
    let poster = start(options().max_in_flight(1));
    let replies = ["a", "b"].map(|session_id| actix_rt::spawn(poster.send(PostResult::new(session_id, completed()))));
    fixture.platform.wait_for_requests(1).await;
    let report = poster.send(Shutdown::within(SHORT_DELAY)).await.unwrap();
    assert_eq!(
        (report.parked, report.delivered, report.failed, report.cancelled),
        (4, 0, 0, 0)
    );
    for (index, reply) in replies.into_iter().enumerate() {
        let error = reply.await.unwrap().unwrap().unwrap_err();
        for error in [error.completion(), error.status()] {
            let parked = error.unwrap().parked().unwrap();
            assert_eq!(
                (parked.reason, parked.attempts, &parked.last),
                (ParkReason::Shutdown, 0, &None)
            );
        }
        assert_eq!(error.next_step(), NextStep::Nothing);
        // Only the completion of `a` was sent.
        assert_eq!(error.may_have_been_delivered(), index == 0);
    }
    fixture.end_outage();
    // The report does not wait for the file, since the time of the shutdown is over.
    wait_until(|| fixture.parked().len() == 4).await;
    let _poster = start(options());
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 5);
}

#[actix_rt::test]
async fn shutdown_does_not_wait_for_a_hanging_provider() {
    let fixture = OutboxFixture::new();
    let hanging = ScriptedProvider::new([ProviderStep::Hang]);
    let options = builder(fixture.platform.url()).credential_provider(hanging);
    let poster = start(options.outbox(replay_soon(fixture.path()).build().unwrap()));
    let waiting = actix_rt::spawn(poster.send(status_update("i")));
    // Less than the ten seconds that a fetch may take.
    let report = within(Duration::from_secs(5), poster.send(Shutdown::within(SHORT_DELAY)));
    report.await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is_err());
    assert!(fixture.platform.requests().is_empty());
}

#[actix_rt::test]
async fn cancellation_does_not_wait_for_a_locked_file() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let lock = fixture.lock();
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(status_update("i").with_cancellation(token.clone())));
    messages_are_accepted(&poster).await;
    token.cancel();
    // Less than the five seconds that an insert waits for a locked file.
    let reply = within(Duration::from_secs(4), reply).await;
    assert_eq!(outcome(&reply.unwrap().unwrap()), "cancelled by token");
    drop(lock);
    // The insert of this call follows the cancelled one: the file ends up empty, and only this call was sent.
    send_update(&poster, "j").await.unwrap();
    fixture.emptied().await;
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn cancelling_a_pending_insert_withdraws_the_call() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(25 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let poster = start(fixture.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    // The queue is full, so the call is inserted as parked. A query for the parked calls is queued behind the insert.
    let lock = fixture.lock();
    let token = CancellationToken::new();
    let reply = actix_rt::spawn(poster.send(status_update("j").with_cancellation(token.clone())));
    let parked = actix_rt::spawn(poster.send(ListEntries::new(EntryQuery::parked().limit(10))));
    messages_are_accepted(&poster).await;
    token.cancel();
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled by token");
    drop(lock);
    assert_eq!(parked.await.unwrap().unwrap().unwrap(), []);
    first.await.unwrap().unwrap().unwrap();
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn shutdown_cancels_a_pending_insert() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let lock = fixture.lock();
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    messages_are_accepted(&poster).await;
    poster.send(Shutdown::within(SHORT_DELAY)).await.unwrap();
    let reply = reply.await.unwrap().unwrap();
    assert_eq!(outcome(&reply), "cancelled by shutdown");
    assert_eq!(reply.unwrap_err().next_step(), NextStep::UseNextPoster);
    drop(lock);
    // Its insert comes after any that is pending: neither is left in the file, and only one was sent.
    let other = start(fixture.options().worker_id("wkr_2"));
    send_update(&other, "j").await.unwrap();
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_cancelled_message_is_never_reported_as_durable() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(10 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [slow, Reply::ok()]);
    let poster = start(fixture.options().max_in_flight(1).max_queued(0));
    let first = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    let token = CancellationToken::new();
    token.cancel();
    let message = status_update("j").with_cancellation(token).reply_when_durable();
    assert_eq!(outcome(&poster.send(message).await.unwrap()), "cancelled by token");
    first.await.unwrap().unwrap().unwrap();
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 1);
}
