//! The behaviour of the file, its thread and its owners. The contract suite tests the operations.

#![expect(clippy::arithmetic_side_effects, reason = "the numbers of a test are small")]

mod commit;
mod damage;
mod file;
mod owners;
mod plans;
mod replaced;
mod restored;
mod tick;
mod transfer;

use std::{
    future::Future,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tempfile::TempDir;

use super::super::{
    Change, ClaimRequest, Claimed, Failure, History, Inserted, LaneClaim, LaneSet, NewCall, NewMessage, Settled,
    Settlement, Store as _, Then, Which,
};
use super::{SqliteStore, prepare};
use crate::{
    call::{CallKind, Endpoint},
    call_id::CallId,
    clock::Clock,
    error::{OutboxError, ParkReason},
};

/// An outbox in a folder of its own.
struct Outbox {
    folder: TempDir,
    path: PathBuf,
}

impl Outbox {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = prepare(&folder.path().join("outbox.db")).unwrap();
        Self { folder, path }
    }

    fn store(&self) -> Rc<SqliteStore> {
        self.store_of(u64::MAX)
    }

    fn store_of(&self, max_bytes: u64) -> Rc<SqliteStore> {
        SqliteStore::open(&self.path, "queue".into(), max_bytes)
    }

    /// A store as another process has it.
    fn store_apart(&self) -> Rc<SqliteStore> {
        SqliteStore::open_apart(&self.path, "queue".into(), u64::MAX)
    }

    /// An operator's connection.
    fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    fn count(&self, what: &str) -> i64 {
        self.connect()
            .query_row(&format!("SELECT count(*) FROM {what}"), (), |row| row.get(0))
            .unwrap()
    }

    fn companion(&self, suffix: &str) -> PathBuf {
        super::file::with_suffix(&self.path, suffix)
    }

    /// The names in the folder of the owners.
    fn owner_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.companion("-owners")).into_iter().flatten();
        files.map(|file| file.unwrap().path()).collect()
    }
}

fn message(lane: &str, body: &str) -> NewMessage {
    let id = CallId::new(&Clock::system());
    NewMessage {
        lane: lane.to_owned(),
        calls: vec![NewCall {
            id,
            kind: CallKind::Status,
            target_id: lane.to_owned(),
            idempotency_key: id.to_string(),
            headers: None,
            body: body.to_owned(),
        }],
        worker_id: None,
        park: None,
        round: 0,
        withdrawn: None,
        now: 1_800_000_000_000,
    }
}

async fn insert(store: &SqliteStore, lane: &str) -> Result<Inserted, OutboxError> {
    store.insert(message(lane, "{}")).await
}

async fn claim(store: &SqliteStore) -> Result<Claimed, OutboxError> {
    let all = ClaimRequest {
        round: 1,
        now: 1_900_000_000_000,
        which: Which::Due { outages: Vec::new() },
        endpoint: Endpoint::Session,
        due: Vec::new(),
        delayed: LaneSet::default(),
        max_calls: 32,
        max_bytes: usize::MAX,
    };
    store.claim(all).await
}

async fn deliver(store: &SqliteStore, lane: LaneClaim, id: CallId) -> Result<Settled, OutboxError> {
    let settlement = Settlement {
        lane,
        changes: vec![(id, Change::Delete)],
        then: Then::Continue,
        now: 1_800_000_000_000,
    };
    settle(store, settlement).await
}

async fn settle(store: &SqliteStore, settlement: Settlement) -> Result<Settled, OutboxError> {
    let settled = store.settle([settlement].into()).await?;
    Ok(*settled.first().unwrap())
}

/// Parks a live call at once, so that the host's clock says that its lane is due.
async fn park(store: &SqliteStore, lane: &str, claim: i64, id: CallId) {
    let lane = LaneClaim {
        lane: lane.into(),
        claim,
    };
    let failure = Failure {
        status_code: None,
        error: "failed".into(),
        worker_id: None,
        history: History::default(),
    };
    let settlement = Settlement {
        lane,
        changes: vec![(id, Change::Keep(failure))],
        then: Then::Park {
            wait: Duration::ZERO,
            reason: ParkReason::AttemptsFailed,
        },
        now: 1_800_000_000_000,
    };
    let parked = settle(store, settlement).await;
    assert_eq!(parked, Ok(Settled::Done { is_released: true }));
}

/// Repeats `attempt` until it succeeds.
async fn eventually<T, F: Future<Output = Result<T, OutboxError>>>(attempt: impl Fn() -> F) -> T {
    let limit = now() + Duration::from_secs(10);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if now() > limit => panic!("{error}"),
            Err(_) => actix_rt::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn now() -> Instant {
    Clock::system().instant()
}
