//! Errors of SQLite and of the operating system as [`OutboxError`]. Functions, since a `From` would make SQLite's error
//! type part of the public interface.

use std::io;

use rusqlite::ErrorCode;

use crate::error::OutboxError;

pub(super) fn sqlite_error(error: rusqlite::Error) -> OutboxError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => OutboxError::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OutboxError::Locked,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => OutboxError::ReadOnly,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OutboxError::Corrupt(error.into()),
        _ => OutboxError::Other(error.into()),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "any other kind says enough itself")]
pub(super) fn io_error(error: io::Error) -> OutboxError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OutboxError::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OutboxError::ReadOnly,
        io::ErrorKind::NotFound => OutboxError::NotFound,
        _ => OutboxError::Other(error.into()),
    }
}
