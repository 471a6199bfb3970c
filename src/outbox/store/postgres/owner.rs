//! The owner: this poster, as the server knows it.

use std::{
    cell::Cell,
    collections::HashSet,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio_postgres::Row;

use super::super::{LaneClaim, Settlement};
use super::{
    error::PgResult,
    lanes,
    lease::Lease,
    params::{id, ids, number, numbers, text},
    rows::{self, milliseconds},
    session::{Answer, Transaction},
};
use crate::{call_id::CallId, clock::Clock};

/// Locks the row in any case, and writes it once a second at most: rows that a long snapshot keeps slow each write down.
const ENTER: &str = "
    INSERT INTO @owners AS owners (id, queue, lease_until)
    VALUES ($1, $2, clock_timestamp() + $3 * interval '1 ms' + interval '1 s')
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
    WHERE owners.lease_until < excluded.lease_until - interval '1 s'";
const LEAVE: &str = "DELETE FROM @owners WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM @lanes WHERE owner = $1)";
/// The lanes that are left count as those of a dead owner, now.
const GIVE_UP: &str = "UPDATE @owners SET lease_until = '-infinity' WHERE id = $1";
const USED_BYTES: &str = "SELECT sum(bytes)::bigint AS bytes, count(*) AS rows FROM @usage";
/// The lanes of calls that were answered as not stored, except for those that another owner sends.
const LOCK_DOUBTFUL: &str = "
    SELECT id FROM @lanes WHERE id IN (SELECT lane FROM @calls WHERE id = ANY($1)) AND (owner IS NULL OR owner = $2)
    ORDER BY name FOR UPDATE";
const DELETE_DOUBTFUL: &str = "DELETE FROM @calls WHERE id = ANY($1) AND lane = ANY($2) AND NOT known";
/// A call that stays, since another message was answered with its id: behind the calls that the owner has taken, it is
/// parked.
const MOVE_KNOWN: &str = "
    WITH lane AS (
        UPDATE @lanes SET next_seq = next_seq + 1
        WHERE id = (SELECT lane FROM @calls WHERE id = $1) AND id = ANY($2) AND owner IS NOT NULL
        RETURNING next_seq - 1 AS seq
    ) UPDATE @calls AS calls SET seq = lane.seq FROM lane WHERE calls.id = $1";
const RELEASE_DOUBTFUL: &str = "
    UPDATE @lanes SET owner = NULL, taken = 0, parked_at = @now_ms(), wait = 0, parked_by = 0, reason = NULL
    WHERE owner = $1 AND claim = ANY($2)";

/// How long the size of all calls is not asked for again.
const USED_BYTES_FOR: Duration = Duration::from_secs(1);

/// A poster, as an owner of lanes.
pub(super) struct Owner {
    pub(super) id: i64,
    pub(super) queue: Rc<str>,
    last_claim: i64,
    lease: Rc<Cell<Lease>>,
    clock: Clock,
    /// When the renewal was sent that the present transaction contains.
    renewing: Option<Instant>,
    /// The size of all calls with what was inserted since, and when it was read.
    used_bytes: Option<(u64, Instant)>,
    /// How many rows that size was the sum of.
    pub(super) usage_rows: u64,
    /// The claims that the present transaction makes.
    pub(super) claiming: Vec<i64>,
    pub(super) doubts: Doubts,
}

/// The changes whose commit was not answered: they may have been made or not.
#[derive(Default)]
pub(super) struct Doubts {
    /// Calls that were answered as not stored.
    pub(super) calls: Vec<CallId>,
    /// Claims whose calls nobody knows.
    pub(super) claims: Vec<i64>,
    /// The settlements that are repeated.
    settlements: HashSet<(LaneClaim, Option<CallId>)>,
}

impl Doubts {
    /// A settlement may have been written.
    pub(super) fn add_settlement(&mut self, settlement: &Settlement) {
        self.settlements.insert(identity(settlement));
    }

    /// Whether the settlement may have been written before.
    pub(super) fn has_settlement(&self, settlement: &Settlement) -> bool {
        self.settlements.contains(&identity(settlement))
    }

    /// The settlement was answered.
    pub(super) fn remove_settlement(&mut self, settlement: &Settlement) {
        self.settlements.remove(&identity(settlement));
    }
}

/// Tells a settlement from others under the same claim, which may be repeated later than it. Those without calls do the
/// same.
fn identity(settlement: &Settlement) -> (LaneClaim, Option<CallId>) {
    let first = settlement.changes.first().map(|(id, _)| *id);
    (settlement.lane.clone(), first)
}

/// Ids and claims start at random: those of an earlier owner or an earlier lane never come again.
fn random_id() -> i64 {
    rand::random_range(1..=i64::MAX / 2)
}

impl Owner {
    pub(super) fn new(queue: Rc<str>, lease: Rc<Cell<Lease>>) -> Self {
        Self {
            id: random_id(),
            queue,
            last_claim: random_id(),
            lease,
            clock: Clock::system(),
            renewing: None,
            used_bytes: None,
            usage_rows: 0,
            claiming: Vec::new(),
            doubts: Doubts::default(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.instant()
    }

    /// The number of a new claim.
    pub(super) fn next_claim(&mut self) -> i64 {
        self.last_claim = self.last_claim.saturating_add(1);
        self.last_claim
    }

    pub(super) fn lease(&self) -> Lease {
        self.lease.get()
    }

    /// A transaction begins.
    pub(super) fn begin_transaction(&mut self) {
        self.renewing = None;
        self.claiming.clear();
    }

    /// The transaction may have been committed.
    pub(super) fn lost(&mut self) {
        self.doubts.claims.append(&mut self.claiming);
    }

    /// The transaction was committed.
    pub(super) fn committed(&mut self) {
        if let Some(sent_at) = self.renewing.take() {
            let mut lease = self.lease.get();
            lease.renewed(sent_at, self.now());
            self.lease.set(lease);
        }
    }

    /// Enters the owner, or renews its lease. Its row stays locked until the end of the transaction: until then it does not
    /// die, and before that a transaction of an earlier connection has ended.
    pub(super) fn enter<'a>(&mut self, transaction: &'a Transaction<'_>) -> Answer<'a, Vec<Row>> {
        self.renewing = Some(self.now());
        let length = milliseconds(self.lease().length());
        transaction.ask(ENTER, [number(self.id), text(&self.queue), number(length)])
    }

    /// Whether the size of all calls has to be read again.
    pub(super) fn must_read_used_bytes(&self) -> bool {
        self.used_bytes
            .is_none_or(|(_, at)| self.now().saturating_duration_since(at) >= USED_BYTES_FOR)
    }

    /// Asks for the size of all calls.
    pub(super) fn ask_used_bytes<'a>(transaction: &'a Transaction<'_>) -> Answer<'a, Vec<Row>> {
        transaction.ask(USED_BYTES, [])
    }

    pub(super) fn note_used_bytes(&mut self, rows: &[Row]) -> PgResult<()> {
        let count = |column| rows.first().map_or(Ok(0), |row| rows::count(row, column));
        self.usage_rows = count("rows")?;
        self.used_bytes = Some((count("bytes")?, self.now()));
        Ok(())
    }

    /// How many bytes may still be stored.
    pub(super) fn room(&self, max_bytes: u64) -> u64 {
        max_bytes.saturating_sub(self.used_bytes.map_or(0, |(bytes, _)| bytes))
    }

    /// The number of the last claim.
    pub(super) fn last_claim(&self) -> i64 {
        self.last_claim
    }

    /// Claims were made up to this number, and so many bytes are stored.
    pub(super) fn note_plan(&mut self, last_claim: i64, bytes: u64) {
        self.last_claim = last_claim;
        if let Some((used, _)) = &mut self.used_bytes {
            *used = used.saturating_add(bytes);
        }
    }

    /// Deletes an owner without lanes. Other owners free the lanes that it still has.
    pub(super) async fn leave(&self, transaction: &Transaction<'_>) -> PgResult<()> {
        let left = transaction.ask(LEAVE, [number(self.id)]);
        let given_up = transaction.ask(GIVE_UP, [number(self.id)]);
        left.await?;
        given_up.await.map(drop)
    }

    /// Undoes what was committed without an answer, as if it had not been.
    pub(super) async fn resolve_doubts(&mut self, transaction: &Transaction<'_>) -> PgResult<()> {
        let entered = self.enter(transaction);
        let claims = numbers(self.doubts.claims.iter().copied());
        let released = transaction.ask(RELEASE_DOUBTFUL, [number(self.id), claims]);
        let locked = transaction.ask(LOCK_DOUBTFUL, [ids(&self.doubts.calls), number(self.id)]);
        entered.await?;
        released.await?;
        let lanes = lanes::read_ids(&locked.await?)?;
        let locked = || numbers(lanes.iter().copied());
        let mut answers = vec![transaction.ask(DELETE_DOUBTFUL, [ids(&self.doubts.calls), locked()])];
        for call in &self.doubts.calls {
            answers.push(transaction.ask(MOVE_KNOWN, [id(*call), locked()]));
        }
        answers.push(lanes::remove_empty(transaction, &lanes));
        answers.push(lanes::release_untaken(transaction, &lanes));
        for answer in answers {
            answer.await?;
        }
        Ok(())
    }

    pub(super) fn has_doubts(&self) -> bool {
        !self.doubts.calls.is_empty() || !self.doubts.claims.is_empty()
    }

    /// The doubts were resolved.
    pub(super) fn forget_doubts(&mut self) {
        self.doubts.calls.clear();
        self.doubts.claims.clear();
    }
}
