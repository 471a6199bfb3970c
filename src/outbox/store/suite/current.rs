//! Which messages an owner may send: those that are live under its claim.

use super::super::Store as _;
use super::{Fixture, shorthand::*};

pub(super) async fn a_message_is_not_current_for_another_owner(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    assert!(first.may_send(&message).await);
    assert!(!second.may_send(&message).await);
}

pub(super) async fn a_message_is_not_current_after_a_park(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    let second = owner.insert_live("lane", &["b"]).await;
    owner.park(&first).await;
    assert!(!owner.may_send(&first).await);
    assert!(!owner.may_send(&second).await);
}

pub(super) async fn a_message_is_not_current_after_a_takeover(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.release_all(NOW).await.unwrap();
    let claimed = second.claim_at(NOW).await;
    assert!(second.may_send(&claimed[0]).await);
    assert!(!first.may_send(&message).await);
}

pub(super) async fn a_message_is_not_current_under_an_older_claim(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.park(&message).await;
    let claimed = owner.claim_due(&["lane"], NOW).await;
    assert_eq!(claimed[0].ids, message.ids);
    assert!(owner.may_send(&claimed[0]).await);
    assert!(!owner.may_send(&message).await);
}

pub(super) async fn a_message_is_not_current_after_its_delivery(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    let second = owner.insert_live("lane", &["b"]).await;
    owner.deliver(&first).await;
    assert!(!owner.may_send(&first).await);
    assert!(owner.may_send(&second).await);
}

pub(super) async fn a_message_is_not_current_after_the_discard_of_a_call(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a", "b"]).await;
    owner.park(&message).await;
    assert_eq!(owner.discard(message.ids[1]).await, Ok(true));
    let claimed = owner.claim_due(&["lane"], NOW).await;
    assert_eq!(claimed[0].ids, message.ids[..1]);
    let whole = LiveMessage {
        lane: claimed[0].lane.clone(),
        ids: message.ids,
    };
    assert!(owner.may_send(&claimed[0]).await);
    assert!(!owner.may_send(&whole).await);
}

pub(super) async fn an_isolated_message_is_not_current_in_its_former_lane(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    let second = owner.insert_live("lane", &["b"]).await;
    owner.isolate(&first).await;
    assert!(!owner.may_send(&first).await);
    assert!(owner.may_send(&second).await);
}

pub(super) async fn a_dead_letter_is_not_current(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    let second = owner.insert_live("lane", &["b"]).await;
    owner.dead_letter(&first).await;
    assert!(!owner.may_send(&first).await);
    assert!(owner.may_send(&second).await);
}

pub(super) async fn a_recreated_lane_has_another_claim(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    owner.deliver(&first).await;
    let second = owner.insert_live("lane", &["b"]).await;
    assert_ne!(first.lane, second.lane);
}
