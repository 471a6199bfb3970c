//! Figures, with `POSTGRES_FIGURES=1`.

use std::time::{Duration, Instant};

use crate::{
    child::{Plan, Process, ServerPlan},
    platform::Platform,
    print::{percentile, print},
    server::{Database, Way, alone},
    tools::{Folder, setting},
};

const AT_ONCE: usize = 256;

fn is_wanted() -> bool {
    setting("POSTGRES_FIGURES", 0) == 1
}

#[test]
fn throughput() {
    if !is_wanted() {
        return;
    }
    let _alone = alone();
    let results = setting("POSTGRES_FIGURES_RESULTS", 20_000) as usize;
    for way in [None, Some(Way::Direct), Some(Way::PgBouncer)] {
        for (processes, posters) in [(1, 1), (1, 4), (4, 1)] {
            measure(way, processes, posters, results);
        }
    }
}

fn measure(way: Option<Way>, processes: usize, posters: usize, results: usize) {
    let name = match way {
        None => "SQLite",
        Some(Way::Direct) => "PostgreSQL",
        Some(Way::PgBouncer) => "PostgreSQL through PgBouncer",
    };
    let folder = Folder::new();
    let database = way.map(|way| Database::new(way, "throughput").expect("a server"));
    let platform = Platform::start();
    let mut hosts: Vec<_> = (0..processes)
        .map(|number| {
            // As by default, since the machine is busy.
            let server = database.as_ref().map(|database| ServerPlan {
                lease_ms: 90_000,
                statement_timeout_ms: 5_000,
                ..database.plan_without_proxy()
            });
            let plan = Plan {
                server,
                posters,
                max_in_flight: AT_ONCE / processes / posters,
                timeout_ms: Some(10_000),
                measures_gaps: false,
                ..Plan::new(&format!("host-{number}"), &platform, &folder.outbox())
            };
            let process = Process::start(&plan);
            process.wait_for("started", 1);
            process
        })
        .collect();
    let command = format!("stream {} {}", results / processes, AT_ONCE / processes);
    let start = Instant::now();
    for host in &mut hosts {
        host.command(&command);
    }
    for host in &hosts {
        host.wait_within(Duration::from_secs(600), &format!("done {command}"), 1);
    }
    let took = start.elapsed();
    let (mut latencies, mut unkept) = (Vec::new(), 0);
    for host in &mut hosts {
        latencies.extend(host.latencies());
        unkept += host.lines("unkept").len();
        host.does("shutdown 60000");
        assert!(host.ends().success());
    }
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(&latencies, share));
    let rate = latencies.len() as f64 / took.as_secs_f64();
    print(
        "throughput",
        format!(
            "{name}, {processes} processes with {posters} posters, {AT_ONCE} at once: {rate:.0} results confirmed a second, p50 {p50:?}, p99 {p99:?}; {unkept} not kept"
        ),
    );
}
