//! A message that is posted again while its calls are in the outbox.

use std::{collections::BTreeSet, time::Duration};

use result_poster::{
    CallError, CreateComment, NextStep, ParkReason, PostResult,
    outbox::{EntryState, Requeue},
    testing::{ManualClock, Reply},
};

use tokio_util::sync::CancellationToken;

use crate::support::{
    completed, messages_are_accepted,
    outbox::{OutboxFixture, entries, shut_down},
    outcome, post, post_outcome,
    requests::{key, route, sent},
    send_update, start, status_update,
    wait::wait_until,
};

#[actix_rt::test]
async fn a_result_that_is_parked_already_is_answered_with_the_stored_ids() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503]);
    fixture.script("status", [503]);
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    let stored = fixture.parked();
    // Again by the same poster, and by another one of another worker.
    let other = start(fixture.options_without_replay().worker_id("wkr_2"));
    for poster in [&poster, &other] {
        let error = post(poster, "s").await.unwrap_err();
        for (error, entry) in [error.completion(), error.status()].into_iter().zip(&stored) {
            assert_already_stored(error.unwrap(), entry.id);
        }
        assert_eq!(error.next_step(), NextStep::Nothing);
        let message = PostResult::new("s", completed()).reply_when_durable();
        let receipt = poster.send(message).await.unwrap().unwrap();
        let ids = [receipt.completion, receipt.status].map(|receipt| receipt.call_id());
        assert_eq!(ids, [Some(stored[0].id), Some(stored[1].id)]);
    }
    assert_eq!(fixture.parked(), stored);
    assert_eq!(fixture.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_result_that_is_being_sent_is_answered_at_once_with_the_stored_ids() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("completion", [slow]);
    let poster = start(fixture.options_without_replay());
    let message = PostResult::new("s", completed()).reply_when_durable();
    let receipt = poster.send(message.clone()).await.unwrap().unwrap();
    fixture.platform.wait_for_requests(1).await;
    assert_eq!(poster.send(message).await.unwrap().unwrap(), receipt);
    let error = post(&poster, "s").await.unwrap_err();
    assert_already_stored(error.completion().unwrap(), receipt.completion.call_id().unwrap());
    assert_already_stored(error.status().unwrap(), receipt.status.call_id().unwrap());
    assert_eq!(entries(&poster).await.len(), 2);
}

#[actix_rt::test]
async fn a_withdrawn_result_whose_clone_was_confirmed_is_delivered() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("completion", [slow, Reply::ok()]);
    let poster = start(fixture.options_without_replay());
    let token = CancellationToken::new();
    let withdrawn = PostResult::new("s", completed()).with_cancellation(token.clone());
    let withdrawn = actix_rt::spawn(poster.send(withdrawn));
    fixture.platform.wait_for_requests(1).await;
    let confirmed = PostResult::new("s", completed()).reply_when_durable();
    poster.send(confirmed).await.unwrap().unwrap();
    token.cancel();
    withdrawn.await.unwrap().unwrap().unwrap_err();
    fixture.emptied().await;
    assert_eq!(sent(&fixture.platform, route), ["completion", "completion", "status"]);
}

#[actix_rt::test]
async fn a_withdrawn_result_whose_clone_was_confirmed_waits_for_the_result_that_is_being_sent() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("completion", [slow, Reply::ok()]);
    let poster = start(fixture.options());
    // As in another process: it takes over any lane that is free.
    let other = start(fixture.options());
    let (first_token, second_token) = (CancellationToken::new(), CancellationToken::new());
    let message = |run| PostResult::new("s", completed()).with_run(run);
    let send =
        |run, token: &CancellationToken| actix_rt::spawn(poster.send(message(run).with_cancellation(token.clone())));
    let running = send(1, &first_token);
    fixture.platform.wait_for_requests(1).await;
    let withdrawn = send(2, &second_token);
    messages_are_accepted(&poster).await;
    other.send(message(2).reply_when_durable()).await.unwrap().unwrap();
    second_token.cancel();
    withdrawn.await.unwrap().unwrap().unwrap_err();
    let states: Vec<_> = entries(&other).await.iter().map(|entry| entry.state).collect();
    let (live, parked) = (EntryState::Live, EntryState::Parked);
    assert_eq!(states, [live, live, parked, parked]);
    first_token.cancel();
    running.await.unwrap().unwrap().unwrap_err();
    fixture.emptied().await;
    assert_eq!(sent(&fixture.platform, route), ["completion", "completion", "status"]);
    let keys: BTreeSet<_> = sent(&fixture.platform, key).into_iter().collect();
    assert_eq!(keys.len(), 3);
}

