//! Renews this owner's lease, frees the lanes of owners whose lease is over, and looks for lanes that are due. While nothing
//! happens, this only reads.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::super::Watched;
use super::{
    due::ask_whether_due,
    error::PgResult,
    lanes::{self, read_ids},
    owner::Owner,
    params::{Param, number, numbers},
    rows,
    session::Transaction,
};
use crate::outbox::faults::MAX_TAKEOVERS;

/// The other owners whose lease is over, and those that have lanes and are not known. One step in an index for each owner.
pub(super) const DEAD: &str = "
    WITH RECURSIVE holders(id) AS (
        SELECT min(owner) FROM @lanes WHERE owner IS NOT NULL
        UNION ALL SELECT (SELECT min(owner) FROM @lanes WHERE owner > holders.id) FROM holders WHERE holders.id IS NOT NULL
    ) SELECT id FROM holders WHERE id <> $1 AND NOT EXISTS (SELECT 1 FROM @owners AS owners WHERE owners.id = holders.id)
    UNION SELECT id FROM @owners WHERE lease_until < clock_timestamp() AND id <> $1";
/// Not those whose row another owner has locked, which does the same, or that renew their leases in the last moment.
const DELETE_DEAD: &str = "
    DELETE FROM @owners WHERE id = ANY (ARRAY(
        SELECT id FROM @owners WHERE id = ANY($1) AND lease_until < clock_timestamp() FOR UPDATE SKIP LOCKED))";
const STILL_DEAD: &str = "
    SELECT id FROM unnest($1) AS id WHERE NOT EXISTS (SELECT 1 FROM @owners AS owners WHERE owners.id = id.id)";
const LOCK: &str = "SELECT 1 FROM @lanes WHERE owner = ANY($1) ORDER BY name FOR UPDATE";
/// Of the calls of the first message of each lane that was being sent.
const COUNT_TAKEOVERS: &str = "
    WITH first AS MATERIALIZED (
        SELECT lanes.id, taken, claim, message FROM @lanes AS lanes CROSS JOIN LATERAL (
            SELECT seq, message FROM @calls AS calls WHERE calls.lane = lanes.id ORDER BY seq LIMIT 1
        ) AS call WHERE owner = ANY($1) AND call.seq <= taken
    ) UPDATE @calls AS calls
        SET takeovers = takeovers + CASE WHEN takeovers = 0 OR sent_under = first.claim THEN 1 ELSE 0 END
    FROM first WHERE calls.lane = first.id AND calls.seq <= first.taken AND calls.message = first.message
    RETURNING calls.lane, takeovers::bigint";
/// No claim is left: a settlement under the former one that is repeated was not written.
const RELEASE: &str = "
    UPDATE @lanes SET owner = NULL, claim = 0, taken = 0, parked_at = @now_ms(), parked_by = 0, reason = NULL,
        wait = CASE WHEN id = ANY($2) THEN $3 ELSE 0 END
    WHERE owner = ANY($1) RETURNING id";
const COUNT: &str = "SELECT count(*) AS calls FROM @calls WHERE lane = ANY($1)";
/// Adds the rows up, unless another owner does so.
const ADD_UP: &str = "
    WITH rows AS (
        DELETE FROM @usage WHERE ctid = ANY (ARRAY(SELECT ctid FROM @usage FOR UPDATE SKIP LOCKED)) RETURNING bytes
    ) INSERT INTO @usage SELECT sum(bytes) FROM rows HAVING count(*) > 0";

/// How many rows are added up.
const MANY_ROWS: u64 = 1_000;

/// `delay` is the wait of a lane whose first call may have killed its owner.
pub(super) async fn watch(transaction: &Transaction<'_>, owner: &mut Owner, delay: i64) -> PgResult<Watched> {
    if owner.lease().is_renewal_due(owner.now()) {
        owner.enter(transaction).await?;
    }
    if owner.usage_rows > MANY_ROWS {
        owner.usage_rows = 0;
        transaction.ask(ADD_UP, []).await?;
    }
    let dead = transaction.ask(DEAD, [number(owner.id)]);
    let is_any_due = ask_whether_due(transaction, owner);
    let dead = read_ids(&dead.await?)?;
    let is_any_due = is_any_due.await?;
    let is_any_due = is_any_due.first().map_or(Ok(false), |row| row.try_get("is_due"))?;
    let freed = if dead.is_empty() {
        0
    } else {
        free(transaction, &dead, delay).await?
    };
    Ok(Watched {
        freed,
        has_changed: is_any_due,
    })
}

/// Frees the lanes of dead owners. Returns how many calls they have.
async fn free(transaction: &Transaction<'_>, dead: &[i64], delay: i64) -> PgResult<u64> {
    let deleted = transaction.ask(DELETE_DEAD, [ids(dead)]);
    let still_dead = transaction.ask(STILL_DEAD, [ids(dead)]);
    deleted.await?;
    let dead = read_ids(&still_dead.await?)?;
    let locked = transaction.ask(LOCK, [ids(&dead)]);
    let takeovers = transaction.ask(COUNT_TAKEOVERS, [ids(&dead)]);
    locked.await?;
    let suspects = suspects(&takeovers.await?)?;
    let released = transaction.ask(RELEASE, [ids(&dead), numbers(suspects), number(delay)]);
    let lanes = read_ids(&released.await?)?;
    let count = transaction.ask(COUNT, [ids(&lanes)]);
    let removed = lanes::remove_empty(transaction, &lanes);
    let count = count.await?;
    removed.await?;
    count.first().map_or(Ok(0), |row| rows::count(row, "calls"))
}

/// The lanes whose first message may have killed several owners.
fn suspects(takeovers: &[Row]) -> PgResult<BTreeSet<i64>> {
    let mut suspects = BTreeSet::new();
    for row in takeovers {
        if rows::number(row, "takeovers")? >= i64::from(MAX_TAKEOVERS) {
            suspects.insert(rows::number(row, "lane")?);
        }
    }
    Ok(suspects)
}

fn ids(ids: &[i64]) -> Param {
    numbers(ids.iter().copied())
}
