//! The owners of this process: each handle on the store is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use rusqlite::{Connection, params};

use super::{
    error::{io_error, sqlite_error},
    file_state::FileState,
    owner_file::{Folder, OwnerFile, Probe},
    schema::used_bytes,
};
use crate::error::OutboxError;

/// A handle of this process on the store.
pub(super) type Member = u64;

/// The owners of one file in this process.
#[derive(Debug)]
pub(super) struct Owners {
    pub(super) folder: Folder,
    pub(super) file: Arc<FileState>,
    pub(super) members: BTreeMap<Member, Owner>,
    /// How many jobs of this process have changed the database.
    pub(super) changes: u64,
    /// Since when the file of an owner is missing.
    pub(super) missing: BTreeMap<i64, Instant>,
    /// The owners of which a warning was logged.
    pub(super) warned: BTreeSet<i64>,
    pub(super) cleaned_at: Option<Instant>,
}

/// One owner.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) id: i64,
    last_claim: i64,
    /// `None` until the owner claims a lane for the first time.
    pub(super) file: Option<OwnerFile>,
    folder: Folder,
    /// When the owner looked at its own file.
    pub(super) looked_at: Option<Instant>,
    /// How many jobs of this owner have changed the database.
    pub(super) changes: u64,
    /// Its mark in the database, and its changes when the mark was set.
    pub(super) mark: i64,
    pub(super) marked_changes: u64,
    /// The changes of other owners that this owner has noticed.
    pub(super) seen: Option<(i64, u64)>,
    transaction: InTransaction,
}

/// Facts that an owner need not read twice in one transaction.
#[derive(Debug, Default)]
struct InTransaction {
    is_entered: bool,
    /// The size of the database, and of what was inserted since.
    used_bytes: Option<u64>,
}

/// Ids and claims start at random: those of an earlier owner or an earlier lane never come again.
pub(super) fn random_id() -> i64 {
    rand::random_range(1..=i64::MAX / 2)
}

impl Owners {
    pub(super) fn new(database: &Path, file: Arc<FileState>) -> Self {
        Self {
            folder: Folder::of(database),
            file,
            members: BTreeMap::new(),
            changes: 0,
            missing: BTreeMap::new(),
            warned: BTreeSet::new(),
            cleaned_at: None,
        }
    }

    pub(super) fn member(&mut self, member: Member) -> &mut Owner {
        let folder = &self.folder;
        self.members.entry(member).or_insert_with(|| Owner::new(folder.clone()))
    }

    /// A transaction begins: other processes may have changed everything.
    pub(super) fn begin_transaction(&mut self) {
        for owner in self.members.values_mut() {
            owner.transaction = InTransaction::default();
        }
    }

    /// Whether an owner of this process has this id.
    pub(super) fn is_mine(&self, id: i64) -> bool {
        self.members.values().any(|owner| owner.id == id)
    }

    /// Whether other processes have owners.
    pub(super) fn has_others(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let mine = self.members.values().filter(|owner| owner.file.is_some()).count();
        let mut count = connection.prepare_cached("SELECT count(*) FROM owners")?;
        let all: i64 = count.query_row((), |row| row.get(0))?;
        Ok(usize::try_from(all).unwrap_or_default() > mine)
    }

    /// Counts a change, so that other handles of this process notice it. The database tells of other processes only.
    pub(super) fn count_change(&mut self, by: Member) {
        self.changes = self.changes.saturating_add(1);
        let owner = self.member(by);
        owner.changes = owner.changes.saturating_add(1);
    }

    /// Another file, or other content, is at the path. It may name the owners of this process, from an earlier time, as
    /// owners of lanes that they no longer remember. Under new ids they find these lanes, as those of dead owners.
    pub(super) fn rename(&mut self) {
        for owner in self.members.values_mut() {
            owner.id = random_id();
            // Deleted, not only unlocked: processes that still have the former file open wait before they free the lanes.
            owner.file.take().into_iter().for_each(OwnerFile::delete);
        }
    }

    /// The file was opened again: all may have changed. The files of owners may have gone with it.
    pub(super) fn start_again(&mut self) {
        self.changes = self.changes.saturating_add(1);
        for owner in self.members.values_mut() {
            owner.seen = None;
            // If its file is gone, its lanes get a new id at the next look.
            owner.looked_at = None;
        }
    }

    /// Forgets a handle that was given up. An owner that still has lanes stays in the database: it counts as dead, so that
    /// they are freed.
    pub(super) fn leave(&mut self, member: Member, connection: Option<&Connection>) {
        let Some(owner) = self.members.remove(&member) else {
            return;
        };
        let (Some(file), Some(connection)) = (owner.file, connection) else {
            return;
        };
        let is_removed = connection.execute(
            "DELETE FROM owners WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM lanes WHERE owner = ?1)",
            [owner.id],
        );
        // If the row can't be deleted now, this is a dead owner for the others.
        if is_removed == Ok(1) {
            file.delete();
        }
    }
}

impl Owner {
    fn new(folder: Folder) -> Self {
        Self {
            id: random_id(),
            last_claim: random_id(),
            file: None,
            folder,
            looked_at: None,
            changes: 0,
            mark: 0,
            marked_changes: 0,
            seen: None,
            transaction: InTransaction::default(),
        }
    }

    /// Makes sure that the owner is known to other processes, as one that is alive. To be called before it claims a lane.
    pub(super) fn enter(&mut self, connection: &Connection) -> Result<(), OutboxError> {
        if self.transaction.is_entered {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => self.folder.create_file().map_err(io_error)?,
        };
        let file = self.file.insert(file);
        // The database may be another one than the last time.
        let enter = "INSERT OR IGNORE INTO owners (id, file, mark) VALUES (?1, ?2, ?3)";
        let entered = connection
            .prepare_cached(enter)
            .and_then(|mut enter| enter.execute(params![self.id, file.name, self.mark]));
        entered.map_err(sqlite_error)?;
        self.transaction.is_entered = true;
        Ok(())
    }

    /// Whether the database has room for so many bytes more, which it is then taken to have.
    pub(super) fn take_room(&mut self, connection: &Connection, bytes: u64, max_bytes: u64) -> rusqlite::Result<bool> {
        let used = match self.transaction.used_bytes {
            Some(used) => used,
            None => used_bytes(connection)?,
        };
        let with = used.saturating_add(bytes);
        let has_room = with <= max_bytes;
        self.transaction.used_bytes = Some(if has_room { with } else { used });
        Ok(has_room)
    }

    /// The number of a new claim.
    pub(super) fn next_claim(&mut self) -> i64 {
        self.last_claim = self.last_claim.saturating_add(1);
        self.last_claim
    }
}

/// Whether an owner is alive, as far as the operating system says.
pub(super) fn is_alive(folder: &Folder, file: &str) -> bool {
    match folder.probe(file) {
        Probe::Locked | Probe::Unknown(_) => true,
        Probe::Free(_) | Probe::Missing => false,
    }
}