#[actix_rt::test]
async fn a_result_whose_completion_was_delivered_is_answered_with_the_id_of_its_status() {
    let fixture = OutboxFixture::new();
    fixture.script("status", [503]);
    let poster = start(fixture.options_without_replay());
    assert_eq!(post_outcome(&post(&poster, "s").await), "parked:1");
    let status = fixture.parked()[0].id;
    let error = post(&poster, "s").await.unwrap_err();
    assert_already_stored(error.completion().unwrap(), status);
    assert_already_stored(error.status().unwrap(), status);
    fixture.requeue(&fixture.parked()[0]);
    fixture.emptied().await;
    assert_eq!(sent(&fixture.platform, route), ["completion", "status", "status"]);
}

#[actix_rt::test]
async fn a_result_that_a_former_poster_stored_is_not_stored_again() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let message = || PostResult::new("s", completed()).reply_when_durable();
    let poster = start(fixture.options_without_replay());
    let receipt = poster.send(message()).await.unwrap().unwrap();
    shut_down(&poster).await;
    drop(poster);
    let poster = start(fixture.options_without_replay().clock(ManualClock::new()));
    assert_eq!(poster.send(message()).await.unwrap().unwrap(), receipt);
    assert_eq!(fixture.count(), 2);
}

#[actix_rt::test]
async fn a_clone_of_an_issue_message_is_stored_once_and_another_message_is_stored_beside_it() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    let comment = CreateComment::new("i", "text");
    poster.send(comment.clone()).await.unwrap().unwrap_err();
    let id = fixture.parked()[0].id;
    assert_already_stored(&poster.send(comment).await.unwrap().unwrap_err(), id);
    let other = CreateComment::new("i", "text");
    let error = poster.send(other).await.unwrap().unwrap_err();
    assert_eq!(error.parked().unwrap().reason, ParkReason::LaneParked);
    assert_eq!(fixture.parked().len(), 2);
}

#[actix_rt::test]
async fn a_dead_letter_is_replaced_by_its_message() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [404, 503]);
    let poster = start(fixture.options_without_replay());
    let message = status_update("i");
    assert_eq!(outcome(&poster.send(message.clone()).await.unwrap()), "permanent:404");
    let dead = fixture.dead_letters();
    assert_eq!(outcome(&poster.send(message).await.unwrap()), "parked:1");
    assert_eq!(fixture.dead_letters(), []);
    let parked = fixture.parked();
    assert_eq!(parked[0].idempotency_key, dead[0].idempotency_key);
    assert_ne!(parked[0].id, dead[0].id);
}

#[actix_rt::test]
async fn a_result_is_sent_again_after_its_delivery() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    for _ in 0..2 {
        post(&poster, "s").await.unwrap();
        wait_until(|| fixture.count() == 0).await;
    }
    assert_eq!(fixture.platform.requests().len(), 4);
}

#[actix_rt::test]
async fn a_repeated_message_beyond_the_queue_limit_is_not_stored_again() {
    let fixture = OutboxFixture::new();
    let slow = Reply::ok().delay(Duration::from_secs(60));
    fixture.platform.script("issue-tracker-proxy", [slow]);
    let poster = start(fixture.options_without_replay().max_in_flight(1).max_queued(0));
    let _running = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    let message = status_update("j");
    let error = poster.send(message.clone()).await.unwrap().unwrap_err();
    let id = error.parked().unwrap().id;
    assert_eq!(error.parked().unwrap().reason, ParkReason::QueueFull);
    assert_already_stored(&poster.send(message).await.unwrap().unwrap_err(), id);
    assert_eq!(fixture.count(), 2);
}

#[actix_rt::test]
async fn a_requeued_call_is_still_known_by_its_key() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    let message = status_update("i");
    poster.send(message.clone()).await.unwrap().unwrap_err();
    let id = fixture.parked()[0].id;
    poster.send(Requeue::new(id)).await.unwrap().unwrap();
    assert_already_stored(&poster.send(message).await.unwrap().unwrap_err(), id);
    assert_eq!(outcome(&send_update(&poster, "j").await), "parked:1");
}

fn assert_already_stored(error: &CallError, id: result_poster::CallId) {
    let parked = error.parked().unwrap();
    assert_eq!(
        (parked.reason, parked.id, parked.attempts, &parked.last),
        (ParkReason::AlreadyStored, id, 0, &None)
    );
    assert_eq!(error.next_step(), NextStep::Nothing);
}
