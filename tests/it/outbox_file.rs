//! The file of the outbox: its permissions, and everything that can be wrong with it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use actix::Addr;
use futures_util::future::join_all;
use result_poster::{
    CallError, CreateComment, FailureKind, NextStep, OptionsError, OutboxError, PostResult, ResultPoster, Shutdown,
    outbox::{OutboxInspector, OutboxOptions},
    testing::{ManualClock, Reply},
};

use crate::support::{
    RETRY_LATER, TOKEN, completed, errors, messages_are_accepted, options,
    outbox::{
        OutboxFixture, SHORT_DELAY, entries, kinds_and_targets, remove_files_in, replay_late, replay_soon, shut_down,
    },
    outcome, post, post_outcome,
    requests::{issue_and_text, sent},
    send_update, start, status_update,
    wait::{in_time, wait_until},
};

#[actix_rt::test]
async fn the_file_does_not_hold_the_token() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    // By another process: this one would drop SQLite's locks when it closes the files.
    let holds = |text: &str| {
        let grep = Command::new("grep")
            .args(["--recursive", "--quiet", "--fixed-strings", text])
            .arg(fixture.folder.path())
            .status()
            .unwrap();
        grep.code().unwrap() == 0
    };
    assert!(holds("wkr_1"));
    assert!(!holds(TOKEN));
    assert_eq!(fixture.count(), 2);
}

#[cfg(unix)]
#[actix_rt::test]
async fn the_files_are_accessible_to_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    post(&poster, "s").await.unwrap_err();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let owners = fixture.companion("-owners");
    assert_eq!(mode(&owners), 0o700);
    let mut files: Vec<_> = ["", "-wal", "-shm"].map(|suffix| fixture.companion(suffix)).into();
    files.extend(fixture.owner_files().into_iter().map(|name| owners.join(name)));
    assert_eq!(files.len(), 4);
    for path in files {
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
}

#[test]
fn a_foreign_file_one_of_another_version_and_a_damaged_one_are_refused_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    type Make = fn(&Path);
    type IsExpected = fn(&OutboxError) -> bool;
    let is_foreign: IsExpected = |error| *error == OutboxError::NotAnOutbox;
    let is_unsupported: IsExpected = |error| *error == OutboxError::UnsupportedVersion;
    let cases: [(Make, IsExpected, &str); 6] = [
        (
            |path| fs::write(path, "not a database").unwrap(),
            is_foreign,
            "the file or schema is not an outbox",
        ),
        (
            |path| fs::write(path, "SQLite format 3\0 and then noise").unwrap(),
            is_foreign,
            "the file or schema is not an outbox",
        ),
        (make_foreign_database, is_foreign, "the file or schema is not an outbox"),
        (
            |path| make_outbox_of_version(path, 99),
            is_unsupported,
            "the file or schema was made by",
        ),
        (
            |path| make_outbox_of_version(path, 1),
            is_unsupported,
            "the file or schema was made by",
        ),
        (
            make_damaged_outbox,
            |error| matches!(error, OutboxError::Corrupt(_)),
            "the database is damaged",
        ),
    ];
    for (make, is_expected, message) in cases {
        remove_files_in(folder.path());
        make(&path);
        let before = fs::read(&path).unwrap();
        let texts = errors::texts(&refused(&path));
        assert_eq!(
            texts[0],
            format!("option `outbox` can't use the file {}", path.display())
        );
        assert!(texts[1].starts_with(message), "{texts:?}");
        errors::assert_told_apart(&texts);
        assert!(fs::read(&path).unwrap() == before, "{message}");
        let error = OutboxInspector::open(&path).unwrap_err();
        assert!(is_expected(&error), "{error:?}");
        assert!(fs::read(&path).unwrap() == before, "{message}");
    }
}

#[test]
fn a_missing_file_is_not_created_by_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        OutboxInspector::open(folder.path().join("none")).unwrap_err(),
        OutboxError::NotFound
    );
    assert!(!folder.path().join("none").exists());
}

