//! Listing and counting calls, and purging dead letters.

use std::time::{Duration, UNIX_EPOCH};

use super::{super::Store as _, Fixture, shorthand::*};
use crate::{
    call::CallKind,
    outbox::entry::{EntryQuery, EntryState, OutboxEntry},
};

/// How long dead letters are kept.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) async fn a_dead_letter_is_kept_by_the_platforms_clock(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.dead_letter(&message).await;
    let first_answer = NOW + 3_650 * DAY;
    for platform_now in [first_answer, first_answer + 29 * DAY, first_answer - 365 * DAY] {
        owner.purge(platform_now, KEEP).await.unwrap();
        assert_eq!(owner.entries().await.len(), 1, "{platform_now}");
    }
    owner.purge(first_answer + 31 * DAY, KEEP).await.unwrap();
    assert_eq!(owner.entries().await, []);
}

pub(super) async fn a_purge_keeps_live_and_parked_calls(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    owner.insert_live("lane", &["a"]).await;
    owner.park_new("parked lane", &["b"]).await;
    for days in [0, 100, 10_000] {
        owner.purge(NOW + days * DAY, KEEP).await.unwrap();
    }
    let states: Vec<_> = owner.entries().await.into_iter().map(|entry| entry.state).collect();
    assert_eq!(states, [EntryState::Live, EntryState::Parked]);
}

pub(super) async fn a_purge_keeps_dead_letters_of_another_queue(fixture: &impl Fixture) {
    let (owner, other) = (fixture.owner().await, fixture.owner_of_another_queue().await);
    let message = owner.insert_live("lane", &["a"]).await;
    owner.dead_letter(&message).await;
    owner.purge(NOW, KEEP).await.unwrap();
    other.purge(NOW + 31 * DAY, KEEP).await.unwrap();
    assert_eq!(owner.entries().await.len(), 1);
}

pub(super) async fn a_purge_does_not_date_dead_letters_of_another_queue(fixture: &impl Fixture) {
    let (owner, other) = (fixture.owner().await, fixture.owner_of_another_queue().await);
    let message = owner.insert_live("lane", &["a"]).await;
    owner.dead_letter(&message).await;
    other.purge(NOW, KEEP).await.unwrap();
    owner.purge(NOW + 31 * DAY, KEEP).await.unwrap();
    assert_eq!(owner.entries().await.len(), 1);
}

pub(super) async fn a_dead_letter_after_a_requeue_is_kept_for_the_full_time(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("lane", &["a"]).await;
    owner.dead_letter(&message).await;
    owner.purge(NOW, KEEP).await.unwrap();
    owner.requeue(message.ids[0], NOW).await.unwrap();
    let claimed = owner.claim_at(NOW).await;
    owner.dead_letter(&claimed[0]).await;
    owner.purge(NOW + 31 * DAY, KEEP).await.unwrap();
    assert_eq!(owner.entries().await.len(), 1);
    owner.purge(NOW + 62 * DAY, KEEP).await.unwrap();
    assert_eq!(owner.entries().await, []);
}

pub(super) async fn calls_are_listed_by_state_in_pages(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let (mut parked, mut dead) = (Vec::new(), Vec::new());
    for index in 0..5 {
        let lane = format!("lane {index}");
        owner.insert_live(&lane, &[&format!("live {index}")]).await;
        parked.extend(owner.park_new(&lane, &[&format!("parked {index}")]).await);
        let message = owner.insert_live("dead lane", &[&format!("dead {index}")]).await;
        owner.dead_letter(&message).await;
        dead.extend(message.ids);
    }
    assert_eq!(owner.entries().await.len(), 15);
    for (state, ids) in [(EntryState::Parked, parked), (EntryState::DeadLetter, dead)] {
        let mut listed = Vec::new();
        for length in [2, 2, 1, 0] {
            let mut query = EntryQuery::new(state).limit(2);
            if let Some(last) = listed.last() {
                query = query.after(*last);
            }
            let page = owner.list(query).await.unwrap();
            assert_eq!(page.len(), length);
            assert!(page.iter().all(|entry| entry.state == state));
            listed.extend(page.iter().map(|entry| entry.id));
        }
        assert_eq!(listed, ids);
    }
}

