//! Connecting, and running a transaction within its limit of time.

use std::time::Duration;

use super::{
    error::{PgResult, is_conflict, is_lost, postgres_error},
    owner::Owner,
    schema::{created_at, migrate},
    session::{Session, Transaction},
};
use crate::{clock::within, error::OutboxError, outbox::location::PostgresServer};

/// How much longer than one statement a transaction may take.
const MARGIN: Duration = Duration::from_secs(1);

/// Why a transaction was not committed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server refuses it.
    Refused(OutboxError),
    /// It may succeed if it is tried again.
    Conflict(OutboxError),
    /// The connection can't be used any more. If that is in doubt, it was perhaps committed nevertheless.
    Lost { error: OutboxError, is_in_doubt: bool },
}

impl Failed {
    pub(super) fn into_error(self) -> OutboxError {
        match self {
            Self::Refused(error) | Self::Conflict(error) | Self::Lost { error, .. } => error,
        }
    }
}

/// Connects, and migrates the schema if it is not current. Returns the connection, and when the tables were created.
pub(super) async fn connect(server: &PostgresServer) -> Result<(Session, i64), OutboxError> {
    let session = Session::connect(server).await?;
    let transaction = session.begin();
    let migrated = within(limit(server), async {
        if let Err(error) = migrate(&transaction).await? {
            return Ok(Err(error));
        }
        let created_at = created_at(&transaction).await?;
        transaction.commit().await?;
        Ok(Ok(created_at))
    });
    let migrated = migrated.await.ok_or(OutboxError::TimedOut)?;
    let created_at = migrated.map_err(|error: tokio_postgres::Error| postgres_error(&error))??;
    drop(transaction);
    Ok((session, created_at))
}

/// Does work in a transaction, and commits it, unless the work did so.
pub(super) async fn transact<T>(
    session: &Session,
    server: &PostgresServer,
    owner: &mut Owner,
    work: impl AsyncFnOnce(&mut Owner, &Transaction<'_>) -> PgResult<T>,
) -> Result<T, Failed> {
    owner.begin_transaction();
    let transaction = session.begin();
    let done = within(limit(server), async {
        match work(owner, &transaction).await {
            Ok(output) => {
                if !transaction.is_committing() {
                    transaction.commit().await?;
                }
                Ok(output)
            }
            Err(error) => {
                // Its error says less.
                let _ = transaction.roll_back().await;
                Err(error)
            }
        }
    });
    let lost = |error| Failed::Lost {
        error,
        is_in_doubt: transaction.is_committing(),
    };
    match done.await {
        Some(Ok(output)) => {
            owner.committed();
            Ok(output)
        }
        Some(Err(error)) => Err(if is_lost(&error) || session.is_closed() {
            lost(postgres_error(&error))
        } else if is_conflict(&error) {
            Failed::Conflict(postgres_error(&error))
        } else {
            Failed::Refused(postgres_error(&error))
        }),
        None => Err(lost(OutboxError::TimedOut)),
    }
}

/// Undoes what was committed without an answer, as if it had not been.
pub(super) async fn resolve_doubts(
    session: &Session,
    server: &PostgresServer,
    owner: &mut Owner,
) -> Result<(), OutboxError> {
    if owner.has_doubts() {
        transact(session, server, owner, Owner::resolve_doubts)
            .await
            .map_err(Failed::into_error)?;
        owner.forget_doubts();
    }
    Ok(())
}

/// The longest time that a transaction may take.
pub(super) fn limit(server: &PostgresServer) -> Duration {
    server.statement_timeout().saturating_add(MARGIN)
}
