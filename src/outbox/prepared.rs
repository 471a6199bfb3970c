//! The check of a server when options are built.

use log::warn;

use super::{
    location::{PostgresOptions, PostgresServer},
    store::prepare_server,
};
use crate::{
    error::{OptionsError, OutboxError},
    util::{chain, ignore_panic},
};

/// How the cause of a failed connection begins if waiting does not help: the options are wrong, or the server is.
const LASTING: [&str; 2] = ["invalid peer certificate", "server does not support TLS"];

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
    if let OutboxError::Unreachable(cause) = error {
        return !LASTING.iter().any(|fault| cause.to_string().starts_with(fault));
    }
    matches!(error, OutboxError::TimedOut | OutboxError::Locked | OutboxError::Full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_not_trusted_is_no_better_later() {
        for (cause, is_expected) in [
            ("Connection refused (os error 111)", true),
            ("the database system is starting up", true),
            ("invalid peer certificate: UnknownIssuer", false),
            ("server does not support TLS", false),
        ] {
            assert_eq!(
                is_passing(&OutboxError::Unreachable(cause.into())),
                is_expected,
                "{cause}"
            );
        }
        assert!(is_passing(&OutboxError::TimedOut));
        assert!(!is_passing(&OutboxError::Denied("no such role".into())));
        assert!(!is_passing(&OutboxError::NotAnOutbox));
    }
}
