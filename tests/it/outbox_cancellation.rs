//! Cancellation and shutdown with an outbox: the calls in the file, and the inserts that are pending.

use std::{collections::BTreeSet, fs, time::Duration};

use futures_util::future::{join, join3};
use result_poster::{
    CancellationToken, NextStep, ParkReason, PostResult, Shutdown,
    events::GetStats,
    outbox::{EntryQuery, ListEntries, OutboxInspector},
    testing::{ManualClock, Reply},
};

use crate::support::{
    builder, completed, messages_are_accepted,
    outbox::{OutboxFixture, SHORT_DELAY, kinds_and_targets, replay_soon, shut_down},
    outcome, post,
    provider::{ProviderStep, ScriptedProvider},
    requests::{key, sent},
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
    let options = || fixture.options();
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
        // Only the completion of `a` was sent.
        let sent = if index == 0 { [1, 0] } else { [0, 0] };
        for (error, attempts) in [error.completion(), error.status()].into_iter().zip(sent) {
            let parked = error.unwrap().parked().unwrap();
            assert_eq!(
                (parked.reason, parked.attempts, &parked.last),
                (ParkReason::Shutdown, attempts, &None)
            );
        }
        assert_eq!(error.next_step(), NextStep::Nothing);
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
    // The file is still locked.
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "cancelled by token");
    drop(lock);
    // The insert of this call follows the cancelled one: the file ends up empty, and only this call was sent.
    send_update(&poster, "j").await.unwrap();
    fixture.emptied().await;
    assert_eq!(shut_down(&poster).await, 0);
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_message_that_was_cancelled_before_it_was_sent_is_not_delivered() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let token = CancellationToken::new();
    token.cancel();
    let error = poster
        .send(status_update("i").with_cancellation(token))
        .await
        .unwrap()
        .unwrap_err();
    assert!(!error.may_have_been_delivered());
    assert_eq!(fixture.count(), 0);
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
    let reply = reply.await.unwrap().unwrap();
    assert_eq!(outcome(&reply), "cancelled by token");
    // If the insert were done already, another process could have sent the call before it is withdrawn.
    assert!(reply.unwrap_err().may_have_been_delivered());
    drop(lock);
    assert_eq!(parked.await.unwrap().unwrap().unwrap(), []);
    first.await.unwrap().unwrap().unwrap();
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn a_message_whose_insert_is_pending_at_the_end_of_a_shutdown_is_for_the_next_poster() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let lock = fixture.lock();
    let message = status_update("i");
    let reply = actix_rt::spawn(poster.send(message.clone()));
    messages_are_accepted(&poster).await;
    poster.send(Shutdown::within(SHORT_DELAY)).await.unwrap();
    let reply = reply.await.unwrap().unwrap();
    assert_eq!(outcome(&reply), "cancelled by shutdown");
    let error = reply.unwrap_err();
    assert_eq!(error.next_step(), NextStep::UseNextPoster);
    assert!(error.may_have_been_delivered());
    drop(lock);
    // The message may be in the file already: then the next poster says so. It is delivered in either case.
    let next = start(fixture.options());
    let reply = next.send(message).await.unwrap();
    assert!(matches!(outcome(&reply).as_str(), "ok" | "parked:0"), "{reply:?}");
    fixture.emptied().await;
    fixture.platform.wait_for_requests(1).await;
    let keys: BTreeSet<_> = sent(&fixture.platform, key).into_iter().collect();
    assert_eq!(keys.len(), 1);
}

#[actix_rt::test]
async fn messages_that_arrive_during_a_shutdown_are_parked_and_delivered_by_the_next_poster() {
    let fixture = OutboxFixture::new();
    fixture.platform.script(
        "issue-tracker-proxy",
        [Reply::ok().delay(25 * SHORT_DELAY), Reply::ok()],
    );
    let poster = start(fixture.options());
    let running = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    let shutdown = poster.send(Shutdown::within(Duration::from_secs(60)));
    let result = poster.send(PostResult::new("s", completed()));
    let durable = poster.send(status_update("j").reply_when_durable());
    let (report, result, durable) = join3(shutdown, result, durable).await;
    running.await.unwrap().unwrap().unwrap();
    let report = report.unwrap();
    assert_eq!((report.delivered, report.failed, report.cancelled), (1, 0, 0));
    let error = result.unwrap().unwrap_err();
    for error in [error.completion(), error.status()] {
        let parked = error.unwrap().parked().unwrap();
        assert_eq!((parked.reason, parked.attempts), (ParkReason::Shutdown, 0));
    }
    assert_eq!(error.next_step(), NextStep::Nothing);
    assert!(durable.unwrap().unwrap().call_id().is_some());
    assert_eq!(fixture.parked().len(), 3);
    assert_eq!(fixture.platform.requests().len(), 1);
    let _next = start(fixture.options());
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 4);
}

