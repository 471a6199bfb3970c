//! What the kernel knows about this process. `None` on systems without /proc.

use std::{fs, time::Duration};

/// The CPU time of all threads so far.
pub(crate) fn cpu_time() -> Option<Duration> {
    let nanoseconds = of_threads("schedstat", |schedstat| schedstat.split(' ').next()?.parse().ok())?;
    Some(Duration::from_nanos(nanoseconds))
}

/// How often a thread has waited for something, and was woken.
pub(crate) fn wake_ups() -> Option<u64> {
    of_threads("status", |status| field(status, "voluntary_ctxt_switches:"))
}

/// The bytes that this process has caused to be written to disk so far.
pub(crate) fn flushed_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/io").ok()?, "write_bytes:")
}

/// The peak of resident memory, in MiB.
pub(crate) fn peak_memory_mib() -> Option<f64> {
    let kib = field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")?;
    Some(kib as f64 / 1024.0)
}

fn of_threads(file: &str, number: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let numbers = threads.filter_map(|thread| number(&fs::read_to_string(thread.ok()?.path().join(file)).ok()?));
    Some(numbers.sum())
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
