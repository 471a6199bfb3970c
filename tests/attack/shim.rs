//! A library between a process and the disk: it delays, holds and refuses calls, counts them, and records all changes, so
//! that a power cut can take back what was not flushed. See `shim.c`.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use tempfile::TempDir;

use crate::tools::{Folder, output_of};

/// The calls of a process, in the order of `shim.c`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    Open,
    Read,
    Write,
    Sync,
    Truncate,
    Unlink,
    Lock,
    Stat,
    Map,
}

/// What a call concerns, in the order of `shim.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Database,
    Log,
    Rollback,
    Index,
    Folder,
    Owners,
}

impl Target {
    pub(crate) const ALL: [Self; 6] = [
        Self::Database,
        Self::Log,
        Self::Rollback,
        Self::Index,
        Self::Folder,
        Self::Owners,
    ];

    fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Database => Some(""),
            Self::Log => Some("-wal"),
            Self::Rollback => Some("-journal"),
            Self::Index | Self::Folder | Self::Owners => None,
        }
    }
}

/// The words of the control block, in the order of `shim.c`.
enum Word {
    SyncDelay,
    IsHeld,
    FailCalls,
    FailTargets,
    FailErrno,
    Failed,
    HasNoNames,
}

/// The shim of one outbox: a control block that its processes share, and their journal.
pub(crate) struct Shim {
    control: File,
    control_path: PathBuf,
    journal: Option<PathBuf>,
    outbox: PathBuf,
    _folder: TempDir,
}

impl Shim {
    pub(crate) fn new(outbox: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control_path = folder.path().join("control");
        fs::write(&control_path, [0; 4096]).unwrap();
        Self {
            control: OpenOptions::new().read(true).write(true).open(&control_path).unwrap(),
            control_path,
            journal: None,
            outbox: outbox.to_owned(),
            _folder: folder,
        }
    }

    /// A shim that records what its processes change.
    pub(crate) fn with_journal(outbox: &Path) -> Self {
        let mut shim = Self::new(outbox);
        let path = shim.control_path.with_file_name("journal");
        fs::write(&path, "").unwrap();
        shim.journal = Some(path);
        shim
    }

    /// A command that runs this program over the shim.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .env("LD_PRELOAD", library())
            .env("ATTACK_OUTBOX", &self.outbox)
            .env("ATTACK_CONTROL", &self.control_path);
        if let Some(journal) = &self.journal {
            command.env("ATTACK_JOURNAL", journal);
        }
        command
    }

    /// Each flush takes this long.
    pub(crate) fn set_flush(&self, time: Duration) {
        self.set(Word::SyncDelay, time.as_micros() as i64);
    }

    /// Writes and flushes wait while this is set.
    pub(crate) fn hold(&self, is_held: bool) {
        self.set(Word::IsHeld, is_held.into());
    }

    /// These calls on these targets fail with this error.
    pub(crate) fn fail(&self, calls: &[Call], targets: &[Target], errno: i32) {
        let mask = |bits: &mut dyn Iterator<Item = usize>| bits.fold(0, |mask, bit| mask | 1_i64 << bit);
        self.set(Word::FailErrno, errno.into());
        self.set(
            Word::FailTargets,
            mask(&mut targets.iter().map(|target| *target as usize)),
        );
        self.set(Word::FailCalls, mask(&mut calls.iter().map(|call| *call as usize)));
    }

    pub(crate) fn fail_nothing(&self) {
        self.set(Word::FailCalls, 0);
    }

    /// Whether names can't be resolved. Otherwise those that end in `.test` are the loopback address.
    pub(crate) fn has_no_names(&self, has_no_names: bool) {
        self.set(Word::HasNoNames, has_no_names.into());
    }

    /// How many calls have failed.
    pub(crate) fn failed(&self) -> i64 {
        let mut value = [0; 8];
        self.control.read_exact_at(&mut value, Word::Failed as u64 * 8).unwrap();
        i64::from_ne_bytes(value)
    }

    fn set(&self, word: Word, value: i64) {
        self.control
            .write_all_at(&value.to_ne_bytes(), word as u64 * 8)
            .unwrap();
    }

    /// The changes since the last call.
    pub(crate) fn take_journal(&self) -> Vec<u8> {
        let path = self.journal.as_ref().unwrap();
        let journal = fs::read(path).unwrap();
        File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        journal
    }
}

/// Compiles the library, once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(PathBuf, TempDir)> = OnceLock::new();
    let (library, _) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
        fs::write(&source, include_str!("shim.c")).unwrap();
        let mut compiler = Command::new("cc");
        output_of(
            compiler
                .args(["-O1", "-shared", "-fPIC", "-o"])
                .args([&library, &source])
                .arg("-ldl"),
        );
        (library, folder)
    });
    library
}

/// How much of what was not flushed a power cut leaves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// Nothing.
    Drop,
    /// The first changes.
    Prefix,
    /// Some of the changes, whatever their order was.
    Reorder,
    /// Some of the sectors of some of the changes.
    Torn,
}

/// A change, or a flush.
#[derive(Debug, Clone)]
enum Change {
    Create(Target, usize),
    Unlink(Target),
    Write(usize, usize, Vec<u8>),
    Truncate(usize, usize),
    Sync(usize),
    SyncFolder,
}