#[actix_rt::test]
async fn a_call_whose_insert_fails_is_sent() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options_with(replay_soon(fixture.path()).max_bytes(128 * 1024)));
    // `reply_when_durable` makes no difference: a message that is not in the file is answered when it is delivered.
    for message in [large_result("a"), large_result("b").reply_when_durable()] {
        let receipt = poster.send(message).await.unwrap().unwrap();
        assert_eq!(receipt.completion.outbox_error(), Some(&OutboxError::Full));
        assert_eq!(
            (receipt.completion.attempts(), receipt.completion.call_id()),
            (Some(1), None)
        );
    }
    fixture.script("completion", [503]);
    let error = poster.send(large_result("c")).await.unwrap().unwrap_err();
    let completion = error.completion().unwrap();
    assert_eq!(completion.transient().unwrap().outbox_error(), Some(&OutboxError::Full));
    assert_eq!(completion.next_step(), NextStep::RetryLater { after: RETRY_LATER });
    // A message that fits is stored.
    let receipt = post(&poster, "d").await.unwrap();
    assert_eq!(receipt.completion.outbox_error(), None);
    assert_eq!(fixture.platform.requests().len(), 8);
}

#[actix_rt::test]
async fn an_oversized_message_does_not_affect_others_in_its_transaction() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options_with(replay_soon(fixture.path()).max_bytes(256 * 1024)));
    let replies = (0..40).map(|number| {
        let session_id = format!("s{number}");
        poster.send(if number == 20 {
            large_result(&session_id)
        } else {
            PostResult::new(session_id, completed())
        })
    });
    for (number, reply) in join_all(replies).await.into_iter().enumerate() {
        let receipt = reply.unwrap().unwrap();
        let expected = (number == 20).then_some(&OutboxError::Full);
        assert_eq!(receipt.completion.outbox_error(), expected, "{number}");
    }
}

#[actix_rt::test]
async fn a_deleted_file_is_created_again() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    post(&poster, "a").await.unwrap();
    fixture.delete_files();
    wait_until_messages_are_stored(&poster).await;
    assert_parked_and_replayed(&fixture, &poster).await;
}

#[actix_rt::test]
async fn a_truncated_file_does_not_stop_deliveries() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    post(&poster, "a").await.unwrap();
    by_another_process(": >", &fixture.path());
    for session_id in ["c", "d", "e"] {
        post(&poster, session_id).await.unwrap();
    }
}

#[actix_rt::test]
async fn an_overwritten_file_does_not_stop_deliveries() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    post(&poster, "a").await.unwrap();
    by_another_process("yes | head -c 65536 >", &fixture.path());
    for session_id in ["c", "d", "e"] {
        post(&poster, session_id).await.unwrap();
    }
}

#[actix_rt::test]
async fn a_call_is_not_sent_while_its_insert_waits_for_a_locked_file() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let lock = fixture.lock();
    let waiting = actix_rt::spawn(poster.send(status_update("i")));
    messages_are_accepted(&poster).await;
    // A poster without an outbox, which begins later, is done first.
    let other = start(options(fixture.platform.url()));
    send_update(&other, "j").await.unwrap();
    let sent_meanwhile = sent(&fixture.platform, issue_and_text);
    assert_eq!(sent_meanwhile, [("j".to_owned(), "Finished".to_owned())]);
    drop(lock);
    let receipt = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(receipt.outbox_error(), None);
}

#[actix_rt::test]
async fn a_call_is_sent_without_being_stored_when_the_file_stays_locked() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let lock = fixture.lock();
    let receipt = send_update(&poster, "i").await.unwrap();
    assert_eq!(receipt.outbox_error(), Some(&OutboxError::Locked));
    drop(lock);
}

