use super::super::{inspector::Inspector, open_inspector};
use super::*;
use crate::outbox::entry::{EntryQuery, EntryState};

fn inspector(outbox: &Outbox) -> Inspector {
    open_inspector(&outbox.path).unwrap()
}

#[actix_rt::test]
async fn a_damaged_row_does_not_hide_the_others() {
    let outbox = Outbox::new();
    let store = outbox.store();
    for lane in ["a", "b"] {
        insert(&store, lane).await.unwrap();
    }
    let damage = "UPDATE calls SET target_id = CAST(x'ff61' AS TEXT), body = CAST(x'ff' AS TEXT), kind = 'unknown',
        attempts = -5, parks = 1 << 40, age = -1, status_code = 1 << 20, created_at = -1 WHERE target_id = 'a';
        UPDATE lanes SET parked_at = 0x7fffffffffffffff, wait = 0x7fffffffffffffff, reason = CAST(x'ff' AS TEXT)
        WHERE name = 'a'";
    outbox.connect().execute_batch(damage).unwrap();
    let entries = store.list(EntryQuery::all()).await.unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        (entries[0].target_id.as_str(), entries[0].body.as_str()),
        ("\u{fffd}a", "\u{fffd}")
    );
    assert_eq!((entries[0].attempts, entries[0].status_code), (0, None));
    store.release_all(0).await.unwrap();
    let claimed = claim(&store).await.unwrap();
    assert_eq!(claimed.messages.len(), 2);
    let parks: Vec<_> = claimed
        .messages
        .iter()
        .map(|message| message.calls[0].history.parks)
        .collect();
    assert!(parks.contains(&u32::MAX));
}

#[actix_rt::test]
async fn a_lane_whose_calls_were_deleted_by_hand_is_removed() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "lane").await.unwrap();
    store.release_all(0).await.unwrap();
    outbox.connect().execute_batch("DELETE FROM calls").unwrap();
    assert_eq!(claim(&store).await.unwrap().messages.len(), 0);
    assert_eq!(outbox.count("lanes"), 0);
}

#[actix_rt::test]
async fn an_inspector_sees_and_repairs_all_queues() {
    let outbox = Outbox::new();
    let store = SqliteStore::open_apart(&outbox.path, "one".into(), u64::MAX);
    let other = SqliteStore::open(&outbox.path, "two".into(), u64::MAX);
    insert(&store, "lane").await.unwrap();
    insert(&other, "lane").await.unwrap();
    assert_eq!(store.stats().await.unwrap().in_other_queues, 1);
    let inspector = inspector(&outbox);
    let entries = inspector.list(EntryQuery::all()).unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry.owner.unwrap().is_alive));
    assert_eq!(
        (
            inspector.stats().unwrap().live,
            inspector.stats().unwrap().in_other_queues
        ),
        (2, 0)
    );
    assert_eq!(inspector.requeue_each(vec![entries[0].id], 0), Ok(0));
    store.release_all(0).await.unwrap();
    assert_eq!(inspector.get(entries[0].id).unwrap().unwrap().state, EntryState::Parked);
    assert_eq!(inspector.requeue_each(vec![entries[0].id], 0), Ok(1));
    assert_eq!(inspector.discard_each(vec![entries[0].id]), Ok(1));
    assert_eq!(inspector.get(entries[0].id), Ok(None));
    assert_eq!(super::super::inspector::quick_check(&outbox.path), Ok(()));
}

#[test]
fn a_missing_file_is_not_created_by_an_inspector() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    assert_eq!(open_inspector(&path).err(), Some(OutboxError::NotFound));
    assert!(!path.exists());
}

#[actix_rt::test]
async fn calls_are_counted_and_listed_beyond_a_page() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let insert = |count| {
        store.arbiter.write(move |connection, _, _| {
            let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO calls (id, state, queue, home, message, kind, target_id, idempotency_key, created_at, body)
                SELECT randomblob(16), 'dead', 'queue', 'lane', x'', 'status', 't', i, 0, '{}' FROM n";
            connection
                .execute(insert, [count])
                .map(drop)
                .map_err(super::super::sqlite_error)
        })
    };
    insert(1_200).await.unwrap();
    let live = NewMessage {
        // Beyond all random ids.
        calls: vec![NewCall {
            id: CallId::from_bytes([0xff; 16]),
            ..message("lane", "{}").calls.remove(0)
        }],
        ..message("lane", "{}")
    };
    store.insert(live).await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.dead_letters, stats.live), (1_200, 1));
    assert!(stats.bytes > 0 && stats.oldest_age.is_some());
    assert_eq!(store.list(EntryQuery::new(EntryState::Live)).await.unwrap().len(), 1);
    assert_eq!(
        store.list(EntryQuery::dead_letters().limit(500)).await.unwrap().len(),
        500
    );
    store.purge(10, Duration::ZERO).await.unwrap();
    assert_eq!(outbox.count("calls"), 1);
}
