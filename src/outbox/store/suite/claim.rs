//! Claiming lanes.

use std::time::Duration;

use futures_util::future::join;

use super::super::{
    Change, ClaimRequest, Claimed, Failure, History, MAX_PER_LANE, NewMessage, Settlement, Store, Which,
};
use super::{Fixture, shorthand::*};
use crate::{call::Endpoint, call_id::CallId, error::ParkReason};

/// Fills a lane with parked messages of one call each.
async fn fill(store: &impl Store, lane: &str, count: usize) -> Vec<CallId> {
    let mut ids = Vec::new();
    for index in 0..count {
        ids.extend(store.park_new(lane, &[&format!("{lane} {index}")]).await);
    }
    ids
}

pub(super) async fn a_claim_takes_the_first_calls_of_a_lane(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let ids = fill(&*owner, "lane", MAX_PER_LANE + 4).await;
    assert_eq!(owner.claim_ids_at(NOW).await, ids[..MAX_PER_LANE]);
    assert_eq!(owner.claim_ids_at(NOW).await, []);
}

pub(super) async fn the_only_lane_that_is_due_fills_half_of_the_room(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let ids = fill(&*owner, "lane", 5 * MAX_PER_LANE).await;
    let half = 3 * MAX_PER_LANE;
    let claimed = owner.claim(with_room(2 * half)).await.unwrap();
    assert_eq!(claimed_ids(&claimed), ids[..half]);
}

pub(super) async fn lanes_that_are_due_share_half_of_the_room(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let share = 2 * MAX_PER_LANE;
    let mut expected = Vec::new();
    for lane in ["x", "y"] {
        expected.extend_from_slice(&fill(&*owner, lane, share + 1).await[..share]);
    }
    let claimed = owner.claim(with_room(4 * share)).await.unwrap();
    assert_eq!(claimed_ids(&claimed), expected);
}

pub(super) async fn the_rest_of_a_long_lane_is_claimed_after_its_first_calls(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let ids = fill(&*owner, "lane", MAX_PER_LANE + 4).await;
    for (index, message) in owner.claim_at(NOW).await.iter().enumerate() {
        assert_eq!(owner.deliver(message).await, index + 1 == MAX_PER_LANE);
    }
    assert_eq!(owner.claim_ids_at(NOW).await, ids[MAX_PER_LANE..]);
}

pub(super) async fn a_message_is_claimed_as_a_whole(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let first = owner.park_new("lane", &["a", "b"]).await;
    let second = owner.park_new("lane", &["c"]).await;
    let third = owner.park_new("lane", &["d", "e"]).await;
    let claimed: Vec<_> = owner
        .claim_at(NOW)
        .await
        .into_iter()
        .map(|message| message.ids)
        .collect();
    assert_eq!(claimed, [first, second, third]);
}

pub(super) async fn a_message_beyond_the_limit_of_a_lane_is_not_split(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let before = fill(&*owner, "lane", MAX_PER_LANE - 1).await;
    let beyond = owner.park_new("lane", &["a", "b"]).await;
    let claimed = owner.claim_at(NOW).await;
    let taken: Vec<_> = claimed.iter().flat_map(|message| message.ids.clone()).collect();
    assert_eq!(taken, before);
    for message in &claimed {
        owner.deliver(message).await;
    }
    assert_eq!(owner.claim_at(NOW).await[0].ids, beyond);
}

pub(super) async fn a_message_that_fits_the_limit_of_a_lane_is_claimed(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let mut ids = fill(&*owner, "lane", MAX_PER_LANE - 2).await;
    ids.extend(owner.park_new("lane", &["a", "b"]).await);
    owner.park_new("lane", &["c"]).await;
    assert_eq!(owner.claim_ids_at(NOW).await, ids);
}

pub(super) async fn a_claim_takes_the_lanes_of_one_endpoint(fixture: &impl Fixture) {
    let (owner, other) = (fixture.owner().await, fixture.owner().await);
    for lane in ["issue a", "session a", "session issue b"] {
        fill(&*owner, lane, 1).await;
    }
    let parked = other.insert_live("issue c", &["c"]).await;
    other.park(&parked).await;
    let of = |endpoint| ClaimRequest {
        endpoint,
        ..request(NOW)
    };
    let lanes = |claimed: &Claimed| {
        let lanes = claimed.messages.iter().map(|message| message.lane.lane.clone());
        lanes.collect::<Vec<_>>()
    };
    let claimed = owner.claim(of(Endpoint::Session)).await.unwrap();
    assert_eq!(lanes(&claimed), ["session a", "session issue b"]);
    assert_eq!((claimed.is_limited, claimed.next_due), (false, None));
    let claimed = owner.claim(of(Endpoint::Proxy)).await.unwrap();
    assert_eq!(lanes(&claimed), ["issue a"]);
    assert_eq!((claimed.is_limited, claimed.next_due), (false, Some(MINUTE)));
}

/// A request for about so many calls.
fn with_room(max_calls: usize) -> ClaimRequest {
    ClaimRequest {
        max_calls,
        ..request(NOW)
    }
}

pub(super) async fn a_claim_stops_at_max_calls(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    for lane in ["x", "y", "z"] {
        fill(&*owner, lane, 1).await;
    }
    let claimed = owner.claim(with_room(2)).await.unwrap();
    assert_eq!(claimed.messages.len(), 2);
    assert!(claimed.is_limited);
    let claimed = owner.claim(request(NOW)).await.unwrap();
    assert_eq!(claimed.messages.len(), 1);
    assert!(!claimed.is_limited);
}

