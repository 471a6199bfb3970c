//! Errors of the server and of its connections as [`OutboxError`], and what may be done again after one.

use std::error::Error as _;

use tokio_postgres::{Error, error::SqlState};

use crate::error::OutboxError;

pub(super) type PgResult<T> = Result<T, Error>;

/// The error without what differs from one failure to the next of the same trouble.
pub(super) fn postgres_error(error: &Error) -> OutboxError {
    let Some(state) = error.code() else {
        return OutboxError::Unreachable(text(error).into());
    };
    let cause = || text(error).into();
    match state.code() {
        "53100" => OutboxError::Full,
        "55P03" | "40P01" | "40001" | "25P02" => OutboxError::Locked,
        "57014" => OutboxError::TimedOut,
        "3F000" | "42P01" | "42883" => OutboxError::NotFound,
        "42501" | "3D000" => OutboxError::Denied(cause()),
        // A replica: another host may write.
        "25006" | "53300" | "57P01" | "57P02" | "57P03" => OutboxError::Unreachable(cause()),
        "XX001" | "XX002" => OutboxError::Corrupt(cause()),
        code if code.starts_with("28") => OutboxError::Denied(cause()),
        code if code.starts_with("08") => OutboxError::Unreachable(cause()),
        _ => OutboxError::Other(cause()),
    }
}

/// The server's own words, or the cause of a failed connection: the error itself says "db error".
fn text(error: &Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(error), _) => error.message().to_owned(),
        (None, Some(source)) => source.to_string(),
        (None, None) => error.to_string(),
    }
}

/// Whether the same transaction may succeed if it is tried again at once. A lock that was waited for may be held for long.
pub(super) fn is_conflict(error: &Error) -> bool {
    [&SqlState::T_R_DEADLOCK_DETECTED, &SqlState::T_R_SERIALIZATION_FAILURE]
        .iter()
        .any(|state| error.code() == Some(state))
}

/// Whether the connection can't be used any more.
pub(super) fn is_lost(error: &Error) -> bool {
    error.is_closed()
        || match error.as_db_error() {
            Some(error) => {
                let code = error.code().code();
                // The server has become a replica, or the schema was removed: then a new connection creates it.
                let is_of_session = ["25006", "25P03", "3F000", "42P01", "42883"].contains(&code);
                is_of_session || code.starts_with("08") || code.starts_with("57P")
            }
            // Of a value that could not be read or written, or of the connection.
            None => error.source().is_some_and(|source| source.is::<std::io::Error>()),
        }
}
