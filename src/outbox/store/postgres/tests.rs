//! What the server does for a claim, when most lanes are not due.

use std::env;

use super::super::{
    ClaimRequest, LaneSet, Store as _, Which,
    suite::{Fixture as _, postgres::PostgresFixture},
};
use super::{changes, claim, due, watch::DEAD};
use crate::{call::Endpoint, clock::Clock};

/// Lanes that 50 owners have parked for an hour, and 500 that are due.
const LANES: &str = "
    INSERT INTO @lanes (queue, name, next_seq, parked_at, wait, parked_by, reason)
    SELECT 'queue', 'session ' || i, 2, @now_ms(), CASE WHEN i % 200 = 0 THEN 0 ELSE 3600000 END, 1 + i % 50, 'attempts_failed'
    FROM generate_series(1, 100000) AS i;
    INSERT INTO @calls (id, lane, seq, message, created_at, queue, home, kind, target_id, idempotency_key, body)
    SELECT gen_random_uuid(), id, 1, gen_random_uuid(), 0, queue, name, 'completion', 'target', name, '{}'
    FROM @lanes WHERE wait = 0";

/// The pages that a statement may read: those of the lanes that it finds, and a few steps in an index for each owner.
const MAX_PAGES: u64 = 1_000;

/// The pages that a statement reads, and its plan.
async fn explain(fixture: &PostgresFixture<false>, sql: &str, types: &str, values: &str) -> (u64, String) {
    let statements = format!(
        "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; PREPARE explained ({types}) AS {sql};
        EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE explained ({values});
        DEALLOCATE explained; COMMIT"
    );
    let plan = fixture.query(&statements).await.join("\n");
    // The first line of buffers is that of the whole statement.
    let buffers = plan.split("Buffers: shared ").nth(1).unwrap_or_default();
    let buffers = buffers.lines().next().unwrap_or_default();
    let pages = buffers.split([' ', '=']).filter_map(|word| word.parse::<u64>().ok());
    (pages.sum(), plan)
}

#[actix_rt::test]
async fn a_claim_reads_only_the_lanes_that_are_due() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    fixture.execute(LANES).await;
    fixture.execute("ANALYZE @lanes").await;
    let owner = "'queue', '{0}', 77";
    for (sql, types, values) in [
        (
            due::DUE,
            "text, bigint[], bigint, bigint[], bigint, text[]",
            format!("{owner}, '{{}}', 129, '{{}}'"),
        ),
        (due::IS_ANY_DUE, "text, bigint[], bigint", owner.to_owned()),
        (
            due::BY_OUTAGE,
            "text, bigint[], bigint",
            "'queue', '{2,3}', 129".to_owned(),
        ),
        (DEAD, "bigint", "77".to_owned()),
        (claim::OUTLINE, "bigint[], bigint", "'{200,400,600}', 33".to_owned()),
        (
            claim::CALLS,
            "bigint[], bigint[]",
            "'{200,400,600}', '{1,1,1}'".to_owned(),
        ),
    ] {
        let (pages, plan) = explain(&fixture, sql, types, &values).await;
        assert!(pages <= MAX_PAGES, "{pages} pages: {plan}");
        assert!(
            !plan.contains("Seq Scan on lanes") && !plan.contains("Seq Scan on calls"),
            "{plan}"
        );
    }
}

/// Many lanes of one call, and one of many: the statistics say that a lane has one.
const LONG_LANE: &str = "
    INSERT INTO @lanes (queue, name, next_seq, parked_at, wait, parked_by, reason)
    SELECT 'queue', 'session ' || i, 3002, @now_ms(), 0, 0, 'attempts_failed' FROM generate_series(1, 20001) AS i;
    INSERT INTO @calls (id, lane, seq, message, created_at, queue, home, kind, target_id, idempotency_key, body)
    SELECT md5(i::text)::uuid, id, i, gen_random_uuid(), 0, queue, name, 'completion', 'target', i::text, '{}'
    FROM @lanes CROSS JOIN LATERAL generate_series(1, CASE WHEN name = 'session 20001' THEN 3000 ELSE 0 END) AS i;
    INSERT INTO @calls (id, lane, seq, message, created_at, queue, home, kind, target_id, idempotency_key, body)
    SELECT gen_random_uuid(), id, 1, gen_random_uuid(), 0, queue, name, 'completion', 'target', name, '{}'
    FROM @lanes WHERE name <> 'session 20001'";

#[actix_rt::test]
async fn a_settled_call_is_found_by_its_id_and_not_in_its_lane() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    fixture.execute(LONG_LANE).await;
    fixture.execute("ANALYZE @lanes; ANALYZE @calls").await;
    let lane = fixture
        .query("SELECT lane FROM @calls WHERE seq = 3000")
        .await
        .remove(0);
    let call = |seq: u32| format!("ARRAY[md5('{seq}')::uuid], ARRAY[{lane}::bigint]");
    let ones = ", '{1}'".repeat(5);
    for (sql, types, values) in [
        (changes::DELETE, "uuid[], bigint[]", call(2997)),
        (changes::WITHDRAW, "uuid[], bigint[]", call(2998)),
        (changes::BURY, "uuid[], bigint[]", call(2999)),
        (
            changes::RECORD,
            "uuid[], bigint[], int[], int[], int[], int[], int[], boolean[], bigint[], int[], text[], text[]",
            format!("{}{ones}, '{{f}}', '{{0}}', '{{503}}', '{{down}}', '{{w}}'", call(3000)),
        ),
    ] {
        let (_, plan) = explain(&fixture, sql, types, &values).await;
        assert!(plan.contains("calls_pkey") && !plan.contains("calls_by_lane"), "{plan}");
    }
}

/// With `POSTGRES_FIGURES=1`: how long claims take, of which some have calls, without lanes and beside 100,000 parked ones.
#[actix_rt::test]
async fn claims_beside_many_parked_lanes() {
    if env::var("POSTGRES_FIGURES").as_deref() != Ok("1") {
        return;
    }
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let (owner, clock) = (fixture.owner().await, Clock::system());
    for (lanes, statements) in [(0, ""), (100_000, LANES)] {
        fixture.execute(statements).await;
        fixture.execute("ANALYZE @lanes; ANALYZE @calls").await;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..1_000 {
            let request = ClaimRequest {
                round: 1,
                now: 0,
                which: Which::Due { outages: Vec::new() },
                endpoint: Endpoint::Session,
                due: Vec::new(),
                delayed: LaneSet::default(),
                max_calls: 32,
                max_bytes: 1 << 20,
            };
            let start = clock.instant();
            let claimed = owner.claim(request).await.unwrap();
            let took = clock.instant().saturating_duration_since(start);
            times[usize::from(claimed.messages.is_empty())].push(took);
        }
        for (mut times, kind) in times.into_iter().zip(["with calls", "without calls"]) {
            times.sort_unstable();
            let count = times.len();
            let p50 = times.get(count.div_ceil(2));
            let p99 = times.iter().rev().nth(count.div_ceil(100));
            println!(
                "{lanes} parked lanes: {} claims {kind}, p50 {p50:?}, p99 {p99:?}",
                times.len()
            );
        }
    }
}
