use super::*;

impl Outbox {
    fn back_up(&self) -> PathBuf {
        let backup = self.folder.path().join("backup");
        let path = backup.to_str().unwrap();
        self.connect().execute("VACUUM INTO ?1", [path]).unwrap();
        backup
    }

    /// Replaces the content of the file while it is in use, as `.restore` does.
    fn restore(&self, backup: &std::path::Path) {
        let connection = self.connect();
        connection
            .execute("ATTACH ?1 AS backup", [backup.to_str().unwrap()])
            .unwrap();
        let mut script = "BEGIN IMMEDIATE;".to_owned();
        for table in ["owners", "lanes", "calls"] {
            let columns = "SELECT group_concat(name) FROM pragma_table_info(?1)";
            let columns: String = connection.query_row(columns, [table], |row| row.get(0)).unwrap();
            script += &format!(
                "DELETE FROM main.{table}; INSERT INTO main.{table} ({columns}) SELECT {columns} FROM backup.{table};"
            );
        }
        connection.execute_batch(&(script + "COMMIT")).unwrap();
    }
}

/// A live call, whose owner has marked its insertion, and its lane.
async fn live(store: &SqliteStore) -> (LaneClaim, CallId) {
    let message = message("lane", "{}");
    let (id, Inserted::Live { claim }) = (message.calls[0].id, store.insert(message).await.unwrap()) else {
        panic!("not live")
    };
    watch(store).await;
    let lane = LaneClaim {
        lane: "lane".into(),
        claim,
    };
    (lane, id)
}

async fn watch(store: &SqliteStore) {
    store.watch(0, Duration::ZERO).await.unwrap();
}

async fn is_current(store: &SqliteStore, (lane, id): &(LaneClaim, CallId)) -> bool {
    store.is_current(lane.clone(), vec![*id]).await.unwrap()
}

#[actix_rt::test]
async fn a_lane_that_was_live_in_the_backup_is_freed() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let live = live(&store).await;
    let backup = outbox.back_up();
    deliver(&store, live.0.clone(), live.1).await.unwrap();
    watch(&store).await;
    outbox.restore(&backup);
    for (seconds, freed) in [(0, 0), (9, 0), (11, 1)] {
        assert_eq!(store.watch_after(seconds).await.freed, freed, "after {seconds} s");
    }
    assert_eq!(claim(&store).await.unwrap().messages[0].lane.lane, "lane");
    assert_eq!(store.replacements(), 1);
}

#[actix_rt::test]
async fn a_lane_that_was_parked_in_the_backup_is_claimed() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let (lane, id) = live(&store).await;
    park(&store, &lane.lane, lane.claim, id).await;
    let backup = outbox.back_up();
    watch(&store).await;
    // Since it has parked the lane itself, it must name it as due.
    assert_eq!(claim(&store).await.unwrap().messages.len(), 0);
    outbox.restore(&backup);
    watch(&store).await;
    assert_eq!(claim(&store).await.unwrap().messages[0].lane.lane, "lane");
}

#[actix_rt::test]
async fn all_owners_of_a_process_notice_a_restored_backup_once() {
    let outbox = Outbox::new();
    let (store, second, idle) = (outbox.store(), outbox.store(), outbox.store());
    live(&store).await;
    let backup = outbox.back_up();
    insert(&store, "later").await.unwrap();
    insert(&second, "second").await.unwrap();
    watch(&store).await;
    watch(&second).await;
    outbox.restore(&backup);
    for store in [&second, &store, &idle, &second, &store] {
        watch(store).await;
    }
    assert_eq!(second.replacements(), 1);
    assert_eq!(store.watch_after(0).await.freed, 0);
    assert_eq!(store.watch_after(11).await.freed, 1);
}

#[actix_rt::test]
async fn an_owner_keeps_its_lanes_if_the_file_only_changes() {
    let outbox = Outbox::new();
    let (store, other) = (outbox.store(), outbox.store_apart());
    let live = live(&store).await;
    insert(&store, "marked").await.unwrap();
    watch(&store).await;
    outbox.connect().execute_batch("VACUUM").unwrap();
    insert(&other, "other").await.unwrap();
    watch(&other).await;
    watch(&store).await;
    assert!(is_current(&store, &live).await);
    // An owner of a new file, too.
    std::fs::remove_dir_all(outbox.companion("-owners")).unwrap();
    store.watch_after(6).await;
    store.watch_after(12).await;
    assert!(is_current(&store, &live).await);
    assert_eq!(store.replacements(), 0);
}

#[actix_rt::test]
async fn a_file_that_can_not_be_marked_is_looked_at_without_waiting() {
    let outbox = Outbox::new();
    let store = outbox.store();
    live(&store).await;
    insert(&store, "later").await.unwrap();
    let operator = outbox.connect();
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    let since = now();
    watch(&store).await;
    assert!(since.elapsed() < Duration::from_secs(1));
    assert_eq!(outbox.count("owners WHERE mark = 1"), 1);
    operator.execute_batch("ROLLBACK").unwrap();
    watch(&store).await;
    assert_eq!(outbox.count("owners WHERE mark = 2"), 1);
    // Other changes still wait.
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    let unlock = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        operator.execute_batch("ROLLBACK").unwrap();
    });
    insert(&store, "last").await.unwrap();
    unlock.join().unwrap();
}

#[actix_rt::test]
async fn a_file_of_version_2_gets_marks() {
    let outbox = Outbox::new();
    let former = "ALTER TABLE owners DROP COLUMN mark; PRAGMA user_version = 2";
    outbox.connect().execute_batch(former).unwrap();
    prepare(&outbox.path).unwrap();
    live(&outbox.store()).await;
    assert_eq!(outbox.count("owners WHERE mark = 1"), 1);
}
