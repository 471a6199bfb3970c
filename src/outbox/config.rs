//! An outbox in built options.

use std::{path::PathBuf, rc::Rc, sync::Arc};

use tokio::sync::Notify;

#[cfg(feature = "outbox-postgres")]
use super::store::PostgresStore;
use super::{
    location::Location,
    options::OutboxOptions,
    store::{SqliteStore, Store, prepare},
};
use crate::error::OptionsError;

/// An outbox in built options: it was checked, and is closed.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(super) options: OutboxOptions,
    place: Place,
}

/// A location that was checked.
#[derive(Debug, Clone)]
enum Place {
    /// The absolute path, without links.
    File(PathBuf),
    #[cfg(feature = "outbox-postgres")]
    Postgres(super::location::PostgresServer),
}

impl Config {
    /// Checks the outbox, and creates it if there is none.
    pub(crate) fn open(options: OutboxOptions) -> Result<Self, OptionsError> {
        let place = match options.location() {
            Location::File(path) => {
                // The options may not be from a builder.
                options.location().check()?;
                Place::File(prepare(path).map_err(|error| {
                    let reason = format!("can't use the file {}", path.display());
                    OptionsError::new("outbox", reason).with_source(error)
                })?)
            }
            #[cfg(feature = "outbox-postgres")]
            Location::Postgres(server) => Place::Postgres(on_server::prepared(server)?),
        };
        Ok(Self { options, place })
    }

    /// A new owner in the store, and what wakes it.
    pub(super) fn store(&self, queue: String) -> (Rc<dyn Store>, Arc<Notify>) {
        let max_bytes = self.options.max_bytes();
        match &self.place {
            Place::File(path) => {
                let store = SqliteStore::open(path, queue, max_bytes);
                let wake = store.wake();
                (store, wake)
            }
            #[cfg(feature = "outbox-postgres")]
            Place::Postgres(server) => {
                let store = PostgresStore::open(server.clone(), queue, max_bytes);
                let wake = store.wake();
                (store, wake)
            }
        }
    }
}

#[cfg(feature = "outbox-postgres")]
mod on_server {
    use log::warn;

    use super::super::{
        location::{PostgresOptions, PostgresServer},
        store::prepare_server,
    };
    use crate::{
        error::{OptionsError, OutboxError},
        util::{chain, ignore_panic},
    };

    /// Checks the server and the schema, which is created if there is none. A server that may be reached later is no error of
    /// the options: the poster tries again.
    pub(super) fn prepared(options: &PostgresOptions) -> Result<PostgresServer, OptionsError> {
        let server = PostgresServer::new(options)?;
        match prepare_server(&server) {
            Ok(()) => {}
            Err(error) if is_passing(&error) => {
                let error = chain(&error);
                ignore_panic(|| {
                    warn!(
                        "the outbox on {server} can't be used yet: {error}; \
                         until it can, calls are sent without being stored"
                    );
                });
            }
            Err(error) => {
                let reason = format!("can't use the schema {:?} on {server}", server.schema());
                return Err(OptionsError::new("outbox", reason).with_source(error));
            }
        }
        Ok(server)
    }

    fn is_passing(error: &OutboxError) -> bool {
        matches!(
            error,
            OutboxError::Unreachable(_) | OutboxError::TimedOut | OutboxError::Locked | OutboxError::Full
        )
    }
}
