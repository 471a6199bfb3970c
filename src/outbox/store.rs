//! What is done in the outbox's file. Each function is one step of a transaction.

use std::{collections::HashSet, time::SystemTime};

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::{DeliveryId, OutboxEntry, Page, from_milliseconds};

/// How many calls of one lane are claimed at once, so that it takes up no more than its share of those that are sent.
const OF_ONE_LANE: u32 = 16;

/// Whose calls a process may deliver: those of its worker, for its platform.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) platform: String,
    pub(super) worker: String,
}

/// A call that is to be kept.
#[derive(Debug, Clone)]
pub(super) struct NewCall {
    pub(super) name: &'static str,
    pub(super) subject: String,
    pub(super) idempotency_key: String,
    pub(super) body: String,
}

/// A message that is to be kept: its calls, in the order that they are sent in.
#[derive(Debug, Clone)]
pub(super) struct NewMessage {
    pub(super) lane: String,
    pub(super) calls: Vec<NewCall>,
    pub(super) now: i64,
    pub(super) expires_at: i64,
}

/// Where a call is in the file, and what it has been through.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) id: i64,
    /// It may have the same number in a file that has taken this one's place, but not the same key.
    pub(super) idempotency_key: String,
    pub(super) attempts: u32,
    pub(super) rounds: u32,
    pub(super) expires_at: i64,
}

/// A call that was kept, and is to be delivered.
#[derive(Debug)]
pub(crate) struct ClaimedCall {
    pub(super) kept: Kept,
    pub(super) message: i64,
    pub(crate) subject: String,
    pub(crate) body: Vec<u8>,
}

impl ClaimedCall {
    pub(crate) fn idempotency_key(&self) -> &str {
        &self.kept.idempotency_key
    }
}

/// Keeps a message. Where an earlier one of its lane is parked, or another process's, it is parked behind it:
/// then it has no owner. Returns the first call's id, and whether that is so.
pub(super) fn insert(
    connection: &Connection,
    scope: &Scope,
    owner: Option<i64>,
    message: &NewMessage,
    is_first: bool,
) -> rusqlite::Result<(i64, bool)> {
    // What the first in its lane finds there has been claimed, if it is this process's: it is about to be sent again.
    let but_of = owner.filter(|_| !is_first);
    let ahead = ahead(connection, scope, but_of, &message.lane, i64::MAX)?;
    let owner = owner.filter(|_| ahead.is_none());
    if let Some(owner) = owner {
        introduce(connection, owner)?;
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO calls (message, platform, worker, lane, name, subject, idempotency_key, body, owner, created_at,
             due_at, expires_at)
         VALUES (:message, :platform, :worker, :lane, :name, :subject, :idempotency_key, :body, :owner, :now, :due_at,
             :expires_at)",
    )?;
    let mut first = None;
    for call in &message.calls {
        let id = insert.insert(named_params! {
            ":message": first.unwrap_or_default(),
            ":platform": scope.platform,
            ":worker": scope.worker,
            ":lane": message.lane,
            ":name": call.name,
            ":subject": call.subject,
            ":idempotency_key": call.idempotency_key,
            ":body": call.body,
            ":owner": owner,
            ":now": message.now,
            ":due_at": ahead.unwrap_or_default().max(message.now),
            ":expires_at": message.expires_at,
        })?;
        if first.is_none() {
            first = Some(id);
            let mut number = connection.prepare_cached("UPDATE calls SET message = id WHERE id = ?1")?;
            number.execute([id])?;
        }
    }
    Ok((first.unwrap_or_default(), owner.is_none()))
}

/// Makes an owner known, so that it is missed when it is gone.
fn introduce(connection: &Connection, owner: i64) -> rusqlite::Result<()> {
    let mut introduce = connection.prepare_cached("INSERT OR IGNORE INTO owners (id, beat) VALUES (?1, 0)")?;
    introduce.execute([owner])?;
    Ok(())
}

