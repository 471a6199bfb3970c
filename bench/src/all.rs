//! All scenarios, with their targets.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use crate::{
    arguments::{AllArguments, LoadArguments},
    child::{self, words},
    compare::{Comparison, Figure, cell},
    figures::{Figures, median},
    peers::Peer,
    platform::{Behaviour, PlatformProcess},
    probes::{Idle, Parked},
    say, sweep,
    table::{Table, number},
    targets::{
        Bound::{AtLeast, AtMost},
        Targets,
    },
};

/// How many results are parked while the platform is down.
const PARKED: f64 = 10_000.0;

/// Messages through the actor, without a network.
const MESSAGES: f64 = 100_000.0;

/// Cold processes per round: each takes some milliseconds, which vary.
const COLD_PER_ROUND: usize = 5;

pub(crate) fn command(arguments: &AllArguments) -> io::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = arguments.folder.as_deref().unwrap_or(temporary.path());
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        progress.set_style(style);
    }
    let mut all = All {
        arguments,
        folder: folder.to_owned(),
        progress,
        figures: Table::new(["", "result-poster", "bare awc", "reqwest-retry", "hyper"]),
        own: Table::new(["result-poster alone", "measured"]),
        targets: Targets::new(),
    };
    all.loads()?;
    let with_outbox = all.outbox()?;
    all.parked(with_outbox)?;
    all.cold_tls()?;
    all.actor()?;
    all.idle()?;
    all.progress.finish_and_clear();

    let plural = if arguments.rounds == 1 { "" } else { "s" };
    say(format!("Medians of {} round{plural}.\n", arguments.rounds));
    for table in [all.figures, all.own, all.targets.into_table()] {
        say(table.in_style(arguments.markdown));
    }
    if let Some(path) = &arguments.sweep {
        let load = LoadArguments::new(1, 1);
        say(sweep::run(&load, arguments.rounds.min(3), path)?.in_style(arguments.markdown));
    }
    Ok(())
}

struct All<'a> {
    arguments: &'a AllArguments,
    folder: PathBuf,
    progress: ProgressBar,
    figures: Table,
    /// The figures that no peer has.
    own: Table,
    targets: Targets,
}

