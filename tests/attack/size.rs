//! Large outboxes: how long a start takes, how long the calls, and how much memory and time that costs.
//!
//! The rows are copies of a posted result, made with `sqlite3`.

use std::{
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    child::{Plan, Process},
    figures::{cpu_time, peak_memory, print},
    platform::Platform,
    tools::{Folder, alone, count, is_missing, setting, sqlite3},
};

/// The most memory that a process may have, in MiB, however many calls wait.
const MAX_MEMORY: u64 = 128;

/// Within this time of a start the first call is delivered.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// How many rows an attack has that is documented with this number.
fn scaled(rows: u64) -> u64 {
    rows * setting("ATTACK_SIZE", 1) / 100
}

/// What the copies of a result become.
#[derive(Clone, Copy)]
enum Rows {
    /// Each result has a lane of its own.
    Parked,
    /// All results are of one session.
    OneLane,
    DeadLetters,
}

#[test]
fn many_parked_results_are_delivered() {
    delivers("20,000 parked calls", Rows::Parked, scaled(10_000), 16);
}

#[test]
fn very_many_parked_results_are_delivered() {
    delivers("200,000 parked calls", Rows::Parked, scaled(100_000), 16);
}

#[test]
fn a_target_with_many_calls_is_delivered() {
    delivers("one target with 20,000 calls", Rows::OneLane, scaled(10_000), 16);
}

#[test]
fn dead_letters_do_not_disturb() {
    delivers("200,000 dead letters", Rows::DeadLetters, scaled(100_000), 16);
}

#[test]
fn large_results_do_not_fill_the_memory() {
    // A completion each, and a small status.
    delivers(
        "2,000 completions of 480 KiB",
        Rows::Parked,
        scaled(2_000).max(300),
        480 * 1024,
    );
}

fn delivers(attack: &str, rows: Rows, results: u64, summary: usize) {
    if is_missing("sqlite3", attack) {
        return;
    }
    let _alone = alone();
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let plan = |name: &str| Plan {
        summary,
        max_bytes: Some(8 << 30),
        // So many that only a bound in bytes bounds the memory.
        max_in_flight: if summary > 1_000 { 256 } else { 64 },
        delay_ms: 60_000,
        measures_gaps: false,
        ..Plan::new(name, &platform, &outbox)
    };
    platform.set_down(true);
    let mut template = Process::start(&plan("template"));
    template.does("post 1");
    template.does("shutdown 10000");
    assert!(template.ends().success());
    platform.set_down(false);
    copy_template(&outbox, rows, results);
    let waiting = count(&outbox, "SELECT count(*) FROM calls WHERE state = 'waiting'");

    let (before, start) = (platform.count(), Instant::now());
    let mut process = Process::start(&plan("delivers"));
    process.wait_for("started", 1);
    let started = start.elapsed();
    process.does("stats");
    process.does("list");
    while platform.count() == before && waiting > 0 {
        sleep(Duration::from_millis(1));
    }
    let first = start.elapsed();
    process.does("post 1");
    let latency = process.latencies()[0];
    while count(&outbox, "SELECT EXISTS (SELECT 1 FROM calls WHERE state = 'waiting')") > 0 {
        assert!(start.elapsed() < Duration::from_secs(30 * 60), "{attack}");
        sleep(Duration::from_millis(50));
    }
    let took = start.elapsed();
    let (memory, cpu) = (peak_memory(process.id()), cpu_time(process.id()));
    let [stats, list] = ["stats", "list"].map(|word| process.lines(word).pop().unwrap());
    let calls = platform.count() - before;
    print(
        attack,
        format!(
            "{results} results: started after {started:?}, first call after {first:?}, a new message kept in {latency:?}, \
             {calls} calls in {took:?}, {memory} MiB, processor {cpu:?}, statistics {stats} ms, first page {list} ms"
        ),
    );
    assert!(calls as u64 >= waiting);
    assert!(first < FIRST_WITHIN, "{first:?}");
    assert!(memory < MAX_MEMORY, "{memory} MiB");
    process.does("shutdown 10000");
    assert!(process.ends().success());
    assert_eq!(process.logged(), Vec::<String>::new());
    platform.assert_no_live_double();
}

