//! Listing and counting calls.
//!
//! Operations that may read many calls read a page at a time, so that other jobs can commit in between.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::WallTime;
use super::{owner_file::Folder, owners::is_alive, rows, schema::used_bytes};
use crate::{
    call_id::CallId,
    clock::Clock,
    error::ParkReason,
    outbox::entry::{EntryOwner, EntryQuery, EntryState, OutboxEntry, OutboxStats},
};

/// How many calls are read at once.
pub(super) const PAGE: u32 = 500;

/// The state of a call of `calls`, joined with its lane.
macro_rules! state {
    () => {
        "CASE WHEN calls.state = 'dead' THEN 'dead_letter' \
         WHEN calls.seq <= lanes.taken AND lanes.owner IS NOT NULL THEN 'live' ELSE 'parked' END"
    };
}

pub(super) use state;

macro_rules! entries {
    ($body:literal, $where:literal) => {
        concat!(
            "SELECT calls.queue, kind, created_at, status_code, last_error, parked_at, parked_at + wait AS due, reason, owner, file, ",
            rows::stored_call_columns!($body),
            ", ",
            state!(),
            " AS entry_state FROM calls LEFT JOIN lanes ON lanes.id = calls.lane \
             LEFT JOIN owners ON owners.id = lanes.owner WHERE ",
            $where
        )
    };
}

pub(super) use entries;

pub(super) const PAGE_END: &str = "
    SELECT max(id) AS id FROM (SELECT id FROM calls WHERE id > ?1 ORDER BY id LIMIT ?2)";