pub(super) async fn calls_are_listed_by_target_and_age(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let mut old = message("old", &["a"]);
    old.now = 0;
    let ids = (ids(&old), owner.insert_live("new", &["b"]).await.ids);
    owner.insert(old).await.unwrap();
    let found = async |query: EntryQuery| -> Vec<_> {
        let entries = owner.list(query).await.unwrap();
        entries.into_iter().map(|entry| entry.id).collect()
    };
    assert_eq!(found(EntryQuery::all().target("new")).await, ids.1);
    assert_eq!(found(EntryQuery::all().target("ne")).await, []);
    // The time of the new call may be in the future of the host.
    let years = Duration::from_secs(40 * 365 * 24 * 60 * 60);
    assert_eq!(found(EntryQuery::all().older_than(years)).await, ids.0);
    assert_eq!(found(EntryQuery::all().older_than(Duration::MAX)).await, ids.0);
    assert_eq!(found(EntryQuery::all().older_than(years).target("new")).await, []);
}

pub(super) async fn a_list_without_bodies_has_all_else(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    owner.insert_live("lane", &["a"]).await;
    let [whole] = owner.entries().await.try_into().unwrap();
    let listed = owner.list(EntryQuery::all().without_bodies()).await.unwrap();
    assert_eq!(
        listed,
        [OutboxEntry {
            body: String::new(),
            ..whole
        }]
    );
}

pub(super) async fn a_call_is_listed_as_it_was_stored(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let mut stored = message("lane", &["key"]);
    stored.worker_id = Some("worker".into());
    stored.calls[0].kind = CallKind::CreateComment;
    owner.insert(stored.clone()).await.unwrap();
    let entry = owner.entry(stored.calls[0].id).await.unwrap();
    assert_eq!(entry.kind, "createComment");
    assert_eq!(entry.target_id, "lane");
    assert_eq!(entry.idempotency_key, "key");
    assert_eq!(entry.body, "body of key");
    assert_eq!(entry.worker_id.as_deref(), Some("worker"));
    assert_eq!((entry.attempts, entry.age), (0, Duration::ZERO));
    assert_eq!((entry.status_code, entry.last_error), (None, None));
    assert_eq!((entry.next_attempt_at, entry.reason), (None, None));
    let created_at = entry.created_at.duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(created_at.as_millis(), u128::try_from(NOW).unwrap());
}

pub(super) async fn a_live_call_is_listed_with_its_owner(fixture: &impl Fixture) {
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let parked = second.insert_parked("lane", &["b"]).await;
    let theirs = second.insert_live("their lane", &["c"]).await;
    let owner = second.entry(message.ids[0]).await.unwrap().owner.unwrap();
    assert!(owner.is_alive);
    assert_ne!(second.entry(theirs.ids[0]).await.unwrap().owner.unwrap().id, owner.id);
    assert_eq!(second.entry(parked[0]).await.unwrap().owner, None);
    fixture.kill(first).await;
    let owner = second.entry(message.ids[0]).await.unwrap().owner.unwrap();
    assert!(!owner.is_alive);
}

pub(super) async fn calls_are_counted_by_state(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let dead = owner.insert_live("lane", &["a"]).await;
    owner.dead_letter(&dead).await;
    owner.insert_live("lane", &["b", "c"]).await;
    owner.park_new("lane", &["d", "e"]).await;
    owner.park_new("another lane", &["f"]).await;
    let stats = owner.stats().await.unwrap();
    assert_eq!((stats.live, stats.parked, stats.dead_letters), (2, 3, 1));
}

pub(super) async fn the_calls_of_a_target_are_found_in_each_state(fixture: &impl Fixture) {
    let (owner, other_queue) = (fixture.owner().await, fixture.owner_of_another_queue().await);
    let dead = owner.insert_live("target", &["a"]).await;
    owner.dead_letter(&dead).await;
    owner.insert_live("target", &["b"]).await;
    owner.insert_live("other target", &["c"]).await;
    other_queue.insert_live("target", &["d"]).await;
    let found = owner.of_target("target".into(), "target".into()).await.unwrap();
    let mut found: Vec<_> = found
        .into_iter()
        .map(|entry| (entry.idempotency_key, entry.state))
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            ("a".to_owned(), EntryState::DeadLetter),
            ("b".to_owned(), EntryState::Live)
        ]
    );
    assert_eq!(owner.of_target("none".into(), "none".into()).await.unwrap(), []);
}

pub(super) async fn an_isolated_message_is_found_by_its_target(fixture: &impl Fixture) {
    let owner = fixture.owner().await;
    let message = owner.insert_live("target", &["a"]).await;
    owner.isolate(&message).await;
    let found = owner.of_target("target".into(), "target".into()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].state, EntryState::Parked);
    assert!(found[0].parked_at.is_some());
}
