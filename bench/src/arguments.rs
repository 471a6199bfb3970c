//! The arguments of the command.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{peers::Peer, platform::Behaviour, probes::Probe};

/// Measures result-poster beside other ways to send the same requests.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Posts results as fast as possible, and prints throughput and latency.
    ///
    /// CPU time and memory are those of this process, without the platform's; they are read from /proc, and are missing
    /// on systems that have none. Exit status: 0 if all results were delivered (with --compare and --sweep: if all rounds
    /// finished), 1 if some were not, 2 for invalid arguments or settings.
    Load(LoadArguments),
    /// Runs all scenarios, the peers in turn, and prints the medians beside the targets.
    All(AllArguments),
    /// Counts the crates of each feature, and times a build from nothing.
    Build,
    /// The platform, in a process of its own.
    #[command(hide = true)]
    Platform(PlatformArguments),
    /// One measurement of `all` that needs a process of its own.
    #[command(hide = true, subcommand)]
    Probe(Probe),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArguments {
    /// The URL of the platform, whose token is in RESULT_POSTER_TOKEN [default: a process of its own on loopback]
    #[arg(long, value_name = "URL")]
    pub(crate) platform: Option<String>,
    /// What sends the requests
    #[arg(long, value_enum, default_value_t = Peer::Poster)]
    pub(crate) peer: Peer,
    /// Results to post, two requests each
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) results: u64,
    /// Callers, each with one result at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    pub(crate) concurrency: usize,
    /// The option `max_in_flight` of the poster [default: its own default]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) max_in_flight: Option<usize>,
    /// The poster's wait before a second attempt
    #[arg(long, value_name = "MS", default_value = "10", value_parser = milliseconds)]
    pub(crate) base_delay_ms: Duration,
    /// The poster's outbox [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) outbox: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) behaviour: Behaviour,
    /// Runs all peers in turn in this many rounds, and prints medians and ratios
    #[arg(long, value_name = "ROUNDS", value_parser = at_least_one, conflicts_with = "peer")]
    pub(crate) compare: Option<usize>,
    /// Compares the peers at 1 to 1,024 callers, and draws the results per second as an SVG (--compare: the rounds)
    #[arg(long, value_name = "SVG", conflicts_with_all = ["peer", "concurrency", "results", "json"])]
    pub(crate) sweep: Option<PathBuf>,
    /// Ends the run after this time
    #[arg(long, value_name = "S", default_value = "120", value_parser = seconds)]
    pub(crate) time_limit_s: Duration,
    /// Prints the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AllArguments {
    /// Rounds of each scenario; the figures are their medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    pub(crate) rounds: usize,
    /// Posts this share of the results, for a quick look
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub(crate) scale: f64,
    /// Prints Markdown tables
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Draws results per second over concurrency, too
    #[arg(long, value_name = "SVG")]
    pub(crate) sweep: Option<PathBuf>,
    /// The folder of the outboxes [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlatformArguments {
    #[command(flatten)]
    pub(crate) behaviour: Behaviour,
    /// Listens only after the first line on stdin
    #[arg(long)]
    pub(crate) down: bool,
    /// Serves TLS, and writes the certificate of its authority to this file
    #[arg(long, value_name = "PEM")]
    pub(crate) tls: Option<PathBuf>,
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_millis)
        .map_err(|error| format!("{error}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|error| format!("{error}"))
}

impl LoadArguments {
    /// The arguments of a child process that makes one such run with `peer`, and prints its figures as JSON.
    pub(crate) fn words(&self, peer: Peer) -> Vec<String> {
        let mut words = vec!["load".to_owned(), "--json".to_owned()];
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--peer", peer.to_string());
        option("--results", self.results.to_string());
        option("--concurrency", self.concurrency.to_string());
        option("--base-delay-ms", self.base_delay_ms.as_millis().to_string());
        option("--time-limit-s", self.time_limit_s.as_secs().to_string());
        if let Some(platform) = &self.platform {
            option("--platform", platform.clone());
        }
        if let Some(limit) = self.max_in_flight {
            option("--max-in-flight", limit.to_string());
        }
        if let Some(path) = &self.outbox {
            option("--outbox", path.display().to_string());
        }
        words.extend(self.behaviour.words());
        words
    }
}

/// The arguments of a run on loopback with this many results and callers.
impl LoadArguments {
    pub(crate) fn new(results: u64, concurrency: usize) -> Self {
        Self {
            platform: None,
            peer: Peer::Poster,
            results,
            concurrency,
            max_in_flight: None,
            base_delay_ms: Duration::from_millis(10),
            outbox: None,
            behaviour: Behaviour::default(),
            compare: None,
            sweep: None,
            time_limit_s: Duration::from_secs(120),
            json: false,
        }
    }
}
