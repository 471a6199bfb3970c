//! The order of a lane, and calls that an operator requeues or discards.

use super::super::{Change, ClaimRequest, History, Store as _, Then};
use super::{Fixture, shorthand::*};
use crate::{call_id::CallId, clock::Clock, error::ParkReason, outbox::entry::EntryState};

pub(super) async fn calls_of_two_owners_are_claimed_in_commit_order(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let live = first.insert_live("lane", &["a"]).await;
    let mut ids = Vec::new();
    ids.extend(second.insert_parked("lane", &["b"]).await);
    ids.extend(first.insert_parked("lane", &["c"]).await);
    ids.extend(second.park_new("lane", &["d", "e"]).await);
    ids.extend(first.insert_parked("lane", &["f"]).await);
    assert!(first.deliver(&live).await);
    assert_eq!(second.claim_ids_at(NOW).await, ids);
}

pub(super) async fn the_order_of_a_lane_does_not_depend_on_clocks_or_ids(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let mut early = message("lane", &["a"]);
    let mut late = message("lane", &["b"]);
    late.now = NOW - DAY;
    std::mem::swap(&mut early.calls[0].id, &mut late.calls[0].id);
    early.park = Some(ParkReason::QueueFull);
    let expected = [ids(&early), ids(&late)].concat();
    first.insert(early).await.unwrap();
    second.insert(late).await.unwrap();
    assert_eq!(second.claim_ids_at(NOW).await, expected);
}

pub(super) async fn a_requeued_call_is_the_last_of_its_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let one = first.park_new("lane", &["a"]).await;
    let two = first.park_new("lane", &["b"]).await;
    assert_eq!(second.requeue(one[0], NOW).await, Ok(true));
    assert_eq!(first.claim_ids_at(NOW).await, [two, one].concat());
}

pub(super) async fn a_requeued_dead_letter_returns_to_the_end_of_its_lane(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.dead_letter(&message).await;
    let parked = owner.park_new("lane", &["b"]).await;
    assert_eq!(owner.requeue(message.ids[0], NOW).await, Ok(true));
    assert_eq!(owner.state(message.ids[0]).await, Some(EntryState::Parked));
    assert_eq!(owner.claim_ids_at(NOW).await, [parked, message.ids].concat());
}

pub(super) async fn a_requeued_dead_letter_of_an_owned_lane_waits_for_its_live_calls(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let dead = first.insert_live("lane", &["a"]).await;
    first.dead_letter(&dead).await;
    let live = first.insert_live("lane", &["b"]).await;
    assert_eq!(second.requeue(dead.ids[0], NOW).await, Ok(true));
    assert!(first.may_send(&live).await);
    assert_eq!(second.claim_ids_at(NOW).await, []);
    assert!(first.deliver(&live).await);
    assert_eq!(second.claim_ids_at(NOW).await, dead.ids);
}

pub(super) async fn a_requeue_makes_the_lane_due_now(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let one = first.insert_live("lane", &["a"]).await;
    let two = first.insert_live("lane", &["b"]).await;
    first.park(&one).await;
    assert_eq!(second.requeue(one.ids[0], NOW + SECOND).await, Ok(true));
    let entry = second.entry(one.ids[0]).await.unwrap();
    assert_eq!(entry.reason, Some(ParkReason::Requeued.to_string()));
    assert_eq!(second.claim_ids_at(NOW + SECOND).await, [two.ids, one.ids].concat());
}

pub(super) async fn a_requeued_lane_is_due_for_the_owner_that_parked_it(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    assert_eq!(second.requeue(message.ids[0], NOW).await, Ok(true));
    let not_due = ClaimRequest {
        delayed: lanes(&["lane"]),
        ..request(NOW)
    };
    assert_eq!(claimed_ids(&first.claim(not_due).await.unwrap()), message.ids);
}

pub(super) async fn a_requeued_isolated_call_returns_to_its_targets_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.isolate(&message).await;
    assert_eq!(second.requeue(message.ids[0], NOW).await, Ok(true));
    let claimed = second.claim_at(NOW).await;
    assert_eq!(claimed[0].ids, message.ids);
    assert_eq!(claimed[0].lane.lane, "lane");
}

pub(super) async fn a_requeue_of_the_last_isolated_call_removes_its_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.isolate(&message).await;
    assert_eq!(second.claim(request(NOW)).await.unwrap().next_due, Some(MINUTE));
    assert_eq!(second.requeue(message.ids[0], NOW).await, Ok(true));
    assert_eq!(second.claim(request(NOW)).await.unwrap().next_due, None);
}

pub(super) async fn a_requeued_call_starts_with_a_fresh_history(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    for (key, change, then) in [
        ("a", Change::Keep(failure()), park_for(MINUTE)),
        ("b", Change::DeadLetter(failure()), Then::Continue),
    ] {
        let message = owner.insert_live(key, &[key]).await;
        owner.settle_all(&message, change, then).await;
        assert_eq!(owner.entry(message.ids[0]).await.unwrap().attempts, 1);
        assert_eq!(owner.requeue(message.ids[0], NOW).await, Ok(true));
        let claimed = owner.claim(request(NOW)).await.unwrap();
        assert_eq!(claimed.messages[0].calls[0].history, History::default());
    }
}

pub(super) async fn a_live_call_is_not_requeued(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let one = first.insert_live("lane", &["a"]).await;
    let two = first.insert_live("lane", &["b"]).await;
    for owner in [&first, &second] {
        assert_eq!(owner.requeue(one.ids[0], NOW).await, Ok(false));
    }
    assert!(first.may_send(&one).await);
    assert!(first.may_send(&two).await);
}

pub(super) async fn a_live_call_is_not_discarded(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    for owner in [&first, &second] {
        assert_eq!(owner.discard(message.ids[0]).await, Ok(false));
    }
    assert!(first.may_send(&message).await);
}

pub(super) async fn an_unknown_call_is_neither_requeued_nor_discarded(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let id = CallId::new(&Clock::system());
    assert_eq!(owner.requeue(id, NOW).await, Ok(false));
    assert_eq!(owner.discard(id).await, Ok(false));
}

pub(super) async fn a_discard_of_the_last_call_removes_the_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    assert_eq!(second.discard(message.ids[0]).await, Ok(true));
    assert_eq!(second.discard(message.ids[0]).await, Ok(false));
    assert_eq!(first.entries().await, []);
    second.insert_live("lane", &["b"]).await;
}

pub(super) async fn a_discard_keeps_the_other_calls_of_a_lane(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let one = owner.park_new("lane", &["a", "b"]).await;
    let two = owner.park_new("lane", &["c"]).await;
    assert_eq!(owner.discard(one[0]).await, Ok(true));
    assert_eq!(owner.claim_ids_at(NOW).await, [one[1], two[0]]);
}

pub(super) async fn a_discard_behind_live_calls_keeps_them_live(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let parked = second.insert_parked("lane", &["b"]).await;
    assert_eq!(second.discard(parked[0]).await, Ok(true));
    assert!(first.may_send(&message).await);
    let mut more = first.insert_live("lane", &["c"]).await;
    assert!(first.may_send(&more).await);
    more.ids.extend(parked);
    assert!(!first.may_send(&more).await);
}

pub(super) async fn a_dead_letter_is_discarded(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.dead_letter(&message).await;
    assert_eq!(owner.discard(message.ids[0]).await, Ok(true));
    assert_eq!(owner.entries().await, []);
}
