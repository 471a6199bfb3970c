//! The store on a PostgreSQL server under test: a schema of its own.

use std::{
    cell::Cell,
    collections::HashSet,
    env,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use actix_rt::time::sleep;
use futures_util::future::join;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::super::{
    Change, ClaimRequest, Claimed, Inserted, LaneClaim, NewMessage, Settled, Settlement, Store, StoreFuture, Then,
    WallTime, Watched,
    postgres::{PostgresStore, prepare},
};
use super::{Fixture, shorthand::*};
use crate::{
    call_id::CallId,
    clock::Clock,
    outbox::{
        entry::{EntryQuery, OutboxEntry, OutboxStats},
        location::{PostgresOptions, PostgresServer},
    },
};

/// The URL of the server, and the one by which owners reach it through PgBouncer in the mode `transaction`.
const SERVER: &str = "RESULT_POSTER_POSTGRES";
const PGBOUNCER: &str = "RESULT_POSTER_PGBOUNCER";

/// The number of the last schema of this process.
static LAST_SCHEMA: AtomicU64 = AtomicU64::new(0);

/// Owners connect to the server, or to PgBouncer before it.
pub(in super::super) struct PostgresFixture<const IS_POOLED: bool> {
    server: PostgresServer,
    /// Of the server itself.
    url: String,
    schema: String,
    operator: Rc<Operator>,
}

/// A connection beside the stores.
struct Operator {
    client: Client,
    schema: String,
    /// The time that the schema's clock shows.
    time: Cell<WallTime>,
}

impl Operator {
    async fn connect(url: &str, schema: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        actix_rt::spawn(async { connection.await.unwrap() });
        Self {
            client,
            schema: schema.to_owned(),
            time: Cell::default(),
        }
    }

    /// `@` stands for the schema.
    async fn execute(&self, statements: &str) {
        let statements = statements.replace('@', &format!("{}.", self.schema));
        self.client.batch_execute(&statements).await.unwrap();
    }

    async fn set_time(&self, time: WallTime) {
        if self.time.replace(time) != time {
            self.execute(&format!("UPDATE @clock SET now = {time}")).await;
        }
    }
}

impl<const IS_POOLED: bool> PostgresFixture<IS_POOLED> {
    /// A store that is connected: on a slow host, that takes longer than a job waits.
    async fn open(&self, queue: &str) -> Rc<TimedStore> {
        let store = PostgresStore::open(self.server.clone(), queue.into(), u64::MAX);
        while store.id().await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        Rc::new(TimedStore {
            store,
            operator: Rc::clone(&self.operator),
        })
    }
}

impl<const IS_POOLED: bool> PostgresFixture<IS_POOLED> {
    /// Executes an operator's statements. `@` stands for the schema.
    pub(in super::super) async fn execute(&self, statements: &str) {
        self.operator.execute(statements).await;
    }

    /// The first column of all rows.
    pub(in super::super) async fn query(&self, statements: &str) -> Vec<String> {
        let statements = statements.replace('@', &format!("{}.", self.schema));
        let messages = self.operator.client.simple_query(&statements).await.unwrap();
        let first = |message: SimpleQueryMessage| {
            let SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            row.get(0).map(str::to_owned)
        };
        messages.into_iter().filter_map(first).collect()
    }
}

impl<const IS_POOLED: bool> Fixture for PostgresFixture<IS_POOLED> {
    type Owner = TimedStore;

    const RANDOM_CASES: u32 = 30;

    async fn new() -> Option<Self> {
        let (Ok(url), Ok(pooled)) = (env::var(SERVER), env::var(PGBOUNCER)) else {
            eprintln!("not run: {SERVER} and {PGBOUNCER} are not set; `.ci/postgres start DIR` starts a server");
            return None;
        };
        let number = LAST_SCHEMA.fetch_add(1, Ordering::Relaxed);
        let schema = format!("suite_{}_{number}", std::process::id());
        let reached_by = if IS_POOLED { pooled } else { url.clone() };
        let server = PostgresServer::new(&PostgresOptions::new(reached_by).schema(&schema)).unwrap();
        prepare(&server).unwrap();
        let operator = Operator::connect(&url, &schema).await;
        let clock = "CREATE TABLE @clock (now bigint NOT NULL); INSERT INTO @clock VALUES (0);
            CREATE OR REPLACE FUNCTION @now_ms() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT now FROM @clock'";
        operator.execute(clock).await;
        Some(Self {
            server,
            url,
            schema,
            operator: Rc::new(operator),
        })
    }

    async fn owner(&self) -> Rc<TimedStore> {
        self.open("queue").await
    }

    async fn owner_of_another_queue(&self) -> Rc<TimedStore> {
        self.open("another queue").await
    }

    /// Its lease ends.
    async fn kill(&self, owner: Rc<TimedStore>) {
        let id = owner.store.id().await.unwrap();
        let end = format!("UPDATE @owners SET lease_until = clock_timestamp() - interval '1 s' WHERE id = {id}");
        self.operator.execute(&end).await;
    }

    async fn break_store(&self) {
        let mut statements = "CREATE FUNCTION @fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'broken'; END $$;"
            .to_owned();
        for table in ["lanes", "calls"] {
            statements += &format!(
                "CREATE TRIGGER break BEFORE INSERT OR UPDATE OR DELETE ON @{table}
                 FOR EACH ROW EXECUTE FUNCTION @fail();"
            );
        }
        self.operator.execute(&statements).await;
    }

    async fn repair_store(&self) {
        self.operator.execute("DROP FUNCTION @fail() CASCADE").await;
    }
}

impl<const IS_POOLED: bool> Drop for PostgresFixture<IS_POOLED> {
    fn drop(&mut self) {
        let (url, schema) = (self.url.clone(), self.schema.clone());
        let remove = move || {
            actix_rt::Runtime::new().unwrap().block_on(async {
                let operator = Operator::connect(&url, &schema).await;
                operator.execute(&format!("DROP SCHEMA {schema} CASCADE")).await;
            });
        };
        let removed = thread::spawn(remove).join();
        assert!(removed.is_ok() || thread::panicking(), "the schema was not removed");
    }
}

/// A store whose schema has a clock that shows the time that each operation names.
pub(in super::super) struct TimedStore {
    store: Rc<PostgresStore>,
    operator: Rc<Operator>,
}

impl TimedStore {
    fn at<T: 'static>(&self, time: WallTime, answer: StoreFuture<T>) -> StoreFuture<T> {
        let operator = Rc::clone(&self.operator);
        Box::pin(async move {
            operator.set_time(time).await;
            answer.await
        })
    }
}

