//! The files by which owners show that they live: each owner holds a lock on its own until it dies.
//!
//! The lock belongs to the open file, so the kernel frees it when the process ends, however it ends. It is never freed by
//! `unlock`, which in a forked child would free its parent's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use super::file::{FileId, with_suffix};

/// How often a new owner tries another name.
const MAX_TRIES: usize = 16;

/// The folder of the owners' files, beside the database.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    database: PathBuf,
}

/// The locked file of an owner of this process.
#[derive(Debug)]
pub(super) struct OwnerFile {
    pub(super) name: String,
    path: PathBuf,
    lock: File,
}

/// The state of an owner, by the lock on its file.
#[derive(Debug)]
pub(super) enum Probe {
    /// The owner is alive.
    Locked,
    /// The owner is dead. While this file is open, no other process finds that out.
    Free(FreeFile),
    /// The owner is dead, or its file was deleted.
    Missing,
    /// Nothing: the owner counts as alive.
    Unknown(io::Error),
}

/// The file of a dead owner, locked by this process.
#[derive(Debug)]
pub(super) struct FreeFile {
    path: PathBuf,
    _lock: File,
}

impl FreeFile {
    /// Deletes the file, and unlocks it only then.
    pub(super) fn delete(self) {
        // A file that stays is deleted by the next process that starts.
        let _ = fs::remove_file(&self.path);
    }
}

impl Folder {
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    pub(super) fn of(database: &Path) -> Self {
        Self {
            path: with_suffix(database, "-owners"),
            database: database.to_owned(),
        }
    }

    /// Creates the file of a new owner.
    pub(super) fn create_file(&self) -> io::Result<OwnerFile> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => self.give_to_owner_of_database(&File::open(&self.path)?)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        for _ in 0..MAX_TRIES {
            if let Some(file) = self.try_create_file(format!("{:016x}", rand::random::<u64>()))? {
                return Ok(file);
            }
        }
        Err(io::Error::other("no file of an owner could be locked"))
    }

    /// `None` if the file was deleted meanwhile by a process that took it for a dead owner's.
    fn try_create_file(&self, name: String) -> io::Result<Option<OwnerFile>> {
        let path = self.path.join(&name);
        let mut options = OpenOptions::new();
        let lock = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        // By the open file: until it is locked, another process may delete it.
        self.give_to_owner_of_database(&lock)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let file = OwnerFile { name, path, lock };
        Ok(file.is_in_place().then_some(file))
    }

    /// Root shares the outbox with the account that owns it.
    fn give_to_owner_of_database(&self, file: &File) -> io::Result<()> {
        let (made, database) = (file.metadata()?, self.database.metadata()?);
        if made.uid() == 0 && database.uid() != 0 {
            fchown(file, Some(database.uid()), Some(database.gid()))?;
        }
        Ok(())
    }

    /// Looks at the file of an owner.
    pub(super) fn probe(&self, name: &str) -> Probe {
        // The name is from the database, which may be damaged, and the file may be deleted.
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Probe::Unknown(io::Error::other("not the name of an owner's file"));
        }
        let path = self.path.join(name);
        let lock = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Probe::Missing,
            Err(error) => return Probe::Unknown(error),
        };
        match lock.try_lock() {
            Ok(()) => Probe::Free(FreeFile { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Probe::Locked,
            Err(TryLockError::Error(error)) => Probe::Unknown(error),
        }
    }

    /// The names of all files. None if the folder can't be read.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }
}

impl OwnerFile {
    /// Whether the path still leads to the locked file.
    pub(super) fn is_in_place(&self) -> bool {
        let locked = self.lock.metadata().map(|metadata| FileId::from(&metadata));
        matches!((locked, FileId::of(&self.path)), (Ok(locked), Ok(there)) if locked == there)
    }

    /// Deletes the file, and unlocks it only then.
    pub(super) fn delete(self) {
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