/// When the last call of the lane from before `message` is due, if there is one, not counting those of this owner.
pub(super) fn ahead(
    connection: &Connection,
    scope: &Scope,
    but_of: Option<i64>,
    lane: &str,
    message: i64,
) -> rusqlite::Result<Option<i64>> {
    let last = |calls: &str, condition: &str| {
        let mut last = connection.prepare_cached(&format!(
            "SELECT due_at FROM {calls}
             WHERE lane = :lane AND dead = 0 AND message < :message AND {condition}
                 AND platform = :platform AND worker = :worker
             ORDER BY message DESC LIMIT 1",
        ))?;
        let parameters = named_params! {
            ":lane": lane, ":message": message, ":owner": but_of, ":platform": scope.platform, ":worker": scope.worker,
        };
        last.query_row(parameters, |row| row.get(0)).optional()
    };
    if but_of.is_none() {
        return last("calls", ":owner IS NULL");
    }
    // An index leads past the owner's own, of which there may be thousands.
    for others in [
        "owner IS NULL AND :owner IS NOT NULL",
        "owner < :owner",
        "owner > :owner",
    ] {
        if let Some(due_at) = last("calls INDEXED BY calls_by_lane_and_owner", others)? {
            return Ok(Some(due_at));
        }
    }
    Ok(None)
}

/// The lanes with a call that is due, which may be many.
const DUE: &str = "SELECT lane FROM calls
     WHERE platform = :platform AND worker = :worker AND dead = 0 AND owner IS NULL AND due_at <= :now
     ORDER BY due_at";

/// What a lane begins with.
const FIRST_OF_LANE: &str = "SELECT *, owner IS NULL AND due_at <= :now AS due, owner IS NULL AS parked FROM calls
     WHERE lane = CAST(:lane AS TEXT) AND dead = 0 AND platform = :platform AND worker = :worker
     ORDER BY message, id LIMIT :limit";

const ADOPT: &str = "UPDATE calls SET worker = ?3 WHERE platform = ?1 AND worker = ?2";

/// Takes calls that are parked and due until there are `limit`, lane by lane, the longest due first: of each the first
/// calls, unless one before them is not to be had. Tells whether there is such a lane.
pub(super) fn claim(
    connection: &Connection,
    scope: &Scope,
    owner: i64,
    now: i64,
    limit: usize,
) -> rusqlite::Result<(Vec<ClaimedCall>, bool)> {
    let mut due = connection.prepare_cached(DUE)?;
    let mut due = due.query(named_params! {
        ":platform": scope.platform, ":worker": scope.worker, ":now": now,
    })?;
    let (mut lanes, mut calls, mut is_blocked) = (HashSet::<Vec<u8>>::new(), Vec::new(), false);
    while let Some(row) = due.next()?
        && calls.len() < limit
    {
        let lane = row.get_ref("lane")?.as_bytes()?;
        if !lanes.contains(lane) {
            let before = calls.len();
            first_of_lane(connection, scope, lane, now, &mut calls)?;
            is_blocked |= calls.len() == before;
            lanes.insert(lane.to_owned());
        }
    }
    introduce(connection, owner)?;
    let mut claim = connection.prepare_cached("UPDATE calls SET owner = ?1 WHERE id = ?2")?;
    for call in &calls {
        claim.execute((owner, call.kept.id))?;
    }
    Ok((calls, is_blocked))
}

/// Adds the first calls of a lane, as far as they are parked and due; with the first, its whole message.
fn first_of_lane(
    connection: &Connection,
    scope: &Scope,
    lane: &[u8],
    now: i64,
    calls: &mut Vec<ClaimedCall>,
) -> rusqlite::Result<()> {
    let mut first = connection.prepare_cached(FIRST_OF_LANE)?;
    let mut rows = first.query(named_params! {
        ":now": now, ":lane": lane, ":platform": scope.platform, ":worker": scope.worker, ":limit": OF_ONE_LANE,
    })?;
    let mut start = calls.len();
    while let Some(row) = rows.next()? {
        let message: i64 = row.get("message")?;
        if calls.get(start).is_none_or(|first| first.message != message) {
            start = calls.len();
        }
        let (is_due, is_parked): (bool, bool) = (row.get("due")?, row.get("parked")?);
        let is_with_first = is_parked && start < calls.len();
        if !is_due && !is_with_first {
            // A message of which some is on its way yet is not to be had either.
            if !is_parked {
                calls.truncate(start);
            }
            break;
        }
        calls.push(ClaimedCall {
            kept: Kept {
                id: row.get("id")?,
                idempotency_key: text(row, "idempotency_key")?,
                attempts: count(row, "attempts")?,
                rounds: count(row, "rounds")?,
                expires_at: row.get("expires_at")?,
            },
            message,
            subject: text(row, "subject")?,
            body: row.get_ref("body")?.as_bytes()?.to_owned(),
        });
    }
    Ok(())
}