impl Store for TimedStore {
    fn insert(&self, message: NewMessage) -> StoreFuture<Inserted> {
        self.at(message.now, self.store.insert(message))
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<Claimed> {
        self.at(request.now, self.store.claim(request))
    }

    fn has_lease_since(&self, since: Instant) -> bool {
        self.store.has_lease_since(since)
    }

    fn is_current(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.store.is_current(lane, ids)
    }

    fn note_sending(&self, lane: LaneClaim, ids: Vec<CallId>) -> StoreFuture<()> {
        self.store.note_sending(lane, ids)
    }

    fn has_calls(&self, lane: String, ended: HashSet<CallId>) -> StoreFuture<bool> {
        self.store.has_calls(lane, ended)
    }

    fn set_worker(&self, ids: Vec<CallId>, former: Option<String>, worker_id: String) -> StoreFuture<()> {
        self.store.set_worker(ids, former, worker_id)
    }

    fn settle(&self, settlements: Arc<[Settlement]>) -> StoreFuture<Vec<Settled>> {
        self.at(settlements[0].now, self.store.settle(settlements))
    }

    fn release_all(&self, now: WallTime) -> StoreFuture<()> {
        self.at(now, self.store.release_all(now))
    }

    fn watch(&self, now: WallTime, delay: Duration) -> StoreFuture<Watched> {
        self.at(now, self.store.watch(now, delay))
    }

    fn purge(&self, platform_now: WallTime, keep: Duration) -> StoreFuture<()> {
        self.store.purge(platform_now, keep)
    }

    fn list(&self, query: EntryQuery) -> StoreFuture<Vec<OutboxEntry>> {
        self.at(NOW, self.store.list(query))
    }

    fn of_target(&self, lane: String, target_id: String) -> StoreFuture<Vec<OutboxEntry>> {
        self.store.of_target(lane, target_id)
    }

    fn requeue(&self, id: CallId, now: WallTime) -> StoreFuture<bool> {
        self.at(now, self.store.requeue(id, now))
    }

    fn withdraw(&self, ids: Vec<CallId>) -> StoreFuture<bool> {
        self.store.withdraw(ids)
    }

    fn discard(&self, id: CallId) -> StoreFuture<bool> {
        self.store.discard(id)
    }

    fn replacements(&self) -> u64 {
        self.store.replacements()
    }

    fn stats(&self) -> StoreFuture<OutboxStats> {
        self.store.stats()
    }

    fn close(&self) -> StoreFuture<()> {
        self.store.close()
    }
}

#[actix_rt::test]
async fn calls_in_doubt_are_deleted_unless_another_message_was_told_of_them() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let told = first.insert_live("told", &["a"]).await.ids;
    let untold = first.insert_live("untold", &["b"]).await.ids;
    let known = second.insert(message("told", &["a"])).await.unwrap();
    assert_eq!(known, Inserted::Known { ids: told.clone() });
    first
        .store
        .doubt([told.clone(), untold.clone()].concat())
        .await
        .unwrap();
    // Before its next job, the owner resolves the doubts.
    assert_eq!(first.entry(untold[0]).await, None);
    assert_eq!(second.claim_ids_at(NOW).await, told);
    let lanes = fixture.query("SELECT name FROM @lanes").await;
    assert_eq!(lanes, ["told"]);
}