#[actix_rt::test]
async fn settling_a_call_of_a_deleted_file_leaves_the_calls_of_the_new_file() {
    let fixture = OutboxFixture::new();
    fixture.platform.script(
        "issue-tracker-proxy",
        [Reply::ok().delay(100 * SHORT_DELAY), Reply::status(503)],
    );
    let poster = start(fixture.options_without_replay());
    let first = actix_rt::spawn(poster.send(status_update("a")));
    fixture.platform.wait_for_requests(1).await;
    fixture.delete_files();
    wait_until_messages_are_stored(&poster).await;
    assert_eq!(outcome(&send_update(&poster, "b").await), "parked:1");
    first.await.unwrap().unwrap().unwrap();
    shut_down(&poster).await;
    assert_eq!(kinds_and_targets(&fixture.parked()), [("updateIssueStatus", "b")]);
}

#[actix_rt::test]
async fn shutdown_does_not_wait_for_a_locked_file() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    post(&poster, "s").await.unwrap();
    let lock = fixture.lock();
    let waiting = actix_rt::spawn(poster.send(status_update("i")));
    let report = poster.send(Shutdown::within(SHORT_DELAY)).await.unwrap();
    // An insert that gave up on the locked file would have been sent.
    assert_eq!((report.cancelled, report.outbox_is_open), (1, true));
    assert_eq!(outcome(&waiting.await.unwrap().unwrap()), "cancelled by shutdown");
    drop(lock);
}

#[actix_rt::test]
async fn a_shutdown_within_its_time_closes_the_outbox() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    post(&poster, "s").await.unwrap();
    let report = poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();
    assert!(!report.outbox_is_open);
    assert!(!fixture.companion("-wal").exists());
}

#[actix_rt::test]
async fn a_failed_call_of_a_deleted_file_is_not_reported_as_parked() {
    let fixture = OutboxFixture::new();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(10 * SHORT_DELAY)]);
    let poster = start(fixture.options_without_replay());
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    fixture.delete_files();
    assert_not_stored(&reply.await.unwrap().unwrap().unwrap_err());
}

#[actix_rt::test]
async fn a_message_behind_a_failed_call_of_a_deleted_file_is_not_reported_as_parked() {
    let fixture = OutboxFixture::new();
    fixture.platform.script(
        "issue-tracker-proxy",
        [Reply::status(503).delay(50 * SHORT_DELAY), Reply::ok()],
    );
    let poster = start(fixture.options_without_replay());
    let [running, waiting] = fixture.running_and_waiting_call(&poster).await;
    fixture.delete_files();
    assert_not_stored(&running.await.unwrap().unwrap().unwrap_err());
    let lost = waiting.await.unwrap().unwrap().unwrap_err();
    assert_eq!(lost.kind(), FailureKind::Overloaded);
    assert!(!lost.may_have_been_delivered());
    assert_eq!(fixture.platform.requests().len(), 1);
    // It is sent again, as its error says.
    assert_eq!(outcome(&send_update(&poster, "i").await), "ok");
}

#[actix_rt::test]
async fn retry_after_is_reported_for_a_call_of_a_deleted_file() {
    let fixture = OutboxFixture::new();
    let busy = Reply::status(503).header("retry-after", "90").delay(10 * SHORT_DELAY);
    fixture.platform.script("issue-tracker-proxy", [busy]);
    let poster = start(fixture.options_without_replay());
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    fixture.delete_files();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    let after = Duration::from_secs(90);
    assert_eq!(error.transient().unwrap().retry_after, Some(after));
    assert_eq!(error.next_step(), NextStep::RetryLater { after });
}

#[actix_rt::test]
async fn a_failed_call_of_a_deleted_folder_is_not_reported_as_parked() {
    let fixture = OutboxFixture::new();
    let folder = fixture.folder.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fixture
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SHORT_DELAY)]);
    let poster = start(fixture.options_with(replay_late(folder.join("outbox.db"))));
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    fs::remove_dir_all(&folder).unwrap();
    assert_not_stored(&reply.await.unwrap().unwrap().unwrap_err());
}

