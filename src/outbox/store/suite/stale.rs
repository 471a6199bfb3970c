//! Settlements under a claim that has ended.

use super::super::{Change, Settled, Store, Then};
use super::{Fixture, shorthand::*};

pub(super) async fn a_settlement_of_a_former_owner_changes_nothing(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.release_all(NOW).await.unwrap();
    let claimed = second.claim_at(NOW).await;
    assert_stale_settlements_change_nothing(&*first, &message).await;
    assert!(second.may_send(&claimed[0]).await);
}

pub(super) async fn a_settlement_under_an_older_claim_changes_nothing(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.park(&message).await;
    let claimed = owner.claim_due(&["lane"], NOW).await;
    assert_stale_settlements_change_nothing(&*owner, &message).await;
    assert!(owner.may_send(&claimed[0]).await);
}

pub(super) async fn a_settlement_of_a_released_lane_changes_nothing(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.park(&message).await;
    assert_stale_settlements_change_nothing(&*owner, &message).await;
}

pub(super) async fn a_settlement_of_a_removed_lane_changes_nothing(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.deliver(&message).await;
    assert_stale_settlements_change_nothing(&*owner, &message).await;
}

pub(super) async fn a_settlement_under_the_claim_of_a_removed_lane_changes_nothing_in_its_successor(
    fixture: &impl Fixture,
) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    owner.deliver(&first).await;
    let second = owner.insert_live("lane", &["b"]).await;
    let stale = LiveMessage {
        lane: first.lane,
        ids: second.ids.clone(),
    };
    assert_stale_settlements_change_nothing(&*owner, &stale).await;
    assert!(owner.may_send(&second).await);
}

/// Settles a message in each way under a claim that has ended.
async fn assert_stale_settlements_change_nothing(owner: &impl Store, stale: &LiveMessage) {
    let before = owner.entries().await;
    for (change, then) in [
        (Change::Delete, Then::Stay),
        (Change::Delete, Then::Continue),
        (Change::DeadLetter(failure()), Then::Continue),
        (Change::Keep(failure()), park_for(MINUTE)),
        (Change::Keep(failure()), isolate_for(MINUTE)),
    ] {
        assert_eq!(owner.settle_all(stale, change, then).await, Settled::NotCurrent);
    }
    assert_eq!(owner.entries().await, before);
    assert!(!owner.may_send(stale).await);
}