/// Copies the two calls of the posted result as often as needed.
fn copy_template(outbox: &Path, rows: Rows, results: u64) {
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {results})");
    let columns = "id, state, queue, lane, seq, home, message, kind, target_id, idempotency_key, worker_id, created_at, \
                   dead_at, headers, body";
    let (state, lane, seq, home, target) = match rows {
        Rows::Parked => ("waiting", "1000 + i", "c.seq", "'session many-' || i", "'many-' || i"),
        Rows::OneLane => ("waiting", "c.lane", "2 * i + c.seq", "c.home", "c.target_id"),
        Rows::DeadLetters => ("dead", "NULL", "NULL", "'session many-' || i", "'many-' || i"),
    };
    let lanes = match rows {
        Rows::Parked => format!(
            "{numbers} INSERT INTO lanes (id, queue, name, next_seq, parked_at, wait, reason)
             SELECT 1000 + i, queue, 'session many-' || i, next_seq, parked_at, 0, reason FROM lanes, n;"
        ),
        Rows::OneLane => format!("UPDATE lanes SET next_seq = {};", 2 * results + 3),
        Rows::DeadLetters => String::new(),
    };
    sqlite3(
        outbox,
        &format!(
            "BEGIN; {lanes}
             {numbers} INSERT INTO calls ({columns})
             SELECT CAST(printf('%014d%02d', i, c.seq) AS BLOB), '{state}', c.queue, {lane}, {seq}, {home},
                CAST(printf('%014d%02d', i, 1) AS BLOB), c.kind, {target}, i || c.idempotency_key, c.worker_id,
                c.created_at, CASE '{state}' WHEN 'dead' THEN c.created_at END, c.headers, c.body FROM calls c, n;
             UPDATE lanes SET wait = 0, parked_by = NULL; COMMIT;"
        ),
    );
}

#[test]
fn a_full_outbox_drains_when_the_platform_is_back() {
    let attack = "an outbox at max_bytes";
    if is_missing("sqlite3", attack) {
        return;
    }
    let _alone = alone();
    let folder = Folder::new();
    let platform = Platform::start();
    platform.set_down(true);
    let plan = |name: &str| Plan {
        summary: 50_000,
        max_bytes: Some(8 << 20),
        ..Plan::new(name, &platform, &folder.outbox())
    };
    let mut process = Process::start(&plan("fills"));
    while process.lines("unkept").is_empty() && process.lines("failed").is_empty() {
        process.does("post 16");
    }
    platform.note_kill("fills");
    process.kill();
    let kept = process.durable();
    // A restart on the full file.
    let mut process = Process::start(&plan("drains"));
    process.wait_for("started", 1);
    sleep(Duration::from_millis(500));
    let start = Instant::now();
    platform.set_down(false);
    crate::tools::wait_until("the outbox is empty", || {
        count(&folder.outbox(), "SELECT count(*) FROM calls") == 0
    });
    let took = start.elapsed();
    assert_eq!(platform.missing(&kept), Default::default());
    process.does("post 1");
    assert_eq!(process.durable().len(), 1);
    print(attack, format!("{} results of 50 kB drained in {took:?}", kept.len()));
}

#[test]
fn a_file_that_is_held_by_another_process_holds_up_no_message() {
    let attack = "held by BEGIN IMMEDIATE";
    if is_missing("sqlite3", attack) {
        return;
    }
    let _alone = alone();
    let seconds = setting("ATTACK_STOP_SECONDS", 3);
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let mut process = Process::start(&Plan::new("waits", &platform, &outbox));
    process.does("post 4");
    process.does("gap");
    let mut holder = Command::new("sqlite3")
        .args(["-cmd", ".timeout 10000", "-cmd", "BEGIN IMMEDIATE"])
        .arg(&outbox)
        .arg(format!(".shell sleep {seconds}"))
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(200));
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    while holder.try_wait().unwrap().is_none() {
        let posted = Instant::now();
        process.does("post 4");
        longest = longest.max(posted.elapsed());
    }
    let held = start.elapsed();
    process.does("gap");
    let gap = process.lines("gap").pop().unwrap();
    let unkept = process.lines("unkept").len();
    process.does("post 4");
    assert_eq!(process.lines("unkept").len(), unkept, "messages are kept again");
    assert_eq!(process.lines("failed"), Vec::<String>::new());
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    print(
        attack,
        format!(
            "held for {held:?}: {unkept} messages were sent without being kept, at most after {longest:?}, the arbiter was blocked for {gap} ms"
        ),
    );
    process.does("shutdown 10000");
    assert!(process.ends().success());
}