#[actix_rt::test]
async fn a_deleted_wal_loses_no_call() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    for (number, issue_id) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(outcome(&send_update(&poster, issue_id).await), "parked:1");
        fs::remove_file(fixture.companion("-wal")).unwrap();
        // The next transaction notices, and saves the calls of the deleted log. The file is opened again once a second.
        in_time(async { while outcome(&send_update(&poster, issue_id).await) != "parked:0" {} }).await;
        assert_eq!(fixture.parked().len(), 2 * (number + 1));
    }
}

#[actix_rt::test]
async fn settlements_that_could_not_be_written_are_written_later() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options());
    let database = fixture.database();
    refuse_deletes(&database, "true");
    post(&poster, "a").await.unwrap();
    post(&poster, "b").await.unwrap();
    assert_eq!(fixture.count(), 4);
    database.execute_batch("DROP TRIGGER refuse").unwrap();
    fixture.emptied().await;
    assert_eq!(fixture.platform.requests().len(), 4);
}

#[actix_rt::test]
async fn settlements_that_could_not_be_written_are_written_one_by_one_at_the_shutdown() {
    let fixture = OutboxFixture::new();
    let poster = start(fixture.options_without_replay().clock(ManualClock::new()));
    let database = fixture.database();
    refuse_deletes(&database, "true");
    post(&poster, "c").await.unwrap();
    post(&poster, "d").await.unwrap();
    database.execute_batch("DROP TRIGGER refuse").unwrap();
    refuse_deletes(&database, "old.target_id = 'c'");
    shut_down(&poster).await;
    assert_eq!(
        kinds_and_targets(&fixture.parked()),
        [("completion", "c"), ("status", "c")]
    );
}

#[test]
fn a_path_that_names_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join(":memory:");
    for path in [":memory:", "file:outbox.db", "file:outbox?mode=memory&cache=shared"] {
        let texts = errors::texts(&refused(Path::new(path)));
        assert_eq!(texts[0], format!("option `outbox` can't use the file {path}"));
        let error = OutboxInspector::open(path).unwrap_err();
        assert!(matches!(error, OutboxError::Other(_)), "{error:?}");
        assert!(!Path::new(path).exists());
    }
    for path in ["", "postgres://runner:s3cret@db/runner"] {
        let options = options("https://app.example.com").outbox(OutboxOptions::new(path));
        let error = options.build().unwrap_err();
        assert_eq!(error.option, "outbox.path");
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
    }
    // The name of a file in a folder is just a name.
    let options = options("https://app.example.com").outbox(OutboxOptions::new(&inside));
    drop(options.build().unwrap());
    assert!(inside.is_file());
    // A folder is not a file.
    refused(folder.path());
}

#[cfg(target_os = "linux")]
#[test]
fn built_options_have_no_file_open() {
    let fixture = OutboxFixture::new();
    let options = fixture.options().build().unwrap();
    let folder = fixture.folder.path().canonicalize().unwrap();
    // Another thread may close a descriptor meanwhile.
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let path = fs::read_link(entry.ok()?.path()).ok()?;
        path.starts_with(&folder).then_some(path)
    });
    assert_eq!(open.collect::<Vec<_>>(), Vec::<PathBuf>::new());
    assert!(!fixture.companion("-wal").exists());
    drop(options);
}

#[actix_rt::test]
async fn a_file_that_disappears_before_the_start_is_created_again() {
    let fixture = OutboxFixture::new();
    let folder = fixture.folder.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("outbox.db");
    let options = fixture.options_with(replay_late(&path)).build().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let poster = ResultPoster::start_supervised(options);
    let receipt = post(&poster, "s").await.unwrap();
    assert_eq!(receipt.completion.outbox_error(), Some(&OutboxError::NotFound));
    fs::create_dir(&folder).unwrap();
    wait_until_messages_are_stored(&poster).await;
    assert!(path.is_file());
}

