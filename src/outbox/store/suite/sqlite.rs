//! The store in SQLite under test: a file in a folder of its own.

use std::{path::PathBuf, rc::Rc};

use rusqlite::Connection;
use tempfile::TempDir;

use super::super::sqlite::{SqliteStore, prepare};
use super::Fixture;

/// Owners share a connection as the posters of a process do, or have one each as processes do.
pub(super) struct SqliteFixture<const IS_SHARED: bool> {
    path: PathBuf,
    _folder: TempDir,
}

impl<const IS_SHARED: bool> SqliteFixture<IS_SHARED> {
    fn open(&self, queue: &str) -> Rc<SqliteStore> {
        if IS_SHARED {
            SqliteStore::open(&self.path, queue.into(), u64::MAX)
        } else {
            SqliteStore::open_apart(&self.path, queue.into(), u64::MAX)
        }
    }

    fn execute(&self, statements: &str) {
        Connection::open(&self.path).unwrap().execute_batch(statements).unwrap();
    }
}

impl<const IS_SHARED: bool> Fixture for SqliteFixture<IS_SHARED> {
    type Owner = SqliteStore;

    const RANDOM_CASES: u32 = 30;

    async fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Some(Self {
            path: prepare(&folder.path().join("outbox.db")).unwrap(),
            _folder: folder,
        })
    }

    async fn owner(&self) -> Rc<SqliteStore> {
        self.open("queue")
    }

    async fn owner_of_another_queue(&self) -> Rc<SqliteStore> {
        self.open("another queue")
    }

    async fn kill(&self, owner: Rc<SqliteStore>) {
        owner.die().await;
    }

    async fn break_store(&self) {
        for table in ["lanes", "calls"] {
            for change in ["INSERT", "UPDATE", "DELETE"] {
                self.execute(&format!(
                    "CREATE TRIGGER break_{change}_{table} AFTER {change} ON {table}
                     BEGIN SELECT RAISE(ABORT, 'broken'); END;"
                ));
            }
        }
    }

    async fn repair_store(&self) {
        for table in ["lanes", "calls"] {
            for change in ["INSERT", "UPDATE", "DELETE"] {
                self.execute(&format!("DROP TRIGGER break_{change}_{table}"));
            }
        }
    }
}
