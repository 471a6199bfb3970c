//! The file of the outbox: whose it is, and all that can be wrong with it.

use std::{fs, io::Write as _, path::Path, time::Duration};

use futures_util::future::join_all;
use result_poster::{OutboxError, OutboxFile, OutboxOptions, PostResult, Shutdown, testing::Reply};

use crate::{
    outbox::{SOON, Scene, calls, count, late, shut_down, soon, update},
    support::{TOKEN, completed, options, outcome, post, start},
};

#[actix_rt::test]
async fn a_token_is_never_in_the_file_which_is_its_owners_alone() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    post(&poster, "s").await.unwrap_err();
    for entry in fs::read_dir(scene.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(
            !bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()),
            "{path:?}"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        }
    }
    assert_eq!(count(&scene.path()), 2);
}

#[test]
fn a_file_that_is_not_an_outbox_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let open = || {
        let options = options("https://app.example.com").outbox(OutboxOptions::at(&path));
        options.build().unwrap_err().to_string()
    };
    let foreign = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection
            .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);")
            .unwrap();
    };
    // An outbox, in one file whose pages are where they belong.
    let made = |path: &Path| {
        fs::write(path, "").unwrap();
        drop(OutboxFile::open(path).unwrap());
        let connection = rusqlite::Connection::open(path).unwrap();
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
            .unwrap();
        connection
    };
    let newer = |path: &Path| made(path).pragma_update(None, "user_version", 99).unwrap();
    let damaged = |path: &Path| {
        drop(made(path));
        let bytes = fs::read(path).unwrap();
        let half = bytes.len() / 2;
        fs::write(path, [&bytes[..half], &vec![0x5a; half]].concat()).unwrap();
    };
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: [(Make<'_>, &str); 5] = [
        (
            &|path| fs::write(path, "not a database").unwrap(),
            "the file is not an outbox",
        ),
        (
            &|path| fs::write(path, "SQLite format 3\0 and then noise").unwrap(),
            "the file is not an outbox",
        ),
        (&foreign, "the file is not an outbox"),
        (&newer, "the file was made by a newer version"),
        (&damaged, "the file is damaged"),
    ];
    for (make, message) in cases {
        for entry in fs::read_dir(folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        make(&path);
        let before = fs::read(&path).unwrap();
        let error = open();
        assert!(
            error.starts_with(&format!("option `outbox` can't be used, {}: {message}", path.display())),
            "{error}"
        );
        assert!(fs::read(&path).unwrap() == before, "{message}");
        assert!(OutboxFile::open(&path).is_err());
    }
    assert!(OutboxFile::open(folder.path().join("none")).is_err());
    assert!(!folder.path().join("none").exists());
}

#[actix_rt::test]
async fn what_can_not_be_kept_is_sent_all_the_same_and_its_caller_is_told() {
    let scene = Scene::new();
    let poster = start(scene.options_with(soon(scene.path()).max_bytes(128 * 1024)));
    let large = |session: &str| PostResult::new(session, completed().with_summary("x".repeat(500_000)));
    // With and without the wish for an early reply: what is not on disk is answered when it is delivered.
    for message in [large("a"), large("b").reply_when_durable()] {
        let receipt = poster.send(message).await.unwrap().unwrap();
        assert_eq!(receipt.completion.outbox_error(), Some(&OutboxError::Full));
        assert_eq!((receipt.completion.attempts, receipt.completion.queued()), (1, None));
    }
    scene.script("completion", [503]);
    let error = poster.send(large("c")).await.unwrap().unwrap_err();
    let completion = error.completion().unwrap().transient().unwrap();
    assert_eq!(
        (completion.is_parked(), completion.outbox_error()),
        (false, Some(&OutboxError::Full))
    );
    // What does fit is kept.
    let receipt = post(&poster, "d").await.unwrap();
    assert_eq!(receipt.completion.outbox_error(), None);
    assert_eq!(scene.platform.requests().len(), 8);
}

#[actix_rt::test]
async fn one_that_does_not_fit_costs_the_others_nothing() {
    let scene = Scene::new();
    let poster = start(scene.options_with(soon(scene.path()).max_bytes(256 * 1024)));
    let replies = (0..40).map(|number| {
        let summary = if number == 20 { "x".repeat(500_000) } else { "x".into() };
        poster.send(PostResult::new(format!("s{number}"), completed().with_summary(summary)))
    });
    for (number, reply) in join_all(replies).await.into_iter().enumerate() {
        let receipt = reply.unwrap().unwrap();
        let expected = (number == 20).then_some(&OutboxError::Full);
        assert_eq!(receipt.completion.outbox_error(), expected, "{number}");
    }
}

#[actix_rt::test]
async fn a_file_that_is_deleted_or_overwritten_while_it_is_used_loses_no_message() {
    let scene = Scene::new();
    let poster = start(scene.options());
    post(&poster, "a").await.unwrap();
    for entry in fs::read_dir(scene.folder.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    // A new one takes its place.
    scene.down();
    let error = post(&poster, "b").await.unwrap_err();
    assert!(error.completion().unwrap().transient().unwrap().is_parked());
    assert_eq!(count(&scene.path()), 2);
    scene.up();
    scene.emptied().await;

    // One that is empty is as good as none.
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(scene.path())
        .unwrap();
    scene.down();
    let error = post(&poster, "t").await.unwrap_err();
    assert!(error.completion().unwrap().transient().unwrap().is_parked());
    assert_eq!(count(&scene.path()), 2);
    scene.up();
    scene.emptied().await;

    let mut file = fs::OpenOptions::new().write(true).open(scene.path()).unwrap();
    file.write_all(&[0x5a; 64 * 1024]).unwrap();
    drop(file);
    for session in ["c", "d", "e"] {
        post(&poster, session).await.unwrap();
    }
}

#[actix_rt::test]
async fn a_file_that_another_process_holds_is_waited_for_and_then_done_without() {
    let scene = Scene::new();
    let poster = start(scene.options());
    let held = scene.hold();
    let waiting = actix_rt::spawn(poster.send(update("i")));
    actix_rt::time::sleep(5 * SOON).await;
    assert!(scene.platform.requests().is_empty());
    drop(held);
    let receipt = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(receipt.outbox_error(), None);

    let held = scene.hold();
    let receipt = poster.send(update("i")).await.unwrap().unwrap();
    assert_eq!(receipt.outbox_error(), Some(&OutboxError::Locked));
    drop(held);
}

#[actix_rt::test]
async fn a_file_that_has_taken_the_place_of_another_keeps_what_is_its_own() {
    let scene = Scene::new();
    scene.platform.script(
        "issue-tracker-proxy",
        [Reply::ok().delay(10 * SOON), Reply::status(503)],
    );
    let poster = start(scene.options_with(late(scene.path())));
    let first = actix_rt::spawn(poster.send(update("a")));
    scene.platform.wait_for_requests(1).await;
    for entry in fs::read_dir(scene.folder.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(outcome(&poster.send(update("b")).await.unwrap()), "transient:1");
    first.await.unwrap().unwrap().unwrap();
    // It has the number that the first one had, in the file that is gone.
    shut_down(&poster).await;
    assert_eq!(calls(&scene.parked()), [("updateIssueStatus", "b")]);
}

#[actix_rt::test]
async fn a_shutdown_does_not_wait_for_a_file_that_is_held() {
    let scene = Scene::new();
    let poster = start(scene.options());
    post(&poster, "s").await.unwrap();
    let held = scene.hold();
    let waiting = actix_rt::spawn(poster.send(update("i")));
    // Less than the five seconds that the file is waited for.
    let report = actix_rt::time::timeout(Duration::from_secs(4), poster.send(Shutdown::within(SOON)));
    assert_eq!(report.await.expect("in time").unwrap().cancelled, 1);
    assert_eq!(outcome(&waiting.await.unwrap().unwrap()), "cancelled");
    drop(held);
}

#[actix_rt::test]
async fn what_is_no_longer_in_the_file_is_not_said_to_be_parked() {
    let scene = Scene::new();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(10 * SOON)]);
    let poster = start(scene.options_with(late(scene.path())));
    let reply = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    for entry in fs::read_dir(scene.folder.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let error = reply.await.unwrap().unwrap().unwrap_err();
    let error = error.transient().unwrap();
    assert_eq!(
        (error.is_parked(), error.outbox_error()),
        (false, Some(&OutboxError::Gone))
    );
}

#[actix_rt::test]
async fn a_log_that_is_deleted_costs_nothing() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    for (number, issue) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(outcome(&poster.send(update(issue)).await.unwrap()), "transient:1");
        fs::remove_file(scene.folder.path().join("outbox.db-wal")).unwrap();
        // The next commit notices, and saves what was in it.
        assert_eq!(outcome(&poster.send(update(issue)).await.unwrap()), "transient:0");
        assert_eq!(scene.parked().len(), 2 * (number + 1));
    }
}

