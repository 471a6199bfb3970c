//! Outside tools, temporary folders, and the variables that make an attack longer.

use std::{
    env,
    fmt::Display,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Far longer than any expected event takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A number from the environment, or its default.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name}={value}"))
    })
}

/// Whether a tool is installed. If not, says which attack is skipped, or fails it in CI.
pub(crate) fn is_missing(tool: &str, attack: &str) -> bool {
    let found = env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(tool).is_file());
    if !found {
        let package = if tool == "cc" { "gcc libc6-dev" } else { tool };
        let hint = format!("{tool} is not installed (`apt-get install {package}`)");
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "{attack}: {hint}");
        println!("skipped {attack}: {hint}");
    }
    !found
}

/// Attacks that measure times run alone; the others run beside each other.
static MACHINE: RwLock<()> = RwLock::new(());

/// For an attack that does not mind others.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// For an attack that measures times.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A folder with the path of an outbox in it.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            path: folder.path().canonicalize().unwrap(),
            _folder: folder,
        }
    }

    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join("outbox.db")
    }

    /// A file beside the database.
    pub(crate) fn companion(&self, suffix: &str) -> PathBuf {
        self.path.join(format!("outbox.db{suffix}"))
    }
}

/// The output of a command that must succeed.
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text.trim().to_owned()
}

/// Runs the distribution's `sqlite3`, as an operator does.
pub(crate) fn sqlite3(path: &Path, command: &str) -> String {
    let mut sqlite3 = Command::new("sqlite3");
    output_of(sqlite3.args(["-bail", "-cmd", ".timeout 10000"]).arg(path).arg(command))
}

/// A number that `sqlite3` selects.
pub(crate) fn count(path: &Path, query: &str) -> u64 {
    sqlite3(path, query).parse().unwrap()
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: impl Display, mut is_met: impl FnMut() -> bool) -> Duration {
    wait_within(LIMIT, what, &mut is_met)
}

pub(crate) fn wait_within(limit: Duration, what: impl Display, mut is_met: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_met() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// The distribution's `sqlite3`, which selects from an outbox and backs it up every 60 ms.
pub(crate) struct OutsideReader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl OutsideReader {
    pub(crate) fn start(path: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, is_over) = (path.to_owned(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let backups = Folder::new();
            let mut reads = 0;
            while !is_over.load(Ordering::Relaxed) {
                count(&path, "SELECT count(*) FROM outbox");
                let backup = backups.path.join(format!("{reads}.db"));
                sqlite3(&path, &format!(".backup '{}'", backup.display()));
                assert_eq!(sqlite3(&backup, "PRAGMA quick_check"), "ok");
                std::fs::remove_file(backup).unwrap();
                reads += 1;
                sleep(Duration::from_millis(60));
            }
            reads
        });
        Self { stop, thread }
    }

    /// Ends the reads, and returns how many there were.
    pub(crate) fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
