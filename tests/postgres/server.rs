//! The server of the tests, and a schema of it for each test.

use std::{
    env,
    io::Write as _,
    process::{Command, Stdio},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::{child::ServerPlan, tools::LIMIT};

/// The lease of the tests' owners. Attempts have to end within a third of it.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// A test that restarts the server runs alone; the others run beside each other.
static SERVER: RwLock<()> = RwLock::new(());

/// For a test that leaves the server alone.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    SERVER.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// For a test that disturbs others.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    SERVER.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How a test reaches the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    PgBouncer,
}

impl Way {
    fn variable(self) -> &'static str {
        match self {
            Self::Direct => "RESULT_POSTER_POSTGRES",
            Self::PgBouncer => "RESULT_POSTER_PGBOUNCER",
        }
    }
}

/// A variable of the tests. If it is missing, says which test is not run, or fails it in CI.
pub(crate) fn variable(name: &str, test: &str) -> Option<String> {
    let value = env::var(name).ok();
    if value.is_none() {
        let hint = format!("{name} is not set (`eval \"$(.ci/postgres start DIR)\"` starts a server and sets it)");
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "{test}: {hint}");
        // Not captured by the harness.
        let _ = writeln!(std::io::stderr(), "not run: {test}: {hint}");
    }
    value
}

/// A way to the server.
pub(crate) struct Route {
    /// `host:port`.
    pub(crate) address: String,
    url: String,
}

impl Route {
    /// `None`: there is no server.
    pub(crate) fn new(way: Way, test: &str) -> Option<Self> {
        let url = variable(way.variable(), test)?;
        let (_, rest) = url.split_once('@').unwrap();
        let (address, _) = rest.split_once('/').unwrap();
        Some(Self {
            address: address.to_owned(),
            url,
        })
    }

    /// The URL by a proxy that listens on this port.
    pub(crate) fn url_by(&self, port: u16) -> String {
        self.url.replace(&self.address, &format!("127.0.0.1:{port}"))
    }
}

/// A schema that is dropped in the end.
pub(crate) struct Database {
    /// Past PgBouncer and all proxies.
    url: String,
    pub(crate) route: Route,
    pub(crate) schema: String,
}

impl Database {
    /// `None`: there is no server.
    pub(crate) fn new(way: Way, test: &str) -> Option<Self> {
        Some(Self {
            url: Route::new(Way::Direct, test)?.url,
            route: Route::new(way, test)?,
            schema: format!("test_{:016x}", rand::random::<u64>()),
        })
    }

    pub(crate) fn plan_without_proxy(&self) -> ServerPlan {
        self.plan(self.route.url.clone())
    }

    pub(crate) fn plan(&self, url: String) -> ServerPlan {
        ServerPlan {
            url,
            schema: self.schema.clone(),
            lease_ms: LEASE.as_millis() as u64,
            statement_timeout_ms: STATEMENT_TIMEOUT.as_millis() as u64,
        }
    }

    /// The rows of a statement, in which `@` stands for the schema and a dot. Tries again while the server is away.
    pub(crate) fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let sql = sql.replace('@', &format!("{}.", self.schema));
        let start = Instant::now();
        loop {
            match query(&self.url, &sql) {
                Ok(rows) => return rows,
                Err(error) => assert!(
                    start.elapsed() < LIMIT
                        && error
                            .as_db_error()
                            .is_none_or(|error| error.code().code().starts_with("57P")),
                    "{sql}: {error:?}"
                ),
            }
            sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn count(&self, table: &str) -> u64 {
        self.query(&format!("SELECT count(*) FROM @{table}"))[0][0]
            .parse()
            .unwrap()
    }

    /// Waits until all calls are delivered, as long as there are fewer and fewer.
    pub(crate) fn is_emptied(&self) {
        let (mut fewest, mut since) = (u64::MAX, Instant::now());
        while fewest > 0 {
            let left = self.count("calls");
            if left < fewest {
                (fewest, since) = (left, Instant::now());
            }
            assert!(
                since.elapsed() < LIMIT,
                "{left} calls are left: {:#?}",
                self.query(
                    "SELECT state, owner, reason, attempts, kind, target_id, next_attempt_at FROM @outbox LIMIT 20"
                )
            );
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let dropped = query(&self.url, &format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema));
        if !thread::panicking() {
            dropped.unwrap();
        }
    }
}

/// Runs on a thread of its own, since the test may be in a runtime.
fn query(url: &str, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            let connection = tokio::spawn(connection);
            let messages = client.simple_query(sql).await;
            drop(client);
            let _ = connection.await;
            Ok(messages?.into_iter().filter_map(row).collect())
        })
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn row(message: SimpleQueryMessage) -> Option<Vec<String>> {
    match message {
        SimpleQueryMessage::Row(row) => {
            let value = |index| row.get(index).unwrap_or_default().to_owned();
            Some((0..row.len()).map(value).collect())
        }
        _ => None,
    }
}

/// `pg_ctl` on the server.
pub(crate) struct Control(String);

impl Control {
    /// `None`: the server can't be restarted.
    pub(crate) fn new(test: &str) -> Option<Self> {
        variable("RESULT_POSTER_POSTGRES_CTL", test).map(Self)
    }

    pub(crate) fn run(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.0);
        let status = command.args(arguments).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    }
}
