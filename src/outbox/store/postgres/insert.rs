//! Inserting messages, many in one transaction: the lanes are locked, what is there is read, all is decided by a
//! [`Plan`], and written.

use std::rc::Rc;

use tokio_postgres::Row;

use super::super::{Inserted, NewMessage};
use super::{
    error::PgResult,
    lanes::{self, LaneRow},
    owner::Owner,
    params::{Param, ids, numbers, optional_numbers, optional_texts, text, texts},
    plan::{Lane, NewRow, Plan, SameCall},
    repair, rows,
    session::{Answer, Transaction},
};
use crate::error::OutboxError;

/// Locked: a call that another owner deletes meanwhile is not known any more.
const SAME_KEYS: &str = "
    SELECT id, lane, seq, idempotency_key FROM @calls
    WHERE queue = $1 AND idempotency_key = ANY($2) ORDER BY id FOR UPDATE";
const NOTE_KNOWN: &str = "UPDATE @calls SET known = true WHERE id = ANY($1)";
const REPLACE_DEAD: &str = "DELETE FROM @calls WHERE id = ANY($1) AND lane IS NULL";
const EXTEND_LANES: &str = "
    UPDATE @lanes AS lanes SET owner = new.owner, claim = new.claim,
        taken = new.taken, next_seq = new.next_seq, reason = coalesce(new.reason, lanes.reason)
    FROM unnest($1, $2, $3, $4, $5, $6) AS new (id, owner, claim, taken, next_seq, reason)
    WHERE lanes.id = new.id";
const INSERT: &str = "
    INSERT INTO @calls (id, queue, lane, seq, home, message, kind, target_id, idempotency_key, worker_id, headers, body,
        created_at)
    SELECT new.id, $2, new.lane, new.seq, home, message, kind, target_id, idempotency_key, worker_id, headers, body,
        @now_ms()
    FROM unnest($1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        AS new (id, lane, seq, home, message, kind, target_id, idempotency_key, worker_id, headers, body)";

/// The answer to each message. `None`: the message was left for the next transaction.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    owner: &mut Owner,
    messages: &[&NewMessage],
    max_bytes: u64,
) -> PgResult<Vec<Option<Result<Inserted, OutboxError>>>> {
    let queue = Rc::clone(&owner.queue);
    let mut plan = read(transaction, owner, messages, max_bytes).await?;
    let answers = messages.iter().map(|message| plan.add(message)).collect();
    owner.note_plan(plan.last_claim, plan.bytes);
    let mut written = write(transaction, &queue, &plan);
    for dead in &plan.requeued {
        repair::requeue(transaction, Some(&queue), *dead).await?;
    }
    written.push(lanes::remove_empty(transaction, &plan.unused_lanes()));
    let committed = transaction.commit();
    for answer in written {
        answer.await?;
    }
    committed.await?;
    Ok(answers)
}

/// Locks and reads what the decisions depend on, in one round trip.
async fn read<'a>(
    transaction: &Transaction<'_>,
    owner: &mut Owner,
    messages: &[&'a NewMessage],
    max_bytes: u64,
) -> PgResult<Plan<'a>> {
    let queue = Rc::clone(&owner.queue);
    let mut names: Vec<_> = messages.iter().map(|message| message.lane.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let calls = messages.iter().flat_map(|message| &message.calls);
    let keys = texts(calls.map(|call| call.idempotency_key.as_str()));
    let entered = owner.enter(transaction);
    let locked = lanes::lock(transaction, &queue, &names);
    let last_seqs = lanes::last_seqs(transaction, &queue, &names);
    let same = transaction.ask(SAME_KEYS, [text(&queue), keys]);
    let used = owner.must_read_used_bytes().then(|| Owner::ask_used_bytes(transaction));
    entered.await?;
    let (locked, last_seqs, same) = (locked.await?, last_seqs.await?, same.await?);
    if let Some(used) = used {
        owner.note_used_bytes(&used.await?)?;
    }
    let mut plan = Plan::new(owner.id, owner.last_claim(), owner.room(max_bytes));
    for row in &locked {
        plan.add_lane(LaneRow::read(row)?);
    }
    for row in &last_seqs {
        plan.note_last_seq(row.try_get("name")?, row.try_get("seq")?);
    }
    for row in &same {
        plan.add_same(row.try_get("idempotency_key")?, same_call(row)?);
    }
    Ok(plan)
}

fn same_call(row: &Row) -> PgResult<SameCall> {
    Ok(SameCall {
        id: rows::call_id(row, "id")?,
        lane: row.try_get("lane")?,
        seq: rows::number(row, "seq")?,
    })
}

/// Sends all that was decided.
fn write<'a>(transaction: &'a Transaction<'_>, queue: &str, plan: &Plan<'_>) -> Vec<Answer<'a, Vec<Row>>> {
    let mut written = Vec::new();
    if !plan.replaced.is_empty() {
        written.push(transaction.ask(REPLACE_DEAD, [ids(&plan.replaced)]));
    }
    if !plan.rows.is_empty() {
        written.push(transaction.ask(EXTEND_LANES, lane_columns(&plan.changed_lanes())));
        written.push(transaction.ask(INSERT, call_columns(queue, &plan.rows)));
    }
    if !plan.known.is_empty() {
        written.push(transaction.ask(NOTE_KNOWN, [ids(&plan.known)]));
    }
    written
}

fn lane_columns(lanes: &[&Lane]) -> [Param; 6] {
    let column = |value: fn(&LaneRow) -> i64| numbers(lanes.iter().map(|lane| value(&lane.row)));
    [
        column(|lane| lane.id),
        optional_numbers(lanes.iter().map(|lane| lane.row.owner)),
        column(|lane| lane.claim),
        column(|lane| lane.taken),
        column(|lane| lane.next_seq),
        optional_texts(lanes.iter().map(|lane| Some(lane.reason?.as_str()))),
    ]
}

fn call_columns(queue: &str, rows: &[NewRow<'_>]) -> [Param; 12] {
    let calls = || rows.iter().map(|row| row.call);
    [
        ids(calls().map(|call| call.id)),
        text(queue),
        numbers(rows.iter().map(|row| row.lane)),
        numbers(rows.iter().map(|row| row.seq)),
        texts(rows.iter().map(|row| row.message.lane.as_str())),
        ids(rows.iter().map(|row| row.first)),
        texts(calls().map(|call| call.kind.as_str())),
        texts(calls().map(|call| call.target_id.as_str())),
        texts(calls().map(|call| call.idempotency_key.as_str())),
        optional_texts(rows.iter().map(|row| row.message.worker_id.as_deref())),
        optional_texts(calls().map(|call| call.headers.as_deref())),
        texts(calls().map(|call| call.body.as_str())),
    ]
}
