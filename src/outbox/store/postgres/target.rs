//! The calls of one target.

use super::{
    error::PgResult,
    inspect::{entries, entry},
    params::text,
    session::Transaction,
};
use crate::outbox::entry::OutboxEntry;

/// The waiting calls of a lane, and of those that were isolated from it, whose names are in a range.
const WAITING: &str = entries!(
    "'' AS body",
    "target_id = $5 AND calls.lane IN (
        SELECT id FROM @lanes WHERE queue = $1 AND name = $2
        UNION ALL SELECT id FROM @lanes WHERE queue = $1 AND name >= $3 AND name < $4)"
);
/// There is no index of dead letters by their targets: they are few.
const DEAD: &str = entries!("'' AS body", "calls.lane IS NULL AND calls.queue = $1 AND home = $2");

/// The calls about a target, in no order. `isolated` is the range of the names of lanes that were isolated from its lane.
pub(super) async fn of_target(
    transaction: &Transaction<'_>,
    (queue, lane, target_id): (&str, &str, &str),
    isolated: &(String, String),
) -> PgResult<Vec<OutboxEntry>> {
    let (from, to) = (text(&isolated.0), text(&isolated.1));
    let waiting = transaction.ask(WAITING, [text(queue), text(lane), from, to, text(target_id)]);
    let dead = transaction.ask(DEAD, [text(queue), text(lane)]);
    let (waiting, dead) = (waiting.await?, dead.await?);
    waiting.iter().chain(&dead).map(entry).collect()
}