/// The platform has it, or nobody wants it delivered any more.
pub(super) fn remove(connection: &Connection, call: &Kept) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("DELETE FROM calls WHERE id = ?1 AND idempotency_key = ?2")?
        .execute((call.id, &call.idempotency_key))
}

/// Why an attempt has failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure {
    pub(super) status_code: Option<u16>,
    pub(super) error: String,
}

/// Who has it, if it is there: nobody, if it is parked.
pub(super) fn owner(connection: &Connection, call: &Kept) -> rusqlite::Result<Option<Option<i64>>> {
    connection
        .prepare_cached("SELECT owner FROM calls WHERE id = ?1 AND idempotency_key = ?2")?
        .query_row((call.id, &call.idempotency_key), |row| row.get(0))
        .optional()
}

/// It waits until `due_at` for whoever may deliver it then, and so does what is parked behind it.
pub(super) fn park(
    connection: &Connection,
    call: &Kept,
    owner: i64,
    due_at: i64,
    failure: &Failure,
) -> rusqlite::Result<usize> {
    let mut park = connection.prepare_cached(
        "UPDATE calls SET owner = NULL, due_at = :due_at, attempts = :attempts, rounds = :rounds,
             status_code = :status_code, error = :error
         WHERE id = :id AND idempotency_key = :key AND owner = :owner",
    )?;
    let parked = park.execute(named_params! {
        ":id": call.id,
        ":key": call.idempotency_key,
        ":owner": owner,
        ":due_at": due_at,
        ":attempts": call.attempts,
        ":rounds": call.rounds,
        ":status_code": failure.status_code,
        ":error": failure.error,
    })?;
    if parked > 0 {
        let mut hold_back = connection.prepare_cached(
            "UPDATE calls SET due_at = :due_at FROM (SELECT * FROM calls WHERE id = :id) AS first
             WHERE calls.lane = first.lane AND calls.dead = 0 AND calls.message > first.message
                 AND calls.platform = first.platform AND calls.worker = first.worker
                 AND calls.owner IS NULL AND calls.due_at < :due_at",
        )?;
        hold_back.execute(named_params! { ":id": call.id, ":due_at": due_at })?;
    }
    Ok(parked)
}

/// It is given back as it was, for whoever may deliver it, from `due_at` on.
pub(super) fn give_back(connection: &Connection, call: &Kept, owner: i64, due_at: i64) -> rusqlite::Result<usize> {
    let mut give_back = connection.prepare_cached(
        "UPDATE calls SET owner = NULL, due_at = max(due_at, ?4)
         WHERE id = ?1 AND idempotency_key = ?2 AND owner = ?3",
    )?;
    give_back.execute((call.id, &call.idempotency_key, owner, due_at))
}

/// It is never sent again by itself.
pub(super) fn bury(connection: &Connection, call: &Kept, failure: &Failure) -> rusqlite::Result<usize> {
    let mut bury = connection.prepare_cached(
        "UPDATE calls SET dead = 1, owner = NULL, attempts = :attempts, rounds = :rounds, status_code = :status_code,
             error = :error
         WHERE id = :id AND idempotency_key = :key",
    )?;
    bury.execute(named_params! {
        ":id": call.id,
        ":key": call.idempotency_key,
        ":attempts": call.attempts,
        ":rounds": call.rounds,
        ":status_code": failure.status_code,
        ":error": failure.error,
    })
}

/// What was written by a clock that was wrong: due later than any wait, it is due now; handed over later than that, or
/// over for more than a year, it has its time anew.
pub(super) fn mend_times(connection: &Connection, scope: &Scope, now: i64, longest_wait: i64) -> rusqlite::Result<()> {
    const YEAR: i64 = 365 * 24 * 60 * 60 * 1000;
    let horizon = now.saturating_add(longest_wait);
    let mut due = connection.prepare_cached(
        "UPDATE calls SET due_at = :now
         WHERE platform = :platform AND worker = :worker AND dead = 0 AND owner IS NULL AND due_at > :horizon",
    )?;
    due.execute(named_params! {
        ":now": now, ":horizon": horizon, ":platform": scope.platform, ":worker": scope.worker,
    })?;
    let mut expires = connection.prepare_cached(
        "UPDATE calls SET created_at = :now, expires_at = :now + (expires_at - created_at)
         WHERE platform = :platform AND worker = :worker AND dead = 0 AND owner IS NULL
             AND (created_at > :horizon OR expires_at < :past)",
    )?;
    expires.execute(named_params! {
        ":now": now, ":horizon": horizon, ":past": now.saturating_sub(YEAR),
        ":platform": scope.platform, ":worker": scope.worker,
    })?;
    Ok(())
}

