//! The tables, and how they are created and migrated.

use super::{
    error::PgResult,
    params::{small, text},
    rows,
    session::Transaction,
};
use crate::error::OutboxError;

/// The migrations from each version to the next. The first one starts with an empty schema.
const MIGRATIONS: [&str; 1] = [r#"
    -- The posters that use the schema. Each is alive until its lease ends, by the server's clock.
    CREATE TABLE @owners (
        id bigint PRIMARY KEY,            -- random
        queue text NOT NULL,
        lease_until timestamptz NOT NULL
    ) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

    -- The time by the server's clock, in milliseconds since 1970: the time of everything but `dead_at`.
    CREATE FUNCTION @now_ms() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
        AS 'SELECT floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint';

    -- The calls of one target. A lane exists while it has waiting calls.
    CREATE TABLE @lanes (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        queue text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        owner bigint,                     -- NULL: free
        claim bigint NOT NULL DEFAULT 0,  -- of the owner; never used again
        round bigint NOT NULL DEFAULT 0,  -- of the owner's claims; 0 if the lane was not claimed but created
        taken bigint NOT NULL DEFAULT 0,  -- the last call that the owner has taken
        next_seq bigint NOT NULL DEFAULT 1,
        parked_at bigint NOT NULL,        -- the lane is not due while parked_at <= now < due
        wait bigint NOT NULL DEFAULT 0,
        due bigint NOT NULL GENERATED ALWAYS AS (parked_at + wait) STORED,
        parked_by bigint NOT NULL DEFAULT 0, -- this owner goes by its own monotonic clock; 0: nobody
        reason text,
        -- What the lane waits for: 0 (a session) and 1 (an issue) for its delay, 2 to 4 for the end of an outage.
        due_by integer NOT NULL GENERATED ALWAYS AS (CASE reason WHEN 'completion_outage' THEN 2 WHEN 'status_outage' THEN 3
            WHEN 'tracker_outage' THEN 4 ELSE CASE WHEN starts_with(name, 'issue ') THEN 1 ELSE 0 END END) STORED,
        UNIQUE (queue, name)
    ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX lanes_by_due ON @lanes (queue, due_by, parked_by, due, id) WHERE owner IS NULL;
    CREATE INDEX lanes_by_parked_at ON @lanes (queue, due_by, parked_at, parked_by, due, id) WHERE owner IS NULL;
    CREATE INDEX lanes_by_owner ON @lanes (owner, claim) WHERE owner IS NOT NULL;

    CREATE TABLE @calls (
        id uuid PRIMARY KEY,
        lane bigint,                      -- NULL: a dead letter
        seq bigint,                       -- the place in the lane
        message uuid NOT NULL,            -- the id of the first call of the message
        created_at bigint NOT NULL,
        age bigint NOT NULL DEFAULT 0,    -- in milliseconds
        sent_under bigint NOT NULL DEFAULT 0, -- the claim; noted for calls with takeovers only
        dead_at bigint,                   -- by the clock of the platform
        attempts integer NOT NULL DEFAULT 0,
        parks integer NOT NULL DEFAULT 0,
        faults integer NOT NULL DEFAULT 0,
        rejections integer NOT NULL DEFAULT 0,
        takeovers integer NOT NULL DEFAULT 0,
        status_code integer,
        reduced boolean NOT NULL DEFAULT false,
        known boolean NOT NULL DEFAULT false, -- another message was answered with this id
        queue text COLLATE "C" NOT NULL,
        home text COLLATE "C" NOT NULL,   -- the name of the lane to which a requeued call returns
        kind text NOT NULL,
        target_id text NOT NULL,
        idempotency_key text COLLATE "C" NOT NULL,
        worker_id text,
        last_error text,
        headers text,
        body text NOT NULL,
        CHECK ((lane IS NULL) = (seq IS NULL))
    ) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0,
        toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX calls_by_lane ON @calls (lane, seq) INCLUDE (created_at) WHERE lane IS NOT NULL;
    CREATE INDEX calls_by_key ON @calls (queue, idempotency_key);
    CREATE INDEX calls_by_death ON @calls (queue, dead_at) WHERE lane IS NULL;

    -- What each change has added to the size of all calls: the sum is their size. Owners add the rows up now and then.
    CREATE TABLE @usage (bytes bigint NOT NULL)
        WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
    CREATE FUNCTION @count_bytes() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        INSERT INTO @usage SELECT CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END * sum(700 + octet_length(body)) FROM changed
            HAVING count(*) > 0;
        RETURN NULL;
    END $body$;
    CREATE TRIGGER count_inserted AFTER INSERT ON @calls REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION @count_bytes();
    CREATE TRIGGER count_deleted AFTER DELETE ON @calls REFERENCING OLD TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION @count_bytes();
    CREATE FUNCTION @forget_bytes() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        DELETE FROM @usage;
        RETURN NULL;
    END $body$;
    CREATE TRIGGER count_truncated AFTER TRUNCATE ON @calls FOR EACH STATEMENT EXECUTE FUNCTION @forget_bytes();

    -- For operators.
    CREATE VIEW @outbox AS SELECT
        calls.id,
        CASE WHEN calls.lane IS NULL THEN 'dead_letter' WHEN calls.seq <= lanes.taken AND lanes.owner IS NOT NULL
            THEN 'live' ELSE 'parked' END AS state,
        calls.queue, kind, target_id, worker_id, lanes.owner, attempts, reason,
        CASE WHEN lanes.owner IS NULL AND lanes.due_by < 2 THEN to_timestamp(lanes.due / 1000.0) END AS next_attempt_at,
        to_timestamp(created_at / 1000.0) AS created_at,
        to_timestamp(dead_at / 1000.0) AS dead_at,
        status_code, last_error, idempotency_key, body
        FROM @calls calls LEFT JOIN @lanes lanes ON lanes.id = calls.lane;

    CREATE TABLE @migrations (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
"#];

const VERSION: &str = "SELECT max(version) AS version FROM @migrations";
const IDENTITY: &str = "
    SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1) AS has_schema,
        EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1) AS has_tables,
        EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'migrations') AS is_outbox";
