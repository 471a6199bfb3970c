//! Power cuts: what was not flushed is lost, in part or as a whole, and in any order.

use std::{thread::sleep, time::Duration};

use crate::{
    child::{Plan, Process},
    drain::drain,
    figures::print,
    platform::{Platform, calls_of},
    shim::{Cut, Disk, Shim},
    tools::{Folder, is_missing, setting, shared, sqlite3},
};

/// How many of the possible results of a cut are looked at.
const VARIANTS: usize = 3;

#[test]
fn a_cut_that_drops_all_that_was_not_flushed_loses_nothing_confirmed() {
    survives_cuts(Cut::Drop);
}

#[test]
fn a_cut_that_leaves_the_first_changes_loses_nothing_confirmed() {
    survives_cuts(Cut::Prefix);
}

#[test]
fn a_cut_that_reorders_changes_loses_nothing_confirmed() {
    survives_cuts(Cut::Reorder);
}

#[test]
fn a_cut_that_tears_changes_loses_nothing_confirmed() {
    survives_cuts(Cut::Torn);
}

fn survives_cuts(cut: Cut) {
    let attack = format!("power cuts, {cut:?}");
    if is_missing("sqlite3", &attack) || is_missing("cc", &attack) {
        return;
    }
    let _shared = shared();
    let cuts = setting("ATTACK_CUTS", 3);
    let (folder, image) = (Folder::new(), Folder::new());
    let outbox = folder.outbox();
    let platform = Platform::start();
    platform.set_latency(Duration::from_millis(5));
    let shim = Shim::with_journal(&outbox);
    // So that most cuts come during a flush.
    shim.set_flush(Duration::from_millis(10));
    let (mut confirmed, mut unflushed) = (Vec::new(), 0);
    for number in 0..cuts {
        platform.set_down(number % 3 == 1);
        let mut disk = Disk::read(&folder);
        // Every second time, two processes share the file.
        let mut processes: Vec<_> = (0..=number % 2)
            .map(|index| {
                let plan = Plan {
                    posters: 2,
                    ..Plan::new(&format!("cut-{number}-{index}"), &platform, &outbox)
                };
                let mut process = Process::start_with(&plan, shim.command());
                process.command("flood 8");
                process
            })
            .collect();
        processes
            .iter()
            .for_each(|process| drop(process.wait_for("durable", 1)));
        sleep(Duration::from_micros(rand::random_range(0..150_000)));
        for process in &mut processes {
            platform.note_kill(&process.name);
            process.signal("STOP");
        }
        for process in &mut processes {
            process.kill();
            assert_eq!(process.logged(), Vec::<String>::new());
            confirmed.extend(process.durable());
        }
        unflushed += disk.replay(&shim.take_journal());
        for variant in 0..VARIANTS {
            let left = disk.cut(cut);
            left.write(&image);
            assert_all_kept(&image, &platform, &confirmed);
            if variant == 0 {
                left.write(&folder);
            }
        }
    }
    platform.set_down(false);
    drain(&platform, &outbox);
    assert_eq!(platform.missing(&confirmed), Default::default());
    assert!(unflushed > 0 || cuts < 10, "no cut had something to lose");
    let confirmed = confirmed.len();
    print(
        &attack,
        format!("{cuts} cuts, {confirmed} confirmed, {unflushed} changes not flushed"),
    );
}

/// The file is not damaged, and holds all confirmed calls that the platform has not acknowledged.
fn assert_all_kept(image: &Folder, platform: &Platform, confirmed: &[String]) {
    let outbox = image.outbox();
    assert_eq!(sqlite3(&outbox, "PRAGMA quick_check"), "ok");
    let kept = sqlite3(
        &outbox,
        "SELECT CASE kind WHEN 'createComment' THEN target_id || '/' || json_extract(body, '$.args[1]')
         ELSE target_id || '/' || kind END FROM calls",
    );
    let kept: Vec<_> = kept.lines().collect();
    let acknowledged = platform.acknowledged();
    for call in confirmed.iter().flat_map(|message| calls_of(message)) {
        let is_kept = kept.contains(&call.as_str());
        assert!(
            is_kept || acknowledged.contains(&call),
            "{call} was confirmed and is lost"
        );
    }
}