#[actix_rt::test]
async fn links_to_a_file_lead_to_one_outbox() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let link = fixture.folder.path().join("link.db");
    std::os::unix::fs::symlink(fixture.path(), &link).unwrap();
    // The first poster creates the file through the link.
    let linked = start(fixture.options_with(replay_late(&link)));
    let direct = start(fixture.options_without_replay());
    for (poster, issue_id) in [(&linked, "a"), (&direct, "b")] {
        assert_eq!(outcome(&send_update(poster, issue_id).await), "parked:1");
    }
    let both = [("updateIssueStatus", "a"), ("updateIssueStatus", "b")];
    for poster in [&linked, &direct] {
        assert_eq!(kinds_and_targets(&entries(poster).await), both);
    }
    for poster in [linked, direct] {
        shut_down(&poster).await;
    }
    assert!(link.is_symlink());
    let names = fs::read_dir(fixture.folder.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["link.db", "outbox.db", "outbox.db-owners"]);
}

#[actix_rt::test]
async fn an_outbox_that_is_full_drains_when_the_platform_is_back() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let outbox = replay_soon(fixture.path()).max_bytes(512 * 1024);
    let poster = start(fixture.options_with(outbox));
    let result = |number: u32| PostResult::new(format!("s{number}"), completed().with_summary("x".repeat(3000)));
    let mut kept = BTreeSet::new();
    for number in 0.. {
        let error = poster.send(result(number)).await.unwrap().unwrap_err();
        let completion = error.completion().unwrap();
        if let Some(transient) = completion.transient() {
            assert_eq!(transient.outbox_error(), Some(&OutboxError::Full));
            break;
        }
        assert!(completion.parked().is_some());
        kept.insert(format!("s{number}"));
    }
    assert!(kept.len() > 20, "{}", kept.len());
    let before = fixture.platform.requests().len();
    fixture.end_outage();
    fixture.emptied().await;
    let delivered = fixture.platform.requests().split_off(before);
    for session_id in kept {
        for route in ["completion", "status"] {
            let path = format!("/api/sessions/{session_id}/{route}");
            assert!(delivered.iter().any(|request| request.path == path), "{path}");
        }
    }
    // There is room again.
    assert_eq!(
        poster.send(result(0)).await.unwrap().unwrap().completion.outbox_error(),
        None
    );
}

#[actix_rt::test]
async fn a_message_behind_parked_calls_is_refused_while_the_file_is_full() {
    let fixture = OutboxFixture::new();
    fixture.script("completion", [503]);
    let poster = start(fixture.options_with(replay_late(fixture.path()).max_bytes(128 * 1024)));
    post(&poster, "s").await.unwrap_err();
    // Sent now, it would overtake the parked call.
    assert_eq!(
        post_outcome(&poster.send(large_result("s")).await.unwrap()),
        "overloaded;overloaded"
    );
    assert_eq!(fixture.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_message_that_can_not_be_stored_does_not_overtake_a_call_that_is_parked_meanwhile() {
    let fixture = OutboxFixture::new();
    let slow = Reply::status(503).delay(25 * SHORT_DELAY);
    fixture.platform.script("completion", [slow, Reply::ok()]);
    let poster = start(fixture.options_with(replay_late(fixture.path()).max_bytes(128 * 1024)));
    let running = actix_rt::spawn(poster.send(PostResult::new("s", completed())));
    fixture.platform.wait_for_requests(1).await;
    let reply = poster.send(large_result("s")).await.unwrap();
    running.await.unwrap().unwrap().unwrap_err();
    assert_eq!(post_outcome(&reply), "overloaded;overloaded");
    assert_eq!(fixture.platform.requests().len(), 2);
}

#[actix_rt::test]
async fn a_message_behind_calls_that_another_poster_parked_is_refused_while_the_file_is_full() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [503]);
    let small = || replay_late(fixture.path()).max_bytes(128 * 1024);
    let poster = start(fixture.options_with(small()));
    assert_eq!(outcome(&send_update(&poster, "i").await), "parked:1");
    let other = start(fixture.options_with(small()));
    let comment = CreateComment::new("i", "x".repeat(500_000));
    // Sent now, it would overtake the parked call.
    assert_eq!(outcome(&other.send(comment).await.unwrap()), "overloaded");
    assert_eq!(fixture.platform.requests().len(), 1);
}

