//! What the server does for a claim, when most lanes are not due.

use super::super::suite::{Fixture as _, postgres::PostgresFixture};
use super::{claim, due, watch::DEAD};

/// Lanes that 50 owners have parked for an hour, and 500 that are due.
const LANES: &str = "
    INSERT INTO @lanes (queue, name, next_seq, parked_at, wait, parked_by, reason)
    SELECT 'queue', 'session ' || i, 2, @now_ms(), CASE WHEN i % 200 = 0 THEN 0 ELSE 3600000 END, 1 + i % 50, 'attempts_failed'
    FROM generate_series(1, 100000) AS i;
    INSERT INTO @calls (id, lane, seq, message, created_at, queue, home, kind, target_id, idempotency_key, body)
    SELECT gen_random_uuid(), id, 1, gen_random_uuid(), 0, queue, name, 'completion', 'target', name, '{}'
    FROM @lanes WHERE wait = 0";

/// The pages that a statement may read: those of the lanes that it finds, and a few steps in an index for each owner.
const MAX_PAGES: u64 = 2_500;

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
        (due::NEXT_DUE, "text, bigint[], bigint", owner.to_owned()),
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
