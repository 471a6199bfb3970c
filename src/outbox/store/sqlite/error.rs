//! Errors of SQLite and of the operating system as [`OutboxError`]. Functions, since a `From` would make SQLite's error
//! type part of the public interface.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use rusqlite::ErrorCode;

use crate::error::OutboxError;

pub(super) fn sqlite_error(error: rusqlite::Error) -> OutboxError {
    // Only its text: its source says the same once more.
    let cause = || error.to_string().into();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => OutboxError::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OutboxError::Locked,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => OutboxError::ReadOnly,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OutboxError::Corrupt(cause()),
        _ => OutboxError::Other(cause()),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the text of any other kind says enough")]
pub(super) fn io_error(error: io::Error) -> OutboxError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OutboxError::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OutboxError::ReadOnly,
        io::ErrorKind::NotFound => OutboxError::NotFound,
        _ => OutboxError::Other(error.into()),
    }
}

/// Runs a step of a job. A panic in it is an error of this job.
pub(super) fn catch<T>(work: impl FnOnce() -> Result<T, OutboxError>) -> Result<T, OutboxError> {
    // The panic hook has already reported it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(OutboxError::Other("a job panicked".into())))
}
