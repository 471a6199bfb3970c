//! Large outboxes, with `POSTGRES_FIGURES=1`: claims beside many parked lanes, and what a long run leaves on the disk.
//!
//! If the server has the extension `pg_stat_statements` in the database, the slowest statements are printed, too.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, Host},
    print::{percentile, print},
    server::alone,
    tools::setting,
};

const LONG: Duration = Duration::from_secs(1_800);

fn fleet(test: &str) -> Option<Fleet> {
    (setting("POSTGRES_FIGURES", 0) == 1).then(|| Fleet::new(test).expect("a server"))
}

#[test]
fn a_poster_beside_many_parked_lanes() {
    let Some(mut fleet) = fleet("parked lanes") else { return };
    let _alone = alone();
    let lanes = setting("POSTGRES_FIGURES_LANES", 100_000);
    let mut host = fleet.start_host();
    host.process.wait_for("started", 1);
    host.measure(&fleet, "no parked lane");
    host.process.does("shutdown 10000");
    fleet.kill(host);

    let start = Instant::now();
    fleet.fill(lanes);
    let filled = start.elapsed();
    print(
        "parked lanes",
        format!(
            "{lanes} lanes and {} calls written in {filled:?}: {}",
            2 * lanes,
            fleet.sizes()
        ),
    );
    let mut host = fleet.start_host();
    host.process.wait_for("started", 1);
    host.measure(&fleet, &format!("{lanes} parked lanes, not due"));

    let start = Instant::now();
    fleet
        .database
        .query("UPDATE @lanes SET parked_at = 0, wait = 0, parked_by = 0 WHERE owner IS NULL");
    print("parked lanes", format!("made due in {:?}", start.elapsed()));
    fleet.forget_statements();
    let (start, before) = (Instant::now(), fleet.platform.count());
    while fleet.database.count("calls") > 0 {
        assert!(start.elapsed() < LONG);
        if start.elapsed() > Duration::from_secs(30) {
            break;
        }
        sleep(Duration::from_secs(1));
    }
    let (took, sent) = (start.elapsed(), fleet.platform.count() - before);
    let rate = sent as f64 / took.as_secs_f64();
    print(
        "parked lanes",
        format!("{sent} parked calls delivered in {took:?}: {rate:.0} a second"),
    );
    fleet.print_statements("claims while all are due");
    fleet.kill(host);
}

#[test]
fn the_size_after_a_long_run() {
    let Some(mut fleet) = fleet("churn") else { return };
    let _alone = alone();
    let seconds = setting("POSTGRES_FIGURES_SECONDS", 120);
    let mut host = fleet.start_host();
    host.process.command("stream 100000000 64");
    let start = Instant::now();
    let mut before = 0;
    for _ in 0..6 {
        sleep(Duration::from_secs(seconds) / 6);
        let count = fleet.platform.count();
        let rate = (count - before) as f64 * 6.0 / seconds as f64;
        before = count;
        print(
            "churn",
            format!(
                "after {:.0?}: {count} calls, {rate:.0} a second; {}",
                start.elapsed(),
                fleet.sizes()
            ),
        );
    }
    fleet.print_statements("churn");
    fleet.kill(host);
    fleet.end(Vec::new());
}

impl Host {
    /// Posts results, 16 at a time.
    fn measure(&mut self, fleet: &Fleet, state: &str) {
        fleet.forget_statements();
        let before = self.process.latencies().len();
        let start = Instant::now();
        self.process.does("stream 3000 16");
        let took = start.elapsed();
        let latencies = self.process.latencies().split_off(before);
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(&latencies, share));
        let rate = latencies.len() as f64 / took.as_secs_f64();
        print(
            "parked lanes",
            format!("{state}: {rate:.0} results confirmed a second, 16 at once, p50 {p50:?}, p99 {p99:?}"),
        );
        // An idle poster looks for lanes that are due.
        sleep(Duration::from_secs(10));
        fleet.print_statements(state);
    }
}

