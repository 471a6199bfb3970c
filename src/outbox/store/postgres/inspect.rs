//! Listing calls.
//!
//! A list is read page by page, each in a transaction of its own, so that other work is done in between, and no statement
//! takes long.

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
    outbox::entry::{EntryOwner, EntryQuery, EntryState, OutboxEntry},
};

/// How many calls are read for a list at once.
const PAGE: i64 = 2_000;

/// The state of a call of `calls`, joined with its lane.
macro_rules! state {
    () => {
        "CASE WHEN calls.lane IS NULL THEN 'dead_letter' \
         WHEN calls.seq <= lanes.taken AND lanes.owner IS NOT NULL THEN 'live' ELSE 'parked' END"
    };
}

pub(super) use state;

macro_rules! columns {
    ($body:literal) => {
        concat!(
            "SELECT calls.queue, created_at, status_code, last_error, parked_at, due, reason, lanes.owner,
                coalesce(owners.lease_until > statement_timestamp(), FALSE) AS is_alive, ",
            $crate::outbox::store::postgres::rows::stored_call_columns!($body),
            ", ",
            $crate::outbox::store::postgres::inspect::state!(),
            " AS entry_state FROM "
        )
    };
}

pub(super) use columns;

macro_rules! joins {
    () => {
        " LEFT JOIN @lanes AS lanes ON lanes.id = calls.lane LEFT JOIN @owners AS owners ON owners.id = lanes.owner WHERE "
    };
}

pub(super) use joins;

macro_rules! entries {
    ($body:literal, $where:literal) => {
        concat!(
            $crate::outbox::store::postgres::inspect::columns!($body),
            "@calls AS calls",
            $crate::outbox::store::postgres::inspect::joins!(),
            $where
        )
    };
}

pub(super) use entries;

/// All calls, in the order of their ids.
macro_rules! every_call {
    () => {
        "@calls"
    };
}

/// The dead letters, found by their index: the offset keeps the server from looking for them among all calls.
macro_rules! dead_letters {
    () => {
        "(SELECT id FROM @calls WHERE lane IS NULL OFFSET 0) AS dead"
    };
}

/// The last call of a whole page. None if fewer calls are left.
macro_rules! page_end {
    ($of:ident) => {
        concat!(
            "SELECT id FROM ",
            $of!(),
            " WHERE id > $1 ORDER BY id OFFSET $2 - 1 LIMIT 1"
        )
    };
}

/// The matching calls of a page. The limit within the join keeps its order: otherwise it might read the whole table for
/// each page.
macro_rules! page {
    ($of:ident) => {
        concat!(
            columns!("CASE WHEN $8 THEN body ELSE '' END AS body"),
            "(SELECT id FROM ",
            $of!(),
            " WHERE id > $1 ORDER BY id LIMIT $2) AS page JOIN @calls AS calls ON calls.id = page.id",
            joins!(),
            "($3::text IS NULL OR calls.queue = $3) AND ($6::text IS NULL OR target_id = $6)
            AND ($7::bigint IS NULL OR created_at <= greatest(@now_ms() - $7, 0)) AND ($4::text IS NULL OR $4 = ",
            state!(),
            ") ORDER BY calls.id LIMIT $5"
        )
    };
}

/// Otherwise a call that is stored or deleted between the two statements of a page would move its end.
const ONE_SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// The statements for the end of a page, and for its calls.
const PAGES: [&str; 2] = [page_end!(every_call), page!(every_call)];
const DEAD_PAGES: [&str; 2] = [page_end!(dead_letters), page!(dead_letters)];
const GET: &str = entries!("body", "calls.id = $1");

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
    let [page_end, page] = match query.state {
        Some(EntryState::DeadLetter) => DEAD_PAGES,
        Some(EntryState::Live | EntryState::Parked) | None => PAGES,
    };
    let snapshot = transaction.execute_batch(ONE_SNAPSHOT);
    let end = transaction.ask(page_end, [id(after), number(PAGE)]);
    let matching = transaction.ask(
        page,
        [
            id(after),
            number(PAGE),
            optional_text(queue),
            optional_text(query.state.map(EntryState::as_str)),
            number(limit.into()),
            optional_text(query.target_id.as_deref()),
            optional_number(query.older_than.map(milliseconds)),
            flag(!query.without_bodies),
        ],
    );
    snapshot.await?;
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
    let state = row
        .try_get::<_, &str>("entry_state")?
        .parse()
        .unwrap_or(EntryState::Parked);
    let owner = row
        .try_get::<_, Option<i64>>("owner")?
        .filter(|_| state == EntryState::Live);
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
