//! Inserting messages.

use tokio_util::sync::CancellationToken;

use super::super::{Change, Inserted, NewMessage, Settled, Store as _, Then};
use super::{Fixture, shorthand::*};
use crate::{error::ParkReason, outbox::entry::EntryState};

pub(super) async fn a_message_in_a_new_lane_is_live(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a", "b"]).await;
    assert!(owner.may_send(&message).await);
    for id in message.ids {
        assert_eq!(owner.state(id).await, Some(EntryState::Live));
    }
}

pub(super) async fn a_message_behind_taken_calls_of_mine_is_live_under_their_claim(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    let second = owner.insert_live("lane", &["b"]).await;
    assert_eq!(first.lane, second.lane);
    owner.park(&second).await;
    let claimed = owner.claim_due(&["lane"], NOW).await;
    let behind = owner.insert_live("lane", &["c"]).await;
    assert_eq!(behind.lane, claimed[0].lane);
    assert!(owner.may_send(&behind).await);
}

pub(super) async fn a_message_from_before_the_last_round_is_live_in_a_lane_that_was_not_claimed(
    fixture: &impl Fixture,
) {
    let owner = fixture.owner().await;
    for (lane, key) in [("new", "a"), ("new", "b")] {
        let early = NewMessage {
            round: ROUND - 1,
            ..message(lane, &[key])
        };
        assert!(matches!(owner.insert(early).await, Ok(Inserted::Live { .. })));
    }
}

pub(super) async fn a_message_from_before_the_last_round_is_live_in_a_lane_that_was_created_anew(
    fixture: &impl Fixture,
) {
    let owner = fixture.owner().await;
    owner.park_new("lane", &["a"]).await;
    let claimed = owner.claim_at(NOW).await;
    owner.deliver(&claimed[0]).await;
    let early = NewMessage {
        round: ROUND - 1,
        ..message("lane", &["b"])
    };
    assert!(matches!(owner.insert(early).await, Ok(Inserted::Live { .. })));
}

pub(super) async fn a_message_from_before_the_round_of_claimed_calls_is_parked(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let before = owner.park_new("lane", &["a"]).await;
    let claimed = owner.claim_at(NOW).await;
    assert_eq!(claimed[0].ids, before);
    let early = NewMessage {
        round: ROUND - 1,
        ..message("lane", &["b"])
    };
    assert_eq!(owner.insert(early.clone()).await, Ok(Inserted::Parked));
    assert!(owner.deliver(&claimed[0]).await);
    assert_eq!(owner.claim_ids_at(NOW).await, ids(&early));
}

pub(super) async fn a_withdrawn_message_is_not_stored(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let withdrawn = CancellationToken::new();
    let message = NewMessage {
        withdrawn: Some(withdrawn.clone()),
        ..message("lane", &["a"])
    };
    withdrawn.cancel();
    assert_eq!(owner.insert(message).await, Ok(Inserted::Withdrawn));
    assert_eq!(owner.claim_ids_at(NOW).await, []);
}

pub(super) async fn a_message_in_a_lane_of_another_owner_is_parked(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    first.insert_live("lane", &["a"]).await;
    let ids = second.insert_parked("lane", &["b"]).await;
    assert_eq!(second.state(ids[0]).await, Some(EntryState::Parked));
    assert_eq!(second.claim_ids_at(NOW).await, []);
}

pub(super) async fn a_message_behind_a_parked_call_is_parked(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    first.insert_parked("lane", &["b"]).await;
    second.insert_parked("lane", &["c"]).await;
    second.insert_live("another lane", &["d"]).await;
}

pub(super) async fn a_message_behind_an_untaken_call_is_parked(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    first.insert_live("lane", &["a"]).await;
    second.insert_parked("lane", &["b"]).await;
    let ids = first.insert_parked("lane", &["c"]).await;
    assert_eq!(first.state(ids[0]).await, Some(EntryState::Parked));
}

pub(super) async fn a_message_with_a_reason_to_park_is_parked_and_due_at_once(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let ids = first.park_new("lane", &["a", "b"]).await;
    let entry = first.entry(ids[0]).await.unwrap();
    assert_eq!(entry.state, EntryState::Parked);
    assert_eq!(entry.reason, Some(ParkReason::NoCredentials.to_string()));
    assert_eq!(second.claim_ids_at(NOW).await, ids);
}

