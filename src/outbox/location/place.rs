//! The location of an outbox.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "outbox-postgres")]
use super::{postgres::PostgresOptions, server::PostgresServer};
use crate::error::OptionsError;

/// Where an outbox is. As text its path, or its URL without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::outbox) enum Location {
    /// An SQLite database.
    File(PathBuf),
    /// A schema of a PostgreSQL database.
    #[cfg(feature = "outbox-postgres")]
    Postgres(PostgresOptions),
}

impl Location {
    pub(in crate::outbox) fn check(&self) -> Result<(), OptionsError> {
        match self {
            Self::File(path) => check_path(path),
            #[cfg(feature = "outbox-postgres")]
            Self::Postgres(options) => PostgresServer::new(options).map(drop),
        }
    }

    /// The longest time limit of a request. `None`: any.
    pub(in crate::outbox) fn longest_timeout(&self) -> Option<Duration> {
        match self {
            Self::File(_) => None,
            #[cfg(feature = "outbox-postgres")]
            Self::Postgres(options) => Some(options.longest_timeout()),
        }
    }
}

/// The file itself is checked when it is opened.
fn check_path(path: &Path) -> Result<(), OptionsError> {
    let refuse = |reason: &str| Err(OptionsError::new("outbox.path", reason));
    if path.as_os_str().is_empty() {
        return refuse("is empty");
    }
    // Errors and log lines would show its password.
    if path.to_str().is_some_and(|path| path.contains("://")) {
        return refuse("is a URL: use `OutboxOptions::postgres`, or `outbox.url` in a configuration");
    }
    Ok(())
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            #[cfg(feature = "outbox-postgres")]
            Self::Postgres(options) => options.fmt(f),
        }
    }
}
