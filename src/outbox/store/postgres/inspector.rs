//! The store as an operator's tool sees it: its methods wait.

use std::{
    sync::mpsc::{Sender, channel, sync_channel},
    thread,
    time::Duration,
};

use futures_util::future::LocalBoxFuture;

use super::super::WallTime;
use super::{
    count::{self, Count},
    error::{PgResult, is_conflict, is_lost, postgres_error},
    inspect::{self, Listing},
    params::ids,
    repair, rows,
    schema::{self, Identity},
    session::{Session, Transaction},
    transfer,
};
use crate::{
    call_id::CallId,
    clock::within,
    error::OutboxError,
    outbox::{
        entry::{EntryQuery, OutboxEntry, OutboxStats},
        location::{PostgresOptions, PostgresServer},
        record::{CallRecord, Imported},
    },
};

const BY_LANE: &str = "
    SELECT calls.id FROM unnest($1) WITH ORDINALITY AS wanted (id, place)
    JOIN @calls AS calls ON calls.id = wanted.id ORDER BY queue, home, place";

/// How often a transaction is tried that others stand in the way of, or whose connection is lost.
const ATTEMPTS: u32 = 5;

/// The calls of all queues in the outbox on a server.
///
/// Its connection has a thread of its own, so that its methods can be called anywhere; they wait. Times are the server's.
pub(in crate::outbox) struct Inspector {
    /// `None` when it is dropped.
    jobs: Option<Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

type Job = Box<dyn for<'a> FnOnce(&'a mut Connection) -> LocalBoxFuture<'a, ()> + Send>;

/// Opens the outbox on a server.
///
/// # Errors
///
/// [`OutboxError::NotFound`] if the schema does not exist or is empty; all else that is wrong with the server or the schema.
pub(in crate::outbox) fn open_inspector(options: &PostgresOptions) -> Result<Inspector, OutboxError> {
    let server = PostgresServer::new(options).map_err(|error| OutboxError::Other(error.into()))?;
    let inspector = Inspector::start(server)?;
    inspector.ask(async |transaction| match Identity::of(transaction).await? {
        Identity::Missing | Identity::Empty => Ok(Err(OutboxError::NotFound)),
        Identity::Foreign | Identity::Outbox { .. } => schema::migrate(transaction).await,
    })??;
    Ok(inspector)
}

impl Inspector {
    fn start(server: PostgresServer) -> Result<Self, OutboxError> {
        let (jobs, waiting) = channel::<Job>();
        let thread = thread::Builder::new().name("result-poster-inspector".to_owned());
        let thread = thread.spawn(move || {
            let Ok(runtime) = actix_rt::Runtime::new() else { return };
            let mut connection = Connection { server, session: None };
            for job in waiting {
                runtime.block_on(job(&mut connection));
            }
        });
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread.map_err(|error| OutboxError::Other(error.into()))?),
        })
    }

    pub(in crate::outbox) fn list(&self, query: EntryQuery) -> Result<Vec<OutboxEntry>, OutboxError> {
        let mut listing = Listing::new(query);
        loop {
            let (query, after, limit) = (listing.query.clone(), listing.after, listing.limit());
            let page =
                self.ask(async move |transaction| inspect::list(transaction, &query, None, after, limit).await)?;
            if !listing.add(page) {
                return Ok(listing.into_entries());
            }
        }
    }

    pub(in crate::outbox) fn get(&self, id: CallId) -> Result<Option<OutboxEntry>, OutboxError> {
        self.ask(async move |transaction| inspect::get(transaction, id).await)
    }

    pub(in crate::outbox) fn export(&self, ids: Vec<CallId>) -> Result<Vec<CallRecord>, OutboxError> {
        self.ask(async move |transaction| transfer::export(transaction, &ids).await)
    }

    pub(in crate::outbox) fn import(&self, records: Vec<CallRecord>, _: WallTime) -> Result<Imported, OutboxError> {
        self.ask(async move |transaction| transfer::import(transaction, &records).await)
    }

    /// Requeues parked calls and dead letters in one transaction, and returns how many of the calls were one.
    pub(in crate::outbox) fn requeue_each(&self, ids: Vec<CallId>, _: WallTime) -> Result<usize, OutboxError> {
        self.ask(async move |transaction| {
            let mut found: usize = 0;
            for id in by_lane(transaction, &ids).await? {
                let is_found = repair::requeue(transaction, None, id).await?;
                found = found.saturating_add(usize::from(is_found));
            }
            Ok(found)
        })
    }

    /// As [`requeue_each`](Self::requeue_each), but discards them.
    pub(in crate::outbox) fn discard_each(&self, ids: Vec<CallId>) -> Result<usize, OutboxError> {
        self.ask(async move |transaction| {
            let mut found: usize = 0;
            for id in by_lane(transaction, &ids).await? {
                let is_found = repair::discard(transaction, None, id).await?;
                found = found.saturating_add(usize::from(is_found));
            }
            Ok(found)
        })
    }

    pub(in crate::outbox) fn stats(&self) -> Result<OutboxStats, OutboxError> {
        let mut count = Count::default();
        loop {
            let after = count.after;
            let page = self.ask(async move |transaction| count::count(transaction, None, after).await)?;
            if !count.add(page) {
                let rest = self.ask(async |transaction| count::count_the_rest(transaction, None).await)?;
                return Ok(count.into_stats(rest));
            }
        }
    }

    /// Does the work in a transaction, and waits for it.
    fn ask<T, W>(&self, work: W) -> Result<T, OutboxError>
    where
        T: Send + 'static,
        W: AsyncFn(&Transaction<'_>) -> PgResult<T> + Send + 'static,
    {
        let (sender, answer) = sync_channel(1);
        let job: Job = Box::new(move |connection| {
            Box::pin(async move {
                let _ = sender.send(connection.run(&work).await);
            })
        });
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, there is no answer either.
            let _ = jobs.send(job);
        }
        answer.recv().unwrap_or(Err(OutboxError::Stopped))
    }
}

