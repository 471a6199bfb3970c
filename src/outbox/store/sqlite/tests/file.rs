use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{PermissionsExt as _, symlink},
    },
    path::Path,
    thread,
};

use super::{
    super::file::{Database, resolve, with_suffix},
    *,
};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// A folder with a database that was made by `statements`, in WAL mode.
fn database(statements: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch(statements).unwrap();
    (folder, path)
}

#[actix_rt::test]
async fn all_files_are_readable_for_their_owner_alone() {
    let outbox = Outbox::new();
    let store = outbox.store();
    insert(&store, "lane").await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&outbox.companion(suffix)), 0o600, "{suffix}");
    }
    assert_eq!(mode(&outbox.companion("-owners")), 0o700);
    assert_eq!(mode(&outbox.owner_files()[0]), 0o600);
}

#[actix_rt::test]
async fn a_path_need_not_be_unicode() {
    let folder = tempfile::tempdir().unwrap();
    let path = prepare(&folder.path().join(OsStr::from_bytes(b"out\xffbox.db"))).unwrap();
    let store = SqliteStore::open(&path, "queue".into(), u64::MAX);
    insert(&store, "lane").await.unwrap();
    store.release_all(0).await.unwrap();
    assert_eq!(claim(&store).await.unwrap().messages.len(), 1);
    store.close().await.unwrap();
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let name = |suffix: &[u8]| OsString::from_vec([b"out\xffbox.db", suffix].concat());
    assert!(
        names.contains(&name(b"")) && names.contains(&name(b"-owners")),
        "{names:?}"
    );
}

#[test]
fn permissions_of_an_existing_file_are_restricted() {
    let outbox = Outbox::new();
    fs::set_permissions(&outbox.path, fs::Permissions::from_mode(0o644)).unwrap();
    prepare(&outbox.path).unwrap();
    assert_eq!(mode(&outbox.path), 0o600);
}

#[test]
fn names_with_a_meaning_for_sqlite_are_refused() {
    for name in ["", ":memory:", "file:outbox.db", "file::memory:?cache=shared"] {
        assert!(
            matches!(prepare(Path::new(name)), Err(OutboxError::Other(_))),
            "{name:?}"
        );
    }
}

#[test]
fn a_relative_path_is_made_absolute() {
    let folder = std::env::current_dir().unwrap().canonicalize().unwrap();
    assert_eq!(resolve(Path::new("outbox.db")), Ok(folder.join("outbox.db")));
    assert_eq!(resolve(Path::new("src/../outbox.db")), Ok(folder.join("outbox.db")));
}

#[test]
fn a_missing_folder_is_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("outbox.db");
    assert_eq!(prepare(&path), Err(OutboxError::NotFound));
}

#[test]
fn links_are_resolved_although_they_lead_to_a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("real")).unwrap();
    symlink("real", root.join("folder")).unwrap();
    symlink("folder/outbox.db", root.join("link")).unwrap();
    let real = root.join("real").join("outbox.db");
    for _ in 0..2 {
        assert_eq!(prepare(&root.join("link")).as_ref(), Ok(&real));
        assert!(real.is_file());
    }
    symlink("circle", root.join("circle")).unwrap();
    assert!(prepare(&root.join("circle")).is_err());
}

#[test]
fn a_folder_is_not_an_outbox() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(prepare(folder.path()), Err(OutboxError::NotAnOutbox));
}

#[test]
fn a_text_file_is_not_changed_although_a_log_lies_beside_it() {
    let (folder, path) = database("CREATE TABLE t (x)");
    let text = folder.path().join("notes.txt");
    fs::write(&text, "not a database at all").unwrap();
    let open = Connection::open(&path).unwrap();
    open.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    fs::copy(with_suffix(&path, "-wal"), with_suffix(&text, "-wal")).unwrap();
    assert_eq!(prepare(&text), Err(OutboxError::NotAnOutbox));
    assert_eq!(fs::read_to_string(&text).unwrap(), "not a database at all");
}

#[test]
fn a_foreign_database_is_refused_and_its_log_is_not_merged() {
    let (folder, path) = database("CREATE TABLE t (x)");
    let open = Connection::open(&path).unwrap();
    open.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let copy = folder.path().join("copy.db");
    for suffix in ["", "-wal"] {
        fs::copy(with_suffix(&path, suffix), with_suffix(&copy, suffix)).unwrap();
    }
    let before = fs::read(&copy).unwrap();
    assert_eq!(prepare(&copy), Err(OutboxError::NotAnOutbox));
    assert!(fs::read(&copy).unwrap() == before);
    assert!(with_suffix(&copy, "-wal").metadata().unwrap().len() > 0);
}