#[actix_rt::test]
async fn what_could_not_be_written_down_is_made_up_for() {
    let scene = Scene::new();
    let poster = start(scene.options());
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    let refuse = |what: &str| {
        let trigger = format!("CREATE TRIGGER refuse BEFORE {what} ON calls BEGIN SELECT RAISE(ABORT, 'no'); END");
        file.execute_batch(&trigger).unwrap();
    };
    // What was delivered, and is in the file yet.
    refuse("DELETE");
    post(&poster, "a").await.unwrap();
    post(&poster, "b").await.unwrap();
    assert_eq!(count(&scene.path()), 4);
    file.execute_batch("DROP TRIGGER refuse").unwrap();
    scene.emptied().await;
    assert_eq!(scene.platform.requests().len(), 4);

    // The end makes up for it too, and one that can't be written even then keeps back no other.
    refuse("DELETE");
    let poster = start(scene.options_with(late(scene.path()).lease(Duration::from_secs(60 * 60))));
    post(&poster, "c").await.unwrap();
    post(&poster, "d").await.unwrap();
    file.execute_batch(
        "DROP TRIGGER refuse;
         CREATE TRIGGER refuse BEFORE DELETE ON calls WHEN old.lane = 'session c' BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    .unwrap();
    shut_down(&poster).await;
    assert_eq!(calls(&scene.parked()), [("completion", "c"), ("status", "c")]);
}

/// As an account that may not do everything, which the tests' may.
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

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_can_not_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    without_privileges(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let build = || {
            options("https://app.example.com")
                .outbox(OutboxOptions::at(&path))
                .build()
        };
        let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let refusal = format!(
            "option `outbox` can't be used, {}: the file can't be written: check the rights of the file and its folder",
            path.display()
        );
        set_mode(folder.path(), 0o500);
        assert_eq!(build().unwrap_err().to_string(), refusal);
        set_mode(folder.path(), 0o700);
        drop(build().unwrap());
        for (of_file, of_folder) in [(0o400, 0o700), (0o444, 0o700), (0o000, 0o700), (0o400, 0o500)] {
            set_mode(&path, of_file);
            set_mode(folder.path(), of_folder);
            assert_eq!(build().unwrap_err().to_string(), refusal, "{of_file:o} {of_folder:o}");
            set_mode(folder.path(), 0o700);
        }
        set_mode(&path, 0o600);
        drop(build().unwrap());
    });
}