pub(super) async fn a_claim_stops_at_max_bytes_within_a_lane(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let ids = fill(&*owner, "lane", 5).await;
    let some = ClaimRequest {
        max_bytes: "body of lane 0".len() * 2,
        ..request(NOW)
    };
    let claimed = owner.claim(some).await.unwrap();
    assert_eq!(claimed_ids(&claimed), ids[..2]);
}

pub(super) async fn a_claim_stops_at_max_bytes_between_lanes(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    for lane in ["x", "y", "z"] {
        fill(&*owner, lane, 1).await;
    }
    let some = ClaimRequest {
        max_bytes: "body of x 0".len() * 2,
        ..request(NOW)
    };
    let claimed = owner.claim(some).await.unwrap();
    assert_eq!(claimed.messages.len(), 2);
    assert!(claimed.is_limited);
}

pub(super) async fn a_message_above_max_bytes_is_claimed_alone(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let ids = fill(&*owner, "lane", 2).await;
    let least = ClaimRequest {
        max_bytes: 1,
        ..request(NOW)
    };
    assert_eq!(claimed_ids(&owner.claim(least).await.unwrap()), ids[..1]);
}

pub(super) async fn a_lane_has_one_owner(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let mut ids = Vec::new();
    for lane in ["x", "y", "z"] {
        ids.extend(fill(&*first, lane, 2).await);
    }
    let (one, other) = join(first.claim_ids_at(NOW), second.claim_ids_at(NOW)).await;
    let mut claimed = [one, other].concat();
    claimed.sort_unstable();
    assert_eq!(claimed, ids);
    assert_eq!(first.claim_ids_at(NOW + DAY).await, []);
    assert_eq!(second.claim_ids_at(NOW - DAY).await, []);
}

pub(super) async fn a_claimed_call_is_as_it_was_stored(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let stored = NewMessage {
        worker_id: Some("worker".into()),
        park: Some(ParkReason::QueueFull),
        ..message("lane", &["key"])
    };
    owner.insert(stored.clone()).await.unwrap();
    let claimed = owner.claim(request(NOW)).await.unwrap();
    let call = &claimed.messages[0].calls[0];
    assert_eq!(call.id, stored.calls[0].id);
    assert_eq!(call.target_id, "lane");
    assert_eq!(call.idempotency_key, "key");
    assert_eq!(call.body, b"body of key");
    assert_eq!(call.worker_id.as_deref(), Some("worker"));
    assert_eq!(call.history, History::default());
}

pub(super) async fn a_claimed_call_has_its_history_and_worker(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    let history = History {
        attempts: 5,
        parks: 4,
        faults: 3,
        rejections: 2,
        is_reduced: true,
        takeovers: 2,
        age: Duration::from_millis(1_001),
    };
    let failure = Failure {
        worker_id: Some("worker".into()),
        history: history.clone(),
        ..failure()
    };
    owner
        .settle_all(&message, Change::Keep(failure), park_for(MINUTE))
        .await;
    let due = ClaimRequest {
        due: vec!["lane".into()],
        ..request(NOW)
    };
    let claimed = owner.claim(due).await.unwrap();
    let call = &claimed.messages[0].calls[0];
    assert_eq!(call.history, history);
    assert_eq!(call.worker_id.as_deref(), Some("worker"));
}

pub(super) async fn a_worker_is_set_on_calls_that_have_the_former_one(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let with_worker = NewMessage {
        worker_id: Some("first".into()),
        ..message("lane", &["a"])
    };
    owner.insert(with_worker.clone()).await.unwrap();
    let without = owner.insert_live("lane", &["b"]).await;
    let all = [ids(&with_worker), without.ids].concat();
    for (former, worker_id, expected) in [
        (None, "second", ["first", "second"]),
        (None, "third", ["first", "second"]),
        (Some("first"), "third", ["third", "second"]),
    ] {
        let set = owner.set_worker(all.clone(), former.map(str::to_owned), worker_id.into());
        set.await.unwrap();
        let entries = owner.entries().await.into_iter();
        let workers: Vec<_> = entries.map(|entry| entry.worker_id.unwrap()).collect();
        assert_eq!(workers, expected);
    }
}

/// Claims the lane for a probe of completions.
async fn probe(store: &impl Store) -> Vec<CallId> {
    let probe = ClaimRequest {
        which: Which::Probe {
            outage: ParkReason::CompletionOutage,
        },
        ..request(NOW)
    };
    claimed_ids(&store.claim(probe).await.unwrap())
}

pub(super) async fn a_probe_takes_the_first_message_of_the_lane_that_was_parked_first(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let mut first = Vec::new();
    for (lane, seconds) in [("b", 2), ("c", 1), ("a", 3)] {
        let message = owner.insert_live(lane, &[lane]).await;
        owner.insert_live(lane, &[&format!("{lane} behind")]).await;
        let settlement = Settlement {
            lane: message.lane,
            changes: vec![(message.ids[0], Change::Keep(failure()))],
            then: park_for_outage(ParkReason::CompletionOutage, MINUTE),
            now: NOW + seconds * SECOND,
        };
        owner.settle_one(settlement).await.unwrap();
        first.push(message.ids);
    }
    let [b, c, a] = first.try_into().unwrap();
    for expected in [c, b, a, Vec::new()] {
        assert_eq!(probe(&*owner).await, expected);
    }
}

pub(super) async fn a_probe_takes_no_lane_that_was_parked_for_another_reason(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    fill(&*owner, "no credentials", 1).await;
    let message = owner.insert_live("status", &["status"]).await;
    let park = park_for_outage(ParkReason::StatusOutage, Duration::ZERO);
    owner.settle_all(&message, Change::Keep(failure()), park).await;
    assert_eq!(probe(&*owner).await, []);
}
