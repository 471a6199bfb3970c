//! The options of an outbox on PostgreSQL.

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};

use super::postgres_url::PostgresUrl;

/// How long an owner counts as alive after its last word, by the server's clock.
const LEASE: Duration = Duration::from_secs(90);

/// A PostgreSQL server with the schema of an outbox; for [`OutboxOptions::postgres`](crate::outbox::OutboxOptions::postgres).
///
/// | option | default |
/// |---|---|
/// | `password`, `password_file` | that of the URL, or else of the variable `PGPASSWORD` |
/// | `schema` | `result_poster` |
/// | `statement_timeout` | 5 s |
/// | `connect_timeout` | that of the URL, or else 5 s |
/// | `add_root_certificates_pem` | none |
///
/// The URL has the form that libpq reads: `postgres://user@host:5432/database`. It may name several hosts
/// (`postgres://user@a,b/database`): the first that accepts writes is used. `?host=/run/postgresql` is a Unix socket.
///
/// **TLS** is required, and the certificate is verified against the host's roots, unless the server is on loopback or on
/// a Unix socket, or the URL says `sslmode=disable`. `sslmode=verify-full` and `verify-ca` count as `require`, which
/// verifies the name, too. `sslmode=prefer` and `allow` are refused for a server elsewhere.
///
/// Nothing is checked before [`OutboxOptionsBuilder::build`](crate::outbox::OutboxOptionsBuilder::build).
///
/// ```
/// use result_poster::outbox::{OutboxOptions, PostgresOptions};
///
/// let server = PostgresOptions::new("postgres://runner@db.internal/runner")
///     .password("s3cret")
///     .schema("results");
/// assert!(!format!("{server:?}").contains("s3cret"));
/// # let server = PostgresOptions::new("postgres://runner@localhost/runner");
/// let outbox = OutboxOptions::postgres(server).queue("production").build()?;
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct PostgresOptions {
    pub(super) url: SecretString,
    pub(super) password: Option<Password>,
    pub(super) schema: String,
    pub(super) statement_timeout: Duration,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) root_certificates: Vec<Vec<u8>>,
    pub(super) lease: Duration,
}

/// The password of the role, or where it is.
#[derive(Clone)]
pub(super) enum Password {
    Text(SecretString),
    File(PathBuf),
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one.expose_secret() == other.expose_secret(),
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Text(_), Self::File(_)) | (Self::File(_), Self::Text(_)) => false,
        }
    }
}

impl PostgresOptions {
    /// The server at this URL, with the defaults.
    pub fn new(url: impl Into<SecretString>) -> Self {
        Self {
            url: url.into(),
            password: None,
            schema: "result_poster".to_owned(),
            statement_timeout: Duration::from_secs(5),
            connect_timeout: None,
            root_certificates: Vec::new(),
            lease: LEASE,
        }
    }

    /// The password of the role, instead of that of the URL. Default: none.
    ///
    /// Of this and [`password_file`](Self::password_file), the last one that was set applies.
    pub fn password(mut self, password: impl Into<SecretString>) -> Self {
        self.password = Some(Password::Text(password.into()));
        self
    }

    /// A file with the password of the role, in one line. It is read for each connection, so a password that is rotated
    /// is used without a restart. Default: none.
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password = Some(Password::File(path.into()));
        self
    }

    /// The schema with the tables of the outbox. It is created if there is none. 1 to 48 lower-case letters, digits and
    /// `_`, not beginning with a digit or `pg_`. Default: `result_poster`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// How long the server may take for one statement, from 100 ms to 20 s. A message that can't be stored within this
    /// time is sent all the same, and its receipt says so. Default: 5 s.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// How long a connection to one host may take, from 100 ms to 20 s. Default: that of the URL, or else 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Trusts these root certificates, in PEM, besides those of the host. May be called several times. Default: none.
    pub fn add_root_certificates_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// How long a poster counts as alive after its last word, for tests that can't wait 90 s.
    #[cfg(feature = "__bridge")]
    #[doc(hidden)]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// The longest time limit of a request: no request is sent that could end after the lease.
    pub(super) fn longest_timeout(&self) -> Duration {
        self.lease.checked_div(3).unwrap_or_default()
    }
}

impl From<&str> for PostgresOptions {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for PostgresOptions {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl PartialEq for PostgresOptions {
    fn eq(&self, other: &Self) -> bool {
        self.url.expose_secret() == other.url.expose_secret()
            && self.password == other.password
            && self.schema == other.schema
            && self.statement_timeout == other.statement_timeout
            && self.connect_timeout == other.connect_timeout
            && self.root_certificates == other.root_certificates
            && self.lease == other.lease
    }
}

impl Eq for PostgresOptions {}

impl fmt::Display for PostgresOptions {
    /// The URL without its password and its parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PostgresUrl::parse(self.url.expose_secret()) {
            Ok(url) => url.fmt(f),
            // Any part of it may be a password.
            Err(_) => f.write_str("postgres://…"),
        }
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("url", &self.to_string())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
