//! Settling messages, and the lanes afterwards.

use std::time::UNIX_EPOCH;

use super::super::{Change, Settled, Settlement, Store as _, Then, is_isolated, isolated_lane};
use super::{Fixture, shorthand::*};
use crate::{error::ParkReason, outbox::entry::EntryState};

pub(super) async fn a_lane_is_removed_with_its_last_call(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a", "b"]).await;
    assert!(!first.deliver(&message).await);
    assert_eq!(first.entries().await, []);
    second.insert_live("lane", &["c"]).await;
}

pub(super) async fn a_lane_stays_mine_while_it_has_taken_calls(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let one = first.insert_live("lane", &["a"]).await;
    let two = first.insert_live("lane", &["b"]).await;
    assert!(!first.deliver(&one).await);
    assert!(first.may_send(&two).await);
    assert_eq!(second.claim_ids_at(NOW).await, []);
}

pub(super) async fn a_lane_with_an_undelivered_sibling_stays_mine(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a", "b"]).await;
    let changes = vec![(message.ids[0], Change::Delete)];
    let settled = owner.settle_each(&message, changes, Then::Continue).await;
    assert_eq!(settled, Settled::Done { is_released: false });
    assert_eq!(owner.state(message.ids[1]).await, Some(EntryState::Live));
}

pub(super) async fn a_lane_goes_with_the_last_of_the_settlements_of_a_message(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a", "b"]).await;
    for (id, then) in message.ids.iter().zip([Then::Stay, Then::Continue]) {
        let settled = first.settle_each(&message, vec![(*id, Change::Delete)], then).await;
        assert_eq!(settled, Settled::Done { is_released: false });
    }
    assert_eq!(first.entries().await, []);
    second.insert_live("lane", &["c"]).await;
}

pub(super) async fn a_lane_with_untaken_calls_is_released_and_due_at_once(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let ids = second.insert_parked("lane", &["b"]).await;
    assert!(first.deliver(&message).await);
    assert!(!first.may_send(&message).await);
    assert_eq!(second.claim_ids_at(NOW).await, ids);
}

pub(super) async fn a_released_lane_is_due_for_its_former_owner(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    let ids = owner.park_new("lane", &["b"]).await;
    assert!(owner.deliver(&message).await);
    assert_eq!(owner.claim_ids_at(NOW).await, ids);
}

pub(super) async fn a_parked_message_parks_the_live_messages_behind_it(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let one = first.insert_live("lane", &["a", "b"]).await;
    let two = first.insert_live("lane", &["c"]).await;
    first.park(&one).await;
    let entries = second.entries().await;
    assert!(entries.iter().all(|entry| entry.state == EntryState::Parked));
    assert_eq!(entries[0].reason, Some(ParkReason::AttemptsFailed.to_string()));
    assert_eq!(
        first.settle_all(&two, Change::Delete, Then::Continue).await,
        Settled::NotCurrent
    );
    assert_eq!(second.claim_ids_at(MINUTE_LATER - 1).await, []);
    assert_eq!(second.claim_ids_at(MINUTE_LATER).await, [one.ids, two.ids].concat());
}

pub(super) async fn a_park_releases_a_lane_with_calls(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    let settled = owner
        .settle_all(&message, Change::Keep(failure()), park_for(MINUTE))
        .await;
    assert_eq!(settled, Settled::Done { is_released: true });
}

pub(super) async fn a_park_without_calls_left_removes_the_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let settled = first.settle_all(&message, Change::Delete, park_for(MINUTE)).await;
    assert_eq!(settled, Settled::Done { is_released: false });
    second.insert_live("lane", &["b"]).await;
}

pub(super) async fn the_delivered_call_of_a_parked_message_is_deleted(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a", "b"]).await;
    let changes = vec![
        (message.ids[0], Change::Delete),
        (message.ids[1], Change::Keep(failure())),
    ];
    owner.settle_each(&message, changes, park_for(MINUTE)).await;
    assert_eq!(owner.claim_due(&["lane"], NOW).await[0].ids, message.ids[1..]);
}

pub(super) async fn the_time_of_the_next_attempt_is_listed(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.park(&message).await;
    let entry = owner.entry(message.ids[0]).await.unwrap();
    let since_1970 = entry.next_attempt_at.unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(since_1970.as_millis(), u128::try_from(MINUTE_LATER).unwrap());
}

