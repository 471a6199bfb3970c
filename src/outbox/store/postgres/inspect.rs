//! Listing and counting calls.
//!
//! Operations that may read many calls read a page in each transaction, so that other work is done in between, and no
//! statement takes long.

use std::time::{Duration, SystemTime};

use tokio_postgres::Row;

use super::{
    error::PgResult,
    params::{flag, id, number, optional_number, optional_text},
    rows::{self, milliseconds},
    session::Transaction,
};
use crate::{
    call_id::CallId,
    error::ParkReason,
    outbox::entry::{EntryOwner, EntryQuery, EntryState, OutboxEntry, OutboxStats},
};

/// How many calls are read for a list at once.
const LIST_PAGE: i64 = 2_000;

/// How many calls are counted at once.
const COUNT_PAGE: i64 = 20_000;

/// The state of a call of `calls`, joined with its lane.
macro_rules! state {
    () => {
        "CASE WHEN calls.lane IS NULL THEN 'dead_letter' \
         WHEN calls.seq <= lanes.taken AND lanes.owner IS NOT NULL THEN 'live' ELSE 'parked' END"
    };
}

pub(super) use state;

macro_rules! entries {
    ($body:literal, $from:literal, $where:expr) => {
        concat!(
            "SELECT calls.queue, created_at, status_code, last_error, parked_at, due, reason, lanes.owner,
                coalesce(owners.lease_until > statement_timestamp(), FALSE) AS is_alive, ",
            $crate::outbox::store::postgres::rows::stored_call_columns!($body),
            ", ",
            $crate::outbox::store::postgres::inspect::state!(),
            " AS entry_state FROM ",
            $from,
            " LEFT JOIN @lanes AS lanes ON lanes.id = calls.lane
            LEFT JOIN @owners AS owners ON owners.id = lanes.owner WHERE ",
            $where
        )
    };
}

pub(super) use entries;

