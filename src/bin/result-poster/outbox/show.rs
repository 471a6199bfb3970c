//! `outbox show` and `outbox stats`.

use std::time::SystemTime;

use result_poster::{
    CallId, OutboxError,
    outbox::{OutboxEntry, OutboxStats},
};
use serde_json::Value;

use super::{
    OpenOutbox,
    list::{state, style},
};
use crate::{
    failure::Failure,
    output::{HEAD, Output, printable, relative, short, styled},
};

pub(super) fn run(outbox: &OpenOutbox, ids: &[CallId], output: &mut Output) -> Result<(), Failure> {
    for (index, id) in ids.iter().enumerate() {
        let entry = outbox.inspector.get(*id).map_err(|error| outbox.failed(&error))?;
        let missing = || Failure::failed(format!("call {id}: there is no such call"));
        let entry = entry.ok_or_else(missing)?;
        if output.is_json {
            let mut value = serde_json::to_value(&entry).map_err(|error| Failure::failed(error.to_string()))?;
            if let Some(object) = value.as_object_mut() {
                object.insert("body".to_owned(), body(&entry));
            }
            output.json(&value)?;
            continue;
        }
        if index > 0 {
            output.line("")?;
        }
        print(&entry, output)?;
    }
    Ok(())
}

fn print(entry: &OutboxEntry, output: &mut Output) -> Result<(), Failure> {
    let now = SystemTime::now();
    let status_code = entry.status_code.map(|code| code.to_string());
    let next = entry.next_attempt_at.map(|time| relative(time, now));
    for (name, value) in [
        ("id", Some(entry.id.to_string())),
        ("state", Some(styled(style(entry), state(entry)))),
        ("kind", Some(printable(&entry.kind))),
        ("target", Some(printable(&entry.target_id))),
        ("queue", Some(printable(&entry.queue))),
        ("worker", entry.worker_id.as_deref().map(printable)),
        ("key", Some(printable(&entry.idempotency_key))),
        ("stored", Some(relative(entry.created_at, now))),
        ("tried for", Some(short(entry.age))),
        ("attempts", Some(entry.attempts.to_string())),
        ("next attempt", next),
        ("reason", entry.reason.as_deref().map(printable)),
        ("status code", status_code),
        ("last error", entry.last_error.as_deref().map(printable)),
    ] {
        if let Some(value) = value {
            output.line(format!("{} {value}", styled(HEAD, format!("{name}:"))))?;
        }
    }
    output.line(styled(HEAD, "body:"))?;
    let body = body(entry);
    let text = serde_json::to_string_pretty(&body).unwrap_or_else(|_| printable(&entry.body));
    for line in text.lines() {
        output.line(format!("  {line}"))?;
    }
    Ok(())
}

/// The body of a call as JSON, or as text if it is damaged.
fn body(entry: &OutboxEntry) -> Value {
    serde_json::from_str(&entry.body).unwrap_or_else(|_| entry.body.clone().into())
}

pub(super) fn stats(outbox: &OpenOutbox, output: &mut Output) -> Result<(), Failure> {
    let stats: Result<OutboxStats, OutboxError> = outbox.inspector.stats();
    let stats = stats.map_err(|error| outbox.failed(&error))?;
    if output.is_json {
        return output.json(&stats);
    }
    output.line(format!("live: {}", stats.live))?;
    output.line(format!("parked: {}", stats.parked))?;
    output.line(format!("dead letters: {}", stats.dead_letters))?;
    if let Some(age) = stats.oldest_age {
        output.line(format!("oldest live or parked call: {} ago", short(age)))?;
    }
    output.line(format!("size: {} bytes", stats.bytes))
}