pub(super) async fn an_isolated_message_moves_to_a_lane_of_its_own(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a", "b"]).await;
    first.isolate(&message).await;
    assert_eq!(second.claim_ids_at(MINUTE_LATER - 1).await, []);
    let claimed = second.claim_at(MINUTE_LATER).await;
    assert_eq!(claimed[0].ids, message.ids);
    assert_eq!(claimed[0].lane.lane, isolated_lane("lane", message.ids[0]));
    assert!(is_isolated(&claimed[0].lane.lane));
}

pub(super) async fn an_isolated_lane_goes_by_the_clock_of_its_owner(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.isolate(&message).await;
    assert_eq!(owner.claim_ids_at(NOW + DAY).await, []);
    let own = isolated_lane("lane", message.ids[0]);
    assert_eq!(owner.claim_due(&[&own], NOW).await[0].ids, message.ids);
}

pub(super) async fn a_lane_goes_on_without_its_isolated_message(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let one = owner.insert_live("lane", &["a", "b"]).await;
    let two = owner.insert_live("lane", &["c"]).await;
    assert!(!owner.isolate(&one).await);
    assert!(owner.may_send(&two).await);
    let three = owner.insert_live("lane", &["d"]).await;
    assert_eq!(three.lane, two.lane);
}

pub(super) async fn a_lane_is_removed_with_its_last_isolated_message(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    assert!(!first.isolate(&message).await);
    second.insert_live("lane", &["b"]).await;
}

pub(super) async fn an_isolation_releases_a_lane_with_untaken_calls(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let ids = second.insert_parked("lane", &["b"]).await;
    assert!(first.isolate(&message).await);
    assert_eq!(second.claim_ids_at(NOW).await, ids);
}

pub(super) async fn an_isolation_does_not_take_an_owned_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a", "b"]).await;
    first.isolate(&message).await;
    first.requeue(message.ids[0], NOW).await.unwrap();
    let again = first.claim_at(NOW).await;
    assert_eq!(again[0].ids, message.ids[..1]);
    let sibling = second.claim_at(MINUTE_LATER).await;
    assert_eq!(sibling[0].ids, message.ids[1..]);
    first.isolate(&again[0]).await;
    assert!(second.may_send(&sibling[0]).await);
    second.deliver(&sibling[0]).await;
    assert_eq!(second.claim_at(NOW + DAY).await[0].ids, message.ids[..1]);
}

pub(super) async fn settlements_of_a_batch_are_written_in_their_order(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a", "b"]).await;
    let other = owner.insert_live("other", &["c"]).await;
    let settlement = |message: &LiveMessage, index: usize, change, then| Settlement {
        lane: message.lane.clone(),
        changes: vec![(message.ids[index], change)],
        then,
        now: NOW,
    };
    let batch = [
        settlement(&first, 0, Change::Delete, Then::Stay),
        settlement(&other, 0, Change::Delete, Then::Continue),
        settlement(&first, 1, Change::Keep(failure()), park_for(MINUTE)),
        // After the park, the lane is the owner's no longer.
        settlement(&first, 1, Change::Delete, Then::Continue),
    ];
    let done = |is_released| Settled::Done { is_released };
    assert_eq!(
        owner.settle(batch.into()).await.unwrap(),
        [done(false), done(false), done(true), Settled::NotCurrent]
    );
    let claimed = owner.claim_due(&["lane"], MINUTE_LATER).await;
    assert_eq!(
        claimed.iter().map(|message| &message.ids[..]).collect::<Vec<_>>(),
        [[first.ids[1]]]
    );
}

pub(super) async fn a_dead_letter_does_not_block_its_lane(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let one = owner.insert_live("lane", &["a"]).await;
    let two = owner.insert_live("lane", &["b"]).await;
    assert!(!owner.dead_letter(&one).await);
    assert!(owner.may_send(&two).await);
    assert_eq!(owner.state(one.ids[0]).await, Some(EntryState::DeadLetter));
}

pub(super) async fn a_dead_letter_keeps_no_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a", "b"]).await;
    assert!(!first.dead_letter(&message).await);
    second.insert_live("lane", &["c"]).await;
    assert_eq!(first.claim_ids_at(NOW + DAY).await, []);
}

pub(super) async fn a_dead_letter_releases_a_lane_with_untaken_calls(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let ids = second.insert_parked("lane", &["b"]).await;
    assert!(first.dead_letter(&message).await);
    assert_eq!(second.claim_ids_at(NOW).await, ids);
}