#[actix_rt::test]
async fn a_file_that_takes_the_place_of_an_outbox_is_not_made_one_by_the_log_of_that() {
    let scene = Scene::new();
    scene.down();
    let poster = start(scene.options_with(late(scene.path())));
    post(&poster, "a").await.unwrap_err();
    // Under another number than before, as an editor or a copy has it.
    let foreign = scene.folder.path().join("foreign");
    fs::write(&foreign, "not a database").unwrap();
    fs::rename(&foreign, scene.path()).unwrap();
    let replies = join_all((0..5).map(|issue| poster.send(update(&issue.to_string())))).await;
    for reply in replies {
        let error = reply.unwrap().unwrap_err();
        assert_eq!(error.transient().unwrap().outbox_error(), Some(&OutboxError::Foreign));
    }
    let error = options("https://app.example.com")
        .outbox(soon(scene.path()))
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("the file is not an outbox"), "{error}");
    assert_eq!(fs::read(scene.path()).unwrap(), b"not a database");
}

#[actix_rt::test]
async fn what_was_in_a_file_that_is_gone_for_good_is_not_said_to_be_parked() {
    let scene = Scene::new();
    let folder = scene.folder.path().join("folder");
    fs::create_dir(&folder).unwrap();
    scene
        .platform
        .script("issue-tracker-proxy", [Reply::status(503).delay(5 * SOON)]);
    let poster = start(scene.options_with(late(folder.join("outbox.db"))));
    let reply = actix_rt::spawn(poster.send(update("i")));
    scene.platform.wait_for_requests(1).await;
    fs::remove_dir_all(&folder).unwrap();
    let error = reply.await.unwrap().unwrap().unwrap_err();
    let transient = error.transient().unwrap();
    assert_eq!(
        (transient.is_parked(), transient.outbox_error()),
        (false, Some(&OutboxError::Gone))
    );
}

#[actix_rt::test]
async fn a_damaged_row_hides_no_other() {
    let scene = Scene::new();
    scene.script("issue-tracker-proxy", [404, 404]);
    let poster = start(scene.options());
    for issue in ["a", "b"] {
        poster.send(update(issue)).await.unwrap().unwrap_err();
    }
    let file = rusqlite::Connection::open(scene.path()).unwrap();
    file.execute_batch("UPDATE calls SET status_code = 70000, attempts = -1, error = CAST(X'ff' AS TEXT) WHERE id = 1")
        .unwrap();
    let dead = scene.dead_letters();
    assert_eq!(calls(&dead), [("updateIssueStatus", "a"), ("updateIssueStatus", "b")]);
    assert_eq!((dead[0].status_code, dead[0].attempts), (None, 0));
}
