//! A disk that fails, is full, or is read-only, and recovers.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use crate::{
    child::{Plan, Process},
    drain::drain,
    figures::print,
    platform::Platform,
    shim::{Call, Shim, Target},
    tools::{Folder, is_missing, shared, sqlite3, wait_until, wait_within},
};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// How each call may fail.
const FAILURES: &[(Call, i32)] = &[
    (Call::Write, ENOSPC),
    (Call::Write, EIO),
    (Call::Write, EROFS),
    (Call::Sync, EIO),
    (Call::Read, EIO),
    (Call::Truncate, EIO),
    (Call::Unlink, EIO),
    (Call::Lock, EIO),
    (Call::Stat, EIO),
];

/// After a failure, messages are kept again within this time: SQLite tries for 10 s to get a lock.
const RECOVERS_WITHIN: Duration = Duration::from_secs(15);

/// What happens to a process while its disk fails.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The disk recovers.
    Recovers,
    Killed,
    ShutDown,
}

#[test]
fn a_running_poster_survives_each_failure_of_the_disk() {
    survives_failures(End::Recovers);
}

#[test]
fn a_poster_that_is_killed_during_a_failure_of_the_disk_loses_nothing() {
    survives_failures(End::Killed);
}

#[test]
fn a_poster_that_is_shut_down_during_a_failure_of_the_disk_loses_nothing() {
    survives_failures(End::ShutDown);
}

fn survives_failures(end: End) {
    let attack = format!("failures of the disk, {end:?}");
    if is_missing("cc", &attack) || is_missing("sqlite3", &attack) {
        return;
    }
    let _shared = shared();
    // SQLite tries for 10 s to get a lock: once is enough.
    let is_short = |call: &Call| matches!(end, End::Recovers) || !matches!(call, Call::Lock);
    let failures = FAILURES.iter().filter(|(call, _)| is_short(call)).map(|(call, errno)| {
        println!("{attack}: {call:?} with error {errno}");
        format!("{call:?} {errno}: {}", survives(*call, *errno, end))
    });
    print(&attack, failures.collect::<Vec<_>>().join(", "));
}

/// Returns how many calls failed.
fn survives(call: Call, errno: i32, end: End) -> i64 {
    let folder = Folder::new();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let shim = Shim::new(&outbox);
    let plan = |name| Plan {
        posters: 2,
        ..Plan::new(name, &platform, &outbox)
    };
    let mut process = Process::start_with(&plan("fails"), shim.command());
    // The disk does not fail for this one. Its changes make the other read.
    let mut beside = Process::start(&plan("beside"));
    process.does("post 4");
    assert_eq!(process.durable().len(), 4, "{:?}", process.lines("unkept"));
    shim.fail(&[call], &Target::ALL, errno);
    // Each message is answered.
    for _ in 0..3 {
        beside.does("post 4");
        process.does("post 4");
    }
    beside.does("shutdown 10000");
    assert!(beside.ends().success());
    assert_eq!(beside.durable().len(), 12);
    match end {
        End::Recovers => {
            shim.fail_nothing();
            wait_within(RECOVERS_WITHIN, "messages are kept again", || {
                let before = process.lines("unkept").len();
                process.does("post 1");
                process.lines("unkept").len() == before
            });
            process.does("post 4");
            wait_until("the outbox is empty", || {
                sqlite3(&outbox, "SELECT count(*) FROM calls") == "0"
            });
            process.does("shutdown 10000");
            assert!(process.ends().success());
        }
        End::Killed => {
            platform.note_kill("fails");
            process.kill();
        }
        End::ShutDown => {
            process.does("shutdown 1000");
            assert!(process.ends().success());
        }
    }
    shim.fail_nothing();
    drain(&platform, &outbox);
    assert_eq!(process.lines("failed"), Vec::<String>::new());
    // All were delivered, kept or not.
    let unkept = process.lines("unkept");
    let unkept: Vec<_> = unkept
        .iter()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let posted = process.durable().into_iter().chain(unkept).chain(beside.durable());
    assert_eq!(platform.missing(&posted.collect::<Vec<_>>()), Default::default());
    platform.assert_no_live_double();
    platform.assert_keys();
    assert_eq!(sqlite3(&outbox, "PRAGMA quick_check"), "ok");
    shim.failed()
}

/// A file system of its own in the memory, of 2 MiB.
struct SmallDisk<'a>(&'a Folder);

impl<'a> SmallDisk<'a> {
    /// `None` if this user may not mount.
    fn mount(folder: &'a Folder) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&folder.path);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then(|| Self(folder))
    }

    /// Writes a file until there is no room.
    fn fill(&self) -> PathBuf {
        let path = self.0.path.join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 512]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0.path).status();
    }
}

#[test]
fn a_full_file_system_loses_nothing() {
    let attack = "full file system";
    if is_missing("sqlite3", attack) {
        return;
    }
    let folder = Folder::new();
    let Some(disk) = SmallDisk::mount(&folder) else {
        println!("skipped {attack}: this user may not mount");
        return;
    };
    let _shared = shared();
    let outbox = folder.outbox();
    let platform = Platform::start();
    let mut process = Process::start(&Plan {
        posters: 2,
        ..Plan::new("full", &platform, &outbox)
    });
    process.does("post 4");
    let filler = disk.fill();
    // The log may have room for some.
    wait_within(RECOVERS_WITHIN, "a message is not kept", || {
        process.does("post 8");
        !process.lines("unkept").is_empty()
    });
    fs::remove_file(filler).unwrap();
    wait_within(RECOVERS_WITHIN, "messages are kept again", || {
        let before = process.lines("unkept").len();
        process.does("post 1");
        process.lines("unkept").len() == before
    });
    // It is killed while the disk is full once more.
    let filler = disk.fill();
    process.does("post 8");
    platform.note_kill("full");
    process.kill();
    fs::remove_file(filler).unwrap();
    drain(&platform, &outbox);
    let unkept = process.lines("unkept");
    let unkept = unkept
        .iter()
        .filter_map(|line| line.split(' ').next().map(str::to_owned));
    let posted: Vec<_> = process.durable().into_iter().chain(unkept).collect();
    assert_eq!(platform.missing(&posted), Default::default());
    assert_eq!(process.lines("failed"), Vec::<String>::new());
    platform.assert_no_live_double();
    platform.assert_keys();
    assert_eq!(sqlite3(&outbox, "PRAGMA quick_check"), "ok");
    print(attack, format!("{} posted, none lost", posted.len()));
}
