//! Values of a row, read so that a damaged one does not hide the others: texts lossily, numbers clamped.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Row, types::ValueRef};

use super::super::{History, StoredCall, WallTime};
use crate::call_id::CallId;

/// The columns of a [`StoredCall`].
macro_rules! stored_call_columns {
    () => {
        $crate::outbox::store::sqlite::rows::stored_call_columns!("body")
    };
    ($body:literal) => {
        concat!(
            "calls.id, kind, target_id, idempotency_key, worker_id, attempts, parks, faults, rejections, takeovers, age,
            reduced, headers, ",
            $body
        )
    };
}
pub(super) use stored_call_columns;

pub(super) fn stored_call(row: &Row<'_>) -> StoredCall {
    StoredCall {
        id: call_id(row, "id"),
        kind: text(row, "kind"),
        target_id: text(row, "target_id"),
        idempotency_key: text(row, "idempotency_key"),
        headers: optional_text(row, "headers"),
        body: bytes(row, "body").to_vec(),
        worker_id: optional_text(row, "worker_id"),
        history: History {
            attempts: clamped(row, "attempts"),
            parks: clamped(row, "parks"),
            faults: clamped(row, "faults"),
            rejections: clamped(row, "rejections"),
            is_reduced: clamped(row, "reduced") != 0,
            takeovers: clamped(row, "takeovers"),
            age: duration(row, "age"),
        },
    }
}

fn value<'row>(row: &'row Row<'_>, column: &str) -> ValueRef<'row> {
    row.get_ref(column).unwrap_or(ValueRef::Null)
}

fn bytes<'row>(row: &'row Row<'_>, column: &str) -> &'row [u8] {
    value(row, column).as_bytes().unwrap_or_default()
}

pub(super) fn text(row: &Row<'_>, column: &str) -> String {
    String::from_utf8_lossy(bytes(row, column)).into_owned()
}

pub(super) fn optional_text(row: &Row<'_>, column: &str) -> Option<String> {
    let is_null = matches!(value(row, column), ValueRef::Null);
    (!is_null).then(|| text(row, column))
}

pub(super) fn call_id(row: &Row<'_>, column: &str) -> CallId {
    CallId::from_bytes(bytes(row, column).try_into().unwrap_or_default())
}

/// 0 for what is not a number.
pub(super) fn number(row: &Row<'_>, column: &str) -> i64 {
    optional_number(row, column).unwrap_or_default()
}

pub(super) fn optional_number(row: &Row<'_>, column: &str) -> Option<i64> {
    match value(row, column) {
        ValueRef::Integer(number) => Some(number),
        // The sum of two numbers that is too large for an integer.
        ValueRef::Real(number) if number > 0.0 => Some(i64::MAX),
        ValueRef::Real(_) => Some(i64::MIN),
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    }
}

pub(super) fn count(row: &Row<'_>, column: &str) -> u64 {
    u64::try_from(number(row, column)).unwrap_or_default()
}

pub(super) fn clamped(row: &Row<'_>, column: &str) -> u32 {
    u32::try_from(count(row, column)).unwrap_or(u32::MAX)
}

pub(super) fn duration(row: &Row<'_>, column: &str) -> Duration {
    Duration::from_millis(count(row, column))
}

pub(super) fn time(row: &Row<'_>, column: &str) -> SystemTime {
    UNIX_EPOCH.checked_add(duration(row, column)).unwrap_or(UNIX_EPOCH)
}

/// In the database, durations are milliseconds.
pub(super) fn milliseconds(duration: Duration) -> WallTime {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
