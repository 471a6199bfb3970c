//! A quiet process beside a busy one, on a disk with slow flushes.

use std::time::Duration;

use crate::{
    child::{Plan, Process},
    figures::{percentile, print},
    platform::Platform,
    shim::Shim,
    tools::{Folder, alone, is_missing, setting},
};

/// How long a message of the quiet process may wait at the 90th percentile, in flushes, which take longer on a machine with
/// other work: as long as half of its messages take while the busy process does nothing.
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
    let unfair: Vec<_> = (0..TRIES)
        .map(|_| beside_a_busy_process(&attack, flush))
        .take_while(|(flush, p90)| *p90 >= *flush * MAX_FLUSHES)
        .collect();
    assert!(unfair.len() < TRIES, "{attack}: flushes and p90: {unfair:?}");
}

/// Returns how long a flush takes, and the 90th percentile of the messages of the quiet process.
fn beside_a_busy_process(attack: &str, flush: Duration) -> (Duration, Duration) {
    let seconds = setting("ATTACK_FAIRNESS_SECONDS", 2);
    let folder = Folder::new();
    let platform = Platform::start();
    let shim = Shim::new(&folder.outbox());
    let start = |name| Process::start_with(&Plan::new(name, &platform, &folder.outbox()), shim.command());
    let (mut busy, mut quiet) = (start("busy"), start("quiet"));
    busy.wait_for("started", 1);
    quiet.does("post 1");
    shim.set_flush(flush);
    const PACE_MS: u64 = 50;
    quiet.does(&format!("pace 10 {PACE_MS}"));
    let alone = quiet.latencies().split_off(1);
    let flush = flush.max(percentile(&alone, 0.5));
    busy.command("flood 64");
    busy.wait_for("durable", 100);
    let before = busy.durable().len();
    quiet.does(&format!("pace {} {PACE_MS}", seconds * 1_000 / PACE_MS));
    let sent_by_busy = busy.durable().len() - before;

    let latencies = quiet.latencies().split_off(1 + alone.len());
    let [p50, p90, most] = [0.5, 0.9, 1.0].map(|share| percentile(&latencies, share));
    let count = latencies.len();
    print(
        attack,
        format!(
            "flushes take {flush:?}; {count} messages beside {sent_by_busy} of the busy process: p50 {p50:?}, p90 {p90:?}, most {most:?}"
        ),
    );
    for process in [&busy, &quiet] {
        assert_eq!(process.lines("unkept"), Vec::<String>::new());
        assert_eq!(process.lines("failed"), Vec::<String>::new());
        assert_eq!(process.logged(), Vec::<String>::new());
    }
    (flush, p90)
}
