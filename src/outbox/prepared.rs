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
