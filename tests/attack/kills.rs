//! Processes are killed at random moments, while `sqlite3` selects from the outbox and backs it up.

use std::{thread::sleep, time::Duration};

use crate::{
    child::{Plan, Process},
    drain::drain,
    figures::print,
    platform::Platform,
    tools::{Folder, OutsideReader, is_missing, setting, shared, sqlite3},
};

#[test]
fn kills_of_one_process_with_two_posters_lose_nothing() {
    survives_kills("kills, one process, two posters", 1, 2);
}

#[test]
fn kills_of_one_process_with_four_posters_lose_nothing() {
    survives_kills("kills, one process, four posters", 1, 4);
}

#[test]
fn kills_of_three_processes_lose_nothing() {
    survives_kills("kills, three processes", 3, 2);
}

fn survives_kills(attack: &str, processes: usize, posters: usize) {
    if is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    let kills = setting("ATTACK_KILLS", 8) as usize;
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let plan = |number: usize| Plan {
        posters,
        ..Plan::new(&format!("child-{number}"), &platform, &outbox)
    };
    // The file exists before `sqlite3` opens it, which would create it as readable for all.
    Process::start(&plan(0)).wait_for("started", 1);
    let outside = OutsideReader::start(&outbox);
    let (mut confirmed, mut running) = (Vec::new(), Vec::new());
    for number in 1..=kills {
        platform.set_down(number % 4 == 0);
        while running.len() < processes {
            let name = number * 10 + running.len();
            let mut process = Process::start(&plan(name));
            process.command("flood 8");
            running.push(process);
        }
        let mut victim = running.remove(0);
        victim.wait_for("durable", 1);
        sleep(Duration::from_micros(rand::random_range(0..150_000)));
        platform.note_kill(&victim.name);
        victim.kill();
        assert_no_trouble(&victim);
        confirmed.extend(victim.durable());
    }
    for mut process in running {
        platform.note_kill(&process.name);
        process.kill();
        assert_no_trouble(&process);
        confirmed.extend(process.durable());
    }
    platform.set_down(false);
    drain(&platform, &outbox);
    let reads = outside.stop();

    assert!(confirmed.len() >= kills);
    assert_eq!(platform.missing(&confirmed), Default::default());
    platform.assert_no_live_double();
    platform.assert_keys();
    platform.assert_status_after_completion();
    platform.assert_comments_in_order(|_| true);
    assert_eq!(sqlite3(&outbox, "PRAGMA quick_check"), "ok");
    let repeated = platform.repeated();
    // At most the calls that each process was sending, or whose settlement was not yet in the file.
    assert!(
        repeated <= (kills + processes) * posters * 32,
        "{repeated} repeated in {kills} kills"
    );
    let (confirmed, requests) = (confirmed.len(), platform.count());
    print(
        attack,
        format!(
            "{kills} kills, {confirmed} confirmed, {requests} requests, {repeated} repeated, {reads} reads by sqlite3"
        ),
    );
}

/// Other processes were killed, and `sqlite3` reads: that is no trouble.
fn assert_no_trouble(process: &Process) {
    assert_eq!(process.logged(), Vec::<String>::new(), "{}", process.name);
    assert_eq!(process.lines("failed"), Vec::<String>::new(), "{}", process.name);
}