pub(super) async fn a_message_parked_at_once_is_due_for_its_own_poster(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let ids = owner.park_new("lane", &["a"]).await;
    assert_eq!(owner.claim_ids_at(NOW).await, ids);
}

pub(super) async fn a_message_parked_at_once_waits_for_the_live_calls_before_it(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let live = owner.insert_live("lane", &["a"]).await;
    let ids = owner.park_new("lane", &["b"]).await;
    assert_eq!(owner.claim_ids_at(NOW).await, []);
    assert!(owner.deliver(&live).await);
    assert_eq!(owner.claim_ids_at(NOW).await, ids);
}

pub(super) async fn a_message_parked_at_once_does_not_shorten_the_wait_of_its_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    let behind = second.park_new("lane", &["b"]).await;
    assert_eq!(second.claim_ids_at(MINUTE_LATER - 1).await, []);
    assert_eq!(second.claim_ids_at(MINUTE_LATER).await, [message.ids, behind].concat());
}

pub(super) async fn a_waiting_key_is_not_stored_again(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message_of_two = first.insert_live("lane", &["a", "b"]).await;
    let known = |ids| Ok(Inserted::Known { ids });
    let ids = message_of_two.ids.clone();
    assert_eq!(first.insert(message("lane", &["a", "b"])).await, known(ids.clone()));
    first.park(&message_of_two).await;
    assert_eq!(second.insert(message("lane", &["a", "b"])).await, known(ids.clone()));
    assert_eq!(
        second.insert(message("another lane", &["b"])).await,
        known(vec![ids[1]])
    );
    assert_eq!(second.entries().await.len(), 2);
}

pub(super) async fn ids_of_known_calls_are_in_the_order_of_the_message(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a", "b"]).await;
    let ids = vec![stored.ids[1], stored.ids[0]];
    let inserted = owner.insert(message("lane", &["b", "a"])).await;
    assert_eq!(inserted, Ok(Inserted::Known { ids }));
}

pub(super) async fn a_delivered_call_of_a_known_message_has_the_id_of_its_sibling(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a", "b"]).await;
    let changes = vec![
        (stored.ids[0], Change::Delete),
        (stored.ids[1], Change::Keep(failure())),
    ];
    owner.settle_each(&stored, changes, park_for(MINUTE)).await;
    let ids = vec![stored.ids[1]; 2];
    let inserted = owner.insert(message("lane", &["a", "b"])).await;
    assert_eq!(inserted, Ok(Inserted::Known { ids }));
    assert_eq!(owner.entries().await.len(), 1);
}

pub(super) async fn a_dead_letter_of_a_known_message_waits_again(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a", "b"]).await;
    let changes = vec![
        (stored.ids[0], Change::DeadLetter(failure())),
        (stored.ids[1], Change::Keep(failure())),
    ];
    owner.settle_each(&stored, changes, park_for(MINUTE)).await;
    let inserted = owner.insert(message("lane", &["a", "b"])).await;
    assert_eq!(
        inserted,
        Ok(Inserted::Known {
            ids: stored.ids.clone()
        })
    );
    assert_eq!(owner.claim_ids_at(NOW).await, [stored.ids[1], stored.ids[0]]);
}

pub(super) async fn a_withdrawn_call_that_another_message_was_told_of_stays(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a"]).await;
    owner.insert(message("lane", &["a"])).await.unwrap();
    let settled = owner.settle_all(&stored, Change::Withdraw, Then::Continue).await;
    assert_eq!(settled, Settled::Done { is_released: true });
    assert_eq!(owner.withdraw(stored.ids[..1].to_vec()).await, Ok(false));
    assert_eq!(owner.claim_ids_at(NOW).await, stored.ids);
}

pub(super) async fn a_withdrawn_call_that_stays_leaves_its_lane_to_the_calls_before_it(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let earlier = first.insert_live("lane", &["a"]).await;
    let withdrawn = first.insert_live("lane", &["b", "c"]).await;
    let later = first.insert_live("lane", &["d"]).await;
    first.insert(message("lane", &["b", "c"])).await.unwrap();
    let settled = first.settle_all(&withdrawn, Change::Withdraw, Then::Continue).await;
    assert_eq!(settled, Settled::Done { is_released: false });
    assert!(first.may_send(&earlier).await);
    for id in &withdrawn.ids {
        assert_eq!(first.state(*id).await, Some(EntryState::Parked));
    }
    assert_eq!(second.claim_ids_at(NOW).await, []);
    assert!(!first.deliver(&earlier).await);
    assert!(first.deliver(&later).await);
    assert_eq!(second.claim_ids_at(NOW).await, withdrawn.ids);
}

