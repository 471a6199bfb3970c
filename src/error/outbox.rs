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
    /// The file, or its folder, does not exist; on a server, the schema.
    #[error("the file, its folder or the schema does not exist")]
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
    /// There is no connection to a server that writes: it is down, starting or a replica, its name has no address, its
    /// certificate is not trusted, or it has no free connection. The poster tries again, and sends messages without storing
    /// them meanwhile.
    #[error("the server can't be reached")]
    Unreachable(#[source] SharedError),
    /// The server did not answer within `statement_timeout`, or 10,000 cancelled messages or 64 MiB of them wait for the
    /// outbox already: it is overloaded, or its disk is slow.
    #[error("the outbox did not answer in time")]
    TimedOut,
    /// The server refuses the role or its password, has no such database, or the role lacks a permission: see `docs::postgres` for
    /// those that it needs.
    #[error("the server denies access")]
    Denied(#[source] SharedError),
    /// The database is damaged. It was not changed. Move a file away with its `-wal` and `-shm`, and recover its content with
    /// `sqlite3 … .recover`.
    #[error("the database is damaged")]
    Corrupt(#[source] SharedError),
    /// The file, or the schema, is not an outbox. It was not changed.
    #[error("the file or schema is not an outbox")]
    NotAnOutbox,
    /// Another version of this crate made the file or the schema. It was not changed. A former version can deliver or discard the calls
    /// in an older file, which then can be removed.
    #[error("the file or schema was made by another version of this crate, and has another format")]
    UnsupportedVersion,
    /// No parked call or dead letter has this id: the call was delivered or discarded, is being sent, or the file was
    /// changed externally.
    #[error("no parked call or dead letter has this id")]
    NoSuchCall,
    /// 10,000 calls are waited for already; see [`AwaitDelivery`](crate::outbox::AwaitDelivery).
    #[error("too many calls are waited for")]
    TooManyWaits,
    /// The thread of the outbox, or its connection, was closed.
    #[error("the outbox has stopped")]
    Stopped,
    /// Any other failure of the operating system or of the database.
    #[error("the outbox failed")]
    Other(#[source] SharedError),
}
