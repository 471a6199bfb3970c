//! The statements on the rows of the outbox. Each function is one step of a transaction.

mod claim;
mod insert;
mod inspect;
mod owners;
mod settle;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Row;

#[cfg(feature = "__bridge")]
pub use self::inspect::written_and_read;
pub(super) use self::{
    claim::{claim, next_due},
    insert::{blocked_until, insert},
    inspect::{discard, get, list, requeue},
    owners::{heartbeat, reassign_worker, release_all, repair_timestamps, take_over},
    settle::{dead_letter, delete, owner, park, release},
};
use crate::call::CallKind;

/// Whose calls a process may deliver: those of its worker, for its platform.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct Scope {
    pub(in crate::outbox) platform: String,
    pub(in crate::outbox) worker: String,
}

/// A call to be stored.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct NewCall {
    pub(in crate::outbox) kind: CallKind,
    pub(in crate::outbox) target_id: String,
    pub(in crate::outbox) idempotency_key: String,
    pub(in crate::outbox) body: String,
}

/// A message to be stored: its calls, in the order in which they are sent.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct NewMessage {
    pub(in crate::outbox) lane: String,
    pub(in crate::outbox) calls: Vec<NewCall>,
    pub(in crate::outbox) now: i64,
    pub(in crate::outbox) expires_at: i64,
}

/// A call in the file, and its history.
#[derive(Debug, Clone)]
pub(in crate::outbox) struct StoredCall {
    pub(in crate::outbox) id: i64,
    /// A file that has replaced this one may have a call with the same id, but not with the same key.
    pub(in crate::outbox) idempotency_key: String,
    pub(in crate::outbox) attempts: u32,
    pub(in crate::outbox) times_parked: u32,
    pub(in crate::outbox) expires_at: i64,
}

/// A stored call that this process has claimed to deliver it.
#[derive(Debug)]
pub struct ClaimedCall {
    pub(in crate::outbox) stored: StoredCall,
    pub(in crate::outbox) message: i64,
    pub target_id: String,
    pub body: Vec<u8>,
}

impl ClaimedCall {
    pub fn idempotency_key(&self) -> &str {
        &self.stored.idempotency_key
    }
}

/// Why the last attempt failed.
#[derive(Debug, Clone, Default)]
pub(in crate::outbox) struct FailureRecord {
    pub(in crate::outbox) status_code: Option<u16>,
    pub(in crate::outbox) error: String,
}

/// A number that fits, whatever the file holds.
fn clamped_u32(row: &Row<'_>, name: &str) -> rusqlite::Result<u32> {
    let count: i64 = row.get(name)?;
    Ok(u32::try_from(count).unwrap_or_default())
}

/// A text that is readable, whatever bytes the file holds: one damaged call must not hide the others.
fn lossy_text(row: &Row<'_>, name: &str) -> rusqlite::Result<String> {
    let bytes = row.get_ref(name)?.as_bytes_or_null()?;
    Ok(String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned())
}

