//! Owners that die, stop or close the store.

use std::time::Duration;

use super::super::{Change, ClaimRequest, Store as _, Then, Watched};
use super::{Fixture, shorthand::*};
use crate::{error::ParkReason, outbox::entry::EntryState};

pub(super) async fn lanes_of_a_dead_owner_are_due_at_once(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let one = first.insert_live("lane", &["a", "b"]).await;
    let two = first.insert_live("another lane", &["c"]).await;
    fixture.kill(first).await;
    assert_eq!(second.claim_ids_at(NOW + DAY).await, []);
    assert_eq!(second.watch(NOW, MINUTE).await.unwrap().freed, 3);
    assert_eq!(second.state(one.ids[0]).await, Some(EntryState::Parked));
    let mut claimed = second.claim_ids_at(NOW).await;
    claimed.sort_unstable();
    assert_eq!(claimed, [one.ids, two.ids].concat());
}

pub(super) async fn parked_calls_behind_calls_of_a_dead_owner_are_freed_with_them(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let live = first.insert_live("lane", &["a"]).await;
    let parked = second.insert_parked("lane", &["b"]).await;
    fixture.kill(first).await;
    second.watch(NOW, MINUTE).await.unwrap();
    assert_eq!(second.claim_ids_at(NOW).await, [live.ids, parked].concat());
}

pub(super) async fn lanes_of_a_live_owner_are_never_freed(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    for now in [NOW - DAY, NOW, NOW + 365 * DAY] {
        for owner in [&first, &second] {
            assert_eq!(owner.watch(now, MINUTE).await.unwrap().freed, 0);
        }
        assert_eq!(second.claim_ids_at(now).await, []);
    }
    assert!(first.may_send(&message).await);
}

pub(super) async fn a_lane_is_freed_once(fixture: &impl Fixture) {
    let (first, second, third) = (fixture.owner().await, fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    fixture.kill(first).await;
    assert_eq!(second.watch(NOW, MINUTE).await.unwrap().freed, 1);
    let claimed = second.claim_at(NOW).await;
    assert_eq!(claimed[0].ids, message.ids);
    assert_eq!(third.watch(NOW, MINUTE).await.unwrap().freed, 0);
    assert_eq!(second.watch(NOW, MINUTE).await.unwrap().freed, 0);
    assert!(second.may_send(&claimed[0]).await);
}

pub(super) async fn a_lane_that_a_dead_owner_parked_keeps_its_wait(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    fixture.kill(first).await;
    assert_eq!(second.watch(NOW, MINUTE).await.unwrap().freed, 0);
    assert_eq!(second.claim_ids_at(MINUTE_LATER - 1).await, []);
    assert_eq!(second.claim_ids_at(MINUTE_LATER).await, message.ids);
}

pub(super) async fn a_death_counts_for_the_calls_of_the_first_message(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    first.insert_live("lane", &["a", "b"]).await;
    first.insert_live("lane", &["c"]).await;
    second.insert_parked("lane", &["d"]).await;
    fixture.kill(first).await;
    second.watch(NOW, MINUTE).await.unwrap();
    let claimed = second.claim(request(NOW)).await.unwrap();
    let calls = claimed.messages.iter().flat_map(|message| &message.calls);
    let takeovers: Vec<_> = calls.map(|call| call.history.takeovers).collect();
    assert_eq!(takeovers, [1, 1, 0, 0]);
}

pub(super) async fn a_death_counts_for_the_first_remaining_message(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let delivered = first.insert_live("lane", &["a"]).await;
    first.insert_live("lane", &["b"]).await;
    first.deliver(&delivered).await;
    fixture.kill(first).await;
    second.watch(NOW, MINUTE).await.unwrap();
    let claimed = second.claim(request(NOW)).await.unwrap();
    assert_eq!(claimed.messages[0].calls[0].history.takeovers, 1);
}

pub(super) async fn a_death_does_not_count_for_a_sibling_in_another_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a", "b"]).await;
    first.isolate(&message).await;
    first.requeue(message.ids[0], NOW).await.unwrap();
    assert_eq!(first.claim_ids_at(NOW).await, message.ids[..1]);
    fixture.kill(first).await;
    second.watch(NOW, MINUTE).await.unwrap();
    let claimed = second.claim(request(MINUTE_LATER)).await.unwrap();
    let mut calls: Vec<_> = claimed.messages.iter().flat_map(|message| &message.calls).collect();
    calls.sort_by_key(|call| call.id);
    let takeovers: Vec<_> = calls.iter().map(|call| call.history.takeovers).collect();
    assert_eq!(takeovers, [1, 0]);
}