/// The last call of a whole page. None if fewer calls are left.
const LIST_END: &str = "SELECT id FROM @calls WHERE id > $1 ORDER BY id OFFSET $2 - 1 LIMIT 1";
/// The limit within the join keeps its order: otherwise it might read the whole table for each page.
const LIST: &str = entries!(
    "CASE WHEN $8 THEN body ELSE '' END AS body",
    "(SELECT id FROM @calls WHERE id > $1 ORDER BY id LIMIT $2) AS page
        JOIN @calls AS calls ON calls.id = page.id",
    concat!(
        "($3::text IS NULL OR calls.queue = $3) AND ($6::text IS NULL OR target_id = $6)
            AND ($7::bigint IS NULL OR created_at <= @now_ms() - $7) AND ($4::text IS NULL OR $4 = ",
        state!(),
        ") ORDER BY calls.id LIMIT $5"
    )
);
const GET: &str = entries!("body", "@calls AS calls", "calls.id = $1");

/// Reads the lanes and an index, but no call.
const COUNT: &str = "
    WITH page AS MATERIALIZED (
        SELECT lane, seq, created_at FROM @calls
        WHERE lane IS NOT NULL AND (lane, seq) > ($1, $2) ORDER BY lane, seq LIMIT $3
    ), counted AS (
        SELECT page.*, coalesce($4::text IS NULL OR lanes.queue = $4, TRUE) AS is_mine,
            coalesce(lanes.owner IS NOT NULL AND page.seq <= lanes.taken, FALSE) AS is_live
        FROM page LEFT JOIN @lanes AS lanes ON lanes.id = page.lane AND lanes.id >= $1
    )
    SELECT count(*) FILTER (WHERE is_mine AND is_live) AS live,
        count(*) FILTER (WHERE is_mine AND NOT is_live) AS parked,
        count(*) FILTER (WHERE NOT is_mine) AS others,
        min(created_at) FILTER (WHERE is_mine) AS oldest,
        count(*) AS size,
        (SELECT lane FROM page ORDER BY lane DESC, seq DESC LIMIT 1) AS last_lane,
        (SELECT seq FROM page ORDER BY lane DESC, seq DESC LIMIT 1) AS last_seq
    FROM counted";
const COUNT_THE_REST: &str = "
    SELECT (SELECT count(*) FROM @calls WHERE lane IS NULL AND ($1::text IS NULL OR queue = $1)) AS dead_letters,
        (SELECT sum(bytes)::bigint FROM @usage) AS bytes, @now_ms() AS now";

/// The calls of one page of a list that match, and where the next page begins.
pub(super) struct ListPage {
    pub(super) entries: Vec<OutboxEntry>,
    /// `None`: there are no more calls.
    pub(super) end: Option<CallId>,
}

/// Reads the page after this call, of all queues if none is named.
pub(super) async fn list(
    transaction: &Transaction<'_>,
    query: &EntryQuery,
    queue: Option<&str>,
    after: CallId,
    limit: u32,
) -> PgResult<ListPage> {
    let end = transaction.ask(LIST_END, [id(after), number(LIST_PAGE)]);
    let matching = transaction.ask(
        LIST,
        [
            id(after),
            number(LIST_PAGE),
            optional_text(queue),
            optional_text(query.state.map(EntryState::as_str)),
            number(limit.into()),
            optional_text(query.target_id.as_deref()),
            optional_number(query.older_than.map(milliseconds)),
            flag(!query.without_bodies),
        ],
    );
    let end = end.await?.first().map(|row| rows::call_id(row, "id")).transpose()?;
    let entries = matching.await?.iter().map(entry).collect::<PgResult<_>>()?;
    Ok(ListPage { entries, end })
}

/// A list that is read page by page.
pub(super) struct Listing {
    pub(super) query: EntryQuery,
    pub(super) after: CallId,
    entries: Vec<OutboxEntry>,
}

impl Listing {
    pub(super) fn new(query: EntryQuery) -> Self {
        Self {
            after: query.after.unwrap_or(CallId::from_bytes([0; 16])),
            query,
            entries: Vec::new(),
        }
    }

    /// How many more entries are wanted.
    pub(super) fn limit(&self) -> u32 {
        let found = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.query.limit.saturating_sub(found)
    }

    /// Adds a page. Returns whether there may be more.
    pub(super) fn add(&mut self, page: ListPage) -> bool {
        self.entries.extend(page.entries);
        let is_done = page.end.is_none() || self.limit() == 0;
        self.after = page.end.unwrap_or(self.after);
        !is_done
    }

    pub(super) fn into_entries(self) -> Vec<OutboxEntry> {
        self.entries
    }
}

pub(super) async fn get(transaction: &Transaction<'_>, call: CallId) -> PgResult<Option<OutboxEntry>> {
    let rows = transaction.ask(GET, [id(call)]).await?;
    rows.first().map(entry).transpose()
}

pub(super) fn entry(row: &Row) -> PgResult<OutboxEntry> {
    let call = rows::stored_call(row)?;
    let state = row.try_get::<_, &str>("entry_state")?.parse().unwrap_or(EntryState::Parked);
    let owner = row.try_get::<_, Option<i64>>("owner")?.filter(|_| state == EntryState::Live);
    let owner = match owner {
        Some(id) => Some(EntryOwner {
            id,
            is_alive: row.try_get("is_alive")?,
        }),
        None => None,
    };
    let is_parked = state == EntryState::Parked;
    let reason: Option<String> = row.try_get("reason")?;
    let is_outage = (reason.as_deref().and_then(|reason| reason.parse().ok())).is_some_and(ParkReason::is_outage);
    let status_code: Option<i32> = row.try_get("status_code")?;
    let time = |column, is_known: bool| is_known.then(|| rows::time(row, column)).transpose();
    Ok(OutboxEntry {
        id: call.id,
        state,
        owner,
        kind: call.kind,
        target_id: call.target_id,
        queue: row.try_get("queue")?,
        worker_id: call.worker_id,
        idempotency_key: call.idempotency_key,
        body: String::from_utf8_lossy(&call.body).into_owned(),
        attempts: call.history.attempts,
        created_at: rows::time(row, "created_at")?,
        parked_at: time("parked_at", is_parked)?,
        next_attempt_at: time("due", is_parked && !is_outage)?,
        reason: reason.filter(|_| is_parked),
        age: call.history.age,
        status_code: status_code.and_then(|code| u16::try_from(code).ok()),
        last_error: row.try_get("last_error")?,
    })
}

/// Numbers that are added up page by page.
#[derive(Default)]
pub(super) struct Count {
    /// The lane and the place in it of the last call that was counted.
    pub(super) after: (i64, i64),
    stats: OutboxStats,
    oldest: Option<SystemTime>,
}

/// The numbers of one page.
pub(super) struct CountPage {
    stats: OutboxStats,
    oldest: Option<SystemTime>,
    /// The last call that was counted. `None`: there are no more.
    end: Option<(i64, i64)>,
}

/// Counts the live and parked calls of the page after this place, of all queues if none is named.
pub(super) async fn count(
    transaction: &Transaction<'_>,
    queue: Option<&str>,
    (lane, seq): (i64, i64),
) -> PgResult<CountPage> {
    let page = [number(lane), number(seq), number(COUNT_PAGE), optional_text(queue)];
    let rows = transaction.ask(COUNT, page).await?;
    let mut page = CountPage {
        stats: OutboxStats::default(),
        oldest: None,
        end: None,
    };
    if let Some(row) = rows.first() {
        page.stats.live = rows::count(row, "live")?;
        page.stats.parked = rows::count(row, "parked")?;
        page.stats.in_other_queues = rows::count(row, "others")?;
        if row.try_get::<_, Option<i64>>("oldest")?.is_some() {
            page.oldest = Some(rows::time(row, "oldest")?);
        }
        if rows::number(row, "size")? == COUNT_PAGE {
            page.end = Some((rows::number(row, "last_lane")?, rows::number(row, "last_seq")?));
        }
    }
    Ok(page)
}

/// The numbers that are not added up page by page, and the time.
pub(super) struct Rest {
    dead_letters: u64,
    bytes: u64,
    now: SystemTime,
}

pub(super) async fn count_the_rest(transaction: &Transaction<'_>, queue: Option<&str>) -> PgResult<Option<Rest>> {
    let rows = transaction.ask(COUNT_THE_REST, [optional_text(queue)]).await?;
    let rest = |row| {
        Ok(Rest {
            dead_letters: rows::count(row, "dead_letters")?,
            bytes: rows::count(row, "bytes")?,
            now: rows::time(row, "now")?,
        })
    };
    rows.first().map(rest).transpose()
}

impl Count {
    /// Adds a page. Returns whether there may be more.
    pub(super) fn add(&mut self, page: CountPage) -> bool {
        for (total, more) in [
            (&mut self.stats.live, page.stats.live),
            (&mut self.stats.parked, page.stats.parked),
            (&mut self.stats.in_other_queues, page.stats.in_other_queues),
        ] {
            *total = total.saturating_add(more);
        }
        self.oldest = self.oldest.into_iter().chain(page.oldest).min();
        self.after = page.end.unwrap_or(self.after);
        page.end.is_some()
    }

    pub(super) fn into_stats(self, rest: Option<Rest>) -> OutboxStats {
        let mut stats = self.stats;
        if let Some(Rest {
            dead_letters,
            bytes,
            now,
        }) = rest
        {
            (stats.dead_letters, stats.bytes) = (dead_letters, bytes);
            let age = |oldest| now.duration_since(oldest).unwrap_or(Duration::ZERO);
            stats.oldest_age = self.oldest.map(age);
        }
        stats
    }
}
