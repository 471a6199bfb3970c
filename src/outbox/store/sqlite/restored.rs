//! Notices that the content of the file was restored from a backup while it is in use.
//!
//! Such a backup may name an owner of this process as the owner of lanes that it no longer has, or as the one by whose clock
//! a lane is due. So each owner marks the database after its changes: a lower mark is that of a backup. `VACUUM` keeps the
//! mark.

use log::error;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    file::without_waiting,
    owners::{Member, Owner, Owners},
};
use crate::util::ignore_panic;

pub(super) const MARK: &str = "SELECT mark FROM owners WHERE id = ?1";
pub(super) const SET_MARK: &str = "UPDATE owners SET mark = ?2 WHERE id = ?1";

impl Owners {
    /// Gives all owners of this process new ids if the content is that of a backup, and marks the changes of one owner.
    pub(super) fn notice_restore(&mut self, connection: &mut Connection, member: Member) -> rusqlite::Result<()> {
        let owner = self.member(member);
        let mark = {
            let mut mark = connection.prepare_cached(MARK)?;
            mark.query_row([owner.id], |row| row.get::<_, i64>(0)).optional()?
        };
        if mark.is_some_and(|mark| mark < owner.mark) {
            let path = self.folder.database();
            ignore_panic(|| {
                error!("the outbox {path:?} was restored from a backup; calls stored after it may be lost");
            });
            self.rename();
            self.file.count_replacement();
        } else if owner.must_mark() {
            let mark = owner.mark.saturating_add(1);
            let set = |connection: &Connection| connection.prepare_cached(SET_MARK)?.execute(params![owner.id, mark]);
            // Tried again at the next look: a file that is full or locked must not hide what this one finds.
            if without_waiting(connection, set).is_ok() {
                (owner.mark, owner.marked_changes) = (mark, owner.changes);
            }
        }
        Ok(())
    }
}

impl Owner {
    /// Whether it has changed the database since it was marked.
    pub(super) fn must_mark(&self) -> bool {
        self.changes != self.marked_changes
    }
}
