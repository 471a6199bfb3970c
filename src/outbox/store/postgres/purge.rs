//! Deleting old dead letters.

use tokio_postgres::Row;

use super::{
    error::PgResult,
    params::{number, text},
    session::Transaction,
};

/// How many dead letters are deleted at once.
const PAGE: i64 = 500;

/// The time of death by the platform's clock, which was not known then.
const STAMP: &str = "
    WITH new AS MATERIALIZED (
        SELECT id FROM @calls WHERE lane IS NULL AND queue = $1 AND dead_at IS NULL LIMIT $3 FOR UPDATE SKIP LOCKED
    ) UPDATE @calls AS calls SET dead_at = $2 FROM new WHERE calls.id = new.id RETURNING calls.id";
/// Those that another poster deletes at the same time are left to it.
const PURGE: &str = "
    WITH old AS MATERIALIZED (
        SELECT id FROM @calls WHERE lane IS NULL AND queue = $1 AND dead_at <= $2 LIMIT $3 FOR UPDATE SKIP LOCKED
    ) DELETE FROM @calls USING old WHERE calls.id = old.id RETURNING calls.id";

/// Deletes a page of the dead letters of a queue that died until then, and dates a page of new ones. Returns whether there may be more.
pub(super) async fn purge(transaction: &Transaction<'_>, queue: &str, platform_now: i64, until: i64) -> PgResult<bool> {
    let stamped = transaction.ask(STAMP, [text(queue), number(platform_now), number(PAGE)]);
    let deleted = transaction.ask(PURGE, [text(queue), number(until), number(PAGE)]);
    let is_page = |rows: &[Row]| rows.len() as u64 == PAGE.unsigned_abs();
    let (stamped, deleted) = (stamped.await?, deleted.await?);
    Ok(is_page(&stamped) || is_page(&deleted))
}
