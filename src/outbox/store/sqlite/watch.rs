//! Frees the lanes of dead owners, and shows that this one is alive. While nothing happens, this only reads.

use std::time::{Duration, Instant};

use log::warn;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::super::{WallTime, Watched};
use super::{
    error::{io_error, sqlite_error},
    lanes::{self, Release},
    owner_file::{FreeFile, Probe},
    owners::{Member, Owner, Owners, random_id},
    rows,
    session::Session,
};
use crate::{error::OutboxError, outbox::faults::MAX_TAKEOVERS, util::ignore_panic};

/// How long the file of an owner must be missing until the owner counts as dead.
const MISSING_FOR: Duration = Duration::from_secs(10);

/// How often an owner looks at its own file: twice before the others may take it for dead.
const OWN_FILE_EVERY: Duration = Duration::from_secs(5);

/// How often owners that have died without lanes are removed.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

pub(super) const NEXT_OWNER: &str = "
    SELECT lanes.owner, owners.file FROM lanes LEFT JOIN owners ON owners.id = lanes.owner
    WHERE lanes.owner > ?1 ORDER BY lanes.owner LIMIT 1";
pub(super) const LANES_OF: &str = "SELECT id, taken, claim FROM lanes WHERE owner = ?1";
pub(super) const COUNT: &str = "SELECT count(*) AS calls FROM calls WHERE lane = ?1 AND state = 'waiting'";
pub(super) const FIRST: &str =
    "SELECT seq, message FROM calls WHERE lane = ?1 AND state = 'waiting' ORDER BY seq LIMIT 1";
pub(super) const COUNT_TAKEOVER: &str = "
    UPDATE calls SET takeovers = takeovers + (takeovers = 0 OR sent_under = ?4)
    WHERE lane = ?1 AND state = 'waiting' AND seq <= ?2 AND message = ?3 RETURNING takeovers";
pub(super) const MOVE_LANES: &str = "UPDATE lanes SET owner = ?1 WHERE owner = ?2";
const IDLE_OWNERS: &str = "
    SELECT id, file FROM owners WHERE NOT EXISTS (SELECT 1 FROM lanes WHERE lanes.owner = owners.id)";

/// An owner that was proved dead.
struct Dead {
    owner: i64,
    /// `None` if its file is missing.
    file: Option<FreeFile>,
}

impl Owners {
    /// Looks at the other owners, and at the own file. `delay` is the wait of a lane whose first call may have killed its
    /// owner.
    pub(super) fn watch(
        &mut self,
        connection: &mut Connection,
        member: Member,
        (wall_now, now): (WallTime, Instant),
        delay: Duration,
    ) -> Result<Watched, OutboxError> {
        self.notice_restore(connection, member).map_err(sqlite_error)?;
        self.keep_own_file(connection, member, now)?;
        // First, since what fails later must not hide that lanes were freed.
        self.clean(connection, now).map_err(sqlite_error)?;
        let dead = self.dead_owners(connection, now).map_err(sqlite_error)?;
        let mut freed = 0;
        if !dead.is_empty() {
            freed = free(connection, &dead, wall_now, rows::milliseconds(delay)).map_err(sqlite_error)?;
            self.count_change(member);
            dead.into_iter().filter_map(|dead| dead.file).for_each(FreeFile::delete);
        }
        // Last, since a look that fails must not count as one.
        let has_changed = self.has_changed(connection, member).map_err(sqlite_error)?;
        Ok(Watched { freed, has_changed })
    }

    /// Whether another process, or another handle of this one, has changed the database since the last look.
    fn has_changed(&mut self, connection: &Connection, member: Member) -> rusqlite::Result<bool> {
        let version = Self::version(connection)?;
        let changes = self.changes;
        let owner = self.member(member);
        let seen = Some((version, changes.saturating_sub(owner.changes)));
        Ok(std::mem::replace(&mut owner.seen, seen) != seen)
    }

    /// Whether something has changed since the last look of an owner.
    pub(super) fn has_news(&self, owner: &Owner, version: i64) -> bool {
        owner.seen != Some((version, self.changes.saturating_sub(owner.changes)))
    }

