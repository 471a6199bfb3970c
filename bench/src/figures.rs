//! The figures of one run.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    time::Duration,
};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) results_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) cpu_us_per_result: Option<f64>,
    pub(crate) peak_memory_mib: Option<f64>,
    /// The connections that the platform has accepted.
    pub(crate) connections: Option<u64>,
    /// The attempts that the poster has counted.
    pub(crate) attempts: Option<u64>,
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The measurements of all callers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The time from sending a result to its reply, for each result.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Figures {
    pub(crate) fn new(mut tally: Tally, elapsed: Duration, cpu: Option<Duration>) -> Self {
        tally.latencies.sort_unstable();
        let latencies: &[Duration] = &tally.latencies;
        let results = latencies.len() as u64;
        let failed = tally.errors.values().sum();
        let percentile = |percent: usize| {
            let rank = latencies.len().saturating_sub(1) * percent / 100;
            latencies.get(rank).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
        };
        Self {
            results_per_second: results as f64 / elapsed.as_secs_f64(),
            p50_ms: percentile(50),
            p99_ms: percentile(99),
            max_ms: percentile(100),
            cpu_us_per_result: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / results.max(1) as f64),
            peak_memory_mib: None,
            connections: None,
            attempts: None,
            delivered: results.saturating_sub(failed),
            failed,
            errors: tally.errors,
        }
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.1}"));
        let count = |figure: Option<u64>| figure.map_or("-".to_owned(), |figure| figure.to_string());
        writeln!(f, "results      {:.0} a second", self.results_per_second)?;
        writeln!(
            f,
            "one result   p50 {:.3} ms, p99 {:.2} ms, max {:.2} ms",
            self.p50_ms, self.p99_ms, self.max_ms
        )?;
        writeln!(f, "CPU          {} µs a result", or_dash(self.cpu_us_per_result))?;
        writeln!(f, "peak memory  {} MiB", or_dash(self.peak_memory_mib))?;
        writeln!(f, "connections  {}", count(self.connections))?;
        writeln!(f, "attempts     {}", count(self.attempts))?;
        write!(f, "delivered    {}, failed {}", self.delivered, self.failed)?;
        for (error, count) in &self.errors {
            write!(f, "\n  {count} times: {error}")?;
        }
        Ok(())
    }
}

/// The median; of an even number, the higher of both in the middle. 0 without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