pub(super) async fn a_death_does_not_count_for_an_untaken_sibling(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a", "b"]).await;
    let changes = vec![(message.ids[0], Change::DeadLetter(failure()))];
    first.settle_each(&message, changes, Then::Continue).await;
    second.requeue(message.ids[0], NOW).await.unwrap();
    fixture.kill(first).await;
    second.watch(NOW, MINUTE).await.unwrap();
    let claimed = second.claim(request(NOW)).await.unwrap();
    let calls = claimed.messages.iter().flat_map(|message| &message.calls);
    let takeovers: Vec<_> = calls.map(|call| (call.id, call.history.takeovers)).collect();
    assert_eq!(takeovers, [(message.ids[1], 1), (message.ids[0], 0)]);
}

pub(super) async fn a_second_death_counts_only_for_calls_that_were_being_sent(fixture: &impl Fixture) {
    let watcher = fixture.owner().await;
    let poison = watcher.park_new("poison", &["x", "y"]).await;
    for lane in 0..100 {
        watcher
            .park_new(&format!("innocent {lane}"), &[&format!("{lane}")])
            .await;
    }
    let all = ClaimRequest {
        max_calls: 1_000,
        ..request(MINUTE_LATER)
    };
    for deaths in 0..3 {
        let owner = fixture.owner().await;
        let messages = owner.claim(all.clone()).await.unwrap().messages;
        assert_eq!(messages.len(), 101);
        for message in messages {
            let is_poison = message.calls[0].id == poison[0];
            let expected = if is_poison { deaths } else { deaths.min(1) };
            assert!(message.calls.iter().all(|call| call.history.takeovers == expected));
            if is_poison && expected > 0 {
                owner.note_sending(message.lane, poison.clone()).await.unwrap();
            }
        }
        fixture.kill(owner).await;
        watcher.watch(NOW, MINUTE).await.unwrap();
    }
    let messages = watcher.claim(all).await.unwrap().messages;
    let suspects = messages.iter().flat_map(|message| &message.calls);
    let suspects = suspects.filter(|call| call.history.takeovers > 1);
    assert_eq!(suspects.map(|call| call.id).collect::<Vec<_>>(), poison);
}

pub(super) async fn a_note_of_sending_holds_for_its_claim(fixture: &impl Fixture) {
    let watcher = fixture.owner().await;
    watcher.park_new("lane", &["a"]).await;
    for (is_noted, takeovers) in [(false, 0), (true, 1), (false, 2), (true, 2)] {
        let owner = fixture.owner().await;
        let message = owner.claim(request(NOW)).await.unwrap().messages.remove(0);
        assert_eq!(message.calls[0].history.takeovers, takeovers);
        if is_noted {
            let ids = vec![message.calls[0].id];
            owner.note_sending(message.lane, ids).await.unwrap();
        }
        fixture.kill(owner).await;
        watcher.watch(NOW, Duration::ZERO).await.unwrap();
    }
}

pub(super) async fn a_note_of_a_former_owner_does_not_count(fixture: &impl Fixture) {
    let (first, second, third) = (fixture.owner().await, fixture.owner().await, fixture.owner().await);
    first.insert_live("lane", &["a"]).await;
    fixture.kill(first).await;
    second.watch(NOW, MINUTE).await.unwrap();
    let former = second.claim_at(NOW).await.remove(0);
    second.release_all(NOW).await.unwrap();
    let present = third.claim_at(NOW).await.remove(0);
    third.note_sending(present.lane, present.ids).await.unwrap();
    second.note_sending(former.lane, former.ids).await.unwrap();
    fixture.kill(third).await;
    second.watch(NOW, MINUTE).await.unwrap();
    let claimed = second.claim(request(NOW)).await.unwrap();
    assert_eq!(claimed.messages[0].calls[0].history.takeovers, 2);
}

