//! A PostgreSQL server in checked options.

use std::{env, ffi::OsString, fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use rustls::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::config::{Config, SslMode};

use super::{
    postgres::{Password, PostgresOptions},
    postgres_url::PostgresUrl,
};
use crate::{
    credentials::secret_file,
    error::{OptionsError, OutboxError},
    transport::tls_config,
};

/// The limits of a time that an option may name.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(20);

/// The longest name of a schema: names derived from it have to fit into the 63 bytes of a name.
const MAX_SCHEMA_BYTES: usize = 48;

/// The variable of libpq that holds the password.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

/// After this time without a word, a server is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A PostgreSQL server in checked options.
#[derive(Clone)]
pub(in crate::outbox) struct PostgresServer(Arc<Inner>);

struct Inner {
    url: PostgresUrl,
    password: Option<Password>,
    /// `None`: connections are in plaintext.
    tls: Option<Arc<ClientConfig>>,
    schema: String,
    statement_timeout: Duration,
    connect_timeout: Duration,
    lease: Duration,
}

impl PostgresServer {
    /// Checks the options, and reads the host's root certificates if there may be TLS.
    pub(in crate::outbox) fn new(options: &PostgresOptions) -> Result<Self, OptionsError> {
        Self::with_password(options, env::var_os(PASSWORD_VARIABLE))
    }

    /// As [`new`](Self::new), with the value of the variable.
    pub(super) fn with_password(options: &PostgresOptions, variable: Option<OsString>) -> Result<Self, OptionsError> {
        let mut url = PostgresUrl::parse(options.url.expose_secret())
            .map_err(|reason| OptionsError::new("outbox.url", reason))?;
        check_schema(&options.schema)?;
        let in_url = url.config.get_connect_timeout().copied();
        let default = Duration::from_secs(5);
        let connect_timeout = options.connect_timeout.or(in_url).unwrap_or(default);
        for (option, timeout) in [
            ("outbox.statement_timeout", options.statement_timeout),
            ("outbox.connect_timeout", connect_timeout),
        ] {
            if !TIMEOUTS.contains(&timeout) {
                return Err(OptionsError::new(option, "is not from 100 ms to 20 s"));
            }
        }
        url.config.connect_timeout(connect_timeout);
        url.config.keepalives_idle(KEEP_ALIVE).keepalives_interval(KEEP_ALIVE);
        if url.config.get_application_name().is_none() {
            url.config.application_name("result-poster");
        }
        let has_password = url.config.get_password().is_some();
        let password = match (&options.password, has_password) {
            (Some(password), _) => Some(password.clone()),
            (None, true) => None,
            (None, false) => of_variable(variable)?,
        };
        if let Some(Password::File(path)) = &password {
            secret_file::read_line(path).map_err(|refused| {
                let reason = format!("names {path:?}, {refused}");
                OptionsError::new("outbox.password_file", reason)
            })?;
        }
        let is_plaintext = url.config.get_ssl_mode() == SslMode::Disable;
        let tls = (!is_plaintext).then(|| tls(&options.root_certificates)).transpose()?;
        Ok(Self(Arc::new(Inner {
            url,
            password,
            tls,
            schema: options.schema.clone(),
            statement_timeout: options.statement_timeout,
            connect_timeout,
            lease: options.lease,
        })))
    }

    /// The configuration of a new connection, with the present password.
    ///
    /// # Errors
    ///
    /// [`OutboxError::Denied`] if the file of the password can't be read.
    pub(in crate::outbox) fn config(&self) -> Result<Config, OutboxError> {
        let mut config = self.0.url.config.clone();
        match &self.0.password {
            None => {}
            Some(Password::Text(password)) => {
                config.password(password.expose_secret());
            }
            Some(Password::File(path)) => {
                let password = secret_file::read_line(path)
                    .map_err(|refused| OutboxError::Denied(format!("the password is in {path:?}, {refused}").into()))?;
                config.password(password.expose_secret());
            }
        }
        Ok(config)
    }

    /// The TLS of a connection. `None`: it is in plaintext.
    pub(in crate::outbox) fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.0.tls.clone()
    }

    /// The name of the schema, which needs no quotes.
    pub(in crate::outbox) fn schema(&self) -> &str {
        &self.0.schema
    }

    pub(in crate::outbox) fn statement_timeout(&self) -> Duration {
        self.0.statement_timeout
    }

    pub(in crate::outbox) fn connect_timeout(&self) -> Duration {
        self.0.connect_timeout
    }

    /// How long an owner counts as alive after its last word, by the server's clock.
    pub(in crate::outbox) fn lease(&self) -> Duration {
        self.0.lease
    }
}

fn of_variable(value: Option<OsString>) -> Result<Option<Password>, OptionsError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let text = value.into_string();
    let text = text.map_err(|_| OptionsError::new("outbox.password", "in the variable PGPASSWORD is not Unicode"))?;
    Ok(Some(Password::Text(SecretString::from(text))))
}

/// Only names that mean the same with quotes and without.
fn check_schema(name: &str) -> Result<(), OptionsError> {
    let refuse = |reason: &str| Err(OptionsError::new("outbox.schema", reason));
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match name.as_bytes() {
        [] => refuse("is empty"),
        bytes if bytes.len() > MAX_SCHEMA_BYTES => refuse("is longer than 48 bytes"),
        bytes if !bytes.iter().copied().all(is_plain) => refuse("may only have lower-case letters, digits and `_`"),
        [b'0'..=b'9', ..] => refuse("begins with a digit"),
        _ if name.starts_with("pg_") => refuse("begins with `pg_`, as the server's own schemas do"),
        _ => Ok(()),
    }
}

fn tls(root_certificates: &[Vec<u8>]) -> Result<Arc<ClientConfig>, OptionsError> {
    let mut config = tls_config(root_certificates, None).map_err(|mut error| {
        error.option = "outbox.add_root_certificates_pem";
        error
    })?;
    config.alpn_protocols = Vec::new();
    Ok(Arc::new(config))
}

impl fmt::Display for PostgresServer {
    /// The URL without its password and its parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.url.fmt(f)
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            schema,
            statement_timeout,
            connect_timeout,
            ..
        } = &*self.0;
        f.debug_struct("PostgresServer")
            .field("url", &self.0.url.to_string())
            .field("schema", schema)
            .field("statement_timeout", statement_timeout)
            .field("connect_timeout", connect_timeout)
            .finish_non_exhaustive()
    }
}
