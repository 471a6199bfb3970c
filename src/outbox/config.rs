//! An outbox in built options.

use std::{path::PathBuf, rc::Rc, sync::Arc};

use tokio::sync::Notify;

use super::{
    location::Location,
    options::OutboxOptions,
    store::{SqliteStore, Store, prepare},
};
#[cfg(feature = "outbox-postgres")]
use super::{location::PostgresServer, prepared::prepared, store::PostgresStore};
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
    Postgres(PostgresServer),
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
            Location::Postgres(server) => Place::Postgres(prepared(server)?),
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
