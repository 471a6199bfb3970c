use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, chown},
    process::{Command, Stdio},
};

use super::{super::super::Watched, *};

/// Names the outbox for the child process.
const CHILD: &str = "OUTBOX_OF_CHILD";

impl SqliteStore {
    /// Looks at the other owners, after some time.
    pub(super) async fn watch_after(&self, seconds: u64) -> Watched {
        self.try_watch_after(seconds).await.unwrap()
    }

    async fn try_watch_after(&self, seconds: u64) -> Result<Watched, OutboxError> {
        let now = now() + Duration::from_secs(seconds);
        let watch = self.arbiter.read(move |connection, owners, member| {
            owners
                .watch(connection, member, (0, now), Duration::from_secs(60))
                .map(Some)
        });
        watch.await
    }
}

/// The child process of the next test.
#[actix_rt::test]
async fn a_child_owns_a_lane() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = SqliteStore::open(path.as_ref(), "queue".into(), u64::MAX);
    insert(&store, "lane").await.unwrap();
    println!("owned");
    std::future::pending::<()>().await;
}

#[actix_rt::test]
async fn lanes_of_a_killed_process_are_freed_at_once() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let test = "outbox::store::sqlite::tests::owners::a_child_owns_a_lane";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args(["--exact", test, "--nocapture"]).env(CHILD, &outbox.path);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().map_while(Result::ok).any(|line| line.contains("owned")));
    assert_eq!(store.watch_after(0).await.freed, 0);
    assert_eq!(store.watch_after(3600).await.freed, 0);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(store.watch_after(0).await.freed, 1);
    let claimed = claim(&store).await.unwrap();
    assert_eq!(claimed.messages[0].calls[0].history.takeovers, 1);
    // The file and the row of the dead owner have gone.
    assert_eq!((outbox.owner_files().len(), outbox.count("owners")), (1, 1));
}

#[actix_rt::test]
async fn an_idle_owner_writes_nothing() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store_apart(), outbox.store_apart());
    insert(&store, "a").await.unwrap();
    insert(&other, "b").await.unwrap();
    store.watch_after(0).await;
    let size = || fs::metadata(outbox.companion("-wal")).unwrap().len();
    let before = size();
    for seconds in [1, 100, 200] {
        assert_eq!(store.watch_after(seconds).await, Watched::default());
    }
    assert_eq!(size(), before);
    insert(&other, "c").await.unwrap();
    assert!(store.watch_after(300).await.has_changed);
}

#[actix_rt::test]
async fn a_change_by_another_handle_of_the_process_is_noticed() {
    let outbox = Outbox::new();
    let (first, second) = (outbox.store(), outbox.store());
    for store in [&first, &second] {
        store.watch_after(0).await;
    }
    insert(&first, "lane").await.unwrap();
    assert!(!first.watch_after(0).await.has_changed);
    assert!(second.watch_after(0).await.has_changed);
    assert!(!second.watch_after(0).await.has_changed);
}

#[actix_rt::test]
async fn an_owner_that_has_only_parked_calls_has_no_file() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let parked = NewMessage {
        park: Some(ParkReason::QueueFull),
        ..message("lane", "{}")
    };
    store.insert(parked).await.unwrap();
    assert_eq!(outbox.count("owners"), 0);
    claim(&store).await.unwrap();
    assert_eq!((outbox.owner_files().len(), outbox.count("owners")), (1, 1));
}

#[actix_rt::test]
async fn an_owner_whose_file_was_deleted_keeps_its_lanes_under_a_new_id() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store_apart(), outbox.store_apart());
    let message = message("lane", "{}");
    let id = message.calls[0].id;
    let Ok(Inserted::Live { claim }) = store.insert(message).await else {
        panic!("not live")
    };
    store.watch_after(0).await;
    fs::remove_file(&outbox.owner_files()[0]).unwrap();
    assert_eq!(other.watch_after(0).await.freed, 0);
    store.watch_after(5).await;
    assert_eq!(outbox.owner_files().len(), 1);
    assert_eq!(other.watch_after(20).await.freed, 0);
    let lane = LaneClaim {
        lane: "lane".into(),
        claim,
    };
    assert_eq!(store.is_current(lane.clone(), vec![id]).await, Ok(true));
    assert_eq!(
        deliver(&store, lane, id).await,
        Ok(Settled::Done { is_released: false })
    );
    assert_eq!(outbox.count("owners"), 1);
}