/// Otherwise the owner would not know that it has parked the lane, and nobody else would send its calls in its place.
#[actix_rt::test]
async fn settlements_whose_answers_were_lost_may_be_repeated_one_by_one() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let owner = fixture.owner().await;
    let first = owner.insert_live("lane", &["a"]).await;
    let second = owner.insert_live("lane", &["b"]).await;
    let settlement = |message: &LiveMessage, change, then| Settlement {
        lane: message.lane.clone(),
        changes: vec![(message.ids[0], change)],
        then,
        now: NOW,
    };
    let settlements = [
        settlement(&first, Change::Delete, Then::Continue),
        settlement(&second, Change::Keep(failure()), park_for(MINUTE)),
    ];
    let done = |is_released| Ok(Settled::Done { is_released });
    for (settlement, is_released) in settlements.iter().zip([false, true]) {
        assert_eq!(owner.settle_one(settlement.clone()).await, done(is_released));
    }
    owner.store.doubt_settlements(settlements.to_vec()).await.unwrap();
    for settlement in &settlements {
        assert_eq!(owner.settle_one(settlement.clone()).await, done(true));
        // Its answer was not lost this time.
        assert_eq!(owner.settle_one(settlement.clone()).await, Ok(Settled::NotCurrent));
    }
}

#[actix_rt::test]
async fn a_lane_that_was_freed_has_no_claim() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    first.insert_live("lane", &["a"]).await;
    fixture.kill(first).await;
    assert_eq!(second.watch(NOW, MINUTE).await.unwrap().freed, 1);
    assert_eq!(fixture.query("SELECT claim FROM @lanes").await, ["0"]);
}

/// A call that another owner is about to commit at the end of the lane.
const BEGIN_INSERT: &str = "
    BEGIN;
    UPDATE @lanes SET next_seq = next_seq + 1;
    INSERT INTO @calls (id, lane, seq, message, created_at, queue, home, kind, target_id, idempotency_key, body)
    SELECT gen_random_uuid(), id, next_seq - 1, gen_random_uuid(), 0, queue, name, 'completion', 'target', 'new', '{}'
    FROM @lanes";

