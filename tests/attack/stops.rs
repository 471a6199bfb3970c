//! A process is stopped, as by a debugger or a frozen container: nobody else sends its calls meanwhile.

use std::{thread::sleep, time::Duration};

use crate::{
    child::{Plan, Process},
    drain::drain,
    figures::print,
    platform::Platform,
    tools::{Folder, is_missing, setting, shared, sqlite3, wait_until},
};

#[test]
fn the_calls_of_a_stopped_process_are_sent_by_no_other() {
    let attack = "SIGSTOP";
    if is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    let seconds = setting("ATTACK_STOP_SECONDS", 3);
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    platform.set_latency(Duration::from_millis(5));
    let plan = |name| Plan {
        posters: 2,
        ..Plan::new(name, &platform, &outbox)
    };
    let (mut stopped, mut other) = (Process::start(&plan("stopped")), Process::start(&plan("other")));
    for process in [&mut stopped, &mut other] {
        process.command("flood 16");
        process.wait_for("durable", 50);
    }
    stopped.signal("STOP");
    // What was on its way arrives.
    sleep(Duration::from_millis(200));
    let before = platform.count();
    sleep(Duration::from_secs(seconds));
    let during = platform.arrivals().split_off(before);
    // Results of the stopped process; comments in its lanes are parked behind its calls.
    let sent: Vec<_> = during
        .iter()
        .filter(|arrival| arrival.call.starts_with("stopped"))
        .collect();
    assert!(sent.is_empty(), "{sent:?}");
    let by_other = during.len();
    let waiting: u64 = sqlite3(&outbox, "SELECT count(*) FROM outbox WHERE target_id LIKE 'stopped%'")
        .parse()
        .unwrap();

    stopped.signal("CONT");
    let after = stopped.durable().len();
    stopped.wait_for("durable", after + 50);
    let mut confirmed = Vec::new();
    for mut process in [stopped, other] {
        platform.note_kill(&process.name);
        process.kill();
        // A process that is stopped in a transaction keeps the file locked: others send without keeping.
        let logged = process.logged();
        assert!(
            logged
                .iter()
                .all(|line| line.contains("was locked") || line.contains("works again")),
            "{logged:?}"
        );
        confirmed.extend(process.durable());
    }
    drain(&platform, &outbox);
    wait_until("all are delivered", || platform.missing(&confirmed).is_empty());
    platform.assert_no_live_double();
    platform.assert_keys();
    print(
        attack,
        format!("{seconds} s, {waiting} calls of the stopped process waited, {by_other} requests of the other"),
    );
}
