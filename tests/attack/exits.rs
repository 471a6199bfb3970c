//! Ends of processes: clean, hurried, repeated, during a takeover, and on a file that hangs.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    child::{Plan, Process},
    drain::drain,
    figures::print,
    platform::Platform,
    shim::Shim,
    tools::{Folder, alone, count, is_missing, shared, sqlite3, wait_within},
};

/// The longest time for which a shutdown may keep the arbiter from other work.
const MAX_GAP_MS: u64 = 500;

#[test]
fn the_last_process_leaves_no_log_and_the_database_holds_everything() {
    if is_missing("sqlite3", "clean exits") {
        return;
    }
    let _shared = shared();
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    platform.set_down(true);
    let plan = |name| Plan {
        posters: 2,
        delay_ms: 60_000,
        ..Plan::new(name, &platform, &outbox)
    };
    let mut processes = [Process::start(&plan("one")), Process::start(&plan("two"))];
    for process in &mut processes {
        process.does("post 20");
    }
    for process in &mut processes {
        process.does("shutdown 10000");
        assert!(process.ends().success());
        assert_eq!(process.logged(), Vec::<String>::new());
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        assert!(!folder.companion(suffix).exists(), "{suffix}");
    }
    assert_eq!(fs::read_dir(folder.companion("-owners")).unwrap().count(), 0);
    let copy = Folder::new();
    fs::copy(&outbox, copy.outbox()).unwrap();
    assert_eq!(
        count(&copy.outbox(), "SELECT count(*) FROM outbox WHERE state = 'parked'"),
        80
    );
}

#[test]
fn a_daemon_that_forks_between_its_options_and_its_start_loses_nothing() {
    let attack = "a fork before the start";
    if is_missing("cc", attack) || is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    let (folder, platform) = (Folder::new(), Platform::start());
    let shim = Shim::new(&folder.outbox());
    for name in ["first", "second"] {
        let plan = Plan {
            posters: 2,
            forks: true,
            ..Plan::new(name, &platform, &folder.outbox())
        };
        let mut process = Process::start_with(&plan, shim.command());
        process.does("post 20");
        process.does("shutdown 10000");
        assert!(process.ends().success());
        assert_eq!(process.durable().len(), 20, "{:?}", process.lines("unkept"));
        assert!(platform.missing(&process.durable()).is_empty());
        assert_eq!(process.logged(), Vec::<String>::new());
    }
    assert!(!folder.companion("-wal").exists());
    assert_eq!(count(&folder.outbox(), "SELECT count(*) FROM calls"), 0);
}

#[test]
fn a_shutdown_of_any_length_ends_the_process_and_loses_nothing() {
    if is_missing("sqlite3", "shutdowns") {
        return;
    }
    let _alone = alone();
    for (within, times) in [(0, 1), (1_000, 1), (3_600_000, 1), (0, 2), (3_600_000, 2)] {
        let folder = Folder::new();
        let outbox = folder.outbox();
        let platform = Platform::start();
        platform.set_latency(Duration::from_millis(20));
        let plan = Plan {
            posters: 2,
            ..Plan::new("stops", &platform, &outbox)
        };
        let mut process = Process::start(&plan);
        process.command("post 100");
        process.wait_for("durable", 50);
        process.does("gap");
        for _ in 0..times {
            process.command(&format!("shutdown {within}"));
        }
        process.wait_for("shutdown", plan.posters);
        process.wait_for("done shutdown", times);
        process.does("gap");
        let gap: u64 = process.lines("gap").pop().unwrap().parse().unwrap();
        assert!(
            gap < MAX_GAP_MS,
            "within {within} ms, {times} times: the arbiter was blocked for {gap} ms"
        );
        assert!(process.ends().success());
        drain(&platform, &outbox);
        assert_eq!(platform.missing(&process.durable()), Default::default());
        platform.assert_no_live_double();
    }
}

#[test]
fn a_shutdown_during_a_takeover_loses_nothing() {
    if is_missing("sqlite3", "a shutdown during a takeover") {
        return;
    }
    let _shared = shared();
    for wait_ms in [0, 5, 20, 100] {
        let folder = Folder::new();
        let outbox = folder.outbox();
        let platform = Platform::start();
        platform.set_latency(Duration::from_millis(20));
        let mut killed = Process::start(&Plan::new("killed", &platform, &outbox));
        killed.command("post 200");
        killed.wait_for("durable", 200);
        platform.note_kill("killed");
        killed.kill();
        let mut successor = Process::start(&Plan::new("successor", &platform, &outbox));
        successor.wait_for("started", 1);
        sleep(Duration::from_millis(wait_ms));
        successor.does("shutdown 0");
        assert!(successor.ends().success());
        drain(&platform, &outbox);
        assert_eq!(platform.missing(&killed.durable()), Default::default());
        platform.assert_no_live_double();
    }
}