/// Milliseconds since 1970.
pub(in crate::outbox) fn milliseconds(time: SystemTime) -> i64 {
    milliseconds_of(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(in crate::outbox) fn milliseconds_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn from_milliseconds(milliseconds: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{
        super::file,
        claim::{DUE, LANE_HEAD, MAX_PER_LANE},
        owners::{REASSIGN_WORKER, register_owner},
        *,
    };
    use crate::call_id::CallId;

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
    fn keep(connection: &Connection, owner: i64, lane: &str) -> StoredCall {
        keep_all(connection, owner, lane, &[CallKind::CreateComment]).remove(0)
    }

    fn keep_all(connection: &Connection, owner: i64, lane: &str, kinds: &[CallKind]) -> Vec<StoredCall> {
        let message = NewMessage {
            lane: lane.into(),
            calls: kinds
                .iter()
                .map(|&kind| NewCall {
                    kind,
                    target_id: lane.into(),
                    idempotency_key: format!("key of {kind}"),
                    body: "{}".into(),
                })
                .collect(),
            now: 0,
            expires_at: 1000,
        };
        let (first, _) = insert(connection, &scope("w"), Some(owner), &message, false).unwrap();
        let kept = |(id, kind): (i64, &CallKind)| StoredCall {
            id,
            idempotency_key: format!("key of {kind}"),
            attempts: 1,
            times_parked: 1,
            expires_at: 1000,
        };
        (first..).zip(kinds).map(kept).collect()
    }

    fn owner(connection: &Connection, call: &StoredCall) -> Option<i64> {
        let owner = connection.query_row("SELECT owner FROM calls WHERE id = ?1", [call.id], |row| row.get(0));
        owner.unwrap()
    }

    fn due_at(connection: &Connection, call: &StoredCall) -> i64 {
        let due_at = connection.query_row("SELECT due_at FROM calls WHERE id = ?1", [call.id], |row| row.get(0));
        due_at.unwrap()
    }

    fn claimed(connection: &Connection, now: i64, limit: usize) -> Vec<i64> {
        let (calls, _) = claim(connection, &scope("w"), MINE, now, limit).unwrap();
        calls.iter().map(|call| call.stored.id).collect()
    }

    #[test]
    fn only_the_owner_parks_or_releases_a_call() {
        let file = file();
        let call = keep(&file, OTHER, "a");
        let failure = FailureRecord::default();
        assert_eq!(park(&file, &call, MINE, 9, &failure).unwrap(), 0);
        assert_eq!(release(&file, &call, MINE, 9).unwrap(), 0);
        assert_eq!((owner(&file, &call), due_at(&file, &call)), (Some(OTHER), 0));
        let mut stranger = call.clone();
        stranger.idempotency_key = "another".into();
        assert_eq!(park(&file, &stranger, OTHER, 9, &failure).unwrap(), 0);
        assert_eq!(release(&file, &stranger, OTHER, 9).unwrap(), 0);
        assert_eq!(dead_letter(&file, &stranger, &failure).unwrap(), 0);
        assert_eq!(delete(&file, &stranger).unwrap(), 0);
        assert_eq!(park(&file, &call, OTHER, 9, &failure).unwrap(), 1);
        assert_eq!((owner(&file, &call), due_at(&file, &call)), (None, 9));
    }

    #[test]
    fn calls_out_of_scope_are_neither_taken_over_nor_claimed_nor_due() {
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
            repair_timestamps(&file, &stranger, 7, -8).unwrap();
            assert_eq!(due_at(&file, &call), 0);
            file.execute("UPDATE calls SET owner = ?1", [OTHER]).unwrap();
            register_owner(&file, OTHER).unwrap();
        }
        take_over(&file, &scope("w"), OTHER, 0).unwrap();
        assert_eq!(claimed(&file, 0, 9), [call.id]);
    }

    #[test]
    fn calls_of_a_former_worker_are_reassigned_to_its_successor() {
        let file = file();
        let call = keep(&file, MINE, "a");
        release_all(&file, MINE).unwrap();
        reassign_worker(&file, "https://other.example.com", "w", "x").unwrap();
        assert_eq!(claimed(&file, 0, 9), [call.id]);
        release_all(&file, MINE).unwrap();
        reassign_worker(&file, &scope("w").platform, "w", "x").unwrap();
        assert!(claimed(&file, 0, 9).is_empty());
        assert_eq!(claim(&file, &scope("x"), MINE, 0, 9).unwrap().0.len(), 1);
    }

    #[test]
    fn a_lane_is_claimed_in_order_up_to_its_share_and_its_first_unavailable_call() {
        let file = file();
        let many: Vec<_> = (0..40).map(|_| keep(&file, MINE, "many").id).collect();
        let one = keep(&file, MINE, "one").id;
        release_all(&file, MINE).unwrap();
        // So that one lane does not take up all that may be sent.
        let share = usize::try_from(MAX_PER_LANE).unwrap();
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
    fn calls_parked_behind_a_call_wait_as_long_as_that_call() {
        let file = file();
        let calls = [(); 3].map(|()| keep(&file, MINE, "a"));
        let [first, second, third] = &calls;
        let other = keep(&file, MINE, "b");
        release_all(&file, MINE).unwrap();
        assert_eq!(claimed(&file, 0, 2).len(), 3);
        release(&file, third, MINE, 0).unwrap();
        park(&file, first, MINE, 50, &FailureRecord::default()).unwrap();
        // One that was on its way, one that was parked, and one that comes only now.
        let ahead = blocked_until(&file, &scope("w"), None, "a", second.id).unwrap();
        release(&file, second, MINE, ahead.unwrap()).unwrap();
        let fourth = keep(&file, MINE, "a");
        for call in [first, second, third, &fourth] {
            assert_eq!((owner(&file, call), due_at(&file, call)), (None, 50));
        }
        assert_eq!(due_at(&file, &other), 0);
        assert_eq!(next_due(&file, &scope("w"), 0).unwrap(), Some(50));
        // They go in order: whichever of them is to go now takes along those before it.
        assert!(requeue(&file, CallId(third.id), 2000).unwrap());
        assert_eq!(
            claimed(&file, 0, 9),
            [first.id, second.id, third.id, fourth.id, other.id]
        );
    }

    #[test]
    fn an_owner_is_registered_as_long_as_it_has_calls() {
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
        release_all(&file, MINE).unwrap();
        assert!(owners().is_empty());
    }

    #[test]
    fn the_longest_due_call_is_claimed_first_and_a_release_makes_it_due_no_sooner() {
        let file = file();
        let late = keep(&file, MINE, "late");
        let soon = keep(&file, MINE, "soon");
        park(&file, &late, MINE, 50, &FailureRecord::default()).unwrap();
        park(&file, &soon, MINE, 40, &FailureRecord::default()).unwrap();
        assert_eq!(claimed(&file, 60, 1), [soon.id]);
        assert_eq!(claimed(&file, 60, 1), [late.id]);
        release(&file, &late, MINE, 0).unwrap();
        assert_eq!(due_at(&file, &late), 50);
    }

    #[test]
    fn a_requeued_call_has_a_fresh_expiry() {
        let file = file();
        let call = keep(&file, MINE, "a");
        let elsewhere = keep(&file, MINE, "a");
        file.execute("UPDATE calls SET worker = 'x' WHERE id = ?1", [elsewhere.id])
            .unwrap();
        release_all(&file, MINE).unwrap();
        claimed(&file, 0, 9);
        // What waits in the same lane, but is another worker's, waits no longer for that.
        park(&file, &call, MINE, 50, &FailureRecord::default()).unwrap();
        assert_eq!(due_at(&file, &elsewhere), 0);
        dead_letter(&file, &call, &FailureRecord::default()).unwrap();
        assert!(requeue(&file, CallId(call.id), 2000).unwrap());
        let (calls, _) = claim(&file, &scope("w"), MINE, 0, 9).unwrap();
        assert_eq!((calls[0].stored.times_parked, calls[0].stored.expires_at), (0, 2000));
        assert!(!requeue(&file, CallId(call.id), 3000).unwrap() && !discard(&file, CallId(call.id)).unwrap());
    }

    #[test]
    fn times_of_a_wrong_clock_are_repaired() {
        const NOW: i64 = 2_000_000_000_000;
        let file = file();
        let call = keep(&file, MINE, "a");
        release_all(&file, MINE).unwrap();
        let mended = |created_at, due_at, expires_at| -> (i64, i64, i64) {
            file.execute(
                "UPDATE calls SET created_at = ?1, due_at = ?2, expires_at = ?3",
                (created_at, due_at, expires_at),
            )
            .unwrap();
            repair_timestamps(&file, &scope("w"), NOW, 100).unwrap();
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
    fn an_owner_with_a_late_heartbeat_is_not_taken_over() {
        let file = file();
        let call = keep(&file, OTHER, "a");
        assert_eq!(heartbeat(&file, MINE).unwrap(), [(OTHER, 0)]);
        heartbeat(&file, OTHER).unwrap();
        assert_eq!(take_over(&file, &scope("w"), OTHER, 0).unwrap(), 0);
        assert_eq!(owner(&file, &call), Some(OTHER));
        assert_eq!(take_over(&file, &scope("w"), OTHER, 1).unwrap(), 1);
    }

    #[test]
    fn discarding_a_dead_letter_makes_no_call_due() {
        let file = file();
        let calls = [(); 3].map(|()| keep(&file, MINE, "a"));
        let [dead, on_its_way, parked] = &calls;
        dead_letter(&file, dead, &FailureRecord::default()).unwrap();
        park(&file, parked, MINE, 50, &FailureRecord::default()).unwrap();
        assert!(discard(&file, CallId(dead.id)).unwrap());
        assert!(
            !discard(&file, CallId(on_its_way.id)).unwrap() && !requeue(&file, CallId(on_its_way.id), 2000).unwrap()
        );
        assert_eq!(due_at(&file, parked), 50);
    }

    #[test]
    fn frequent_queries_use_an_index() {
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
            (LANE_HEAD, "calls_by_lane (lane=?)"),
            (REASSIGN_WORKER, "calls_by_due (platform=? AND worker=?)"),
        ] {
            let plan = plan(statement);
            assert!(plan.contains(index) && !plan.contains("SCAN"), "{statement}: {plan}");
        }
    }

    #[test]
    fn a_message_is_claimed_whole() {
        let file = file();
        let calls = keep_all(&file, MINE, "a", &[CallKind::Completion, CallKind::Status]);
        park(&file, &calls[0], MINE, 10, &FailureRecord::default()).unwrap();
        // The other is on its way yet.
        let (none, is_blocked) = claim(&file, &scope("w"), MINE, 10, 9).unwrap();
        assert!(none.is_empty() && is_blocked);
        park(&file, &calls[1], MINE, 20, &FailureRecord::default()).unwrap();
        assert!(claimed(&file, 9, 9).is_empty());
        assert_eq!(claimed(&file, 10, 9), [calls[0].id, calls[1].id]);
    }
}
