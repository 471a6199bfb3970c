//! What a process does around an outbox: it creates the file beside others, changes its folder, and logs trouble once.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use result_poster::{
    OutboxError, ResultPoster, Shutdown,
    outbox::{EntryQuery, OutboxInspector, OutboxOptions},
};

use crate::support::{
    child::{child_process, output_of},
    log::{keep_log, logged},
    options,
    outbox::{OutboxFixture, shut_down},
    outcome, send_update, start,
};

/// The variable that makes the child process of a test do its work: the folder of the test.
const FOLDER: &str = "RESULT_POSTER_PROCESS_FOLDER";

#[test]
fn sixteen_processes_create_a_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let child = || {
        let mut child = child_process("outbox_process::child_process_creates_a_file");
        child.env(FOLDER, folder.path());
        child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..16).map(|_| child()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("stored"), "{text}{errors}");
    }
}

#[test]
fn a_relative_path_is_that_of_the_folder_in_which_the_options_were_built() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child_process("outbox_process::child_process_changes_its_folder");
    let text = output_of(child.env(FOLDER, folder.path()));
    assert!(text.contains("parked 2"), "{text}");
    assert!(folder.path().join("first/relative.db").is_file());
    let names = |path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names(folder.path().join("second")).count(), 0);
    assert_eq!(names(folder.path().to_owned()).count(), 2);
}

#[test]
fn trouble_with_the_file_is_one_log_line_and_one_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child_process("outbox_process::child_process_logs_trouble");
    let text = output_of(child.env(FOLDER, folder.path()));
    let lines = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines("the outbox failed to "), 1, "{text}");
    assert_eq!(lines("the outbox works again"), 1, "{text}");
    // Each message says so to its caller instead.
    assert!(text.contains("not kept: 100"), "{text}");
}

/// Not a test by itself, but one of the child processes of one: it creates the outbox, and stores a call in it.
#[actix_rt::test]
async fn child_process_creates_a_file() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let outbox = OutboxOptions::new(PathBuf::from(folder).join("outbox.db"));
    let poster = start(options("http://127.0.0.1:1").max_attempts(1).outbox(outbox));
    let issue_id = process::id().to_string();
    assert_eq!(outcome(&send_update(&poster, &issue_id).await), "parked:1");
    println!("stored");
}

/// Not a test by itself, but the child process of one: it goes to another folder after it has built its options, and again
/// after the start.
#[actix_rt::test]
async fn child_process_changes_its_folder() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let [first, second] = ["first", "second"].map(|name| PathBuf::from(&folder).join(name));
    for folder in [&first, &second] {
        fs::create_dir(folder).unwrap();
    }
    env::set_current_dir(&first).unwrap();
    let options = options("http://127.0.0.1:1").max_attempts(1);
    let options = options.outbox(OutboxOptions::new("relative.db")).build().unwrap();
    env::set_current_dir(&second).unwrap();
    let poster = ResultPoster::start_supervised(options);
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    env::set_current_dir(folder).unwrap();
    assert_eq!(outcome(&send_update(&poster, "j").await), "parked:1");
    shut_down(&poster).await;
    let inspector = OutboxInspector::open(first.join("relative.db")).unwrap();
    println!("parked {}", inspector.list(EntryQuery::parked()).unwrap().len());
}

/// Not a test by itself, but the child process of one: its file is locked while a hundred messages are sent.
#[actix_rt::test]
async fn child_process_logs_trouble() {
    if env::var_os(FOLDER).is_none() {
        return;
    }
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    send_update(&poster, "first").await.unwrap();
    keep_log();
    let lock = fixture.lock();
    let issues: Vec<_> = (0..100).map(|issue| issue.to_string()).collect();
    let replies = join_all(issues.iter().map(|issue| send_update(&poster, issue))).await;
    let errors = replies.iter().map(|reply| reply.as_ref().unwrap().outbox_error());
    let not_kept = errors.filter(|error| *error == Some(&OutboxError::Locked)).count();
    println!("not kept: {not_kept}");
    drop(lock);
    for issue in &issues {
        assert_eq!(send_update(&poster, issue).await.unwrap().outbox_error(), None);
    }
    poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();
    for line in logged() {
        println!("{line}");
    }
}