pub(super) const LIST: &str = concat!(
    entries!(
        "CASE WHEN ?8 THEN body END AS body",
        "calls.id > ?1 AND calls.id <= ?2 AND (?3 IS NULL OR calls.queue = ?3) AND (?6 IS NULL OR target_id = ?6)
            AND (?7 IS NULL OR created_at <= ?7) AND (?4 IS NULL OR ?4 = "
    ),
    state!(),
    ") ORDER BY calls.id LIMIT ?5"
);
pub(super) const GET: &str = entries!("body", "calls.id = ?1");
pub(super) const COUNT_END: &str = "
    SELECT lane, seq FROM calls WHERE state = 'waiting' AND (lane, seq) > (?1, ?2) ORDER BY lane, seq LIMIT 1 OFFSET ?3";
/// Reads the lanes and an index, but no call: bodies would make it slow.
pub(super) const COUNT: &str = "
    SELECT count(*) FILTER (WHERE is_mine AND is_live) AS live,
        count(*) FILTER (WHERE is_mine AND NOT is_live) AS parked,
        count(*) FILTER (WHERE NOT is_mine) AS others,
        min(created_at) FILTER (WHERE is_mine) AS oldest
    FROM (SELECT ?5 IS NULL OR coalesce(lanes.queue = ?5, TRUE) AS is_mine, created_at,
        lanes.owner IS NOT NULL AND calls.seq <= lanes.taken AS is_live
        FROM calls LEFT JOIN lanes ON lanes.id = calls.lane
        WHERE calls.state = 'waiting' AND (calls.lane, calls.seq) > (?1, ?2) AND (calls.lane, calls.seq) <= (?3, ?4))";
pub(super) const COUNT_DEAD: &str = "
    SELECT count(*) AS dead_letters FROM calls INDEXED BY calls_by_death
    WHERE state = 'dead' AND queue >= coalesce(?1, '') AND (?1 IS NULL OR queue <= ?1)";
/// A place in the order of all ids. Not a `CallId`, since a damaged id may have any length.
type Cursor = Vec<u8>;

/// The last id of the next page. `None` if there are no more.
fn page_end(connection: &Connection, after: &Cursor) -> rusqlite::Result<Option<Cursor>> {
    connection
        .prepare_cached(PAGE_END)?
        .query_row(params![after, PAGE], |row| row.get("id"))
}

/// A list that is read page by page.
pub(super) struct List {
    query: EntryQuery,
    /// `None`: all queues.
    queue: Option<String>,
    after: Cursor,
    /// The last time of storing, in milliseconds. `None`: at any time.
    stored_until: Option<WallTime>,
    entries: Vec<OutboxEntry>,
}

impl List {
    pub(super) fn new(query: EntryQuery, queue: Option<String>) -> Self {
        let stored_until = query.stored_until(Clock::system().now());
        Self {
            after: query.after.map_or_else(Vec::new, |id| id.to_bytes().to_vec()),
            stored_until: stored_until
                .map(|until| rows::milliseconds(until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())),
            query,
            queue,
            entries: Vec::new(),
        }
    }

    /// Reads a page. `None`: there is more.
    pub(super) fn step(
        &mut self,
        connection: &Connection,
        folder: &Folder,
    ) -> rusqlite::Result<Option<Vec<OutboxEntry>>> {
        let found = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let limit = self.query.limit.saturating_sub(found);
        let end = if limit == 0 {
            None
        } else {
            page_end(connection, &self.after)?
        };
        let Some(end) = end else {
            return Ok(Some(std::mem::take(&mut self.entries)));
        };
        let state = self.query.state.map(EntryState::as_str);
        let mut alive = HashMap::new();
        let mut list = connection.prepare_cached(LIST)?;
        let mut rows = list.query(params![
            self.after,
            end,
            self.queue,
            state,
            limit,
            self.query.target_id,
            self.stored_until,
            !self.query.without_bodies,
        ])?;
        while let Some(row) = rows.next()? {
            self.entries.push(entry(row, folder, &mut alive));
        }
        self.after = end;
        Ok(None)
    }
}

pub(super) fn get(connection: &Connection, folder: &Folder, id: CallId) -> rusqlite::Result<Option<OutboxEntry>> {
    let mut get = connection.prepare_cached(GET)?;
    get.query_row([id.to_bytes()], |row| Ok(entry(row, folder, &mut HashMap::new())))
        .optional()
}

pub(super) fn entry(row: &Row<'_>, folder: &Folder, alive: &mut HashMap<i64, bool>) -> OutboxEntry {
    let call = rows::stored_call(row);
    let state = rows::text(row, "entry_state").parse().unwrap_or(EntryState::Parked);
    let owner = rows::optional_number(row, "owner")
        .filter(|_| state == EntryState::Live)
        .map(|id| {
            let file = rows::text(row, "file");
            EntryOwner {
                id,
                is_alive: *alive.entry(id).or_insert_with(|| is_alive(folder, &file)),
            }
        });
    let is_parked = state == EntryState::Parked;
    let reason = rows::optional_text(row, "reason");
    let is_outage = (reason.as_deref().and_then(|reason| reason.parse().ok())).is_some_and(ParkReason::is_outage);
    OutboxEntry {
        id: call.id,
        state,
        owner,
        kind: rows::text(row, "kind"),
        target_id: call.target_id,
        queue: rows::text(row, "queue"),
        worker_id: call.worker_id,
        idempotency_key: call.idempotency_key,
        body: String::from_utf8_lossy(&call.body).into_owned(),
        attempts: call.history.attempts,
        created_at: rows::time(row, "created_at"),
        parked_at: is_parked.then(|| rows::time(row, "parked_at")),
        next_attempt_at: (is_parked && !is_outage).then(|| rows::time(row, "due")),
        reason: reason.filter(|_| is_parked),
        age: call.history.age,
        status_code: rows::optional_number(row, "status_code").and_then(|code| u16::try_from(code).ok()),
        last_error: rows::optional_text(row, "last_error"),
    }
}

/// Numbers that are added up page by page.
pub(super) struct Count {
    /// `None`: all queues.
    queue: Option<String>,
    /// The lane and the place in it of the last call that was counted.
    after: (i64, i64),
    stats: OutboxStats,
    oldest: Option<SystemTime>,
}

impl Count {
    pub(super) fn new(queue: Option<String>) -> Self {
        Self {
            queue,
            after: (i64::MIN, i64::MIN),
            stats: OutboxStats::default(),
            oldest: None,
        }
    }

    /// Counts a page. `None`: there is more.
    pub(super) fn step(&mut self, connection: &Connection, now: SystemTime) -> rusqlite::Result<Option<OutboxStats>> {
        let stats = &mut self.stats;
        let mut end = connection.prepare_cached(COUNT_END)?;
        let end = end.query_row(params![self.after.0, self.after.1, PAGE], |row| {
            Ok((rows::number(row, "lane"), rows::number(row, "seq")))
        });
        let end = end.optional()?;
        let (lane, seq) = end.unwrap_or((i64::MAX, i64::MAX));
        let mut count = connection.prepare_cached(COUNT)?;
        let page = params![self.after.0, self.after.1, lane, seq, self.queue];
        count.query_row(page, |row| {
            for (total, column) in [
                (&mut stats.live, "live"),
                (&mut stats.parked, "parked"),
                (&mut stats.in_other_queues, "others"),
            ] {
                *total = total.saturating_add(rows::count(row, column));
            }
            let oldest = rows::optional_number(row, "oldest").map(|_| rows::time(row, "oldest"));
            self.oldest = self.oldest.into_iter().chain(oldest).min();
            Ok(())
        })?;
        if end.is_some() {
            self.after = (lane, seq);
            return Ok(None);
        }
        let mut count = connection.prepare_cached(COUNT_DEAD)?;
        stats.dead_letters = count.query_row([&self.queue], |row| Ok(rows::count(row, "dead_letters")))?;
        stats.oldest_age = self
            .oldest
            .map(|oldest| now.duration_since(oldest).unwrap_or(Duration::ZERO));
        stats.bytes = used_bytes(connection)?;
        Ok(Some(std::mem::take(stats)))
    }
}
