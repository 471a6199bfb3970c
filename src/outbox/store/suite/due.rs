//! When a lane is due: by its owner's monotonic clock, or by the wall clock of others.

use std::time::Duration;

use super::super::{Change, ClaimRequest, Claimed, Settled, Settlement, Store as _, WallTime, Which};
use super::{Fixture, shorthand::*};
use crate::error::ParkReason::{self, CompletionOutage, StatusOutage, TrackerOutage};

pub(super) async fn a_lane_of_another_owner_is_due_after_its_wait(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    assert_eq!(second.claim_ids_at(MINUTE_LATER - 1).await, []);
    assert_eq!(second.claim_ids_at(MINUTE_LATER).await, message.ids);
}

pub(super) async fn the_wait_of_a_lane_begins_with_its_park(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let settlement = Settlement {
        lane: message.lane,
        changes: vec![(message.ids[0], Change::Keep(failure()))],
        then: park_for(MINUTE),
        now: NOW + 30 * SECOND,
    };
    first.settle_one(settlement).await.unwrap();
    assert_eq!(second.claim_ids_at(MINUTE_LATER + 30 * SECOND - 1).await, []);
    assert_eq!(second.claim_ids_at(MINUTE_LATER + 30 * SECOND).await, message.ids);
}

pub(super) async fn a_lane_that_was_parked_ahead_of_my_clock_is_due_at_once(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    assert_eq!(second.claim_ids_at(NOW).await, []);
    assert_eq!(second.claim_ids_at(NOW - 1).await, message.ids);
}

pub(super) async fn the_longest_due_lane_is_claimed_first(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    for (lane, seconds) in [("b", 20), ("c", 30), ("a", 10)] {
        let message = first.insert_live(lane, &[lane]).await;
        let wait = Duration::from_secs(seconds);
        first
            .settle_all(&message, Change::Keep(failure()), park_for(wait))
            .await;
    }
    for lane in ["a", "b", "c"] {
        let one = ClaimRequest {
            max_calls: 1,
            ..request(MINUTE_LATER)
        };
        let claimed = second.claim(one).await.unwrap();
        assert_eq!(claimed.messages[0].lane.lane, lane);
        assert_eq!(claimed.messages.len(), 1);
    }
}

pub(super) async fn a_lane_that_i_parked_is_claimed_only_if_it_is_named_as_due(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.park(&message).await;
    for now in [NOW - DAY, NOW, NOW + DAY] {
        assert_eq!(owner.claim_ids_at(now).await, []);
    }
    assert_eq!(owner.claim_due(&["lane"], NOW).await[0].ids, message.ids);
}

pub(super) async fn a_lane_that_i_parked_is_not_claimed_while_it_is_not_due(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.park(&message).await;
    for now in [NOW - DAY, NOW, NOW + DAY] {
        let not_due = ClaimRequest {
            delayed: lanes(&["lane"]),
            ..request(now)
        };
        assert_eq!(claimed_ids(&owner.claim(not_due).await.unwrap()), []);
    }
}

pub(super) async fn a_lane_that_is_not_due_waits_even_if_another_owner_has_parked_it_since(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    let claimed = second.claim_at(MINUTE_LATER).await;
    second.park(&claimed[0]).await;
    let not_due = ClaimRequest {
        delayed: lanes(&["lane"]),
        ..request(MINUTE_LATER)
    };
    assert_eq!(claimed_ids(&first.claim(not_due).await.unwrap()), []);
    assert_eq!(first.claim_ids_at(MINUTE_LATER).await, message.ids);
}

pub(super) async fn a_lane_that_is_not_due_is_claimed_after_its_release_by_another_owner(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    second.claim_at(MINUTE_LATER).await;
    second.release_all(NOW).await.unwrap();
    let not_due = ClaimRequest {
        delayed: lanes(&["lane"]),
        ..request(NOW)
    };
    assert_eq!(claimed_ids(&first.claim(not_due).await.unwrap()), message.ids);
}

pub(super) async fn a_lane_that_another_owner_has_parked_since_is_not_due_by_my_clock(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let settled = first
        .settle_all(&message, Change::Keep(failure()), park_for(Duration::ZERO))
        .await;
    assert_ne!(settled, Settled::NotCurrent);
    let claimed = second.claim_at(NOW).await;
    second.park(&claimed[0]).await;
    assert_eq!(first.claim_due(&["lane"], NOW).await, []);
    assert_eq!(first.claim_due(&["lane"], MINUTE_LATER).await[0].ids, message.ids);
}

pub(super) async fn a_lane_that_is_named_as_due_but_owned_is_not_claimed(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    second.claim_at(MINUTE_LATER).await;
    assert_eq!(first.claim_due(&["lane", "unknown"], MINUTE_LATER).await, []);
}

pub(super) async fn the_next_due_time_is_that_of_another_owners_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    for (lane, seconds) in [("a", 30), ("b", 20), ("c", 40)] {
        let message = first.insert_live(lane, &[lane]).await;
        let wait = Duration::from_secs(seconds);
        first
            .settle_all(&message, Change::Keep(failure()), park_for(wait))
            .await;
    }
    let next_due = |claimed: Claimed| claimed.next_due;
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(next_due(second.claim(request(NOW)).await.unwrap()), seconds(20));
    assert_eq!(
        next_due(second.claim(request(NOW + 20 * SECOND)).await.unwrap()),
        seconds(10)
    );
    assert_eq!(next_due(first.claim(request(NOW)).await.unwrap()), None);
}

/// A claim while these outages are over.
fn after_outages(outages: &[ParkReason], now: WallTime) -> ClaimRequest {
    ClaimRequest {
        which: Which::Due {
            outages: outages.to_vec(),
        },
        ..request(now)
    }
}

pub(super) async fn a_lane_of_an_outage_is_not_due_during_it(fixture: &impl Fixture) {
    let (owner, other) = (fixture.owner().await, fixture.owner().await);
    let message = owner.insert_live("lane", &["a"]).await;
    let park = park_for_outage(CompletionOutage, Duration::ZERO);
    owner.settle_all(&message, Change::Keep(failure()), park).await;
    for now in [NOW, NOW + DAY] {
        for store in [&owner, &other] {
            let claimed = store.claim(after_outages(&[StatusOutage, TrackerOutage], now)).await;
            let claimed = claimed.unwrap();
            assert_eq!((claimed_ids(&claimed), claimed.next_due), (Vec::new(), None));
            let by_name = ClaimRequest {
                due: vec!["lane".to_owned()],
                ..after_outages(&[], now)
            };
            assert_eq!(claimed_ids(&store.claim(by_name).await.unwrap()), []);
        }
    }
}

pub(super) async fn a_lane_of_an_outage_is_due_after_it_whatever_its_wait(fixture: &impl Fixture) {
    let (owner, other) = (fixture.owner().await, fixture.owner().await);
    let mut ids = Vec::new();
    for (lane, reason) in [("a", CompletionOutage), ("b", StatusOutage)] {
        let message = owner.insert_live(lane, &[lane]).await;
        let park = park_for_outage(reason, MINUTE);
        owner.settle_all(&message, Change::Keep(failure()), park).await;
        ids.push(message.ids);
    }
    let claimed = other.claim(after_outages(&[CompletionOutage], NOW)).await.unwrap();
    assert_eq!(claimed_ids(&claimed), ids[0]);
    let mine = ClaimRequest {
        delayed: lanes(&["b"]),
        ..after_outages(&[CompletionOutage, StatusOutage], NOW)
    };
    assert_eq!(claimed_ids(&owner.claim(mine).await.unwrap()), ids[1]);
}