impl All<'_> {
    fn scaled(&self, count: f64) -> u64 {
        (count * self.arguments.scale).max(1.0) as u64
    }

    fn load(&self, results: f64, concurrency: usize) -> LoadArguments {
        LoadArguments::new(self.scaled(results), concurrency)
    }

    /// Compares the peers, and adds a row for each figure.
    fn compare(&mut self, title: &str, load: &LoadArguments, figures: &[Figure]) -> io::Result<Comparison> {
        self.progress.set_message(title.to_owned());
        let comparison = Comparison::run(load, self.arguments.rounds, &self.progress)?;
        for &figure in figures {
            let mut row = vec![format!("{title}: {}", figure.title())];
            row.extend(Peer::ALL.map(|peer| cell(comparison.median(peer, figure))));
            self.figures.push(row);
        }
        Ok(comparison)
    }

    fn loads(&mut self) -> io::Result<()> {
        use Figure::{Cpu, P50, P99, PeakMemory, ResultsPerSecond};
        use Peer::{Awc, ReqwestRetry};
        let slow = Behaviour {
            platform_latency_ms: 50,
            ..Behaviour::default()
        };

        let title = "1 caller";
        let run = self.compare(title, &self.load(5_000.0, 1), &[P50])?;
        self.targets.ratio(title, &run, P50, ReqwestRetry, AtMost(1.0));

        let title = "64 callers";
        let figures = [ResultsPerSecond, Cpu, P99];
        let run = self.compare(title, &self.load(20_000.0, 64), &figures)?;
        self.targets
            .ratio(title, &run, ResultsPerSecond, ReqwestRetry, AtLeast(1.0));
        self.targets.ratio(title, &run, Cpu, ReqwestRetry, AtMost(1.0));
        self.targets.ratio(title, &run, ResultsPerSecond, Awc, AtLeast(0.95));

        let title = "1,024 callers";
        let figures = [ResultsPerSecond, P99, PeakMemory];
        let run = self.compare(title, &self.load(20_000.0, 1024), &figures)?;
        self.targets
            .ratio(title, &run, ResultsPerSecond, ReqwestRetry, AtLeast(1.6));

        let title = "1,024 in flight, platform takes 50 ms";
        let load = LoadArguments {
            max_in_flight: Some(1024),
            behaviour: slow,
            ..self.load(20_000.0, 1024)
        };
        let run = self.compare(title, &load, &[ResultsPerSecond])?;
        self.targets
            .ratio(title, &run, ResultsPerSecond, ReqwestRetry, AtLeast(1.0));
        self.targets.ratio(title, &run, ResultsPerSecond, Awc, AtLeast(0.95));

        let title = "10,000 in flight, platform takes 50 ms";
        let load = LoadArguments {
            max_in_flight: Some(10_000),
            behaviour: slow,
            ..self.load(40_000.0, 10_000)
        };
        let run = self.compare(title, &load, &[ResultsPerSecond, PeakMemory])?;
        self.targets
            .ratio(title, &run, ResultsPerSecond, ReqwestRetry, AtLeast(1.3));
        self.targets.ratio(title, &run, ResultsPerSecond, Awc, AtLeast(0.9));
        self.targets.ratio(title, &run, PeakMemory, ReqwestRetry, AtMost(0.6));
        Ok(())
    }

    /// The poster with and without its outbox, in turn. Returns the results per second with it.
    fn outbox(&mut self) -> io::Result<f64> {
        self.progress.set_message("outbox");
        let (mut with, mut ratios, mut one, mut more) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.arguments.rounds {
            let pair = |name: &str, load: LoadArguments| -> io::Result<[Figures; 2]> {
                let outbox = LoadArguments {
                    outbox: Some(self.fresh_file(&format!("{name}-{round}"))?),
                    ..load.clone()
                };
                [load, outbox]
                    .map(|load| child::run(&load.words(Peer::Poster), &[]))
                    .into_iter()
                    .collect::<io::Result<Vec<_>>>()
                    .and_then(|pair| pair.try_into().map_err(|_| io::Error::other("no pair")))
            };
            let [off, on] = pair("many", self.load(10_000.0, 256))?;
            with.push(on.results_per_second);
            ratios.push(on.results_per_second / off.results_per_second);
            let [off, on] = pair("one", self.load(500.0, 1))?;
            one.push(on.p50_ms);
            let folder = self.folder.display().to_string();
            let flush: f64 = child::run(&words(["probe", "flush", &folder]), &[])?;
            more.push((on.p50_ms - off.p50_ms) / flush);
        }
        let with = median(with);
        self.own_row("outbox, 256 callers: results per second", with);
        self.own_row("outbox, 1 caller: p50, ms", median(one));
        self.targets.add(
            "outbox, 256 callers: results per second, ratio to none",
            Some(median(ratios)),
            AtLeast(0.6),
        );
        self.targets.add(
            "outbox, 1 caller: p50 above that without, in flushes of 4 KiB",
            Some(median(more)),
            AtMost(1.0),
        );
        Ok(with)
    }

    fn parked(&mut self, full_speed: f64) -> io::Result<()> {
        self.progress.set_message("parked results");
        let results = self.scaled(PARKED).to_string();
        let (mut first, mut rate) = (Vec::new(), Vec::new());
        for round in 0..self.arguments.rounds.min(3) {
            let path = self.fresh_file(&format!("parked-{round}"))?;
            let path = path.display().to_string();
            let parked: Parked = child::run(&words(["probe", "parked", &path, &results]), &[])?;
            first.push(parked.first_ms / 1e3);
            rate.push(parked.results_per_second);
        }
        let rate = median(rate);
        self.own_row("10,000 parked results, platform back: results per second", rate);
        self.targets.add(
            "10,000 parked results, platform back: first after, s",
            Some(median(first)),
            AtMost(3.0),
        );
        self.targets.add(
            "10,000 parked results, platform back: rate, ratio to live ones with the outbox",
            Some(rate / full_speed),
            AtLeast(0.8),
        );
        Ok(())
    }

    /// The roots of the host, and the authority of a platform with TLS.
    fn cold_tls(&mut self) -> io::Result<()> {
        self.progress.set_message("first result over TLS");
        let roots = self.folder.join("roots.pem");
        let authority = roots.display().to_string();
        let platform = PlatformProcess::start(&words(["--tls", &authority]))?;
        if let Ok(host) = fs::read("/etc/ssl/certs/ca-certificates.crt") {
            let own = fs::read(&roots)?;
            fs::write(&roots, [own, host].concat())?;
        }
        let peers = [Peer::Poster, Peer::Awc, Peer::ReqwestRetry];
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..self.arguments.rounds * COLD_PER_ROUND {
            for (peer, times) in peers.iter().zip(&mut times) {
                let words = words(["probe", "cold-tls", &peer.to_string(), &platform.url]);
                times.push(child::run(&words, &[("SSL_CERT_FILE", &authority)])?);
            }
        }
        platform.stop();
        let [ours, awc, reqwest] = times;
        let ratio = median(ours.iter().zip(&reqwest).map(|(ours, reqwest)| ours / reqwest));
        let mut row = vec!["first result of a process, over TLS: ms".to_owned()];
        row.extend([ours, awc, reqwest].map(|times| number(median(times))));
        row.push("-".to_owned());
        self.figures.push(row);
        self.targets.add(
            "first result of a process, over TLS: ratio to reqwest-retry",
            Some(ratio),
            AtMost(1.0),
        );
        Ok(())
    }

    fn actor(&mut self) -> io::Result<()> {
        self.progress.set_message("actor and queue");
        let messages = self.scaled(MESSAGES).to_string();
        for (message, name) in [("status", "a message of one call"), ("result", "a result, two calls")] {
            for (targets, title) in [
                ("1", "1 target"),
                ("1000", "1,000 targets"),
                ("100000", "100,000 targets"),
            ] {
                let probe = words(["probe", "actor", message, targets, &messages, "64"]);
                let time = self.rounds(&probe, |time: &f64| *time)?;
                self.targets.add(
                    &format!("{name}, through actor and queue, {title}: CPU, µs"),
                    Some(time),
                    AtMost(4.0),
                );
            }
        }
        Ok(())
    }

    fn idle(&mut self) -> io::Result<()> {
        self.progress.set_message("idle poster");
        let path = self.fresh_file("idle")?.display().to_string();
        let idle: Idle = child::run(&words(["probe", "idle", &path, "6"]), &[])?;
        let written = idle.written_bytes.map(|bytes| bytes as f64);
        self.targets
            .add("idle poster with outbox: bytes written", written, AtMost(0.0));
        self.targets.add(
            "idle poster with outbox: wake-ups a second",
            idle.wake_ups_per_second,
            AtMost(1.0),
        );
        Ok(())
    }

    /// The median of a probe over the rounds.
    fn rounds<T: DeserializeOwned>(&self, words: &[String], value: impl Fn(&T) -> f64) -> io::Result<f64> {
        let rounds = (0..self.arguments.rounds).map(|_| child::run(words, &[]).map(|figures| value(&figures)));
        Ok(median(rounds.collect::<io::Result<Vec<_>>>()?))
    }

    fn own_row(&mut self, title: &str, value: f64) {
        self.own.push(vec![title.to_owned(), number(value)]);
    }

    /// The path of an outbox that does not exist yet.
    fn fresh_file(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.folder.join(name);
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        Ok(folder.join("outbox.db"))
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
