//! Two processes on one host, of which one has a wrong clock.

use std::{collections::BTreeMap, env, process::Command, thread::sleep, time::Duration};

use crate::{
    child::{Plan, Process},
    figures::{cpu_time, print},
    platform::Platform,
    tools::{Folder, is_missing, setting, shared, sqlite3, wait_until},
};

/// How far the clock of the second process is off.
const OFFSETS: &[&str] = &["-50y", "-1d", "-1h", "-10s", "+10s", "+1h", "+8d"];

/// The wait of a parked call.
const DELAY: Duration = Duration::from_millis(500);

#[test]
fn a_process_with_a_wrong_clock_neither_expires_nor_delays_the_calls_of_another() {
    let attack = "clocks";
    if is_missing("faketime", attack) || is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    let offsets = OFFSETS.iter().map(|offset| format!("{offset}: {}", survives(offset)));
    print(attack, offsets.collect::<Vec<_>>().join("; "));
}

fn survives(offset: &str) -> String {
    let seconds = setting("ATTACK_CLOCK_SECONDS", 3);
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let plan = |name| Plan {
        delay_ms: DELAY.as_millis() as u64,
        expires_after_s: Some(60 * 60),
        ..Plan::new(name, &platform, &outbox)
    };
    // One call of each result fails, for a time.
    platform.fail("right-");
    platform.fail("wrong-");
    let mut right = Process::start(&plan("right"));
    right.does("post 10");
    let mut wrong = Process::start_with(&plan("wrong"), with_clock(offset));
    wrong.does("post 10");
    let cpu = [right.id(), wrong.id()].map(cpu_time);
    let before = platform.count();
    sleep(Duration::from_secs(seconds));
    // A call that was parked is tried once in a delay, which may be shortened by a half. Each of two owners with different
    // clocks goes by its own delays.
    let attempts = platform.arrivals().split_off(before);
    let mut by_call: BTreeMap<&str, u64> = BTreeMap::new();
    for attempt in &attempts {
        *by_call.entry(&attempt.call).or_default() += 1;
    }
    let delays = seconds * 1_000 / DELAY.as_millis() as u64;
    let (least, most) = (by_call.values().min().unwrap(), by_call.values().max().unwrap());
    assert_eq!(by_call.len(), 40, "{offset}: {by_call:?}");
    assert!(
        *least >= delays / 3,
        "{offset}: a call was tried {least} times in {delays} delays"
    );
    assert!(
        *most <= delays * 4 + 2,
        "{offset}: a call was tried {most} times in {delays} delays"
    );
    let used = [right.id(), wrong.id()].map(cpu_time);
    let used: Vec<_> = used.iter().zip(cpu).map(|(after, before)| *after - before).collect();
    let most_cpu = Duration::from_secs(seconds) / 2;
    assert!(used.iter().all(|used| *used < most_cpu), "{offset}: {used:?}");
    assert_eq!(
        sqlite3(&outbox, "SELECT count(*) FROM outbox WHERE state = 'dead_letter'"),
        "0"
    );

    platform.fail_nothing();
    let confirmed: Vec<_> = right.durable().into_iter().chain(wrong.durable()).collect();
    let delivered = wait_until("all are delivered", || platform.missing(&confirmed).is_empty());
    assert!(delivered < DELAY * 6, "{offset}: delivered after {delivered:?}");
    platform.assert_no_live_double();
    wait_until("the outbox is empty", || {
        sqlite3(&outbox, "SELECT count(*) FROM calls") == "0"
    });
    for mut process in [right, wrong] {
        process.does("shutdown 10000");
        assert!(process.ends().success());
        assert_eq!(process.logged(), Vec::<String>::new());
    }
    format!("{least} to {most} attempts in {delays} delays")
}

/// A command that runs this program with a wrong clock. Its monotonic clock is right, as that of a real host.
fn with_clock(offset: &str) -> Command {
    let mut command = Command::new("faketime");
    command
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .args(["-m", "-f", offset])
        .arg(env::current_exe().unwrap());
    command
}
