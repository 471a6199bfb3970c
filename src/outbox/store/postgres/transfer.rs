//! Moving calls from one outbox to another.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokio_postgres::Row;

use super::{
    error::PgResult,
    inspect::state,
    lanes::{self, Park},
    params::{flags, ids, numbers, optional_smalls, optional_texts, texts},
    rows,
    session::Transaction,
};
use crate::{
    call_id::CallId,
    error::ParkReason,
    outbox::{
        entry::EntryState,
        record::{CallRecord, Imported, JsonText},
    },
};

const RECORDS: &str = concat!(
    "SELECT calls.id, ",
    state!(),
    " AS entry_state, calls.queue, home, message, kind, target_id, idempotency_key, worker_id, reduced, created_at,
        status_code, last_error, headers, body
    FROM unnest($1) WITH ORDINALITY AS wanted (id, place) JOIN @calls AS calls ON calls.id = wanted.id
    LEFT JOIN @lanes AS lanes ON lanes.id = calls.lane ORDER BY place"
);
/// The ids that are stored, and the keys that wait.
const STORED: &str = "SELECT id FROM @calls WHERE id = ANY($1)";
const WAITING_KEYS: &str = "
    SELECT calls.queue, idempotency_key FROM unnest($1, $2) AS wanted (queue, key)
    JOIN @calls AS calls ON calls.queue = wanted.queue AND idempotency_key = wanted.key AND lane IS NOT NULL";
/// As dead letters, which have no lane.
const STORE: &str = "
    INSERT INTO @calls (id, queue, home, message, kind, target_id, idempotency_key, worker_id, reduced, created_at,
        status_code, last_error, headers, body)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    ON CONFLICT (id) DO NOTHING RETURNING id";

/// Those of the calls that are still stored.
pub(super) async fn export(transaction: &Transaction<'_>, calls: &[CallId]) -> PgResult<Vec<CallRecord>> {
    let rows = transaction.ask(RECORDS, [ids(calls)]).await?;
    rows.iter().map(record).collect()
}

fn record(row: &Row) -> PgResult<CallRecord> {
    Ok(CallRecord {
        id: rows::call_id(row, "id")?,
        state: row
            .try_get::<_, &str>("entry_state")?
            .parse()
            .unwrap_or(EntryState::Parked),
        queue: row.try_get("queue")?,
        lane: row.try_get("home")?,
        message: rows::call_id(row, "message")?,
        kind: row.try_get("kind")?,
        target_id: row.try_get("target_id")?,
        idempotency_key: row.try_get("idempotency_key")?,
        worker_id: row.try_get("worker_id")?,
        reduced: row.try_get("reduced")?,
        created_at: rows::number(row, "created_at")?,
        status_code: row.try_get::<_, Option<i32>>("status_code")?.map(Into::into),
        last_error: row.try_get("last_error")?,
        headers: row.try_get::<_, Option<String>>("headers")?.map(JsonText),
        body: JsonText(row.try_get("body")?),
    })
}

/// Stores records that are not stored yet: each at the end of its lane, due now, or as the dead letter that it was.
pub(super) async fn import(transaction: &Transaction<'_>, records: &[CallRecord]) -> PgResult<Imported> {
    let lanes = lock_lanes(transaction, records).await?;
    let new = new_records(transaction, records).await?;
    let stored = store(transaction, &new).await?;
    let new: Vec<_> = new.into_iter().filter(|record| stored.contains(&record.id)).collect();
    let reason = ParkReason::Requeued;
    let park = Park {
        reason: Some(reason),
        ..Park::default()
    };
    let mut answers = Vec::new();
    for record in new.iter().filter(|record| !is_dead(record)) {
        let lane = (record.queue.as_str(), record.lane.as_str());
        answers.push(lanes::append(transaction, lane, record.id, reason));
        answers.push(lanes::park_free(transaction, lane, park));
    }
    // Those that were created for records that are stored already.
    answers.push(lanes::remove_empty(transaction, &lanes));
    for answer in answers {
        answer.await?;
    }
    Ok(Imported {
        stored: new.len(),
        skipped: records.len().saturating_sub(new.len()),
    })
}

