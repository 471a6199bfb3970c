//! Runs of all peers in turn, in several rounds.

use std::io;

use indicatif::ProgressBar;

use crate::{
    arguments::LoadArguments,
    child,
    figures::{Figures, median},
    peers::Peer,
    say,
    table::{Table, number},
};

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    ResultsPerSecond,
    P50,
    P99,
    Max,
    Cpu,
    PeakMemory,
    Connections,
    Failed,
}

impl Figure {
    pub(crate) const ALL: [Self; 8] = [
        Self::ResultsPerSecond,
        Self::P50,
        Self::P99,
        Self::Max,
        Self::Cpu,
        Self::PeakMemory,
        Self::Connections,
        Self::Failed,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ResultsPerSecond => "results per second",
            Self::P50 => "p50, ms",
            Self::P99 => "p99, ms",
            Self::Max => "max, ms",
            Self::Cpu => "CPU per result, µs",
            Self::PeakMemory => "peak memory, MiB",
            Self::Connections => "connections",
            Self::Failed => "failed",
        }
    }

    fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Self::ResultsPerSecond => Some(figures.results_per_second),
            Self::P50 => Some(figures.p50_ms),
            Self::P99 => Some(figures.p99_ms),
            Self::Max => Some(figures.max_ms),
            Self::Cpu => figures.cpu_us_per_result,
            Self::PeakMemory => figures.peak_memory_mib,
            Self::Connections => figures.connections.map(|number| number as f64),
            Self::Failed => Some(figures.failed as f64),
        }
    }
}

/// The figures of each peer in each round.
pub(crate) struct Comparison {
    rounds: Vec<Vec<(Peer, Figures)>>,
}

impl Comparison {
    /// Runs all peers in turn. Each round begins with another peer, so that other load on the host affects all.
    pub(crate) fn run(arguments: &LoadArguments, rounds: usize, progress: &ProgressBar) -> io::Result<Self> {
        let round = |number: usize| {
            let peers = Peer::ALL.iter().cycle().skip(number).take(Peer::ALL.len());
            peers
                .map(|&peer| {
                    let figures = child::run(&arguments.words(peer), &[]);
                    progress.inc(1);
                    Ok((peer, figures?))
                })
                .collect()
        };
        let rounds = (0..rounds).map(round).collect::<io::Result<_>>()?;
        Ok(Self { rounds })
    }

    fn values(&self, peer: Peer, figure: Figure) -> impl Iterator<Item = f64> {
        let runs = self.rounds.iter().flatten().filter(move |(of, _)| *of == peer);
        runs.filter_map(move |(_, figures)| figure.of(figures))
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, peer: Peer, figure: Figure) -> Option<f64> {
        let mut values = self.values(peer, figure).peekable();
        values.peek()?;
        Some(median(values))
    }

    /// The median of the rounds' ratios of the poster's figure to the peer's: the runs of one round have the same
    /// neighbours on the host.
    pub(crate) fn ratio(&self, peer: Peer, figure: Figure) -> Option<f64> {
        let ours = self.values(Peer::Poster, figure);
        let pairs = ours.zip(self.values(peer, figure));
        let mut ratios = pairs
            .filter(|(_, theirs)| *theirs != 0.0)
            .map(|(ours, theirs)| ours / theirs)
            .peekable();
        ratios.peek()?;
        Some(median(ratios))
    }

    /// One row per figure: the medians of the peers, then the poster's ratios to the others.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new([
            "",
            Peer::Poster.title(),
            Peer::Awc.title(),
            Peer::ReqwestRetry.title(),
            Peer::Hyper.title(),
            "to awc",
            "to reqwest-retry",
            "to hyper",
        ]);
        for figure in Figure::ALL {
            let mut row = vec![figure.title().to_owned()];
            row.extend(Peer::ALL.map(|peer| cell(self.median(peer, figure))));
            let others = [Peer::Awc, Peer::ReqwestRetry, Peer::Hyper];
            row.extend(others.map(|peer| cell(self.ratio(peer, figure))));
            table.push(row);
        }
        table
    }

    fn json(&self) -> serde_json::Value {
        let peers = Peer::ALL.map(|peer| {
            let medians = Figure::ALL.map(|figure| (figure.title().to_owned(), self.median(peer, figure).into()));
            (
                peer.to_string(),
                serde_json::Value::Object(medians.into_iter().collect()),
            )
        });
        serde_json::Value::Object(peers.into_iter().collect())
    }
}

pub(crate) fn cell(figure: Option<f64>) -> String {
    figure.map_or("-".into(), number)
}

pub(crate) fn command(arguments: &LoadArguments, rounds: usize) -> io::Result<()> {
    let progress = ProgressBar::new((rounds * Peer::ALL.len()) as u64);
    let comparison = Comparison::run(arguments, rounds, &progress)?;
    progress.finish_and_clear();
    if arguments.json {
        say(comparison.json());
    } else {
        say(format!("medians of {rounds} rounds"));
        say(comparison.table().text());
    }
    Ok(())
}