impl Drop for Inspector {
    /// Waits until the connection is closed: the process may be about to exit.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The calls that are stored, of these. They are sorted by lane, since posters lock lanes in that order; calls of one lane
/// keep the order in which they are named.
async fn by_lane(transaction: &Transaction<'_>, calls: &[CallId]) -> PgResult<Vec<CallId>> {
    let rows = transaction.ask(BY_LANE, [ids(calls)]).await?;
    rows.iter().map(|row| rows::call_id(row, "id")).collect()
}

/// The connection, which is opened when it is needed.
struct Connection {
    server: PostgresServer,
    session: Option<Session>,
}

/// Why a transaction failed, and whether it may be tried again.
struct Failed {
    error: OutboxError,
    may_repeat: bool,
}

impl Connection {
    async fn run<T>(&mut self, work: impl AsyncFn(&Transaction<'_>) -> PgResult<T>) -> Result<T, OutboxError> {
        for _ in 1..ATTEMPTS {
            match self.attempt(&work).await {
                Err(failed) if failed.may_repeat => {}
                ended => return ended.map_err(|failed| failed.error),
            }
        }
        self.attempt(&work).await.map_err(|failed| failed.error)
    }

    async fn attempt<T>(&mut self, work: impl AsyncFn(&Transaction<'_>) -> PgResult<T>) -> Result<T, Failed> {
        let is_new = self.session.as_ref().is_none_or(Session::is_closed);
        if is_new {
            let connected = Session::connect(&self.server).await;
            let may_repeat = false;
            self.session = Some(connected.map_err(|error| Failed { error, may_repeat })?);
        }
        let Some(session) = &self.session else {
            return Err(Failed {
                error: OutboxError::Stopped,
                may_repeat: false,
            });
        };
        let transaction = session.begin();
        let whole = async {
            let output = work(&transaction).await?;
            transaction.commit().await?;
            Ok(output)
        };
        // A server that is gone without a word gives no answer.
        let limit = self
            .server
            .statement_timeout()
            .saturating_mul(4)
            .max(Duration::from_secs(10));
        let ended = within(limit, whole).await;
        let is_committing = transaction.is_committing();
        let error = match ended {
            Some(Ok(output)) => return Ok(output),
            Some(Err(error)) => error,
            None => {
                drop(transaction);
                self.session = None;
                return Err(Failed {
                    error: OutboxError::TimedOut,
                    may_repeat: false,
                });
            }
        };
        let is_over = is_lost(&error) || transaction.roll_back().await.is_err();
        drop(transaction);
        if is_over {
            self.session = None;
        }
        Err(Failed {
            // A connection that was lost while nobody used it is opened again.
            may_repeat: !is_committing && (is_conflict(&error) || (is_over && !is_new)),
            error: postgres_error(&error),
        })
    }
}
