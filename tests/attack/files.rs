//! The files of an outbox are deleted, replaced, restored, moved away and moved back while two processes use them.

use std::{fs, path::Path, thread::sleep, time::Duration};

use crate::{
    child::{Plan, Process},
    drain::drain,
    figures::print,
    platform::Platform,
    shim::{Call, Shim, Target},
    tools::{Folder, is_missing, setting, shared, sqlite3, wait_until, wait_within},
};

/// After a change of the files, messages are kept again within this time.
const KEEPS_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn the_file_is_deleted() {
    survives("deleted", delete);
}

#[test]
fn the_database_is_deleted_without_its_log() {
    survives("deleted without its log", |folder| {
        fs::remove_file(folder.outbox()).unwrap();
    });
}

#[test]
fn the_log_is_deleted() {
    survives("without its log", |folder| {
        let _ = fs::remove_file(folder.companion("-wal"));
    });
}

#[test]
fn the_file_is_replaced_by_a_backup() {
    survives("replaced", |folder| {
        let backup = folder.path.join("backup");
        sqlite3(&folder.outbox(), &format!(".backup '{}'", backup.display()));
        delete(folder);
        fs::rename(backup, folder.outbox()).unwrap();
    });
}

#[test]
fn a_backup_is_restored_into_the_file() {
    survives("restored", |folder| {
        let backup = folder.path.join("backup");
        sqlite3(&folder.outbox(), &format!(".backup '{}'", backup.display()));
        sleep(Duration::from_millis(200));
        sqlite3(&folder.outbox(), &format!(".restore '{}'", backup.display()));
    });
}

/// All calls of the backup were delivered before it is restored: the living processes deliver them again.
#[test]
fn a_backup_that_is_restored_later_is_delivered_by_the_living() {
    let attack = "files, restored later";
    if is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let mut processes = start_two(&platform, &outbox);
    let backup = folder.path.join("backup");
    let back_up = || sqlite3(&outbox, &format!(".backup '{}'", backup.display()));
    let calls = || sqlite3(&outbox, "SELECT count(*) FROM calls");
    platform.set_down(true);
    for process in &mut processes {
        process.does("post 8");
    }
    // Some calls are live in it, others parked.
    platform.set_latency(Duration::from_millis(100));
    platform.set_down(false);
    wait_until("calls are delivered", || platform.acknowledged().len() >= 4);
    back_up();
    let stored = sqlite3(&backup, "SELECT count(*) FROM calls");
    // Each poster changes the outbox once more, and notes that.
    for process in &mut processes {
        process.does("post 4");
    }
    wait_until("the outbox is empty", || calls() == "0");
    let marks = |path: &Path| sqlite3(path, "SELECT mark FROM owners ORDER BY id");
    let of_backup = marks(&backup);
    wait_until("all posters have noted their changes", || {
        let (now, before) = (marks(&outbox), of_backup.lines());
        now.lines().zip(before).filter(|(now, before)| now != before).count() == 4
    });
    let before = platform.count();
    sqlite3(&outbox, &format!(".restore '{}'", backup.display()));
    let took = wait_until("the outbox is empty again", || calls() == "0");
    assert_eq!((platform.count() - before).to_string(), stored);
    platform.assert_keys();
    for process in &mut processes {
        let errors = process.logged();
        assert!(
            errors.iter().any(|line| line.contains("was restored from a backup")),
            "{errors:#?}"
        );
        process.does("shutdown 10000");
        assert!(process.ends().success());
    }
    print(attack, format!("{stored} calls are delivered again within {took:?}"));
}

#[test]
fn the_folder_is_moved_away_and_back() {
    survives("moved away and back", |folder| {
        let away = folder.path.with_extension("away");
        fs::rename(&folder.path, &away).unwrap();
        sleep(Duration::from_millis(1_500));
        fs::rename(&away, &folder.path).unwrap();
    });
}

#[test]
fn the_folder_of_the_owners_is_deleted() {
    survives("without the folder of owners", |folder| {
        fs::remove_dir_all(folder.companion("-owners")).unwrap();
    });
}

#[test]
fn the_file_is_made_read_only_and_writable_again() {
    survives("read-only for a while", |folder| {
        // Processes of root may write nevertheless.
        let path = folder.outbox();
        let mut permissions = path.metadata().unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        sleep(Duration::from_millis(500));
        std::process::Command::new("chmod")
            .arg("600")
            .arg(&path)
            .status()
            .unwrap();
    });
}

/// Two processes with two posters each.
fn start_two(platform: &Platform, outbox: &Path) -> [Process; 2] {
    ["one", "two"].map(|name| {
        Process::start(&Plan {
            posters: 2,
            ..Plan::new(name, platform, outbox)
        })
    })
}

fn delete(folder: &Folder) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.companion(suffix));
    }
}

