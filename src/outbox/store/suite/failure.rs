//! Failures: those of calls, which are recorded, and those of the store.

use std::time::Duration;

use super::super::{Change, Failure, History, Settlement, Store as _, Then};
use super::{Fixture, shorthand::*};
use crate::outbox::entry::EntryState;

/// A failure with all that can be recorded.
fn whole_failure() -> Failure {
    Failure {
        status_code: Some(404),
        error: "no such session".into(),
        worker_id: Some("worker".into()),
        history: History {
            attempts: 7,
            parks: 3,
            faults: 2,
            is_reduced: true,
            rejections: 4,
            takeovers: 1,
            age: Duration::from_millis(61_234),
        },
    }
}

pub(super) async fn a_failure_is_recorded_on_a_parked_call(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner
        .settle_all(&message, Change::Keep(whole_failure()), park_for(MINUTE))
        .await;
    let entry = owner.entry(message.ids[0]).await.unwrap();
    assert_eq!(entry.state, EntryState::Parked);
    assert_eq!(entry.attempts, 7);
    assert_eq!(entry.age, Duration::from_millis(61_234));
    assert_eq!(entry.status_code, Some(404));
    assert_eq!(entry.last_error.as_deref(), Some("no such session"));
    assert_eq!(entry.worker_id.as_deref(), Some("worker"));
}

pub(super) async fn a_failure_is_recorded_on_a_dead_letter(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner
        .settle_all(&message, Change::DeadLetter(whole_failure()), Then::Continue)
        .await;
    let entry = owner.entry(message.ids[0]).await.unwrap();
    assert_eq!(entry.state, EntryState::DeadLetter);
    assert_eq!(entry.attempts, 7);
    assert_eq!(entry.age, Duration::from_millis(61_234));
    assert_eq!(entry.status_code, Some(404));
    assert_eq!(entry.last_error.as_deref(), Some("no such session"));
    assert_eq!(entry.worker_id.as_deref(), Some("worker"));
    assert_eq!(entry.next_attempt_at, None);
}

pub(super) async fn the_history_of_an_isolated_call_is_recorded(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first
        .settle_all(&message, Change::Keep(whole_failure()), isolate_for(MINUTE))
        .await;
    let claimed = second.claim(request(MINUTE_LATER)).await.unwrap();
    assert_eq!(claimed.messages[0].calls[0].history, whole_failure().history);
}

pub(super) async fn a_failure_names_the_worker_that_its_call_was_sent_as(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner
        .set_worker(message.ids.clone(), None, "first".into())
        .await
        .unwrap();
    owner
        .settle_all(&message, Change::Keep(whole_failure()), park_for(MINUTE))
        .await;
    let entry = owner.entry(message.ids[0]).await.unwrap();
    assert_eq!(entry.worker_id.as_deref(), Some("worker"));
}

pub(super) async fn a_failing_store_changes_nothing(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let live = owner.insert_live("lane", &["a"]).await;
    owner.insert_live("lane", &["b"]).await;
    let parked = owner.park_new("parked lane", &["c"]).await;
    let before = owner.entries().await;
    fixture.break_store().await;
    assert!(owner.insert(message("lane", &["d"])).await.is_err());
    assert!(owner.claim(request(NOW)).await.is_err());
    for (change, then) in [
        (Change::Delete, Then::Continue),
        (Change::DeadLetter(failure()), Then::Continue),
        (Change::Keep(failure()), park_for(MINUTE)),
        (Change::Keep(failure()), isolate_for(MINUTE)),
    ] {
        let settlement = Settlement {
            lane: live.lane.clone(),
            changes: vec![(live.ids[0], change)],
            then,
            now: NOW,
        };
        assert!(owner.settle_one(settlement).await.is_err());
    }
    assert!(owner.requeue(parked[0], NOW).await.is_err());
    assert!(owner.discard(parked[0]).await.is_err());
    fixture.repair_store().await;
    assert_eq!(owner.entries().await, before);
    assert!(owner.may_send(&live).await);
    assert_eq!(owner.claim_ids_at(NOW).await, parked);
}