#[test]
fn an_empty_foreign_database_is_refused() {
    let (_folder, path) = database("PRAGMA application_id = 7");
    assert_eq!(prepare(&path), Err(OutboxError::NotAnOutbox));
}

#[test]
fn the_first_version_and_newer_versions_are_refused() {
    for version in [1, 5] {
        let (_folder, path) = database(&format!(
            "CREATE TABLE calls (id); PRAGMA application_id = 0x72506f62; PRAGMA user_version = {version}"
        ));
        let before = fs::read(&path).unwrap();
        assert_eq!(prepare(&path), Err(OutboxError::UnsupportedVersion), "{version}");
        assert!(fs::read(&path).unwrap() == before);
    }
}

#[test]
fn a_truncated_file_is_damaged() {
    let outbox = Outbox::new();
    let file = fs::OpenOptions::new().write(true).open(&outbox.path).unwrap();
    file.set_len(2 * 4096).unwrap();
    assert!(matches!(prepare(&outbox.path), Err(OutboxError::Corrupt(_))));
}

#[test]
fn a_file_that_was_emptied_becomes_an_outbox() {
    let outbox = Outbox::new();
    fs::write(&outbox.path, "").unwrap();
    assert_eq!(prepare(&outbox.path).as_ref(), Ok(&outbox.path));
    assert_eq!(outbox.count("calls"), 0);
}

#[test]
fn one_file_is_created_by_many_threads_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| prepare(&path))).collect();
        for thread in threads {
            assert!(thread.join().unwrap().is_ok());
        }
    });
}

#[test]
fn a_start_waits_longer_for_a_held_file_than_a_message_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db");
    // As another process that creates the file, slowly.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    thread::scope(|scope| {
        let message = scope.spawn(|| Database::open(&path).map(drop));
        let start = scope.spawn(|| prepare(&path));
        assert_eq!(message.join().unwrap(), Err(OutboxError::Locked));
        assert!(!start.is_finished());
        other.execute_batch("COMMIT").unwrap();
        assert!(start.join().unwrap().is_ok());
    });
}

#[test]
fn a_commit_is_on_the_disk_when_it_returns() {
    let outbox = Outbox::new();
    let database = Database::open(&outbox.path).unwrap();
    let pragma = |name| {
        database
            .connection
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
    };
    assert_eq!(pragma("journal_mode").unwrap(), "wal".to_owned().into());
    // FULL
    assert_eq!(pragma("synchronous").unwrap(), 2.into());
}

#[actix_rt::test]
async fn an_operator_reads_states_and_times_in_a_view() {
    let outbox = Outbox::new();
    let (first, second) = (outbox.store(), outbox.store());
    let live = message("lane", "{}");
    let id = live.calls[0].id;
    first.insert(live).await.unwrap();
    insert(&second, "lane").await.unwrap();
    let connection = outbox.connect();
    let mut view = connection
        .prepare("SELECT id, state, created_at FROM outbox ORDER BY id")
        .unwrap();
    let rows = view
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    let rows: Vec<(String, String, String)> = rows.map(Result::unwrap).collect();
    assert_eq!(
        rows[0],
        (id.to_string(), "live".into(), "2027-01-15T08:00:00.000Z".into())
    );
    assert_eq!(rows[1].1, "parked");
}

#[actix_rt::test]
async fn a_file_of_version_3_gets_the_current_index() {
    let outbox = Outbox::new();
    let message = message("lane", "{}");
    let ids: Vec<_> = message.calls.iter().map(|call| call.id).collect();
    let store = outbox.store();
    store.insert(message.clone()).await.unwrap();
    store.close().await.unwrap();
    let index = || -> String {
        let index = "SELECT sql FROM sqlite_schema WHERE name = 'calls_by_key'";
        outbox.connect().query_row(index, (), |row| row.get(0)).unwrap()
    };
    let current = index();
    let former = "DROP INDEX calls_by_key; CREATE INDEX calls_by_key ON calls (queue, idempotency_key);
        PRAGMA user_version = 3";
    outbox.connect().execute_batch(former).unwrap();
    assert_ne!(index(), current);
    prepare(&outbox.path).unwrap();
    assert_eq!(index(), current);
    assert_eq!(outbox.store().insert(message).await, Ok(Inserted::Known { ids }));
}