/// What was from one worker is from another.
pub(super) fn adopt(connection: &Connection, platform: &str, former: &str, worker: &str) -> rusqlite::Result<()> {
    let mut adopt = connection.prepare_cached(ADOPT)?;
    adopt.execute([platform, former, worker])?;
    Ok(())
}

/// Shows that this owner is alive, and returns what the others have shown so far.
pub(super) fn beat(connection: &Connection, owner: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut beat = connection.prepare_cached(
        "INSERT INTO owners (id, beat) VALUES (?1, 1) ON CONFLICT (id) DO UPDATE SET beat = beat + 1",
    )?;
    beat.execute([owner])?;
    let mut others = connection.prepare_cached("SELECT id, beat FROM owners WHERE id <> ?1")?;
    others
        .query_map([owner], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Frees the calls of an owner that is gone, if this is its last sign of life, and as far as they are in scope. Returns
/// how many.
pub(super) fn take_over(connection: &Connection, scope: &Scope, gone: i64, sign: i64) -> rusqlite::Result<usize> {
    let mut free = connection.prepare_cached(
        "UPDATE calls INDEXED BY calls_by_owner SET owner = NULL
         WHERE owner = :gone AND EXISTS (SELECT 1 FROM owners WHERE id = :gone AND beat = :sign) AND platform = :platform AND worker = :worker",
    )?;
    let freed = free.execute(named_params! {
        ":gone": gone, ":sign": sign, ":platform": scope.platform, ":worker": scope.worker,
    })?;
    let mut forget = connection.prepare_cached(
        "DELETE FROM owners WHERE id = ?1 AND beat = ?2 AND NOT EXISTS (SELECT 1 FROM calls WHERE owner = ?1)",
    )?;
    forget.execute([gone, sign])?;
    Ok(freed)
}

/// This owner is gone, and what it still had is parked.
pub(super) fn leave(connection: &Connection, owner: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE calls SET owner = NULL WHERE owner = ?1")?
        .execute([owner])?;
    connection
        .prepare_cached("DELETE FROM owners WHERE id = ?1")?
        .execute([owner])?;
    Ok(())
}

/// When the next call that is parked and in scope falls due.
pub(super) fn next_due(connection: &Connection, scope: &Scope, now: i64) -> rusqlite::Result<Option<i64>> {
    let mut query = connection.prepare_cached(
        "SELECT min(due_at) FROM calls
         WHERE dead = 0 AND owner IS NULL AND due_at > :now
             AND platform = :platform AND worker = :worker",
    )?;
    let parameters = named_params! { ":now": now, ":platform": scope.platform, ":worker": scope.worker };
    query.query_row(parameters, |row| row.get(0))
}

/// A page of what is parked, or dead, whoever it belongs to.
pub(super) fn list(connection: &Connection, dead: bool, page: Page) -> rusqlite::Result<Vec<OutboxEntry>> {
    let mut list = connection.prepare_cached(
        "SELECT * FROM calls WHERE id > :after AND dead = :dead AND (dead = 1 OR owner IS NULL) ORDER BY id LIMIT :limit",
    )?;
    let parameters = named_params! { ":after": page.after, ":dead": dead, ":limit": page.limit };
    list.query_map(parameters, kept)?.collect()
}

pub(super) fn get(connection: &Connection, id: i64) -> rusqlite::Result<Option<OutboxEntry>> {
    let mut one = connection.prepare_cached("SELECT * FROM calls WHERE id = ?1 AND (dead = 1 OR owner IS NULL)")?;
    one.query_row([id], kept).optional()
}

/// Whatever somebody has written there.
fn count(row: &Row<'_>, name: &str) -> rusqlite::Result<u32> {
    let count: i64 = row.get(name)?;
    Ok(u32::try_from(count).unwrap_or_default())
}

/// Whatever bytes a disk has made of it: one call that can't be read must not hide the others.
fn text(row: &Row<'_>, name: &str) -> rusqlite::Result<String> {
    let bytes = row.get_ref(name)?.as_bytes_or_null()?;
    Ok(String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned())
}

fn kept(row: &Row<'_>) -> rusqlite::Result<OutboxEntry> {
    let time = |name| -> rusqlite::Result<SystemTime> { Ok(from_milliseconds(row.get(name)?)) };
    Ok(OutboxEntry {
        id: DeliveryId(row.get("id")?),
        call: text(row, "name")?,
        subject: text(row, "subject")?,
        platform_url: text(row, "platform")?,
        worker_id: text(row, "worker")?,
        idempotency_key: text(row, "idempotency_key")?,
        body: text(row, "body")?,
        attempts: count(row, "attempts")?,
        created_at: time("created_at")?,
        // 0 is at once.
        due_at: time("due_at")?.max(time("created_at")?),
        expires_at: time("expires_at")?,
        status_code: row
            .get::<_, Option<i64>>("status_code")?
            .and_then(|code| u16::try_from(code).ok()),
        error: text(row, "error")?,
        is_dead: row.get("dead")?,
    })
}

/// It is parked, due at once, with all of its time before it; what is parked of its lane is due too, since they go in
/// order. `false` if there is none that is parked or dead.
pub(super) fn requeue(connection: &Connection, id: i64, expires_at: i64) -> rusqlite::Result<bool> {
    let mut requeue = connection.prepare_cached(
        "UPDATE calls SET dead = 0, rounds = 0, due_at = 0, expires_at = max(:expires_at, created_at)
         WHERE id = :id AND (dead = 1 OR owner IS NULL)",
    )?;
    let changed = requeue.execute(named_params! { ":id": id, ":expires_at": expires_at })?;
    if changed > 0 {
        release(connection, id)?;
    }
    Ok(changed > 0)
}

/// What is parked of this call's lane is due at once, if it is parked itself.
fn release(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    let mut release = connection.prepare_cached(
        "UPDATE calls INDEXED BY calls_by_lane_and_owner SET due_at = 0
         FROM (SELECT * FROM calls WHERE id = ?1 AND dead = 0 AND owner IS NULL) AS this
         WHERE calls.lane = this.lane AND calls.dead = 0 AND calls.owner IS NULL
             AND calls.platform = this.platform AND calls.worker = this.worker",
    )?;
    release.execute([id])?;
    Ok(())
}

/// It is gone, and what is parked behind it is due. `false` if there is none that is parked or dead.
pub(super) fn discard(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    release(connection, id)?;
    let mut discard = connection.prepare_cached("DELETE FROM calls WHERE id = ?1 AND (dead = 1 OR owner IS NULL)")?;
    Ok(discard.execute([id])? > 0)
}

/// What is made of a call in whose texts stands anything: as it is claimed, and as it is listed.
#[cfg(any(test, fuzzing))]
pub(crate) fn written_and_read(
    [lane, subject, key, body]: [&[u8]; 4],
) -> Result<(Vec<ClaimedCall>, Vec<OutboxEntry>), super::Fault> {
    let mut connection = Connection::open_in_memory()?;
    super::file::migrate(&mut connection)?;
    connection.execute(
        "INSERT INTO calls (message, platform, worker, lane, name, subject, idempotency_key, body, created_at, due_at, expires_at)
         VALUES (1, '', '', CAST(?1 AS TEXT), 'status', CAST(?2 AS TEXT), CAST(?3 AS TEXT), CAST(?4 AS TEXT), 0, 0, 0)",
        (lane, subject, key, body),
    )?;
    let scope = Scope {
        platform: String::new(),
        worker: String::new(),
    };
    let page = Page::first(1);
    let listed = list(&connection, false, page)?;
    Ok((claim(&connection, &scope, 1, 0, 1)?.0, listed))
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    const MINE: i64 = 1;
    const OTHER: i64 = 2;

    fn scope(worker: &str) -> Scope {
        Scope {
            platform: "https://app.example.com".into(),
            worker: worker.into(),
        }
    }

    fn file() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        file::migrate(&mut connection).unwrap();
        connection
    }

    /// Keeps a message of one call as this owner's, and returns it.
    fn keep(connection: &Connection, owner: i64, lane: &str) -> Kept {
        keep_all(connection, owner, lane, &["createComment"]).remove(0)
    }

    fn keep_all(connection: &Connection, owner: i64, lane: &str, names: &[&'static str]) -> Vec<Kept> {
        let message = NewMessage {
            lane: lane.into(),
            calls: names
                .iter()
                .map(|name| NewCall {
                    name,
                    subject: lane.into(),
                    idempotency_key: format!("key of {name}"),
                    body: "{}".into(),
                })
                .collect(),
            now: 0,
            expires_at: 1000,
        };
        let (first, _) = insert(connection, &scope("w"), Some(owner), &message, false).unwrap();
        let kept = |(id, name)| Kept {
            id,
            idempotency_key: format!("key of {name}"),
            attempts: 1,
            rounds: 1,
            expires_at: 1000,
        };
        (first..).zip(names).map(kept).collect()
    }

    fn owner(connection: &Connection, call: &Kept) -> Option<i64> {
        let owner = connection.query_row("SELECT owner FROM calls WHERE id = ?1", [call.id], |row| row.get(0));
        owner.unwrap()
    }

    fn due_at(connection: &Connection, call: &Kept) -> i64 {
        let due_at = connection.query_row("SELECT due_at FROM calls WHERE id = ?1", [call.id], |row| row.get(0));
        due_at.unwrap()
    }

    fn claimed(connection: &Connection, now: i64, limit: usize) -> Vec<i64> {
        let (calls, _) = claim(connection, &scope("w"), MINE, now, limit).unwrap();
        calls.iter().map(|call| call.kept.id).collect()
    }

    #[test]
    fn only_who_has_a_call_parks_it_or_gives_it_back() {
        let file = file();
        let call = keep(&file, OTHER, "a");
        let failure = Failure::default();
        assert_eq!(park(&file, &call, MINE, 9, &failure).unwrap(), 0);
        assert_eq!(give_back(&file, &call, MINE, 9).unwrap(), 0);
        assert_eq!((owner(&file, &call), due_at(&file, &call)), (Some(OTHER), 0));
        let mut stranger = call.clone();
        stranger.idempotency_key = "another".into();
        assert_eq!(park(&file, &stranger, OTHER, 9, &failure).unwrap(), 0);
        assert_eq!(give_back(&file, &stranger, OTHER, 9).unwrap(), 0);
        assert_eq!(bury(&file, &stranger, &failure).unwrap(), 0);
        assert_eq!(remove(&file, &stranger).unwrap(), 0);
        assert_eq!(park(&file, &call, OTHER, 9, &failure).unwrap(), 1);
        assert_eq!((owner(&file, &call), due_at(&file, &call)), (None, 9));
    }

    #[test]
    fn only_what_is_in_scope_is_taken_over_claimed_or_due() {
        let file = file();
        let call = keep(&file, OTHER, "a");
        for stranger in [
            scope("x"),
            Scope {
                platform: "https://other.example.com".into(),
                ..scope("w")
            },
        ] {
            assert_eq!(take_over(&file, &stranger, OTHER, 0).unwrap(), 0);
            assert_eq!(owner(&file, &call), Some(OTHER));
            assert_eq!(take_over(&file, &scope("w"), OTHER, 0).unwrap(), 1);
            assert!(claim(&file, &stranger, MINE, 9, 9).unwrap().0.is_empty());
            assert_eq!(next_due(&file, &stranger, -1).unwrap(), None);
            assert_eq!(next_due(&file, &scope("w"), -1).unwrap(), Some(0));
            mend_times(&file, &stranger, 7, -8).unwrap();
            assert_eq!(due_at(&file, &call), 0);
            file.execute("UPDATE calls SET owner = ?1", [OTHER]).unwrap();
            introduce(&file, OTHER).unwrap();
        }
        take_over(&file, &scope("w"), OTHER, 0).unwrap();
        assert_eq!(claimed(&file, 0, 9), [call.id]);
    }

    #[test]
    fn what_a_former_worker_has_left_is_its_successors() {
        let file = file();
        let call = keep(&file, MINE, "a");
        leave(&file, MINE).unwrap();
        adopt(&file, "https://other.example.com", "w", "x").unwrap();
        assert_eq!(claimed(&file, 0, 9), [call.id]);
        leave(&file, MINE).unwrap();
        adopt(&file, &scope("w").platform, "w", "x").unwrap();
        assert!(claimed(&file, 0, 9).is_empty());
        assert_eq!(claim(&file, &scope("x"), MINE, 0, 9).unwrap().0.len(), 1);
    }

    #[test]
    fn a_lane_gives_its_share_in_order_and_nothing_past_what_is_not_to_be_had() {
        let file = file();
        let many: Vec<_> = (0..40).map(|_| keep(&file, MINE, "many").id).collect();
        let one = keep(&file, MINE, "one").id;
        leave(&file, MINE).unwrap();
        // So that one lane does not take up all that may be sent.
        let share = usize::try_from(OF_ONE_LANE).unwrap();
        let first = claimed(&file, 0, 1000);
        assert_eq!(first, [&many[..share], &[one]].concat());
        // What is on its way comes first.
        let (calls, is_blocked) = claim(&file, &scope("w"), MINE, 0, 1000).unwrap();
        assert!(calls.is_empty() && is_blocked);
        file.execute("DELETE FROM calls WHERE owner IS NOT NULL", ()).unwrap();
        file.execute("UPDATE calls SET owner = ?1 WHERE id = ?2", (OTHER, many[share + 2]))
            .unwrap();
        assert_eq!(claimed(&file, 0, 1000), many[share..share + 2]);
    }

    #[test]
    fn what_is_parked_behind_a_call_waits_as_long_as_that() {
        let file = file();
        let calls = [(); 3].map(|()| keep(&file, MINE, "a"));
        let [first, second, third] = &calls;
        let other = keep(&file, MINE, "b");
        leave(&file, MINE).unwrap();
        assert_eq!(claimed(&file, 0, 2).len(), 3);
        give_back(&file, third, MINE, 0).unwrap();
        park(&file, first, MINE, 50, &Failure::default()).unwrap();
        // One that was on its way, one that was parked, and one that comes only now.
        let ahead = ahead(&file, &scope("w"), None, "a", second.id).unwrap();
        give_back(&file, second, MINE, ahead.unwrap()).unwrap();
        let fourth = keep(&file, MINE, "a");
        for call in [first, second, third, &fourth] {
            assert_eq!((owner(&file, call), due_at(&file, call)), (None, 50));
        }
        assert_eq!(due_at(&file, &other), 0);
        assert_eq!(next_due(&file, &scope("w"), 0).unwrap(), Some(50));
        // They go in order: whichever of them is to go now takes along those before it.
        assert!(requeue(&file, third.id, 2000).unwrap());
        assert_eq!(
            claimed(&file, 0, 9),
            [first.id, second.id, third.id, fourth.id, other.id]
        );
    }

    #[test]
    fn whoever_has_a_call_is_known_until_it_has_none() {
        let file = file();
        let owners = || -> Vec<i64> {
            let mut owners = file.prepare("SELECT id FROM owners ORDER BY id").unwrap();
            let owners = owners.query_map((), |row| row.get(0)).unwrap();
            owners.map(Result::unwrap).collect()
        };
        let other = keep(&file, OTHER, "a");
        assert_eq!(owners(), [OTHER]);
        // It has another worker's calls yet.
        file.execute("INSERT INTO calls SELECT 9, 9, platform, 'x', 'x', name, subject, 'x', body, 0, owner, 0, 0, 0, 0, 0, 0, ''
             FROM calls", ()).unwrap();
        take_over(&file, &scope("w"), OTHER, 0).unwrap();
        assert_eq!(owners(), [OTHER]);
        take_over(&file, &scope("x"), OTHER, 0).unwrap();
        assert!(owners().is_empty());
        assert_eq!(claimed(&file, 0, 9), [other.id]);
        assert_eq!(owners(), [MINE]);
        leave(&file, MINE).unwrap();
        assert!(owners().is_empty());
    }

    #[test]
    fn the_longest_due_goes_first_and_what_is_given_back_is_due_no_sooner() {
        let file = file();
        let late = keep(&file, MINE, "late");
        let soon = keep(&file, MINE, "soon");
        park(&file, &late, MINE, 50, &Failure::default()).unwrap();
        park(&file, &soon, MINE, 40, &Failure::default()).unwrap();
        assert_eq!(claimed(&file, 60, 1), [soon.id]);
        assert_eq!(claimed(&file, 60, 1), [late.id]);
        give_back(&file, &late, MINE, 0).unwrap();
        assert_eq!(due_at(&file, &late), 50);
    }

    #[test]
    fn what_is_requeued_has_all_of_its_time_before_it() {
        let file = file();
        let call = keep(&file, MINE, "a");
        let elsewhere = keep(&file, MINE, "a");
        file.execute("UPDATE calls SET worker = 'x' WHERE id = ?1", [elsewhere.id])
            .unwrap();
        leave(&file, MINE).unwrap();
        claimed(&file, 0, 9);
        // What waits in the same lane, but is another worker's, waits no longer for that.
        park(&file, &call, MINE, 50, &Failure::default()).unwrap();
        assert_eq!(due_at(&file, &elsewhere), 0);
        bury(&file, &call, &Failure::default()).unwrap();
        assert!(requeue(&file, call.id, 2000).unwrap());
        let (calls, _) = claim(&file, &scope("w"), MINE, 0, 9).unwrap();
        assert_eq!((calls[0].kept.rounds, calls[0].kept.expires_at), (0, 2000));
        assert!(!requeue(&file, call.id, 3000).unwrap() && !discard(&file, call.id).unwrap());
    }

    #[test]
    fn times_by_a_clock_that_was_wrong_are_mended() {
        const NOW: i64 = 2_000_000_000_000;
        let file = file();
        let call = keep(&file, MINE, "a");
        leave(&file, MINE).unwrap();
        let mended = |created_at, due_at, expires_at| -> (i64, i64, i64) {
            file.execute(
                "UPDATE calls SET created_at = ?1, due_at = ?2, expires_at = ?3",
                (created_at, due_at, expires_at),
            )
            .unwrap();
            mend_times(&file, &scope("w"), NOW, 100).unwrap();
            let times = "SELECT created_at, due_at, expires_at FROM calls WHERE id = ?1";
            let times = file.query_row(times, [call.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            times.unwrap()
        };
        // Right as they are, with what has just expired.
        for times in [(NOW - 50, NOW + 100, NOW + 950), (NOW - 2000, NOW + 100, NOW - 1000)] {
            assert_eq!(mended(times.0, times.1, times.2), times);
        }
        assert_eq!(mended(NOW - 50, NOW + 101, NOW + 950), (NOW - 50, NOW, NOW + 950));
        assert_eq!(mended(NOW + 101, NOW, NOW + 1101), (NOW, NOW, NOW + 1000));
        assert_eq!(mended(0, 5, 1000), (NOW, 5, NOW + 1000));
    }

    #[test]
    fn who_shows_a_sign_at_the_last_moment_is_not_taken_over() {
        let file = file();
        let call = keep(&file, OTHER, "a");
        assert_eq!(beat(&file, MINE).unwrap(), [(OTHER, 0)]);
        beat(&file, OTHER).unwrap();
        assert_eq!(take_over(&file, &scope("w"), OTHER, 0).unwrap(), 0);
        assert_eq!(owner(&file, &call), Some(OTHER));
        assert_eq!(take_over(&file, &scope("w"), OTHER, 1).unwrap(), 1);
    }

    #[test]
    fn who_discards_what_others_do_not_wait_for_makes_nothing_due() {
        let file = file();
        let calls = [(); 3].map(|()| keep(&file, MINE, "a"));
        let [dead, on_its_way, parked] = &calls;
        bury(&file, dead, &Failure::default()).unwrap();
        park(&file, parked, MINE, 50, &Failure::default()).unwrap();
        assert!(discard(&file, dead.id).unwrap());
        assert!(!discard(&file, on_its_way.id).unwrap() && !requeue(&file, on_its_way.id, 2000).unwrap());
        assert_eq!(due_at(&file, parked), 50);
    }

    #[test]
    fn what_is_asked_for_often_is_found_by_an_index() {
        let file = file();
        let plan = |statement: &str| -> String {
            let mut plan = file.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
            // Whatever the parameters are.
            let steps = plan.raw_query().mapped(|row| row.get::<_, String>("detail"));
            steps.map(Result::unwrap).collect::<Vec<_>>().join("; ")
        };
        for (statement, index) in [
            (
                DUE,
                "calls_by_due (platform=? AND worker=? AND dead=? AND owner=? AND due_at<?)",
            ),
            (FIRST_OF_LANE, "calls_by_lane (lane=?)"),
            (ADOPT, "calls_by_due (platform=? AND worker=?)"),
        ] {
            let plan = plan(statement);
            assert!(plan.contains(index) && !plan.contains("SCAN"), "{statement}: {plan}");
        }
    }

    #[test]
    fn a_message_is_claimed_whole() {
        let file = file();
        let calls = keep_all(&file, MINE, "a", &["completion", "status"]);
        park(&file, &calls[0], MINE, 10, &Failure::default()).unwrap();
        // The other is on its way yet.
        let (none, is_blocked) = claim(&file, &scope("w"), MINE, 10, 9).unwrap();
        assert!(none.is_empty() && is_blocked);
        park(&file, &calls[1], MINE, 20, &Failure::default()).unwrap();
        assert!(claimed(&file, 9, 9).is_empty());
        assert_eq!(claimed(&file, 10, 9), [calls[0].id, calls[1].id]);
    }
}
