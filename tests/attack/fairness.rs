//! A quiet process beside a busy one, on a disk with slow flushes.

use std::time::Duration;

use crate::{
    child::{Plan, Process},
    figures::{percentile, print},
    platform::Platform,
    shim::Shim,
    tools::{Folder, alone, is_missing, setting},
};

/// How long a message of the quiet process may wait at the 90th percentile, in flushes.
const MAX_FLUSHES: u32 = 10;

#[test]
fn a_busy_process_does_not_starve_a_quiet_one_with_flushes_of_2_ms() {
    is_fair(Duration::from_millis(2));
}

#[test]
fn a_busy_process_does_not_starve_a_quiet_one_with_flushes_of_10_ms() {
    is_fair(Duration::from_millis(10));
}

/// How often it is tried: other work on the machine may delay a message now and then; a busy process starves it always.
const TRIES: usize = 3;

fn is_fair(flush: Duration) {
    let attack = format!("fairness, flushes of {flush:?}");
    if is_missing("cc", &attack) {
        return;
    }
    let _alone = alone();
    let p90s: Vec<_> = (0..TRIES)
        .map(|_| p90_beside_a_busy_process(&attack, flush))
        .take_while(|p90| *p90 >= flush * MAX_FLUSHES)
        .collect();
    assert!(p90s.len() < TRIES, "{attack}: p90 is {p90s:?}");
}

fn p90_beside_a_busy_process(attack: &str, flush: Duration) -> Duration {
    let seconds = setting("ATTACK_FAIRNESS_SECONDS", 2);
    let folder = Folder::new();
    let platform = Platform::start();
    let shim = Shim::new(&folder.outbox());
    let start = |name| Process::start_with(&Plan::new(name, &platform, &folder.outbox()), shim.command());
    let (mut busy, mut quiet) = (start("busy"), start("quiet"));
    busy.wait_for("started", 1);
    quiet.does("post 1");
    shim.set_flush(flush);
    busy.command("flood 64");
    busy.wait_for("durable", 100);
    let before = busy.durable().len();
    const PACE_MS: u64 = 50;
    quiet.does(&format!("pace {} {PACE_MS}", seconds * 1_000 / PACE_MS));
    let sent_by_busy = busy.durable().len() - before;

    let latencies = quiet.latencies();
    let [p50, p90, most] = [0.5, 0.9, 1.0].map(|share| percentile(&latencies[1..], share));
    let count = latencies.len() - 1;
    print(
        attack,
        format!("{count} messages beside {sent_by_busy} of the busy process: p50 {p50:?}, p90 {p90:?}, most {most:?}"),
    );
    for process in [&busy, &quiet] {
        assert_eq!(process.lines("unkept"), Vec::<String>::new());
        assert_eq!(process.lines("failed"), Vec::<String>::new());
        assert_eq!(process.logged(), Vec::<String>::new());
    }
    p90
}