#[actix_rt::test]
async fn an_owner_whose_file_was_deleted_gets_a_new_one_and_keeps_its_calls() {
    let fixture = OutboxFixture::new();
    let slow = Reply::status(503).delay(Duration::from_secs(9));
    fixture.platform.script("issue-tracker-proxy", [slow]);
    let poster = start(fixture.options_without_replay());
    let reply = actix_rt::spawn(poster.send(status_update("i")));
    fixture.platform.wait_for_requests(1).await;
    let owner = fixture.live()[0].owner.unwrap();
    assert!(owner.is_alive);
    fs::remove_dir_all(fixture.companion("-owners")).unwrap();
    assert!(!fixture.live()[0].owner.unwrap().is_alive);
    wait_until(|| {
        fixture
            .live()
            .first()
            .is_some_and(|entry| entry.owner.unwrap().is_alive)
    })
    .await;
    assert_ne!(fixture.live()[0].owner.unwrap().id, owner.id);
    // The outcome is written by the owner under its new id.
    assert_eq!(outcome(&reply.await.unwrap().unwrap()), "parked:1");
    assert_eq!(fixture.parked()[0].attempts, 1);
}

#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_file_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    without_privileges(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let build = || {
            options("https://app.example.com")
                .outbox(OutboxOptions::new(&path))
                .build()
        };
        let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let refusal = [
            format!("option `outbox` can't use the file {}", path.display()),
            "the file or its folder is not writable".to_owned(),
        ];
        set_mode(folder.path(), 0o500);
        assert_eq!(errors::texts(&refused(&path)), refusal);
        set_mode(folder.path(), 0o700);
        drop(build().unwrap());
        for (of_file, of_folder) in [(0o400, 0o700), (0o444, 0o700), (0o000, 0o700), (0o400, 0o500)] {
            set_mode(&path, of_file);
            set_mode(folder.path(), of_folder);
            assert_eq!(errors::texts(&refused(&path)), refusal, "{of_file:o} {of_folder:o}");
            set_mode(folder.path(), 0o700);
        }
        set_mode(&path, 0o600);
        drop(build().unwrap());
    });
}

#[actix_rt::test]
async fn a_foreign_file_next_to_a_stale_wal_is_refused() {
    let fixture = OutboxFixture::new();
    fixture.begin_outage();
    let poster = start(fixture.options_without_replay());
    post(&poster, "a").await.unwrap_err();
    // With another inode, as an editor or a copy leaves it.
    let foreign = fixture.folder.path().join("foreign");
    fs::write(&foreign, "not a database").unwrap();
    fs::rename(&foreign, fixture.path()).unwrap();
    in_time(async {
        let error = || async { send_update(&poster, "i").await.unwrap_err() };
        while error().await.transient().unwrap().outbox_error() != Some(&OutboxError::NotAnOutbox) {}
    })
    .await;
    assert_eq!(
        errors::texts(&refused(&fixture.path()))[1],
        "the file or schema is not an outbox"
    );
    assert_eq!(fs::read(fixture.path()).unwrap(), b"not a database");
}

#[actix_rt::test]
async fn a_damaged_row_does_not_hide_other_rows() {
    let fixture = OutboxFixture::new();
    fixture.script("issue-tracker-proxy", [404, 404]);
    let poster = start(fixture.options());
    for issue_id in ["a", "b"] {
        send_update(&poster, issue_id).await.unwrap_err();
    }
    fixture
        .database()
        .execute_batch(
            "UPDATE calls SET status_code = 70000, attempts = -1, last_error = CAST(X'ff' AS TEXT)
            WHERE target_id = 'a'",
        )
        .unwrap();
    let dead = fixture.dead_letters();
    assert_eq!(
        kinds_and_targets(&dead),
        [("updateIssueStatus", "a"), ("updateIssueStatus", "b")]
    );
    assert_eq!((dead[0].status_code, dead[0].attempts), (None, 0));
}