impl Fleet {
    /// Writes parked lanes with a completion and a status each, as copies of those of a host, with bodies of 800 bytes.
    fn fill(&mut self, lanes: u64) {
        self.platform.set_down(true);
        let mut host = self.start_host();
        host.process.does("post 1");
        host.process.does("shutdown 10000");
        self.kill(host);
        self.platform.set_down(false);
        let template = self.database.query("SELECT id FROM @lanes").remove(0).remove(0);
        // In steps, since each may be a large transaction.
        let mut written = 0;
        while written < lanes {
            let step = (lanes - written).min(50_000);
            self.database.query(&format!(
                "WITH template AS MATERIALIZED (SELECT * FROM @lanes WHERE id = {template}), copies AS (
                     INSERT INTO @lanes (queue, name, next_seq, parked_at, wait, reason)
                     SELECT queue, name || '-' || number, next_seq, @now_ms(), 3600000, 'attempts_failed'
                     FROM template CROSS JOIN generate_series({written}, {written} + {step} - 1) AS number
                     RETURNING id, name
                 )
                 INSERT INTO @calls (id, lane, seq, message, created_at, attempts, parks, queue, home, kind, target_id,
                     idempotency_key, worker_id, headers, body)
                 SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(copies.id * 4 + seq), 12, '0'))::uuid, copies.id, seq,
                     ('00000000-0000-7000-8000-' || lpad(to_hex(copies.id * 4 + 1), 12, '0'))::uuid,
                     created_at, attempts, parks, queue, copies.name, kind, target_id || '-' || copies.id,
                     idempotency_key || '-' || copies.id, worker_id, headers, rpad(body, 800)
                 FROM copies CROSS JOIN @calls WHERE lane = {template}"
            ));
            written += step;
        }
        self.database.query(&format!(
            "UPDATE @lanes SET parked_at = @now_ms(), wait = 3600000, parked_by = 0, reason = 'attempts_failed' WHERE id = {template}"
        ));
        self.database.query("ANALYZE @lanes; ANALYZE @calls");
    }

    fn sizes(&self) -> String {
        let query = "SELECT relname, pg_size_pretty(pg_total_relation_size(relid)), pg_size_pretty(pg_indexes_size(relid)),
                 n_live_tup, n_dead_tup, autovacuum_count
             FROM pg_stat_user_tables WHERE schemaname = trim(trailing '.' FROM '@') AND relname IN ('calls', 'lanes', 'owners', 'usage')
             ORDER BY relname";
        let rows = self.database.query(query);
        let table = |row: Vec<String>| {
            format!(
                "{} {} with {} of indexes ({} live, {} dead, {} vacuums)",
                row[0], row[1], row[2], row[3], row[4], row[5]
            )
        };
        let counted = self.database.query("SELECT pg_size_pretty(sum(bytes)) FROM @usage");
        let tables = rows.into_iter().map(table).collect::<Vec<_>>();
        format!("{}; counted for `max_bytes`: {}", tables.join(", "), counted[0][0])
    }

    fn has_statements(&self) -> bool {
        let query = "SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'";
        self.database.query(query)[0][0] == "1"
    }

    fn forget_statements(&self) {
        if self.has_statements() {
            self.database.query("SELECT pg_stat_statements_reset()");
        }
    }

    fn print_statements(&self, state: &str) {
        if !self.has_statements() {
            return;
        }
        let rows = self.database.query(
            "SELECT calls, round(mean_exec_time::numeric, 2), round(max_exec_time::numeric, 2), round(total_exec_time::numeric),
                 left(regexp_replace(query, '\\s+', ' ', 'g'), 110)
             FROM pg_stat_statements WHERE query LIKE '%' || trim(trailing '.' FROM '@') || '%'
             ORDER BY total_exec_time DESC LIMIT 14",
        );
        for row in rows {
            println!(
                "  {state}: {} times, mean {} ms, at most {} ms, {} ms in all: {}",
                row[0], row[1], row[2], row[3], row[4]
            );
        }
    }
}