#[test]
fn a_shutdown_on_a_file_that_hangs_ends_in_time_and_says_so() {
    let attack = "a file that hangs";
    if is_missing("cc", attack) || is_missing("sqlite3", attack) {
        return;
    }
    let _alone = alone();
    const WITHIN: Duration = Duration::from_millis(500);
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let shim = Shim::new(&outbox);
    let mut process = Process::start_with(&Plan::new("hangs", &platform, &outbox), shim.command());
    process.does("post 10");
    process.does("gap");
    shim.hold(true);
    process.command("post 10");
    sleep(Duration::from_millis(100));
    process.does(&format!("shutdown {}", WITHIN.as_millis()));
    process.does("gap");
    let gap: u64 = process.lines("gap").pop().unwrap().parse().unwrap();
    assert!(gap < MAX_GAP_MS, "the arbiter was blocked for {gap} ms");
    let report = process.wait_for("shutdown", 1);
    let (took, report) = report.split_once(' ').unwrap();
    let took = Duration::from_millis(took.parse().unwrap());
    assert!(took < WITHIN + Duration::from_millis(500), "{took:?}");
    assert!(report.contains(r#""outbox_is_open":true"#), "{report}");
    // The process ends although its thread hangs.
    assert!(process.ends().success());
    print(
        attack,
        format!("a shutdown within {WITHIN:?} took {took:?}, the arbiter was blocked for {gap} ms: {report}"),
    );
    drain(&platform, &outbox);
    assert_eq!(platform.missing(&process.durable()), Default::default());
}

#[test]
fn a_successor_delivers_within_a_second_of_its_start() {
    if is_missing("sqlite3", "takeover") {
        return;
    }
    let _alone = alone();
    const LIVES: usize = 5;
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    // A crash loop: each life ends before its calls are delivered, and the next one delivers them.
    let mut times = Vec::new();
    for life in 0..LIVES {
        let mut process = Process::start(&Plan::new(&format!("life-{life}"), &platform, &outbox));
        process.wait_for("started", 1);
        if life > 0 {
            let before = vec![format!("life-{}-1", life - 1)];
            platform.set_latency(Duration::from_millis(1));
            let limit = Duration::from_secs(1);
            let took = wait_within(limit, "the calls of the former life", || {
                platform.missing(&before).is_empty()
            });
            times.push(took);
        }
        platform.set_latency(Duration::from_secs(2));
        process.command("post 1");
        process.wait_for("durable", 1);
        platform.note_kill(&process.name);
        process.kill();
    }
    platform.set_latency(Duration::from_millis(1));
    drain(&platform, &outbox);
    print("crash loop", format!("{LIVES} lives, taken over after {times:?}"));
    assert_eq!(sqlite3(&outbox, "PRAGMA quick_check"), "ok");
}

#[test]
fn a_crash_loop_of_short_lives_delivers() {
    if is_missing("sqlite3", "crash loop of short lives") {
        return;
    }
    let _shared = shared();
    const LIVES: usize = 5;
    const LIFE: Duration = Duration::from_secs(2);
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    // A completion and its status together take longer than a life.
    platform.set_latency(Duration::from_millis(1_200));
    let mut confirmed: Vec<String> = Vec::new();
    for life in 0..LIVES {
        let begun = Instant::now();
        let mut process = Process::start(&Plan::new(&format!("short-{life}"), &platform, &outbox));
        process.command("post 4");
        process.wait_for("durable", 4);
        sleep(LIFE.saturating_sub(begun.elapsed()));
        platform.note_kill(&process.name);
        process.kill();
        // What the former lives left is delivered.
        assert_eq!(platform.missing(&confirmed), Default::default(), "life {life}");
        confirmed.extend(process.durable());
    }
    platform.set_latency(Duration::from_millis(1));
    drain(&platform, &outbox);
    assert_eq!(platform.missing(&confirmed), Default::default());
    platform.assert_no_live_double();
    assert_eq!(sqlite3(&outbox, "PRAGMA quick_check"), "ok");
    print(
        "crash loop of short lives",
        format!("{} confirmed, none lost", confirmed.len()),
    );
}
