//! An outbox in built options.

use std::path::PathBuf;

use super::{location::Location, options::OutboxOptions, store::prepare};
use crate::error::OptionsError;

/// An outbox in built options: its file was checked, and is closed.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(super) options: OutboxOptions,
    /// The absolute path, without links.
    pub(super) path: PathBuf,
}

impl Config {
    /// Checks the file, and creates it if there is none.
    pub(crate) fn open(options: OutboxOptions) -> Result<Self, OptionsError> {
        let path = match options.location() {
            Location::File(path) => prepare(path).map_err(|error| {
                let reason = format!("can't use the file {}", path.display());
                OptionsError::new("outbox", reason).with_source(error)
            })?,
            #[cfg(feature = "outbox-postgres")]
            Location::Postgres(_) => return Err(OptionsError::new("outbox.url", "can't be used by this version")),
        };
        Ok(Self { options, path })
    }
}
