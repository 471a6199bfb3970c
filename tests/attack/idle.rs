//! A process that has nothing to do does nothing: `strace` counts its calls.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{
    child::{Plan, Process},
    figures::{cpu_time, print},
    platform::Platform,
    tools::{Folder, is_missing, setting, shared, wait_until},
};

// A poster looks at its outbox every 2 s: the outbox's thread does, and wakes the arbiter once. Beside owners that have
// lanes, the arbiter looks itself, and polls up to five times: a timer in two steps, the thread's answer, and what that
// wakes up. The gauges take some five polls every 15 s.

/// Polls of a round of the gauges that falls into the time at its edge.
const EDGE: f64 = 5.0;

const LONGER_THAN_A_LOOK: Duration = Duration::from_secs(3);

/// Calls that change a disk.
const CHANGES: &[&str] = &[
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "unlink",
    "rename",
    "mkdir",
];

#[test]
fn an_idle_process_writes_nothing_and_hardly_wakes_up() {
    is_idle("idle, alone", 0, 1.0);
}

#[test]
fn an_idle_process_beside_others_writes_nothing_and_hardly_wakes_up() {
    is_idle("idle, beside two others", 2, 5.0);
}

fn is_idle(attack: &str, others: usize, max_wakes: f64) {
    if is_missing("strace", attack) {
        return;
    }
    let _shared = shared();
    let seconds = setting("ATTACK_IDLE_SECONDS", 30);
    let folder = Folder::new();
    let platform = Platform::start();
    let plan = |name: &str| Plan {
        delay_ms: 3_600_000,
        measures_gaps: false,
        ..Plan::new(name, &platform, &folder.outbox())
    };
    let mut processes: Vec<_> = (0..=others)
        .map(|index| Process::start(&plan(&format!("idle-{index}"))))
        .collect();
    for process in &mut processes {
        process.does("post 4");
    }
    // Something is parked, but not due.
    platform.fail("idle-0");
    processes[0].does("post 4");
    // Connections that are kept are closed by then.
    sleep(Duration::from_secs(1));
    // A look marks the last changes, the next one if another process writes at that time.
    let written = || fs::metadata(folder.companion("-wal")).unwrap().modified().unwrap();
    wait_until("nothing is written", || {
        written().elapsed().unwrap_or_default() > LONGER_THAN_A_LOOK
    });
    let counts = folder.path.join("counts");
    let traced = processes[0].id();
    let cpu = cpu_time(traced);
    // Interrupted, it writes its table.
    let mut strace = Command::new("timeout");
    strace
        .args(["-s", "INT", &seconds.to_string(), "strace", "-f", "-c", "-o"])
        .arg(&counts);
    strace
        .args(["-p", &traced.to_string()])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let used = cpu_time(traced) - cpu;
    let calls = calls(&fs::read_to_string(counts).unwrap());
    let changes: Vec<_> = calls
        .iter()
        .filter(|(name, _)| CHANGES.contains(&name.as_str()))
        .collect();
    let polls = calls.get("epoll_wait").copied().unwrap_or_default() as f64;
    let wakes = polls / seconds as f64;
    print(
        attack,
        format!("{seconds} s: {wakes:.2} wake-ups a second, {used:?} of processor time, {calls:?}"),
    );
    // A thread is woken up by a write to an event descriptor.
    let written: u64 = changes
        .iter()
        .filter(|(name, _)| *name != "write")
        .map(|(_, count)| **count)
        .sum();
    assert_eq!(written, 0, "{changes:?}");
    assert!(polls - EDGE <= max_wakes * seconds as f64, "{wakes} wake-ups a second");
}

/// How often each call was made, from the table of `strace -c`.
fn calls(table: &str) -> BTreeMap<String, u64> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| row.len() >= 5 && row[0].parse::<f64>().is_ok() && row.last() != Some(&"total"));
    rows.map(|row| (row.last().unwrap().to_string(), row[3].parse().unwrap()))
        .collect()
}
