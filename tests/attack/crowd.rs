//! Many processes that create one file, odd paths, and processes of different users.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::PathBuf,
    process::Command,
};

use crate::{
    child::{Plan, Process},
    drain::drain,
    figures::print,
    platform::Platform,
    tools::{Folder, count, is_missing, output_of, setting, shared, sqlite3},
};

#[test]
fn many_processes_create_one_file() {
    const ROUND: u64 = 16;
    let attack = "crowd";
    if is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    let processes = setting("ATTACK_CROWD", ROUND);
    let platform = Platform::start();
    for round in 0..processes.div_ceil(ROUND) {
        // A new file in each round, and in the end one for all.
        let folder = Folder::new();
        let mut crowd: Vec<_> = (0..ROUND)
            .map(|index| {
                let name = format!("crowd-{round}-{index}");
                let mut process = Process::start(&Plan::new(&name, &platform, &folder.outbox()));
                process.command("post 2");
                process
            })
            .collect();
        for process in &mut crowd {
            process.wait_for("done post", 1);
            assert_eq!(
                process.durable().len(),
                2,
                "{:?} {:?}",
                process.lines("unkept"),
                process.logged()
            );
            process.does("shutdown 10000");
            assert!(process.ends().success());
            assert_eq!(process.logged(), Vec::<String>::new());
            assert_eq!(platform.missing(&process.durable()), Default::default());
        }
        assert_eq!(sqlite3(&folder.outbox(), "PRAGMA quick_check"), "ok");
        assert_eq!(count(&folder.outbox(), "SELECT count(*) FROM calls"), 0);
        assert_eq!(fs::read_dir(folder.companion("-owners")).unwrap().count(), 0);
    }
    platform.assert_no_live_double();
    print(attack, format!("{processes} processes in rounds of {ROUND}"));
}

#[test]
fn an_outbox_may_have_any_name() {
    if is_missing("sqlite3", "names") {
        return;
    }
    let _shared = shared();
    let long = "x".repeat(240);
    let names = [
        "it's \"one\".db",
        "a?b#c%20d&mode=memory",
        "ü – ☃.db",
        "two\nlines",
        "-option",
        "*",
        "file",
        &long,
    ];
    for name in names {
        let folder = Folder::new();
        let path = folder.path.join(name);
        keeps_and_delivers(&folder, path.clone(), &path);
    }
}

#[test]
fn links_lead_to_one_outbox() {
    if is_missing("sqlite3", "links") {
        return;
    }
    let _shared = shared();
    let folder = Folder::new();
    let real = folder.path.join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, folder.path.join("to-folder")).unwrap();
    symlink("to-folder/outbox.db", folder.path.join("to-file")).unwrap();
    symlink("to-file", folder.path.join("to-link")).unwrap();
    for name in [
        "to-link",
        "to-file",
        "to-folder/outbox.db",
        "real/outbox.db",
        "real/../real/outbox.db",
    ] {
        keeps_and_delivers(&folder, folder.path.join(name), &real.join("outbox.db"));
    }
    // No companion lies beside a link.
    assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 4);
}

#[test]
fn a_relative_path_is_not_moved_by_a_change_of_the_folder() {
    if is_missing("sqlite3", "chdir") {
        return;
    }
    let _shared = shared();
    let folder = Folder::new();
    let [first, second] = ["first", "second"].map(|name| folder.path.join(name));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    let platform = Platform::start();
    platform.set_down(true);
    let plan = Plan {
        outbox: PathBuf::from("relative.db"),
        ..Plan::new("moves", &platform, &folder.outbox())
    };
    let mut command = Command::new(env::current_exe().unwrap());
    command.current_dir(&first);
    let mut process = Process::start_with(&plan, command);
    process.does("post 2");
    process.does(&format!("chdir {}", second.display()));
    process.does("post 2");
    process.does("shutdown 10000");
    assert!(process.ends().success());
    assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
    platform.set_down(false);
    drain(&platform, &first.join("relative.db"));
    assert_eq!(process.durable().len(), 4);
    assert_eq!(platform.missing(&process.durable()), Default::default());
}

#[test]
fn root_and_a_user_share_an_outbox() {
    let attack = "root beside a user";
    if is_missing("setpriv", attack) || is_missing("sqlite3", attack) {
        return;
    }
    let _shared = shared();
    if output_of(Command::new("id").arg("-u")) != "0" {
        println!("skipped {attack}: the tests do not run as root");
        return;
    }
    const NOBODY: u32 = 65_534;
    let folder = Folder::new();
    let program = folder.path.join("program");
    // Copied by another process: while this one has a file open for writing, a child of another attack may have it, too, and
    // it can't be executed.
    output_of(Command::new("cp").arg(env::current_exe().unwrap()).arg(&program));
    let shared = folder.path.join("shared");
    fs::create_dir(&shared).unwrap();
    for path in [&folder.path, &shared] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let platform = Platform::start();
    let outbox = shared.join("outbox.db");
    // The user creates the file. The second time, root opens it first, and makes the other files.
    for first_is_root in [false, true] {
        let mut processes: Vec<_> = [first_is_root, !first_is_root]
            .map(|is_root| {
                let plan = Plan::new(if is_root { "root" } else { "user" }, &platform, &outbox);
                let mut command = Command::new(if is_root { program.as_path() } else { "setpriv".as_ref() });
                if !is_root {
                    command
                        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                        .arg(&program);
                }
                let process = Process::start_with(&plan, command);
                process.wait_for("started", 1);
                process
            })
            .into();
        for _ in 0..2 {
            for process in &mut processes {
                process.does("post 4");
            }
        }
        for entry in fs::read_dir(&shared)
            .unwrap()
            .chain(fs::read_dir(shared.join("outbox.db-owners")).unwrap())
        {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().uid(), NOBODY, "{:?}", entry.path());
        }
        for process in &mut processes {
            process.does("shutdown 10000");
            assert!(process.ends().success());
            assert_eq!(process.logged(), Vec::<String>::new());
            assert_eq!(
                process.durable().len(),
                8,
                "{}: {:?}",
                process.name,
                process.lines("unkept")
            );
            assert_eq!(platform.missing(&process.durable()), Default::default());
        }
    }
}

/// A process with this path keeps results, and another one finds them in the file and delivers them.
fn keeps_and_delivers(_folder: &Folder, path: PathBuf, file: &std::path::Path) {
    let platform = Platform::start();
    platform.set_down(true);
    let mut process = Process::start(&Plan::new("names", &platform, &path));
    process.does("post 2");
    process.does("shutdown 10000");
    assert!(process.ends().success());
    assert_eq!(process.durable().len(), 2, "{path:?}: {:?}", process.lines("unkept"));
    assert!(file.is_file(), "{file:?}");
    platform.set_down(false);
    let mut process = Process::start(&Plan::new("next", &platform, file));
    let posted: Vec<_> = (1..=2).map(|number| format!("names-{number}")).collect();
    crate::tools::wait_until(format!("{path:?} is delivered"), || {
        platform.missing(&posted).is_empty()
    });
    process.does("shutdown 10000");
    assert!(process.ends().success());
}