fn survives(name: &str, change: impl FnOnce(&Folder)) {
    let attack = format!("files, {name}");
    if is_missing("sqlite3", &attack) {
        return;
    }
    let _shared = shared();
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let mut processes = start_two(&platform, &outbox);
    for process in &mut processes {
        process.does("post 8");
        process.command("pace 200 10");
    }
    sleep(Duration::from_millis(300));
    change(&folder);
    let mut took = Vec::new();
    for process in &mut processes {
        took.push(wait_within(KEEPS_WITHIN, "messages are kept", || {
            let before = process.lines("unkept").len();
            process.does("post 1");
            process.lines("unkept").len() == before
        }));
        process.wait_for("done pace", 1);
    }
    // What is kept from now on is delivered even if both are killed.
    platform.set_down(true);
    let before: Vec<_> = processes.iter().map(|process| process.durable().len()).collect();
    for process in &mut processes {
        process.does("post 8");
        platform.note_kill(&process.name);
        process.kill();
    }
    platform.set_down(false);
    drain(&platform, &outbox);
    let mut lost = 0;
    for (process, before) in processes.iter().zip(before) {
        assert_eq!(process.lines("failed"), Vec::<String>::new(), "{:#?}", process.logged());
        let durable = process.durable();
        assert_eq!(durable.len() - before, 8, "{:?}", process.lines("unkept"));
        assert_eq!(platform.missing(&durable[before..]), Default::default());
        let unkept = process.lines("unkept");
        let unkept: Vec<_> = unkept
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(platform.missing(&unkept), Default::default());
        lost += platform.missing(&durable[..before]).len();
    }
    platform.assert_keys();
    assert_eq!(sqlite3(&outbox, "PRAGMA quick_check"), "ok");
    // The platform was up: all that was confirmed before was in flight.
    assert_eq!(lost, 0);
    print(&attack, format!("messages are kept again after {took:?}"));
}

#[test]
fn the_locks_of_living_owners_are_deleted_by_a_cleaner() {
    let attack = "a cleaner of lock files";
    if is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    let seconds = setting("ATTACK_STOP_SECONDS", 3);
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let mut processes = start_two(&platform, &outbox);
    for process in &mut processes {
        process.command("flood 8");
        process.wait_for("durable", 8);
    }
    let mut deleted = 0;
    for _ in 0..seconds * 2 {
        deleted += delete_files_in(&folder.companion("-owners"));
        sleep(Duration::from_millis(500));
    }
    for process in &mut processes {
        platform.note_kill(&process.name);
        process.kill();
        assert_eq!(process.lines("failed"), Vec::<String>::new());
    }
    drain(&platform, &outbox);
    for process in &processes {
        assert_eq!(platform.missing(&process.durable()), Default::default());
    }
    platform.assert_no_live_double();
    platform.assert_keys();
    print(attack, format!("{deleted} files deleted in {seconds} s"));
}

fn delete_files_in(folder: &Path) -> usize {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter(|file| fs::remove_file(file.path()).is_ok()).count()
}

#[test]
fn a_copy_that_is_opened_elsewhere_does_not_disturb_the_original() {
    if is_missing("sqlite3", "a copy elsewhere") {
        return;
    }
    let _shared = shared();
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let (platform, other_platform) = (Platform::start(), Platform::start());
    let mut original = Process::start(&Plan::new("original", &platform, &folder.outbox()));
    original.command("flood 8");
    original.wait_for("durable", 50);
    sqlite3(&folder.outbox(), &format!(".backup '{}'", elsewhere.outbox().display()));
    let mut copy = Process::start(&Plan::new("copy", &other_platform, &elsewhere.outbox()));
    copy.does("post 4");
    let before = original.durable().len();
    original.wait_for("durable", before + 50);
    copy.does("shutdown 1000");
    assert!(copy.ends().success());
    platform.note_kill("original");
    original.kill();
    drain(&platform, &folder.outbox());
    assert_eq!(platform.missing(&original.durable()), Default::default());
    platform.assert_no_live_double();
}

#[test]
fn a_file_that_can_not_be_opened_again_is_opened_later() {
    let attack = "a file that can't be opened again";
    if is_missing("cc", attack) || is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    const EMFILE: i32 = 24;
    const ENOMEM: i32 = 12;
    for (call, errno) in [(Call::Open, EMFILE), (Call::Map, ENOMEM)] {
        let folder = Folder::new();
        let platform = Platform::start();
        let shim = Shim::new(&folder.outbox());
        let mut process = Process::start_with(&Plan::new("opens", &platform, &folder.outbox()), shim.command());
        process.does("post 2");
        // The file is opened once a second at most.
        sleep(Duration::from_millis(1_100));
        shim.fail(&[call], &Target::ALL, errno);
        delete(&folder);
        process.does("post 4");
        assert_eq!(process.lines("unkept").len(), 4, "{call:?}");
        assert!(shim.failed() > 0);
        shim.fail_nothing();
        wait_within(KEEPS_WITHIN, "messages are kept", || {
            let before = process.lines("unkept").len();
            process.does("post 1");
            process.lines("unkept").len() == before
        });
        process.does("shutdown 10000");
        assert!(process.ends().success());
        let posted: Vec<_> = (1..=6).map(|number| format!("opens-{number}")).collect();
        assert_eq!(platform.missing(&posted), Default::default());
    }
}