    /// Moves with each change of another connection.
    pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
        let mut version = connection.prepare_cached("PRAGMA data_version")?;
        version.query_row((), |row| row.get(0))
    }

    pub(super) fn must_clean(&self, now: Instant) -> bool {
        is_over(self.cleaned_at, CLEAN_EVERY, now)
    }

    /// Moves the lanes of an owner whose file was deleted to a new owner with a new file: the old one counts as dead soon.
    fn keep_own_file(&mut self, connection: &mut Connection, member: Member, now: Instant) -> Result<(), OutboxError> {
        let folder = self.folder.clone();
        let owner = self.member(member);
        if !is_over(owner.looked_at, OWN_FILE_EVERY, now) {
            return Ok(());
        }
        if owner.file.as_ref().is_some_and(|file| !file.is_in_place()) {
            let (id, file) = (random_id(), folder.create_file().map_err(io_error)?);
            replace(connection, owner.id, id, (&file.name, owner.mark)).map_err(sqlite_error)?;
            (owner.id, owner.file) = (id, Some(file));
        }
        owner.looked_at = Some(now);
        Ok(())
    }

    /// The owners that have lanes and are dead. Those of this process are alive.
    fn dead_owners(&mut self, connection: &Connection, now: Instant) -> rusqlite::Result<Vec<Dead>> {
        let mut next = connection.prepare_cached(NEXT_OWNER)?;
        let (mut dead, mut missing) = (Vec::new(), std::mem::take(&mut self.missing));
        let mut last = i64::MIN;
        while let Some((owner, file)) = next
            .query_row([last], |row| {
                Ok((rows::number(row, "owner"), rows::optional_text(row, "file")))
            })
            .optional()?
        {
            last = owner;
            if self.is_mine(owner) {
                continue;
            }
            match file.map_or(Probe::Missing, |file| self.folder.probe(&file)) {
                Probe::Locked => {}
                Probe::Free(file) => dead.push(Dead {
                    owner,
                    file: Some(file),
                }),
                Probe::Missing => {
                    let since = missing.remove(&owner).unwrap_or(now);
                    self.missing.insert(owner, since);
                    if now.saturating_duration_since(since) >= MISSING_FOR {
                        dead.push(Dead { owner, file: None });
                    }
                }
                Probe::Unknown(error) => {
                    if self.warned.insert(owner) {
                        ignore_panic(|| {
                            warn!("owner {owner} of the outbox counts as alive, its file can't be locked: {error}");
                        });
                    }
                }
            }
        }
        Ok(dead)
    }

    /// Removes owners that have died without lanes, and files that belong to no owner.
    pub(super) fn clean(&mut self, connection: &Connection, now: Instant) -> rusqlite::Result<()> {
        if !self.must_clean(now) {
            return Ok(());
        }
        self.cleaned_at = Some(now);
        let mut idle = connection.prepare(IDLE_OWNERS)?;
        let idle = idle.query_map((), |row| Ok((rows::number(row, "id"), rows::text(row, "file"))))?;
        for (owner, file) in idle.collect::<rusqlite::Result<Vec<_>>>()? {
            let probe = if self.is_mine(owner) {
                Probe::Locked
            } else {
                self.folder.probe(&file)
            };
            if matches!(probe, Probe::Free(_) | Probe::Missing) {
                connection.execute(
                    "DELETE FROM owners WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM lanes WHERE owner = ?1)",
                    [owner],
                )?;
            }
        }
        let mut known = connection.prepare_cached("SELECT 1 FROM owners WHERE file = ?1")?;
        for name in self.folder.names() {
            // The file of a known owner is not even locked for a moment: to the others, it would seem alive.
            if !known.exists([&name])?
                && let Probe::Free(file) = self.folder.probe(&name)
                && !known.exists([&name])?
            {
                file.delete();
            }
        }
        Ok(())
    }
}

fn is_over(since: Option<Instant>, interval: Duration, now: Instant) -> bool {
    since.is_none_or(|since| now.saturating_duration_since(since) >= interval)
}

/// Gives the lanes of one owner to another one.
fn replace(connection: &mut Connection, owner: i64, by: i64, (file, mark): (&str, i64)) -> rusqlite::Result<()> {
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    change.execute(
        "INSERT INTO owners (id, file, mark) VALUES (?1, ?2, ?3)",
        params![by, file, mark],
    )?;
    change.execute(MOVE_LANES, [by, owner])?;
    change.execute("DELETE FROM owners WHERE id = ?1", [owner])?;
    change.commit()
}

/// Frees the lanes of dead owners, in one transaction. Returns how many calls they have.
fn free(connection: &mut Connection, dead: &[Dead], now: WallTime, delay: WallTime) -> rusqlite::Result<u64> {
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let session = Session::new(&change);
    let mut freed = 0_u64;
    for Dead { owner, .. } in dead {
        let lanes = {
            let mut lanes = change.prepare_cached(LANES_OF)?;
            let lanes = lanes.query_map([owner], |row| {
                Ok(OwnedLane {
                    id: rows::number(row, "id"),
                    taken: rows::number(row, "taken"),
                    claim: rows::number(row, "claim"),
                })
            })?;
            lanes.collect::<rusqlite::Result<Vec<_>>>()?
        };
        for lane in lanes {
            freed = freed.saturating_add(free_lane(&session, &lane, now, delay)?);
        }
        change.execute("DELETE FROM owners WHERE id = ?1", [owner])?;
    }
    drop(session);
    change.commit()?;
    Ok(freed)
}

/// A lane of a dead owner.
struct OwnedLane {
    id: i64,
    taken: i64,
    claim: i64,
}

fn free_lane(session: &Session<'_>, lane: &OwnedLane, now: WallTime, delay: WallTime) -> rusqlite::Result<u64> {
    let &OwnedLane { id, taken, claim } = lane;
    let mut first = session.prepare_cached(FIRST)?;
    let first = first.query_row([id], |row| {
        Ok((rows::number(row, "seq"), row.get::<_, Vec<u8>>("message")?))
    });
    let mut deaths = 0;
    if let Some((seq, message)) = first.optional()?
        && seq <= taken
    {
        let mut count = session.prepare_cached(COUNT_TAKEOVER)?;
        let takeovers = count.query_map(params![id, taken, message, claim], |row| {
            Ok(rows::number(row, "takeovers"))
        })?;
        deaths = takeovers
            .collect::<rusqlite::Result<Vec<_>>>()?
            .into_iter()
            .max()
            .unwrap_or_default();
    }
    let wait = if deaths >= i64::from(MAX_TAKEOVERS) { delay } else { 0 };
    lanes::release(
        session,
        id,
        &Release {
            now,
            wait,
            ..Release::default()
        },
    )?;
    lanes::remove_if_empty(session, id)?;
    let mut count = session.prepare_cached(COUNT)?;
    count.query_row([id], |row| Ok(rows::count(row, "calls")))
}
