//! Values of a row.

use std::{
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use super::super::{History, StoredCall};
use super::error::PgResult;
use crate::call_id::CallId;

/// The columns of a [`StoredCall`].
macro_rules! stored_call_columns {
    () => {
        $crate::outbox::store::postgres::rows::stored_call_columns!("body")
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

pub(super) fn stored_call(row: &Row) -> PgResult<StoredCall> {
    Ok(StoredCall {
        id: call_id(row, "id")?,
        kind: row.try_get("kind")?,
        target_id: row.try_get("target_id")?,
        idempotency_key: row.try_get("idempotency_key")?,
        headers: row.try_get("headers")?,
        body: row.try_get::<_, String>("body")?.into_bytes(),
        worker_id: row.try_get("worker_id")?,
        history: History {
            attempts: clamped(row, "attempts")?,
            parks: clamped(row, "parks")?,
            faults: clamped(row, "faults")?,
            rejections: clamped(row, "rejections")?,
            is_reduced: row.try_get("reduced")?,
            takeovers: clamped(row, "takeovers")?,
            age: duration(row, "age")?,
        },
    })
}

pub(super) fn call_id(row: &Row, column: &str) -> PgResult<CallId> {
    Ok(row.try_get::<_, Id>(column)?.0)
}

/// A number of 64 bits. 0 for NULL.
pub(super) fn number(row: &Row, column: &str) -> PgResult<i64> {
    Ok(row.try_get::<_, Option<i64>>(column)?.unwrap_or_default())
}

pub(super) fn count(row: &Row, column: &str) -> PgResult<u64> {
    Ok(u64::try_from(number(row, column)?).unwrap_or_default())
}

fn clamped(row: &Row, column: &str) -> PgResult<u32> {
    Ok(u32::try_from(row.try_get::<_, i32>(column)?).unwrap_or_default())
}

pub(super) fn duration(row: &Row, column: &str) -> PgResult<Duration> {
    Ok(Duration::from_millis(count(row, column)?))
}

pub(super) fn time(row: &Row, column: &str) -> PgResult<SystemTime> {
    Ok(UNIX_EPOCH.checked_add(duration(row, column)?).unwrap_or(UNIX_EPOCH))
}

/// A UUID as the id of a call.
struct Id(CallId);

impl<'a> FromSql<'a> for Id {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(CallId::from_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }
}

/// In the tables, durations are milliseconds. Bounded, so that the sum with a time fits.
pub(super) fn milliseconds(duration: Duration) -> i64 {
    const LONGEST: i64 = i64::MAX / 4;
    i64::try_from(duration.as_millis()).unwrap_or(LONGEST).min(LONGEST)
}