/// The files of an outbox as a power cut would leave them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    /// The content of each file that ever was.
    files: Vec<Vec<u8>>,
    names: BTreeMap<Target, usize>,
    inodes: BTreeMap<u64, usize>,
    /// The changes that were not flushed.
    pending: Vec<Change>,
}

impl Disk {
    /// The files as they are.
    pub(crate) fn read(folder: &Folder) -> Self {
        let mut disk = Self::default();
        for target in Target::ALL {
            let Some(path) = target.suffix().map(|suffix| folder.companion(suffix)) else {
                continue;
            };
            if let Ok(content) = fs::read(&path) {
                disk.names.insert(target, disk.files.len());
                disk.inodes.insert(path.metadata().unwrap().ino(), disk.files.len());
                disk.files.push(content);
            }
        }
        disk
    }

    /// Does what a journal says. Returns the number of changes that were not flushed in the end.
    pub(crate) fn replay(&mut self, journal: &[u8]) -> usize {
        for change in self.parse(journal) {
            match change {
                Change::Sync(file) => {
                    let (flushed, pending) = std::mem::take(&mut self.pending)
                        .into_iter()
                        .partition(|change| change.file() == Some(file));
                    self.pending = pending;
                    flushed.into_iter().for_each(|change: Change| self.apply(change));
                }
                Change::SyncFolder => {
                    let (flushed, pending) = std::mem::take(&mut self.pending)
                        .into_iter()
                        .partition(|change| change.file().is_none());
                    self.pending = pending;
                    flushed.into_iter().for_each(|change: Change| self.apply(change));
                }
                change => self.pending.push(change),
            }
        }
        self.pending.len()
    }

    fn parse(&mut self, mut journal: &[u8]) -> Vec<Change> {
        const HEAD: usize = 32;
        let mut changes = Vec::new();
        // A kill may have cut the last one.
        while journal.len() >= HEAD {
            let number = |at: usize| i64::from_ne_bytes(journal[at..at + 8].try_into().unwrap());
            let (op, target) = (journal[0], Target::ALL[journal[1] as usize]);
            let (inode, offset, length) = (number(8) as u64, number(16) as usize, number(24) as usize);
            journal = &journal[HEAD..];
            if op == b'C' {
                self.inodes.insert(inode, self.files.len());
                self.files.push(Vec::new());
            }
            let file = self.inodes.get(&inode).copied();
            changes.push(match (op, file) {
                (b'C', Some(file)) => Change::Create(target, file),
                (b'U', _) => Change::Unlink(target),
                (b'W', Some(file)) => {
                    if journal.len() < length {
                        break;
                    }
                    let (data, rest) = journal.split_at(length);
                    journal = rest;
                    Change::Write(file, offset, data.to_vec())
                }
                (b'T', Some(file)) => Change::Truncate(file, offset),
                (b'S', Some(file)) => Change::Sync(file),
                (b'D', _) => Change::SyncFolder,
                other => panic!("{other:?}"),
            });
        }
        changes
    }

    /// What is left after a power cut.
    pub(crate) fn cut(&self, cut: Cut) -> Self {
        let mut disk = self.clone();
        let pending = std::mem::take(&mut disk.pending);
        let prefix = rand::random_range(0..=pending.len());
        for (index, change) in pending.into_iter().enumerate() {
            let is_left = match cut {
                Cut::Drop => false,
                Cut::Prefix => index < prefix,
                Cut::Reorder | Cut::Torn => rand::random(),
            };
            if is_left {
                disk.apply_partly(change, matches!(cut, Cut::Torn));
            }
        }
        disk
    }

    fn apply_partly(&mut self, change: Change, is_torn: bool) {
        const SECTOR: usize = 512;
        match change {
            Change::Write(file, offset, data) if is_torn => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if rand::random() {
                        self.apply(Change::Write(file, offset + index * SECTOR, sector.to_vec()));
                    }
                }
            }
            change => self.apply(change),
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Create(target, file) => drop(self.names.insert(target, file)),
            Change::Unlink(target) => drop(self.names.remove(&target)),
            Change::Write(file, offset, data) => {
                let file = &mut self.files[file];
                let end = offset + data.len();
                file.resize(file.len().max(end), 0);
                file[offset..end].copy_from_slice(&data);
            }
            Change::Truncate(file, length) => self.files[file].resize(length, 0),
            Change::Sync(_) | Change::SyncFolder => {}
        }
    }

    /// Puts these files in place of those of a folder.
    pub(crate) fn write(&self, folder: &Folder) {
        let _ = fs::remove_file(folder.companion("-shm"));
        for target in Target::ALL {
            let Some(path) = target.suffix().map(|suffix| folder.companion(suffix)) else {
                continue;
            };
            match self.names.get(&target) {
                Some(file) => fs::write(&path, &self.files[*file]).unwrap(),
                None => drop(fs::remove_file(&path)),
            }
        }
    }
}

impl Change {
    /// The file that it changes. `None` if it changes the folder.
    fn file(&self) -> Option<usize> {
        match self {
            Self::Write(file, ..) | Self::Truncate(file, _) | Self::Sync(file) => Some(*file),
            Self::Create(..) | Self::Unlink(_) | Self::SyncFolder => None,
        }
    }
}
