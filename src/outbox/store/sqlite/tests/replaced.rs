use std::fs;

use super::*;

#[actix_rt::test]
async fn a_deleted_file_is_created_again() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "a").await.unwrap();
    fs::remove_file(&outbox.path).unwrap();
    eventually(|| insert(&store, "b")).await;
    assert_eq!(outbox.count("calls"), 1);
    // The owner is registered in the new file.
    assert_eq!(outbox.count("owners"), 1);
}

#[actix_rt::test]
async fn a_deleted_folder_of_owners_is_created_again_with_the_file() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "a").await.unwrap();
    fs::remove_dir_all(outbox.companion("-owners")).unwrap();
    fs::remove_file(&outbox.path).unwrap();
    eventually(|| insert(&store, "b")).await;
    assert_eq!(outbox.owner_files().len(), 1);
}

#[actix_rt::test]
async fn a_replaced_file_is_opened() {
    let (outbox, other) = (Outbox::new(), Outbox::new());
    let store = outbox.store();
    insert(&store, "a").await.unwrap();
    let filler = other.store();
    insert(&filler, "b").await.unwrap();
    filler.release_all(0).await.unwrap();
    filler.close().await.unwrap();
    fs::rename(&other.path, &outbox.path).unwrap();
    let claimed = eventually(|| claim(&store)).await;
    assert_eq!(claimed.messages[0].lane.lane, "b");
}

#[actix_rt::test]
async fn all_handles_notice_that_the_file_was_replaced() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let watch = || store.watch(0, Duration::ZERO);
    watch().await.unwrap();
    assert!(!watch().await.unwrap().has_changed);
    fs::remove_file(&outbox.path).unwrap();
    assert!(eventually(watch).await.has_changed);
}

#[actix_rt::test]
async fn a_foreign_file_at_the_path_is_not_changed() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "a").await.unwrap();
    let foreign = outbox.folder.path().join("foreign");
    fs::write(&foreign, "not a database at all").unwrap();
    fs::rename(&foreign, &outbox.path).unwrap();
    let refused = || async {
        match insert(&store, "b").await {
            Err(OutboxError::NotAnOutbox) => Ok(()),
            other => Err(other.unwrap_err()),
        }
    };
    eventually(refused).await;
    assert_eq!(fs::read_to_string(&outbox.path).unwrap(), "not a database at all");
    fs::remove_file(&outbox.path).unwrap();
    eventually(|| insert(&store, "b")).await;
}

#[actix_rt::test]
async fn a_file_that_reappears_is_used_again_by_the_same_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (here, away) = (folder.path().join("here"), folder.path().join("away"));
    fs::create_dir(&here).unwrap();
    let path = prepare(&here.join("outbox.db")).unwrap();
    let store = SqliteStore::open(&path, "queue".into(), u64::MAX);
    insert(&store, "a").await.unwrap();
    fs::rename(&here, &away).unwrap();
    assert_eq!(insert(&store, "b").await, Err(OutboxError::NotFound));
    fs::rename(&away, &here).unwrap();
    eventually(|| insert(&store, "b")).await;
    assert_eq!(store.stats().await.unwrap().live, 2);
}

/// Takes the file away until another one is used, and brings it back.
async fn take_away_and_bring_back(outbox: &Outbox, store: &SqliteStore) {
    let away = outbox.folder.path().join("away");
    fs::rename(&outbox.path, &away).unwrap();
    eventually(|| insert(store, "another")).await;
    fs::rename(&away, &outbox.path).unwrap();
}

#[actix_rt::test]
async fn a_parked_lane_is_claimed_after_another_file_was_used_meanwhile() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let message = message("lane", "{}");
    let (id, Inserted::Live { claim: live }) = (message.calls[0].id, store.insert(message).await.unwrap()) else {
        panic!("not live")
    };
    park(&store, "lane", live, id).await;
    take_away_and_bring_back(&outbox, &store).await;
    // The owner no longer names the lane as due: there was no such lane in the other file.
    let claimed = eventually(|| claim(&store)).await;
    assert_eq!(claimed.messages[0].lane.lane, "lane");
}

#[actix_rt::test]
async fn a_live_lane_is_freed_after_another_file_was_used_meanwhile() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "lane").await.unwrap();
    take_away_and_bring_back(&outbox, &store).await;
    eventually(|| claim(&store)).await;
    for (seconds, freed) in [(0, 0), (9, 0), (11, 1)] {
        assert_eq!(store.watch_after(seconds).await.freed, freed, "after {seconds} s");
    }
    assert_eq!(claim(&store).await.unwrap().messages[0].lane.lane, "lane");
    // The file and the row of the former owner have gone.
    assert_eq!((outbox.owner_files().len(), outbox.count("owners")), (1, 1));
}

#[actix_rt::test]
async fn a_parked_lane_of_a_restored_backup_is_claimed() {
    let outbox = Outbox::new();
    let store = outbox.store();
    let message = message("lane", "{}");
    let (id, Inserted::Live { claim: live }) = (message.calls[0].id, store.insert(message).await.unwrap()) else {
        panic!("not live")
    };
    park(&store, "lane", live, id).await;
    let backup = outbox.folder.path().join("backup");
    let into = backup.to_str().unwrap();
    outbox.connect().execute("VACUUM INTO ?1", [into]).unwrap();
    fs::remove_file(&outbox.path).unwrap();
    // Closes the file, whose inode may be used again.
    insert(&store, "lost").await.unwrap_err();
    fs::copy(&backup, &outbox.path).unwrap();
    let claimed = eventually(|| claim(&store)).await;
    assert_eq!(claimed.messages[0].lane.lane, "lane");
}

#[actix_rt::test]
async fn a_file_that_could_not_be_opened_is_opened_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("missing").join("outbox.db");
    let store = SqliteStore::open(&path, "queue".into(), u64::MAX);
    assert_eq!(insert(&store, "a").await, Err(OutboxError::NotFound));
    fs::create_dir(path.parent().unwrap()).unwrap();
    eventually(|| insert(&store, "a")).await;
}

#[actix_rt::test]
async fn a_replaced_file_is_opened_after_other_processes_have_closed_the_former_one() {
    let (outbox, other) = (Outbox::new(), Outbox::new());
    let (store, second) = (outbox.store_apart(), outbox.store_apart());
    insert(&store, "a").await.unwrap();
    insert(&second, "b").await.unwrap();
    fs::rename(&other.path, &outbox.path).unwrap();
    let since = now();
    let insert_when_open = async |store: &SqliteStore, lane: &str| eventually(|| insert(store, lane)).await;
    futures_util::join!(insert_when_open(&store, "c"), insert_when_open(&second, "d"));
    assert!(since.elapsed() >= Duration::from_secs(3));
    assert_eq!((outbox.count("calls"), outbox.count("owners")), (2, 2));
    let health: String = outbox
        .connect()
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(health, "ok");
}