fn is_dead(record: &CallRecord) -> bool {
    record.state == EntryState::DeadLetter
}

/// Locks the lanes of the records, as each insert of a poster does, so that none of their keys is stored meanwhile.
async fn lock_lanes(transaction: &Transaction<'_>, records: &[CallRecord]) -> PgResult<Vec<i64>> {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for record in records.iter().filter(|record| !is_dead(record)) {
        names.entry(&record.queue).or_default().insert(&record.lane);
    }
    let mut locked = Vec::new();
    for (queue, names) in names {
        let names: Vec<_> = names.into_iter().collect();
        for row in lanes::lock(transaction, queue, &names).await? {
            locked.push(rows::number(&row, "id")?);
        }
    }
    Ok(locked)
}

/// Those whose ids are not stored, and whose keys do not wait.
async fn new_records<'r>(transaction: &Transaction<'_>, records: &'r [CallRecord]) -> PgResult<Vec<&'r CallRecord>> {
    let known_ids: Vec<_> = records.iter().map(|record| record.id).collect();
    let queues = texts(records.iter().map(|record| record.queue.as_str()));
    let keys = texts(records.iter().map(|record| record.idempotency_key.as_str()));
    let stored = transaction.ask(STORED, [ids(&known_ids)]);
    let waiting = transaction.ask(WAITING_KEYS, [queues, keys]);
    let mut seen_ids: HashSet<CallId> = HashSet::new();
    for row in stored.await? {
        seen_ids.insert(rows::call_id(&row, "id")?);
    }
    let mut seen_keys: HashSet<(String, String)> = HashSet::new();
    for row in waiting.await? {
        seen_keys.insert((row.try_get("queue")?, row.try_get("idempotency_key")?));
    }
    let mut new = Vec::new();
    for record in records {
        let key = (record.queue.clone(), record.idempotency_key.clone());
        if seen_ids.contains(&record.id) || seen_keys.contains(&key) {
            continue;
        }
        seen_ids.insert(record.id);
        if !is_dead(record) {
            seen_keys.insert(key);
        }
        new.push(record);
    }
    Ok(new)
}

/// Stores the records as dead letters, and returns the ids of those that were not stored by others meanwhile.
async fn store(transaction: &Transaction<'_>, records: &[&CallRecord]) -> PgResult<HashSet<CallId>> {
    let id_of = |id: fn(&CallRecord) -> CallId| ids(records.iter().map(|record| id(record)));
    let text_of = |text: fn(&CallRecord) -> &str| texts(records.iter().map(|record| text(record)));
    let optional_of = |text: fn(&CallRecord) -> Option<&str>| optional_texts(records.iter().map(|record| text(record)));
    let status = |record: &&CallRecord| record.status_code.and_then(|code| i32::try_from(code).ok());
    let reduced: Vec<_> = records.iter().map(|record| record.reduced).collect();
    let created_at: Vec<_> = records.iter().map(|record| record.created_at).collect();
    let status_codes: Vec<_> = records.iter().map(status).collect();
    let rows = transaction.ask(
        STORE,
        [
            id_of(|record| record.id),
            text_of(|record| &record.queue),
            text_of(|record| &record.lane),
            id_of(|record| record.message),
            text_of(|record| &record.kind),
            text_of(|record| &record.target_id),
            text_of(|record| &record.idempotency_key),
            optional_of(|record| record.worker_id.as_deref()),
            flags(reduced),
            numbers(created_at),
            optional_smalls(status_codes),
            optional_of(|record| record.last_error.as_deref()),
            optional_of(|record| record.headers.as_ref().map(|headers| headers.0.as_str())),
            text_of(|record| &record.body.0),
        ],
    );
    rows.await?.iter().map(|row| rows::call_id(row, "id")).collect()
}
