//! An outbox in built options.

use super::{options::OutboxOptions, writer::Writer};
use crate::error::OptionsError;

/// The outbox in built options: its file is open.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(super) options: OutboxOptions,
    pub(super) writer: Writer,
}

impl Config {
    /// Opens the file.
    pub(crate) fn open(options: OutboxOptions) -> Result<Self, OptionsError> {
        let writer = Writer::start(options.path().to_owned(), options.max_bytes()).map_err(|error| {
            let reason = format!("can't use the file {}", options.path().display());
            OptionsError::new("outbox", reason).with_source(error)
        })?;
        Ok(Self { options, writer })
    }
}