/// Work that the operator's transaction holds up until it is committed.
async fn commit_before<T>(fixture: &PostgresFixture<false>, held_up: impl Future<Output = T>) -> T {
    let commit = async {
        let held_up = "SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))";
        while fixture.query(held_up).await.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        fixture.execute("COMMIT").await;
    };
    join(held_up, commit).await.0
}

async fn assert_has_new_call_in_its_lane(fixture: &PostgresFixture<false>) {
    let keys = "SELECT idempotency_key FROM @calls AS calls JOIN @lanes AS lanes ON lanes.id = calls.lane";
    assert_eq!(fixture.query(keys).await, ["new"]);
}

#[actix_rt::test]
async fn a_lane_with_a_new_call_outlives_its_calls_in_doubt() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let owner = fixture.owner().await;
    let in_doubt = owner.insert_live("lane", &["a"]).await.ids;
    fixture.execute(BEGIN_INSERT).await;
    owner.store.doubt(in_doubt.clone()).await.unwrap();
    // Before its next job, the owner resolves the doubts.
    assert_eq!(commit_before(&fixture, owner.entry(in_doubt[0])).await, None);
    assert_has_new_call_in_its_lane(&fixture).await;
}

#[actix_rt::test]
async fn a_lane_with_a_new_call_outlives_a_discarded_one() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let owner = fixture.owner().await;
    let parked = owner.park_new("lane", &["a"]).await;
    fixture.execute(BEGIN_INSERT).await;
    assert_eq!(commit_before(&fixture, owner.discard(parked[0])).await, Ok(true));
    assert_has_new_call_in_its_lane(&fixture).await;
}

#[actix_rt::test]
async fn a_purge_changes_few_dead_letters_at_a_time() {
    let Some(fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let owner = fixture.owner().await;
    let dead_letters = "
        INSERT INTO @calls (id, message, created_at, queue, home, kind, target_id, idempotency_key, body)
        SELECT gen_random_uuid(), gen_random_uuid(), 0, 'queue', 'lane', 'completion', 'target', i::text, '{}'
        FROM generate_series(1, 1200) AS i;
        CREATE FUNCTION @check_page() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT count(*) FROM changed) > 500 THEN RAISE 'too many at once'; END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER stamped AFTER UPDATE ON @calls REFERENCING NEW TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION @check_page();
        CREATE TRIGGER purged AFTER DELETE ON @calls REFERENCING OLD TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION @check_page()";
    fixture.execute(dead_letters).await;
    owner.purge(NOW, MINUTE).await.unwrap();
    let stamped = "SELECT count(*) FROM @calls WHERE dead_at IS NOT NULL";
    assert_eq!(fixture.query(stamped).await, ["1200"]);
    owner.purge(MINUTE_LATER, MINUTE).await.unwrap();
    assert_eq!(fixture.query("SELECT count(*) FROM @calls").await, ["0"]);
}

#[actix_rt::test]
async fn an_owner_whose_lease_has_lapsed_is_not_sure_of_its_earlier_lanes() {
    const SHORT: Duration = Duration::from_millis(600);
    let Some(mut fixture) = PostgresFixture::<false>::new().await else {
        return;
    };
    let options = PostgresOptions::new(fixture.url.clone()).schema(&fixture.schema);
    fixture.server = PostgresServer::new(&options.lease(SHORT)).unwrap();
    let (first, second) = (fixture.owner().await, fixture.owner().await);
    let message = first.insert_live("lane", &["a"]).await;
    let clock = Clock::system();
    let since = clock.instant();
    assert!(first.has_lease_since(since));
    // A lease takes real time, and the server's ends a second later.
    while second.watch(NOW, MINUTE).await.unwrap().freed == 0 {
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(second.claim_ids_at(NOW).await, message.ids);
    // The next write renews the lease, but the lane is another owner's.
    first.insert_live("other lane", &["b"]).await;
    assert!(first.has_lease_since(clock.instant()));
    assert!(!first.has_lease_since(since));
    assert!(!first.may_send(&message).await);
}