pub(super) async fn a_lane_waits_after_three_deaths(fixture: &impl Fixture) {
    let watcher = fixture.owner().await;
    let ids = watcher.park_new("lane", &["a", "b"]).await;
    for deaths in 1..=3 {
        let owner = fixture.owner().await;
        let message = owner.claim_at(NOW + SECOND).await.remove(0);
        assert_eq!(message.ids, ids, "before death {deaths}");
        owner.note_sending(message.lane, message.ids).await.unwrap();
        fixture.kill(owner).await;
        watcher.watch(NOW + SECOND, MINUTE).await.unwrap();
    }
    assert_eq!(watcher.claim_ids_at(NOW + SECOND).await, []);
    assert_eq!(watcher.claim_ids_at(MINUTE_LATER + SECOND - 1).await, []);
    let claimed = watcher.claim(request(MINUTE_LATER + SECOND)).await.unwrap();
    let calls = &claimed.messages[0].calls;
    assert!(calls.iter().all(|call| call.history.takeovers == 3));
}

pub(super) async fn a_settlement_keeps_the_count_of_deaths(fixture: &impl Fixture) {
    let (first, second, third) = (fixture.owner().await, fixture.owner().await, fixture.owner().await);
    first.insert_live("lane", &["a"]).await;
    fixture.kill(first).await;
    second.watch(NOW, MINUTE).await.unwrap();
    let claimed = second.claim(request(NOW)).await.unwrap().messages.remove(0);
    let mut failure = failure();
    failure.history.takeovers = claimed.calls[0].history.takeovers;
    let message = LiveMessage::from(claimed);
    second
        .settle_all(&message, Change::Keep(failure), park_for(Duration::ZERO))
        .await;
    let claimed = third.claim(request(NOW)).await.unwrap();
    assert_eq!(claimed.messages[0].calls[0].history.takeovers, 1);
}

pub(super) async fn a_release_makes_all_lanes_of_the_owner_due_at_once(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let one = first.insert_live("lane", &["a"]).await;
    let two = first.insert_live("another lane", &["b"]).await;
    let theirs = second.insert_live("their lane", &["c"]).await;
    first.release_all(NOW).await.unwrap();
    assert!(!first.may_send(&one).await);
    assert!(second.may_send(&theirs).await);
    let reason = Some(ParkReason::Shutdown.to_string());
    assert_eq!(second.entry(one.ids[0]).await.unwrap().reason, reason);
    let mut claimed = second.claim_ids_at(NOW).await;
    claimed.sort_unstable();
    assert_eq!(claimed, [one.ids, two.ids].concat());
}

pub(super) async fn a_release_does_not_count_as_a_death(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    first.insert_live("lane", &["a"]).await;
    first.release_all(NOW).await.unwrap();
    assert_eq!(second.watch(NOW, MINUTE).await.unwrap().freed, 0);
    let claimed = second.claim(request(NOW)).await.unwrap();
    assert_eq!(claimed.messages[0].calls[0].history.takeovers, 0);
}

pub(super) async fn a_release_does_not_shorten_the_wait_of_a_parked_lane(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.park(&message).await;
    first.release_all(NOW).await.unwrap();
    assert_eq!(second.claim_ids_at(MINUTE_LATER - 1).await, []);
    assert_eq!(second.claim_ids_at(MINUTE_LATER).await, message.ids);
}

pub(super) async fn calls_of_a_closed_owner_are_claimed_by_others(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    first.release_all(NOW).await.unwrap();
    first.close().await.unwrap();
    assert_eq!(second.claim_ids_at(NOW).await, message.ids);
}

pub(super) async fn a_watch_notices_a_due_lane_of_another_owner(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    second.watch(NOW, MINUTE).await.unwrap();
    first.park_new("lane", &["a"]).await;
    let watched = second.watch(NOW, MINUTE).await.unwrap();
    assert_eq!(
        watched,
        Watched {
            freed: 0,
            has_changed: true
        }
    );
}
