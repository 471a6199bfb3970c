use std::collections::BTreeSet;

use super::*;
use crate::outbox::{CallRecord, EntryQuery, EntryState, Imported, OutboxEntry, OutboxInspector};

/// An outbox with a live call, a parked call and a dead letter, of three lanes.
async fn outbox_with_calls() -> (Outbox, Rc<SqliteStore>) {
    let outbox = Outbox::new();
    let store = outbox.store();
    let mut parked = message("session parked", "{\"a\":1.0}");
    parked.park = Some(ParkReason::AttemptsFailed);
    parked.worker_id = Some("w".into());
    parked.calls[0].headers = Some("{\"x\":\"y\"}".into());
    store.insert(parked).await.unwrap();
    let dead = message("session dead", "{}");
    let id = dead.calls[0].id;
    let Inserted::Live { claim } = store.insert(dead).await.unwrap() else {
        panic!("the lane is free");
    };
    let failure = Failure {
        status_code: Some(422),
        error: "rejected".into(),
        worker_id: None,
        history: History::default(),
    };
    let settlement = Settlement {
        lane: LaneClaim {
            lane: "session dead".into(),
            claim,
        },
        changes: vec![(id, Change::DeadLetter(failure))],
        then: Then::Continue,
        now: 1_800_000_000_000,
    };
    settle(&store, settlement).await.unwrap();
    insert(&store, "session live").await.unwrap();
    (outbox, store)
}

fn entries(outbox: &OutboxInspector) -> Vec<OutboxEntry> {
    outbox.list(EntryQuery::all()).unwrap()
}

fn records(outbox: &OutboxInspector) -> Vec<CallRecord> {
    let ids: Vec<_> = entries(outbox).into_iter().map(|entry| entry.id).collect();
    outbox.export(&ids).unwrap()
}

/// An empty outbox, as a tool opens it.
fn other_outbox() -> (Outbox, OutboxInspector) {
    let outbox = Outbox::new();
    let inspector = OutboxInspector::open(&outbox.path).unwrap();
    (outbox, inspector)
}

#[actix_rt::test]
async fn an_imported_call_is_the_exported_one_due_now() {
    let (from, _store) = outbox_with_calls().await;
    let from = OutboxInspector::open(&from.path).unwrap();
    let (_folder, to) = other_outbox();
    let json = serde_json::to_string(&records(&from)).unwrap();
    let imported = to.import(serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!((imported.stored, imported.skipped), (3, 0));
    let states = entries(&to).iter().map(|entry| entry.state).collect::<Vec<_>>();
    assert_eq!(states, [EntryState::Parked, EntryState::DeadLetter, EntryState::Parked]);
    for (before, after) in entries(&from).into_iter().zip(entries(&to)) {
        let content = |entry: &OutboxEntry| {
            let entry = entry.clone();
            (
                entry.id,
                entry.kind,
                entry.target_id,
                entry.queue,
                entry.worker_id,
                entry.body,
                entry.created_at,
            )
        };
        assert_eq!(content(&before), content(&after));
        assert_eq!(
            (before.status_code, before.last_error),
            (after.status_code, after.last_error)
        );
        assert_eq!(after.attempts, 0);
    }
    let headers = records(&to).remove(0).headers.unwrap().0;
    assert_eq!(headers, "{\"x\":\"y\"}");
}

#[actix_rt::test]
async fn an_imported_call_can_be_claimed_and_a_dead_letter_can_not() {
    let (from, _store) = outbox_with_calls().await;
    let from = OutboxInspector::open(&from.path).unwrap();
    let (to, inspector) = other_outbox();
    inspector.import(records(&from)).unwrap();
    let store = to.store();
    let lanes = claim(&store)
        .await
        .unwrap()
        .messages
        .into_iter()
        .map(|message| message.lane.lane);
    assert_eq!(
        lanes.collect::<BTreeSet<_>>(),
        BTreeSet::from(["session live", "session parked"].map(str::to_owned))
    );
}

#[actix_rt::test]
async fn calls_that_the_outbox_has_are_not_imported_again() {
    let (from, _store) = outbox_with_calls().await;
    let from = OutboxInspector::open(&from.path).unwrap();
    let again = from.import(records(&from)).unwrap();
    assert_eq!(again, Imported { stored: 0, skipped: 3 });
    // The same message under another id, as if a runner had posted it again.
    let mut repeated = records(&from).remove(0);
    repeated.id = CallId::new(&Clock::system());
    assert_eq!(from.import(vec![repeated]).unwrap().skipped, 1);
    assert_eq!(entries(&from).len(), 3);
}

#[actix_rt::test]
async fn an_imported_call_comes_last_in_its_lane() {
    let (from, store) = outbox_with_calls().await;
    let from = OutboxInspector::open(&from.path).unwrap();
    let first = records(&from).remove(0);
    from.discard(first.id).unwrap();
    insert(&store, "session parked").await.unwrap();
    from.import(vec![first.clone()]).unwrap();
    let mut lane = calls_of_lane(&store, "session parked").await;
    assert_eq!(lane.len(), 2);
    assert_eq!(lane.pop(), Some(first.id));
}

/// The ids of a lane in its order.
async fn calls_of_lane(store: &SqliteStore, lane: &'static str) -> Vec<CallId> {
    let ids = store.arbiter.read(move |connection, _, _| {
        let of_lane = "SELECT calls.id FROM calls JOIN lanes ON lanes.id = lane WHERE name = ?1 ORDER BY seq";
        let mut calls = connection.prepare(of_lane).unwrap();
        let ids = calls.query_map([lane], |row| Ok(super::super::rows::call_id(row, "id")));
        Ok(Some(ids.unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap()))
    });
    ids.await.unwrap()
}

#[actix_rt::test]
async fn live_calls_are_neither_requeued_nor_discarded() {
    let (outbox, _store) = outbox_with_calls().await;
    let inspector = OutboxInspector::open(&outbox.path).unwrap();
    let ids: Vec<_> = entries(&inspector).into_iter().map(|entry| entry.id).collect();
    assert_eq!(inspector.requeue_each(&ids), Ok(2));
    assert_eq!(inspector.discard_each(&ids), Ok(2));
    assert_eq!(inspector.discard_each(&ids), Ok(0));
    assert_eq!(inspector.discard(ids[2]), Err(OutboxError::NoSuchCall));
    assert_eq!(entries(&inspector)[0].state, EntryState::Live);
}

#[actix_rt::test]
async fn an_empty_file_is_not_made_an_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    std::fs::write(&path, "").unwrap();
    assert_eq!(OutboxInspector::open(&path).unwrap_err(), OutboxError::NotAnOutbox);
    assert_eq!(path.metadata().unwrap().len(), 0);
}
