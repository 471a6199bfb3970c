//! A connection to the server, and the transactions on it.
//!
//! Statements have no names, and settings hold for one transaction: a pooler may give each transaction another connection.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use actix_rt::{spawn, task::JoinHandle};
use futures_util::{
    FutureExt as _, TryStreamExt as _,
    future::{LocalBoxFuture, ready},
};
use log::debug;
use tokio_postgres::{
    Client, Connection, NoTls, Row, Socket,
    config::{LoadBalanceHosts, TargetSessionAttrs},
    tls::TlsStream,
};

use super::{
    error::{PgResult, postgres_error},
    params::Param,
    tls::Rustls,
};
use crate::{clock::within, error::OutboxError, outbox::location::PostgresServer, util::ignore_panic};

/// The answer to a statement, which was sent already.
pub(super) type Answer<'a, T> = LocalBoxFuture<'a, PgResult<T>>;

/// A connection. Dropping it closes it, and the server rolls back what was not committed.
pub(super) struct Session {
    client: Client,
    io: JoinHandle<()>,
    schema: String,
    /// The first statements of each transaction.
    begin: String,
}

impl Session {
    /// Connects, within the limit of the server's options.
    pub(super) async fn connect(server: &PostgresServer) -> Result<Self, OutboxError> {
        let mut config = server.config()?;
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        // The limit is of the connection alone: a host that accepts it and does not answer takes all of the time, so that the
        // next attempt has to begin with another one.
        config.load_balance_hosts(LoadBalanceHosts::Random);
        // The limit of each host, and of what follows.
        let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
        let limit = server.connect_timeout().saturating_mul(hosts.saturating_add(1));
        let connected = async {
            match server.tls() {
                None => config.connect(NoTls).await.map(|(client, io)| (client, drive(io))),
                Some(tls) => config
                    .connect(Rustls(tls))
                    .await
                    .map(|(client, io)| (client, drive(io))),
            }
        };
        let connected = within(limit, connected).await;
        let connected = connected.ok_or_else(|| OutboxError::Unreachable("connecting took too long".into()))?;
        let (client, io) = connected.map_err(|error| postgres_error(&error))?;
        Ok(Self {
            client,
            io,
            schema: server.schema().to_owned(),
            begin: begin(server.statement_timeout()),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> Transaction<'_> {
        Transaction {
            session: self,
            begun: RefCell::new(Some(sent(self.client.batch_execute(&self.begin)))),
            is_committing: Cell::new(false),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Not only the client: a server that does not answer would keep the connection open.
        self.io.abort();
    }
}

/// Reads and writes until the connection ends.
fn drive<T>(io: Connection<Socket, T>) -> JoinHandle<()>
where
    T: TlsStream + Unpin + 'static,
{
    spawn(async move {
        if let Err(error) = io.await {
            ignore_panic(|| debug!("a connection of the outbox ended: {error}"));
        }
    })
}

/// The settings of a transaction: a queue's statistics are always out of date, so that plans must not depend on them.
fn begin(statement_timeout: Duration) -> String {
    const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(2);
    let lock_timeout = statement_timeout.min(LONGEST_LOCK_WAIT).as_millis();
    let idle_timeout = statement_timeout.saturating_mul(2).as_millis();
    let statement_timeout = statement_timeout.as_millis();
    format!(
        "BEGIN; SET LOCAL statement_timeout = {statement_timeout}; SET LOCAL lock_timeout = {lock_timeout}; \
         SET LOCAL idle_in_transaction_session_timeout = {idle_timeout}; SET LOCAL tcp_user_timeout = {idle_timeout}; SET LOCAL synchronous_commit = on; \
         SET LOCAL enable_seqscan = off; SET LOCAL jit = off"
    )
}

/// A transaction. What is asked is sent at once, in the order of the calls; the futures are the answers. So statements that
/// do not need each other's answers take one round trip. After an error, the statements behind it change nothing.
pub(super) struct Transaction<'a> {
    session: &'a Session,
    /// The answer to `BEGIN`, until the first statement is answered.
    begun: RefCell<Option<Answer<'a, ()>>>,
    is_committing: Cell<bool>,
}

impl Transaction<'_> {
    /// The name of the schema.
    pub(super) fn schema(&self) -> &str {
        &self.session.schema
    }

    /// Sends a statement. `@` stands for the schema.
    pub(super) fn ask(&self, sql: &str, params: impl IntoIterator<Item = Param>) -> Answer<'_, Vec<Row>> {
        let (sql, client) = (self.qualified(sql), &self.session.client);
        let params: Vec<_> = params.into_iter().map(|param| (param.value, param.kind)).collect();
        self.after_begin(sent(async move {
            client.query_typed_raw(&sql, params).await?.try_collect().await
        }))
    }

    /// Sends statements without parameters and without rows.
    pub(super) fn execute_batch(&self, sql: &str) -> Answer<'_, ()> {
        let (sql, client) = (self.qualified(sql), &self.session.client);
        self.after_begin(sent(async move { client.batch_execute(&sql).await }))
    }

    /// Commits. After an error of an earlier statement, this rolls back, and succeeds nevertheless.
    pub(super) fn commit(&self) -> Answer<'_, ()> {
        self.is_committing.set(true);
        self.execute_batch("COMMIT")
    }

    /// Rolls back, unless the end of the transaction was sent already.
    pub(super) async fn roll_back(&self) -> PgResult<()> {
        if self.is_committing.get() {
            return Ok(());
        }
        self.execute_batch("ROLLBACK").await
    }

    /// Whether the transaction may have been committed although its end was not answered.
    pub(super) fn is_committing(&self) -> bool {
        self.is_committing.get()
    }

    fn qualified(&self, sql: &str) -> String {
        sql.replace('@', &format!("\"{}\".", self.session.schema))
    }

    /// The answer, or the error of `BEGIN`.
    fn after_begin<'a, T: 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move {
            let begun = self.begun.borrow_mut().take();
            if let Some(begun) = begun {
                begun.await?;
            }
            answer.await
        })
    }
}

/// Sends what the future sends first, by polling it once.
fn sent<'a, T: 'a>(work: impl Future<Output = PgResult<T>> + 'a) -> Answer<'a, T> {
    let mut work = work.boxed_local();
    match (&mut work).now_or_never() {
        Some(answer) => Box::pin(ready(answer)),
        None => work,
    }
}
