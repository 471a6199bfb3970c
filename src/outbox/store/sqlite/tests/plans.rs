use super::super::{claim, due, insert, inspect, lanes, repair, restored, settle, target, tick, transfer, watch};
use super::*;

/// All statements whose cost must not grow with the number of lanes or with the depth of a lane.
const STATEMENTS: &[&str] = &[
    lanes::FIND,
    lanes::FIND_CURRENT,
    lanes::EXTEND,
    lanes::PLACE,
    lanes::RELEASE,
    lanes::FIRST_SEQ,
    lanes::CALLS,
    lanes::LAST_SEQ,
    lanes::REMOVE_IF_EMPTY,
    insert::FIND_KEY,
    insert::DELETE,
    insert::NOTE_KNOWN,
    insert::EXTEND_LANE,
    insert::INSERT,
    due::NEXT_PARKER,
    due::DUE,
    due::AHEAD,
    due::NOT_DUE,
    due::PARKED_BY,
    due::BY_OUTAGE,
    claim::CALLS,
    claim::TAKE,
    target::WAITING,
    settle::DELETE,
    settle::WITHDRAW,
    settle::RECORD,
    settle::BURY,
    settle::HAS_CALL,
    settle::NOTE_SENDING,
    settle::SET_WORKER,
    settle::RELEASE_ALL,
    settle::STAMP,
    settle::PURGE,
    tick::OWNED,
    watch::NEXT_OWNER,
    watch::LANES_OF,
    watch::COUNT,
    watch::FIRST,
    watch::COUNT_TAKEOVER,
    watch::MOVE_LANES,
    inspect::PAGE_END,
    inspect::LIST,
    inspect::COUNT_END,
    inspect::COUNT,
    inspect::COUNT_DEAD,
    inspect::GET,
    restored::MARK,
    restored::SET_MARK,
    repair::FIND,
    repair::RENEW,
    repair::DISCARD,
    repair::IS_KNOWN,
    transfer::RECORD,
    transfer::IS_STORED,
    transfer::STORE,
];

#[test]
fn statements_search_by_an_index() {
    let outbox = Outbox::new();
    let connection = outbox.connect();
    for statement in STATEMENTS {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        let mut steps = plan.raw_query();
        while let Some(row) = steps.next().unwrap() {
            let step: String = row.get("detail").unwrap();
            // A subquery is bounded by its own steps.
            let is_scan = step.contains("SCAN") && !step.contains("SCAN (subquery");
            assert!(!is_scan && !step.contains("TEMP B-TREE"), "{step} in {statement}");
        }
    }
}

#[test]
fn counting_reads_no_call() {
    let outbox = Outbox::new();
    let connection = outbox.connect();
    for statement in [inspect::COUNT, inspect::COUNT_DEAD] {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
        let mut steps = plan.raw_query();
        while let Some(row) = steps.next().unwrap() {
            let step: String = row.get("detail").unwrap();
            assert!(
                !step.contains("calls") || step.contains("COVERING INDEX"),
                "{step} in {statement}"
            );
        }
    }
}

#[actix_rt::test]
async fn a_claim_reads_no_more_than_it_takes() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let fill = store.arbiter.write(|connection, _, _| {
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
            INSERT INTO lanes (queue, name, next_seq, parked_at, wait, parked_by)
            SELECT 'queue', 'not due ' || i, 2, 1900000000000, 1000 + i, 7 FROM n;
            INSERT INTO lanes (id, queue, name, next_seq, parked_at) VALUES (0, 'queue', 'deep', 20001, 0);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
            INSERT INTO calls (id, state, queue, lane, seq, home, message, kind, target_id, idempotency_key, created_at, body)
            SELECT randomblob(16), 'waiting', 'queue', 0, i, 'deep', randomblob(16), 'status', 't', i, 0, '{}' FROM n";
        connection.execute_batch(fill).map_err(super::super::sqlite_error)
    });
    fill.await.unwrap();
    let claimed = claim(&store).await.unwrap();
    assert_eq!(claimed.messages.len(), 16);
    assert_eq!(claimed.next_due, Some(Duration::from_millis(1_001)));
    let steps = store.arbiter.read(|connection, _, _| {
        let mut steps = 0;
        for statement in STATEMENTS {
            let statement = connection
                .prepare_cached(statement)
                .map_err(super::super::sqlite_error)?;
            steps += statement.get_status(rusqlite::StatementStatus::VmStep);
        }
        Ok(Some(steps))
    });
    let steps = steps.await.unwrap();
    assert!(steps < 2_000, "{steps}");
}

/// SQLite plans a statement again if its plan depended on the value of a parameter, which is now another one.
#[actix_rt::test]
async fn no_statement_is_planned_again() {
    let outbox = Outbox::new();
    let store = outbox.store();
    for lane in ["x", "y", "z"] {
        let message = message(lane, "{}");
        let id = message.calls[0].id;
        let Inserted::Live { claim } = store.insert(message).await.unwrap() else {
            panic!("the lane is new");
        };
        let lane = lane.into();
        deliver(&store, LaneClaim { lane, claim }, id).await.unwrap();
        super::claim(&store).await.unwrap();
    }
    let planned_again = store.arbiter.read(|connection, _, _| {
        let mut again = Vec::new();
        for statement in STATEMENTS {
            let cached = connection
                .prepare_cached(statement)
                .map_err(super::super::sqlite_error)?;
            if cached.get_status(rusqlite::StatementStatus::RePrepare) > 0 {
                again.push(*statement);
            }
        }
        Ok(Some(again))
    });
    assert_eq!(planned_again.await.unwrap(), Vec::<&str>::new());
}
