//! Why the outbox could not do its work.

use thiserror::Error;

use super::SharedError;

/// Why the outbox could not store, read or change a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The poster has no outbox: set `OptionsBuilder::outbox`.
    #[error("no outbox is configured")]
    NotConfigured,
    /// The file, or its folder, does not exist.
    #[error("the file or its folder does not exist")]
    NotFound,
    /// The disk is full, or `max_bytes` is reached.
    #[error("no space left: the disk is full or `max_bytes` is reached")]
    Full,
    /// Another process kept the database locked for more than 2 s.
    #[error("the database was locked by another process for more than 2 s")]
    Locked,
    /// The file, or its folder, is not writable: check the permissions of both.
    #[error("the file or its folder is not writable")]
    ReadOnly,
    /// The file is damaged. It was not changed. Move it away with its `-wal` and `-shm`, and recover its content with
    /// `sqlite3 … .recover`.
    #[error("the file is damaged")]
    Corrupt(#[source] SharedError),
    /// The file is not an outbox. It was not changed.
    #[error("the file is not an outbox")]
    NotAnOutbox,
    /// Another version of this crate made the file. It was not changed. A former version can deliver or discard the calls
    /// in an older file, which then can be removed.
    #[error("the file was made by another version of this crate, and has another format")]
    UnsupportedVersion,
    /// No parked call or dead letter has this id: the call was delivered or discarded, is being sent, or the file was
    /// changed externally.
    #[error("no parked call or dead letter has this id")]
    NoSuchCall,
    /// 10,000 calls are waited for already; see [`AwaitDelivery`](crate::outbox::AwaitDelivery).
    #[error("too many calls are waited for")]
    TooManyWaits,
    /// The thread of the outbox has ended.
    #[error("the outbox has stopped")]
    Stopped,
    /// Any other failure of the operating system or of SQLite.
    #[error("the outbox failed")]
    Other(#[source] SharedError),
}
