//! The calls of one target.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::{
    inspect::{entries, entry, state},
    owner_file::Folder,
    rows,
};
use crate::outbox::entry::OutboxEntry;

/// The waiting calls of a lane, and of those that were isolated from it, whose names begin with ?3.
pub(super) const WAITING: &str = entries!(
    "'' AS body",
    "calls.state = 'waiting' AND target_id = ?5 AND calls.lane IN (
        SELECT id FROM lanes WHERE queue = ?1 AND name = ?2
        UNION ALL SELECT id FROM lanes WHERE queue = ?1 AND name >= ?3 AND name < ?4)"
);
/// There is no index of dead letters by their targets: they are few.
pub(super) const DEAD: &str = entries!("'' AS body", "calls.state = 'dead' AND calls.queue = ?1 AND home = ?2");

/// The calls about a target, in no order. `isolated` is the range of the names of lanes that were isolated from its lane.
pub(super) fn of_target(
    connection: &Connection,
    folder: &Folder,
    (queue, lane, target_id): (&str, &str, &str),
    isolated: &(String, String),
) -> rusqlite::Result<Vec<OutboxEntry>> {
    let mut found = Vec::new();
    let mut alive = HashMap::new();
    let mut waiting = connection.prepare_cached(WAITING)?;
    let mut rows = waiting.query(params![queue, lane, isolated.0, isolated.1, target_id])?;
    while let Some(row) = rows.next()? {
        found.push(entry(row, folder, &mut alive));
    }
    let mut dead = connection.prepare_cached(DEAD)?;
    let mut rows = dead.query(params![queue, lane])?;
    while let Some(row) = rows.next()? {
        found.push(entry(row, folder, &mut alive));
    }
    Ok(found)
}