#[actix_rt::test]
async fn an_owner_whose_file_is_missing_for_ten_seconds_is_dead() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store_apart(), outbox.store_apart());
    insert(&store, "lane").await.unwrap();
    fs::remove_file(&outbox.owner_files()[0]).unwrap();
    for (seconds, freed) in [(0, 0), (9, 0), (11, 1)] {
        assert_eq!(other.watch_after(seconds).await.freed, freed, "after {seconds} s");
    }
}

#[actix_rt::test]
async fn a_look_that_waits_for_a_held_file_says_so() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store_apart(), outbox.store_apart());
    insert(&store, "lane").await.unwrap();
    outbox
        .connect()
        .execute("INSERT INTO owners (id, file) VALUES (2, '0000000000000002')", ())
        .unwrap();
    let operator = outbox.connect();
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The row of an owner that has died without lanes can't be removed.
    assert_eq!(other.try_watch_after(100).await, Err(OutboxError::Locked));
    operator.execute_batch("COMMIT").unwrap();
    drop(store);
    eventually(|| async {
        if other.watch_after(100).await.freed == 1 {
            Ok(())
        } else {
            Err(OutboxError::Locked)
        }
    })
    .await;
}

#[actix_rt::test]
async fn a_file_that_cannot_be_locked_is_a_live_owners() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store_apart(), outbox.store_apart());
    insert(&store, "lane").await.unwrap();
    for name in ["", "../outbox.db", "not hexadecimal"] {
        outbox.connect().execute("UPDATE owners SET file = ?1", [name]).unwrap();
        for seconds in [0, 100] {
            assert_eq!(other.watch_after(seconds).await.freed, 0, "{name:?}");
        }
    }
}

#[actix_rt::test]
async fn files_and_rows_of_dead_idle_owners_are_removed_at_a_start() {
    let outbox = Outbox::new();
    let folder = outbox.companion("-owners");
    fs::create_dir(&folder).unwrap();
    for name in ["0000000000000001", "0000000000000002", "0000000000000003"] {
        File::create(folder.join(name)).unwrap();
    }
    let locked = File::open(folder.join("0000000000000003")).unwrap();
    locked.lock().unwrap();
    let rows = "INSERT INTO owners (id, file) VALUES (2, '0000000000000002'), (4, '0000000000000004');
        INSERT INTO owners (id, file) VALUES (3, '0000000000000003')";
    outbox.connect().execute_batch(rows).unwrap();
    let store = outbox.store();
    store.stats().await.unwrap();
    assert_eq!(outbox.owner_files(), [folder.join("0000000000000003")]);
    assert_eq!((outbox.count("owners"), outbox.count("owners WHERE id = 3")), (1, 1));
}

#[actix_rt::test]
async fn a_closed_owner_leaves_no_file_and_no_row() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store(), outbox.store());
    insert(&store, "lane").await.unwrap();
    store.release_all(0).await.unwrap();
    store.close().await.unwrap();
    assert_eq!((outbox.owner_files().len(), outbox.count("owners")), (0, 0));
    assert_eq!(claim(&other).await.unwrap().messages.len(), 1);
}

#[actix_rt::test]
async fn a_dropped_owner_counts_as_dead() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store(), outbox.store());
    insert(&store, "lane").await.unwrap();
    drop(store);
    let free = || async {
        match other.watch_after(0).await.freed {
            0 => Err(OutboxError::Stopped),
            freed => Ok(freed),
        }
    };
    assert_eq!(eventually(free).await, 1);
    assert_eq!(outbox.owner_files(), Vec::<PathBuf>::new());
}

#[actix_rt::test]
async fn root_gives_its_files_to_the_owner_of_the_database() {
    let outbox = Outbox::new();
    if outbox.path.metadata().unwrap().uid() != 0 {
        return;
    }
    chown(&outbox.path, Some(1234), Some(1235)).unwrap();
    let store = outbox.store();
    insert(&store, "lane").await.unwrap();
    let folder = outbox.companion("-owners");
    for path in [
        &folder,
        &outbox.owner_files()[0],
        &outbox.companion("-wal"),
        &outbox.companion("-shm"),
    ] {
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 1235), "{path:?}");
    }
}