const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('result-poster ' || $1, 0))";
const NOTE_VERSION: &str = "INSERT INTO @migrations (version) VALUES ($1)";

const CREATED_AT: &str = "
    SELECT (extract(epoch FROM min(applied_at)) * 1000000)::bigint AS created_at FROM @migrations";

/// What is in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// There is no such schema.
    Missing,
    Empty,
    /// Tables of something else.
    Foreign,
    Outbox {
        version: i32,
    },
}

impl Identity {
    pub(super) async fn of(transaction: &Transaction<'_>) -> PgResult<Self> {
        let schema = transaction.schema();
        let rows = transaction.ask(IDENTITY, [text(schema)]).await?;
        let has = |column| rows.first().map_or(Ok(false), |row| row.try_get::<_, bool>(column));
        Ok(if has("is_outbox")? {
            let rows = transaction.ask(VERSION, []).await?;
            let version = rows.first().map(|row| row.try_get("version")).transpose()?;
            Self::Outbox {
                version: version.unwrap_or_default(),
            }
        } else if has("has_tables")? {
            Self::Foreign
        } else if has("has_schema")? {
            Self::Empty
        } else {
            Self::Missing
        })
    }

    /// How many of the migrations have been done. Pure.
    fn done(self) -> Result<usize, OutboxError> {
        match self {
            Self::Missing | Self::Empty => Ok(0),
            Self::Foreign => Err(OutboxError::NotAnOutbox),
            Self::Outbox { version } => {
                let done = usize::try_from(version).unwrap_or(usize::MAX);
                if done <= MIGRATIONS.len() {
                    Ok(done)
                } else {
                    Err(OutboxError::UnsupportedVersion)
                }
            }
        }
    }
}

/// When the tables were created, in microseconds: tells them from those that were created after they had been dropped.
pub(super) async fn created_at(transaction: &Transaction<'_>) -> PgResult<i64> {
    let rows = transaction.ask(CREATED_AT, []).await?;
    rows.first().map_or(Ok(0), |row| rows::number(row, "created_at"))
}

/// Brings the schema to the current version, or says why it can't be used. If it is current, this only reads.
pub(super) async fn migrate(transaction: &Transaction<'_>) -> PgResult<Result<(), OutboxError>> {
    match Identity::of(transaction).await?.done() {
        Ok(done) if done == MIGRATIONS.len() => return Ok(Ok(())),
        Ok(_) => {}
        Err(error) => return Ok(Err(error)),
    }
    let schema = transaction.schema();
    transaction.ask(LOCK, [text(schema)]).await?;
    // Another process may have migrated it meanwhile.
    let identity = Identity::of(transaction).await?;
    if identity == Identity::Missing {
        transaction
            .execute_batch(&format!("CREATE SCHEMA \"{schema}\""))
            .await?;
    }
    let done = match identity.done() {
        Ok(done) => done,
        Err(error) => return Ok(Err(error)),
    };
    for (version, migration) in (1_i32..).zip(MIGRATIONS).skip(done) {
        transaction.execute_batch(migration).await?;
        transaction.ask(NOTE_VERSION, [small(version)]).await?;
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_or_foreign_schema_is_refused() {
        assert_eq!(Identity::Foreign.done(), Err(OutboxError::NotAnOutbox));
        let newer = Identity::Outbox { version: 2 };
        assert_eq!(newer.done(), Err(OutboxError::UnsupportedVersion));
        assert_eq!(Identity::Outbox { version: 1 }.done(), Ok(1));
        assert_eq!([Identity::Missing, Identity::Empty].map(Identity::done), [Ok(0), Ok(0)]);
    }
}