/// Runs a shell command on a file. This process would drop SQLite's locks when it closes the file.
fn by_another_process(command: &str, path: &Path) {
    let script = format!("{command} \"$0\"");
    let status = Command::new("sh").args(["-c", &script]).arg(path).status();
    assert!(status.unwrap().success());
}

/// A result too large for a file of 256 KiB.
fn large_result(session_id: &str) -> PostResult {
    PostResult::new(session_id, completed().with_summary("x".repeat(500_000)))
}

/// Messages are stored again, after those that are sent without being stored.
async fn wait_until_messages_are_stored(poster: &Addr<ResultPoster>) {
    in_time(async {
        while let Some(error) = post(poster, "any").await.unwrap().completion.outbox_error() {
            assert_eq!(*error, OutboxError::NotFound);
        }
    })
    .await;
}

/// A failed result is in the file, and is delivered from there.
async fn assert_parked_and_replayed(fixture: &OutboxFixture, poster: &Addr<ResultPoster>) {
    fixture.begin_outage();
    let error = post(poster, "b").await.unwrap_err();
    assert!(error.completion().unwrap().parked().is_some());
    assert_eq!(fixture.count(), 2);
    fixture.end_outage();
    fixture.emptied().await;
}

/// Why the options of a poster with this outbox are refused.
fn refused(path: &Path) -> OptionsError {
    let options = options("https://app.example.com").outbox(OutboxOptions::new(path));
    let error = options.build().unwrap_err();
    assert_eq!(error.option, "outbox");
    error
}

/// The call of a file that was deleted during its attempt was not parked, and its caller is told.
fn assert_not_stored(error: &CallError) {
    let transient = error.transient().unwrap();
    assert_eq!(transient.attempts, 1);
    assert_eq!(transient.outbox_error(), Some(&OutboxError::NoSuchCall));
    assert_eq!(error.next_step(), NextStep::RetryLater { after: RETRY_LATER });
    assert!(error.may_have_been_delivered());
}

/// Makes the database refuse to delete the calls that meet this condition.
fn refuse_deletes(database: &rusqlite::Connection, condition: &str) {
    database
        .execute_batch(&format!(
            "CREATE TRIGGER refuse BEFORE DELETE ON calls WHEN {condition} BEGIN SELECT RAISE(ABORT, 'no'); END"
        ))
        .unwrap();
}

fn make_foreign_database(path: &Path) {
    rusqlite::Connection::open(path)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);")
        .unwrap();
}

fn make_outbox_of_version(path: &Path, version: i32) {
    make_outbox(path).pragma_update(None, "user_version", version).unwrap();
}

fn make_damaged_outbox(path: &Path) {
    drop(make_outbox(path));
    // The list of its tables, behind the header.
    let mut bytes = fs::read(path).unwrap();
    bytes[100..4096].fill(0x5a);
    fs::write(path, bytes).unwrap();
}

/// An empty outbox, all of it in one file: the last connection merges its log.
fn make_outbox(path: &Path) -> rusqlite::Connection {
    let options = options("https://app.example.com").outbox(OutboxOptions::new(path));
    drop(options.build().unwrap());
    rusqlite::Connection::open(path).unwrap()
}

/// Runs this on a thread that file permissions apply to, even if the tests run as root.
#[cfg(target_os = "linux")]
fn without_privileges(work: impl FnOnce() + Send + 'static) {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let thread = std::thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        let any_file = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        sets.effective.remove(any_file);
        set_capabilities(None, sets).unwrap();
        work();
    });
    thread.join().unwrap();
}