#[actix_rt::test]
async fn a_message_right_behind_the_shutdown_of_an_idle_poster_is_parked() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    messages_are_accepted(&poster).await;
    let shutdown = poster.send(Shutdown::within(Duration::from_secs(60)));
    let late = poster.send(status_update("i"));
    let (report, late) = join(shutdown, late).await;
    report.unwrap();
    let error = late.unwrap().unwrap_err();
    assert_eq!(error.next_step(), NextStep::Nothing);
    assert_eq!(error.parked().unwrap().reason, ParkReason::Shutdown);
    assert_eq!(fixture.parked().len(), 1);
}

#[actix_rt::test]
async fn a_shutdown_leaves_all_calls_in_the_database_file_alone() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    send_update(&poster, "i").await.unwrap_err();
    assert!(fixture.companion("-wal").exists());
    let report = poster.send(Shutdown::within(Duration::from_secs(60))).await.unwrap();
    assert_eq!(report.cancelled, 0);
    for suffix in ["-wal", "-shm"] {
        assert!(!fixture.companion(suffix).exists(), "{suffix}");
    }
    assert_eq!(fixture.owner_files(), Vec::<String>::new());
    // As a backup that copies the one file.
    let backup = tempfile::tempdir().unwrap();
    let path = backup.path().join("backup.db");
    fs::copy(fixture.path(), &path).unwrap();
    let listed = OutboxInspector::open(&path)
        .unwrap()
        .list(EntryQuery::parked())
        .unwrap();
    assert_eq!(
        kinds_and_targets(&listed),
        [("completion", "s"), ("status", "s"), ("updateIssueStatus", "i")]
    );
}

#[actix_rt::test]
async fn a_shutdown_releases_the_calls_that_wait_for_their_turn() {
    let fixture = OutboxFixture::new();
    fixture.platform.script(
        "issue-tracker-proxy",
        [Reply::ok().delay(Duration::from_secs(60)), Reply::ok()],
    );
    let poster = start(fixture.options_without_replay());
    let replies = fixture.running_and_waiting_call(&poster).await;
    poster.send(Shutdown::within(SHORT_DELAY)).await.unwrap();
    for reply in replies {
        let error = reply.await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.parked().unwrap().reason, ParkReason::Shutdown);
    }
    wait_until(|| fixture.parked().len() == 2).await;
    // Due at once, although a failed call would wait for an hour.
    let _next = start(fixture.options_without_replay().clock(ManualClock::new()));
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 3);
}

#[actix_rt::test]
async fn a_cancellation_after_a_durable_receipt_has_no_effect() {
    let fixture = OutboxFixture::new();
    fixture.platform.script(
        "issue-tracker-proxy",
        [Reply::ok().delay(10 * SHORT_DELAY), Reply::ok()],
    );
    let poster = start(fixture.options().max_in_flight(1));
    let token = CancellationToken::new();
    // A call in flight, a call that waits for its turn, and a call that waits for a permit.
    for issue_id in ["i", "i", "j"] {
        let message = status_update(issue_id).with_cancellation(token.clone());
        let receipt = poster.send(message.reply_when_durable()).await.unwrap().unwrap();
        assert!(receipt.call_id().is_some());
    }
    fixture.platform.wait_for_requests(1).await;
    token.cancel();
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 3);
    assert_eq!(poster.send(GetStats).await.unwrap().cancelled, 0);
}

#[actix_rt::test]
async fn a_cancellation_after_a_message_was_parked_has_no_effect() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    let poster = start(fixture.options_without_replay());
    let token = CancellationToken::new();
    let message = status_update("i").with_cancellation(token.clone());
    assert_eq!(outcome(&poster.send(message).await.unwrap()), "parked:1");
    token.cancel();
    messages_are_accepted(&poster).await;
    fixture.requeue(&fixture.parked()[0]);
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 2);
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
