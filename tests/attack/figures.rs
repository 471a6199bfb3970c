//! Figures of an attack, and of its processes as the kernel counts them.

use std::{fmt::Display, fs, time::Duration};

/// Prints the result of an attack.
pub(crate) fn print(attack: &str, figures: impl Display) {
    println!("attack {attack}: {figures}");
}

/// The value below which this share of the values lies.
pub(crate) fn percentile(values: &[Duration], share: f64) -> Duration {
    let mut values = values.to_vec();
    values.sort();
    values[((values.len() - 1) as f64 * share).round() as usize]
}

/// The most memory that a process has had, in MiB.
pub(crate) fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes / 1024
}

/// The processor time that a process has used.
pub(crate) fn cpu_time(process: u32) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name of the program is in parentheses.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u32 = [11, 12]
        .iter()
        .map(|index| fields[*index].parse::<u32>().unwrap())
        .sum();
    TICK * ticks
}