pub(super) async fn a_withdrawn_call_that_stays_is_parked_with_its_sibling(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a", "b"]).await;
    let later = owner.insert_live("lane", &["c"]).await;
    owner.insert(message("lane", &["a", "b"])).await.unwrap();
    let changes = vec![
        (stored.ids[0], Change::Keep(failure())),
        (stored.ids[1], Change::Withdraw),
    ];
    owner.settle_each(&stored, changes, park_for(MINUTE)).await;
    let claimed = owner.claim_due(&["lane"], NOW).await;
    assert_eq!(claimed[0].ids, stored.ids);
    assert_eq!(claimed[1].ids, later.ids);
}

pub(super) async fn a_withdrawn_call_that_stays_is_due_once_its_sibling_is_isolated(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a", "b"]).await;
    owner.insert(message("lane", &["a", "b"])).await.unwrap();
    let changes = vec![
        (stored.ids[0], Change::Keep(failure())),
        (stored.ids[1], Change::Withdraw),
    ];
    let settled = owner.settle_each(&stored, changes, isolate_for(MINUTE)).await;
    assert_eq!(settled, Settled::Done { is_released: true });
    assert_eq!(owner.claim_ids_at(NOW).await, stored.ids[1..]);
}

pub(super) async fn a_withdrawn_call_is_deleted(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a"]).await;
    let settled = owner.settle_all(&stored, Change::Withdraw, Then::Continue).await;
    assert_eq!(settled, Settled::Done { is_released: false });
    let parked = owner.park_new("lane", &["b"]).await;
    assert_eq!(owner.withdraw(parked).await, Ok(true));
    assert_eq!(owner.entries().await, []);
}

pub(super) async fn a_parked_duplicate_of_a_waiting_key_is_not_stored(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a"]).await;
    let duplicate = NewMessage {
        park: Some(ParkReason::QueueFull),
        ..message("lane", &["a"])
    };
    let inserted = owner.insert(duplicate).await;
    assert_eq!(
        inserted,
        Ok(Inserted::Known {
            ids: stored.ids.clone()
        })
    );
    assert!(owner.may_send(&stored).await);
}

pub(super) async fn a_key_is_free_again_after_its_delivery(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a", "b"]).await;
    owner.deliver(&stored).await;
    owner.insert_live("lane", &["a", "b"]).await;
}

pub(super) async fn a_dead_letter_is_replaced_by_a_message_with_its_key(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = owner.insert_live("lane", &["a", "b"]).await;
    owner
        .settle_all(&stored, Change::DeadLetter(failure()), Then::Continue)
        .await;
    let again = owner.insert_live("lane", &["b"]).await;
    let listed: Vec<_> = owner.entries().await.into_iter().map(|entry| entry.id).collect();
    assert_eq!(listed, [stored.ids[0], again.ids[0]]);
    assert_eq!(owner.entry(again.ids[0]).await.unwrap().attempts, 0);
}

pub(super) async fn keys_of_another_queue_do_not_count(fixture: &impl Fixture) {
    let (here, there) = (fixture.owner().await, fixture.owner_of_another_queue().await);
    here.insert_live("lane", &["a"]).await;
    there.insert_live("lane", &["a"]).await;
    assert_eq!(here.entries().await.len(), 1);
    assert_eq!(there.entries().await.len(), 1);
}

pub(super) async fn lanes_of_another_queue_are_not_claimed(fixture: &impl Fixture) {
    let (here, there) = (fixture.owner().await, fixture.owner_of_another_queue().await);
    let ids = here.park_new("lane", &["a"]).await;
    assert_eq!(there.claim_ids_at(NOW).await, []);
    assert_eq!(here.claim_ids_at(NOW).await, ids);
}

pub(super) async fn an_unpolled_insert_stores_nothing(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    drop(owner.insert(message("lane", &["a"])));
    assert_eq!(owner.entries().await, []);
}
