//! An outbox with its platform, and access to its file from outside of the poster.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use actix::{Addr, MailboxError};
use actix_rt::task::JoinHandle;
use result_poster::{
    CallError, CallReceipt, OptionsBuilder, ResultPoster, Shutdown,
    outbox::{
        EntryQuery, EntryState, GetOutboxStats, ListEntries, OutboxEntry, OutboxInspector, OutboxOptions,
        OutboxOptionsBuilder, OutboxStats,
    },
    testing::{FakePlatform, Reply},
};
use tempfile::TempDir;

use super::{options, status_update, wait::wait_until};

/// A delay of next to nothing.
pub(crate) const SHORT_DELAY: Duration = Duration::from_millis(20);

/// A delay longer than any test.
const LONG_DELAY: Duration = Duration::from_secs(60 * 60);

/// A folder for an outbox, and the platform of its posters.
pub(crate) struct OutboxFixture {
    pub(crate) folder: TempDir,
    pub(crate) platform: FakePlatform,
}

impl OutboxFixture {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            platform: FakePlatform::start().unwrap(),
        }
    }

    /// The path of the outbox's file.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("outbox.db")
    }

    /// A poster that parks a call at its first failure, and replays it after a short delay.
    pub(crate) fn options(&self) -> OptionsBuilder {
        self.options_with(replay_soon(self.path()))
    }

    /// A poster that parks a call at its first failure, and does not replay it unless it is requeued.
    pub(crate) fn options_without_replay(&self) -> OptionsBuilder {
        self.options_with(replay_late(self.path()))
    }

    /// A poster that parks a call at its first failure.
    pub(crate) fn options_with(&self, outbox: OutboxOptionsBuilder) -> OptionsBuilder {
        options(self.platform.url())
            .max_attempts(1)
            .outbox(outbox.build().unwrap())
    }

    /// The platform answers a route with these statuses, and then with success.
    pub(crate) fn script(&self, route: &str, statuses: impl IntoIterator<Item = u16>) {
        let replies: Vec<_> = statuses.into_iter().map(Reply::status).chain([Reply::ok()]).collect();
        self.platform.script(route, replies);
    }

    /// The platform answers all calls with 503.
    pub(crate) fn begin_outage(&self) {
        for route in ["completion", "status", "issue-tracker-proxy"] {
            self.platform.script(route, [Reply::status(503)]);
        }
    }

    /// The platform answers all calls with success.
    pub(crate) fn end_outage(&self) {
        for route in ["completion", "status", "issue-tracker-proxy"] {
            self.platform.script(route, []);
        }
    }

    pub(crate) fn live(&self) -> Vec<OutboxEntry> {
        self.list(EntryQuery::new(EntryState::Live))
    }

    pub(crate) fn parked(&self) -> Vec<OutboxEntry> {
        self.list(EntryQuery::parked())
    }

    pub(crate) fn dead_letters(&self) -> Vec<OutboxEntry> {
        self.list(EntryQuery::dead_letters())
    }

    /// The first page of these calls.
    fn list(&self, query: EntryQuery) -> Vec<OutboxEntry> {
        self.open().list(query.limit(500)).unwrap()
    }

    /// Makes a parked call or a dead letter due, as an operator does.
    pub(crate) fn requeue(&self, entry: &OutboxEntry) {
        self.open().requeue(entry.id).unwrap();
    }

    /// The outbox's file, as an operator's tool opens it.
    pub(crate) fn open(&self) -> OutboxInspector {
        OutboxInspector::open(self.path()).unwrap()
    }

    /// The database, without the crate. Not while a poster is about to open it; see [`count_calls`].
    pub(crate) fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }

    /// Locks the file against writers until the connection is dropped, as another writing process does.
    pub(crate) fn lock(&self) -> rusqlite::Connection {
        let other = self.database();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        other
    }

    /// The path of one of the files beside the database.
    pub(crate) fn companion(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("outbox.db{suffix}"))
    }

    /// The names of the owners' files.
    pub(crate) fn owner_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.companion("-owners")).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Deletes the file with its log and its index.
    pub(crate) fn delete_files(&self) {
        remove_files_in(self.folder.path());
    }

    /// One running call, and the next of its lane waiting behind it, both in the file.
    pub(crate) async fn running_and_waiting_call(
        &self,
        poster: &Addr<ResultPoster>,
    ) -> [JoinHandle<Result<Result<CallReceipt, CallError>, MailboxError>>; 2] {
        let running = actix_rt::spawn(poster.send(status_update("i")));
        self.platform.wait_for_requests(1).await;
        let waiting = actix_rt::spawn(poster.send(status_update("i")));
        wait_until(|| self.count() == 2).await;
        [running, waiting]
    }

    /// The number of calls in the file, live, parked or dead.
    pub(crate) fn count(&self) -> u64 {
        count_calls(&self.path())
    }

    /// Waits until the file holds no call.
    pub(crate) async fn emptied(&self) {
        wait_until(|| self.count() == 0).await;
    }
}

/// The statement that makes all parked calls due, as an operator may.
pub(crate) const MAKE_DUE: &str = "UPDATE lanes SET parked_at = 0, wait = 0, parked_by = NULL WHERE owner IS NULL";

/// An outbox that replays a call after a short delay.
pub(crate) fn replay_soon(path: impl AsRef<Path>) -> OutboxOptionsBuilder {
    OutboxOptions::builder(path.as_ref())
        .base_delay(SHORT_DELAY)
        .max_delay(SHORT_DELAY)
}

/// An outbox that does not replay a call during a test unless it is requeued.
pub(crate) fn replay_late(path: impl AsRef<Path>) -> OutboxOptionsBuilder {
    OutboxOptions::builder(path.as_ref())
        .base_delay(LONG_DELAY)
        .max_delay(LONG_DELAY)
}

/// The number of calls in a file, live, parked or dead.
///
/// Over the connection that this process has: a poster that is about to open the file reads its start, and when it closes
/// it, any other connection of the process loses its locks.
pub(crate) fn count_calls(path: &Path) -> u64 {
    let stats = OutboxInspector::open(path).unwrap().stats().unwrap();
    stats.live + stats.parked + stats.dead_letters
}

pub(crate) fn remove_files_in(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The kind and the target id of each entry.
pub(crate) fn kinds_and_targets(entries: &[OutboxEntry]) -> Vec<(&str, &str)> {
    entries
        .iter()
        .map(|entry| (entry.kind.as_str(), entry.target_id.as_str()))
        .collect()
}

/// The calls in the outbox of a poster, the first page.
pub(crate) async fn entries(poster: &Addr<ResultPoster>) -> Vec<OutboxEntry> {
    let all = ListEntries::new(EntryQuery::all().limit(500));
    poster.send(all).await.unwrap().unwrap()
}

/// The content of a poster's outbox in numbers.
pub(crate) async fn stats(poster: &Addr<ResultPoster>) -> OutboxStats {
    poster.send(GetOutboxStats).await.unwrap().unwrap()
}

/// Shuts a poster down, and returns the number of calls that it left parked.
pub(crate) async fn shut_down(poster: &Addr<ResultPoster>) -> u64 {
    let report = poster.send(Shutdown::within(Duration::from_secs(10))).await.unwrap();
    report.parked
}
