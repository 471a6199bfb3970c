//! Measures the throughput and latency of a poster: to size a deployment, or to find the cost of a change.
//!
//! `cargo run --release --example load -- --results 20000 --concurrency 64`

#![allow(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "it measures real time, and its sums are small"
)]

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt::{self, Display},
    fs,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _},
    iter,
    net::{Shutdown as Direction, TcpListener},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    rc::Rc,
    str::FromStr,
    time::{Duration, Instant},
};

use actix::Addr;
use actix_rt::task::JoinHandle;
use awc::{Client, Connector, http::header};
use futures_util::future::try_join_all;
use result_poster::{
    AgentResult, CallError, Cost, Options, PostResult, ResultPoster, SessionStatus, events::GetStats,
    outbox::OutboxOptions,
};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The worker that claims the sessions.
const WORKER_ID: &str = "wkr_1";

const HELP: &str = "\
Posts results to a platform as fast as possible, and prints throughput and latency.

Usage: load [OPTIONS]

Options:
  --platform <URL>           The URL of the platform. Default: the built-in platform,
                             a process of its own on loopback
  --results <N>              Results to post, two calls each [default: 20000]
  --concurrency <C>          Callers, each with one result at a time [default: 64]
  --max-in-flight <N>        The option `max_in_flight` of the poster [default: 64]
  --platform-latency-ms <N>  Latency of each response [default: 0]
  --fail-rate <SHARE>        Share of the responses that are 503, 0 to 1 [default: 0]
  --reset-rate <SHARE>       Share of the requests whose connection is reset
                             [default: 0]
  --outage-ms <N>            Length of an outage, half a second after the first
                             connection
  --base-delay-ms <N>        The wait before a second attempt [default: 10]
  --outbox <FILE>            The outbox of the poster [default: none]
  --baseline                 Makes the same calls with a bare awc loop, without the
                             poster
  --compare <ROUNDS>         Runs this many rounds with the poster and with the
                             baseline, and prints the medians of both
  --time-limit-s <N>         Ends the run after N seconds [default: 120]
  --json                     Prints the figures as JSON
  -h, --help                 Prints this text

Environment: RESULT_POSTER_TOKEN, the token for --platform

The latency, the rates and the outage apply only to the built-in platform. CPU time and memory exclude the
platform's process; they are read from /proc, and are missing on other systems.

Exit status: 0 all results delivered (with --compare: all rounds finished); 1 some
results not delivered; 2 invalid arguments or settings";

#[derive(Clone)]
struct Arguments {
    platform: Option<String>,
    results: u64,
    concurrency: usize,
    max_in_flight: Option<usize>,
    faults: Faults,
    base_delay: Duration,
    outbox: Option<String>,
    baseline: bool,
    compare: Option<usize>,
    time_limit: Duration,
    json: bool,
}

/// The latency and faults of the built-in platform.
#[derive(Clone, Copy, Default)]
struct Faults {
    latency_ms: u64,
    fail_rate: f64,
    reset_rate: f64,
    outage_ms: u64,
}

enum Task {
    Help,
    /// This process is the platform.
    Serve(Faults),
    Load(Arguments),
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Task, String> {
    let mut arguments = Arguments {
        platform: None,
        results: 20_000,
        concurrency: 64,
        max_in_flight: None,
        faults: Faults::default(),
        base_delay: Duration::from_millis(10),
        outbox: None,
        baseline: false,
        compare: None,
        time_limit: Duration::from_secs(120),
        json: false,
    };
    let mut serve = false;
    while let Some(word) = words.next() {
        let option = word.to_string_lossy().into_owned();
        let mut value = || {
            let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
            value
                .into_string()
                .map_err(|_| format!("the value of {option} is not Unicode"))
        };
        match option.as_str() {
            "-h" | "--help" => return Ok(Task::Help),
            "--platform" => arguments.platform = Some(value()?),
            "--results" => arguments.results = at_least_one(&option, &value()?)?,
            "--concurrency" => arguments.concurrency = at_least_one(&option, &value()?)?,
            "--max-in-flight" => arguments.max_in_flight = Some(at_least_one(&option, &value()?)?),
            "--platform-latency-ms" => arguments.faults.latency_ms = number(&option, &value()?)?,
            "--fail-rate" => arguments.faults.fail_rate = share(&option, &value()?)?,
            "--reset-rate" => arguments.faults.reset_rate = share(&option, &value()?)?,
            "--outage-ms" => arguments.faults.outage_ms = number(&option, &value()?)?,
            "--base-delay-ms" => arguments.base_delay = Duration::from_millis(number(&option, &value()?)?),
            "--outbox" => arguments.outbox = Some(value()?),
            "--baseline" => arguments.baseline = true,
            "--compare" => arguments.compare = Some(at_least_one(&option, &value()?)?),
            "--time-limit-s" => arguments.time_limit = Duration::from_secs(at_least_one(&option, &value()?)?),
            "--json" => arguments.json = true,
            "--serve" => serve = true,
            _ => return Err(format!("unknown option {option}")),
        }
    }
    Ok(if serve {
        Task::Serve(arguments.faults)
    } else {
        Task::Load(arguments)
    })
}

fn number<T: FromStr>(option: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{option} takes a number, not {text:?}"))
}

fn at_least_one<T: FromStr + Default + PartialEq>(option: &str, text: &str) -> Result<T, String> {
    let number: T = number(option, text)?;
    if number == T::default() {
        return Err(format!("{option} must be at least 1"));
    }
    Ok(number)
}

fn share(option: &str, text: &str) -> Result<f64, String> {
    let share: f64 = number(option, text)?;
    if !(0.0..=1.0).contains(&share) {
        return Err(format!("{option} must be from 0 to 1"));
    }
    Ok(share)
}

fn main() -> ExitCode {
    let task = match parse(env::args_os().skip(1)) {
        Ok(task) => task,
        Err(message) => {
            let _ = writeln!(io::stderr(), "load: {message}; see --help");
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Help => {
            say(HELP);
            Ok(true)
        }
        Task::Serve(faults) => serve(faults).map(|()| true),
        Task::Load(arguments) => match arguments.compare {
            Some(rounds) => compare(&arguments, rounds).map(|()| true),
            None => actix_rt::System::new().block_on(load(&arguments)),
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "load: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints a line. Unlike `println!`, it does not panic if stdout is closed.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

// The load.

async fn load(arguments: &Arguments) -> io::Result<bool> {
    let platform = match &arguments.platform {
        Some(_) => None,
        None => Some(PlatformProcess::start(arguments.faults)?),
    };
    let url = arguments
        .platform
        .clone()
        .or_else(|| platform.as_ref().map(|platform| platform.url.clone()));
    let url = url.unwrap_or_default();
    let run = Rc::new(Run {
        sender: Sender::new(arguments, &url)?,
        results: arguments.results,
        next: Cell::new(0),
        tally: RefCell::default(),
        progress: Progress::new(arguments),
    });

    let (started, cpu_before) = (Instant::now(), cpu_time());
    // One task per caller, as a runner has one task per session.
    let mut callers: Vec<_> = (0..arguments.concurrency)
        .map(|_| actix_rt::spawn(Rc::clone(&run).call()))
        .collect();
    let ended = timeout(arguments.time_limit, try_join_all(&mut callers)).await;
    let in_time = ended.ok().transpose()?.is_some();
    callers.iter().for_each(JoinHandle::abort);
    let (elapsed, cpu) = (
        started.elapsed(),
        cpu_before
            .zip(cpu_time())
            .map(|(before, after)| after.saturating_sub(before)),
    );
    run.progress.clear();

    let mut all = run.tally.take();
    if !in_time {
        let unanswered = usize::try_from(run.next.get()).unwrap_or(usize::MAX) - all.latencies.len();
        all.latencies.extend(iter::repeat_n(elapsed, unanswered));
        all.errors
            .insert("no reply within the time limit".into(), unanswered as u64);
    }
    all.latencies.sort_unstable();
    let attempts = run.sender.attempts().await;
    let figures = Figures {
        elapsed,
        cpu,
        peak_rss_mib: peak_rss_mib(),
        connections: platform.and_then(PlatformProcess::stop),
        attempts,
        tally: all,
    };
    say(if arguments.json {
        figures.json().to_string()
    } else {
        figures.to_string()
    });
    Ok(figures.failed() == 0)
}

/// The state that the callers share.
struct Run {
    sender: Sender,
    results: u64,
    /// The number of the next result.
    next: Cell<u64>,
    tally: RefCell<Tally>,
    progress: Progress,
}

impl Run {
    /// Posts one result after another, until there are no more.
    async fn call(self: Rc<Self>) {
        loop {
            let number = self.next.get();
            if number >= self.results {
                break;
            }
            self.next.set(number.saturating_add(1));
            let begun = Instant::now();
            let outcome = self.sender.send(number).await;
            let mut tally = self.tally.borrow_mut();
            tally.latencies.push(begun.elapsed());
            if let Err(kind) = outcome {
                *tally.errors.entry(kind).or_default() += 1;
            }
            self.progress.show(number);
        }
    }
}

/// The measurements of all callers.
#[derive(Default)]
struct Tally {
    /// The time from sending a result to its reply, for each result.
    latencies: Vec<Duration>,
    errors: BTreeMap<String, u64>,
}

/// The client under test: the poster, or a bare awc client.
enum Sender {
    Poster(Addr<ResultPoster>),
    Bare { client: Client, url: String, token: String },
}

impl Sender {
    fn new(arguments: &Arguments, url: &str) -> io::Result<Self> {
        let token = env::var("RESULT_POSTER_TOKEN").unwrap_or_else(|_| "token".into());
        if arguments.baseline {
            let connector = Connector::new().limit(arguments.concurrency);
            let client = Client::builder()
                .connector(connector)
                .disable_redirects()
                .disable_timeout();
            return Ok(Self::Bare {
                client: client.finish(),
                url: url.to_owned(),
                token,
            });
        }
        let mut options = Options::builder(url)
            .worker_id(WORKER_ID)
            .auth_token(token)
            .base_delay(arguments.base_delay)
            .max_queued(arguments.concurrency.saturating_mul(2));
        if let Some(limit) = arguments.max_in_flight {
            options = options.max_in_flight(limit);
        }
        if let Some(path) = &arguments.outbox {
            options = options.outbox(OutboxOptions::new(path));
        }
        Ok(Self::Poster(ResultPoster::start_supervised(
            options.build().map_err(io::Error::other)?,
        )))
    }

    async fn send(&self, number: u64) -> Result<(), String> {
        match self {
            Self::Poster(poster) => {
                let message = PostResult::new(format!("sess-{number}"), result()).with_worker_id(WORKER_ID);
                let reply = poster.send(message).await;
                let error = match reply {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => error,
                    Err(error) => return Err(error.to_string()),
                };
                Err(error.completion().or(error.status()).map_or("invalid".into(), kind))
            }
            Self::Bare { client, url, token } => {
                let completion = json!({"workerId": "wkr_1", "summary": SUMMARY});
                bare(
                    client,
                    &format!("{url}/api/sessions/sess-{number}/completion"),
                    token,
                    &completion,
                )
                .await?;
                let status = json!({
                    "workerId": "wkr_1", "status": "completed", "providerSessionId": "prov-1",
                    "totalCostUsd": 0.25, "inputTokens": 12_000, "outputTokens": 3_400,
                });
                bare(
                    client,
                    &format!("{url}/api/sessions/sess-{number}/status"),
                    token,
                    &status,
                )
                .await
            }
        }
    }

    async fn attempts(&self) -> Option<u64> {
        match self {
            Self::Poster(poster) => poster.send(GetStats).await.ok().map(|stats| stats.attempts),
            Self::Bare { .. } => None,
        }
    }
}

const SUMMARY: &str = "Added the widget cache and opened a pull request.";

fn result() -> AgentResult {
    let cost = Cost::default()
        .with_total_cost_usd(0.25)
        .with_input_tokens(12_000)
        .with_output_tokens(3_400);
    AgentResult::new(SessionStatus::Completed)
        .with_summary(SUMMARY)
        .with_provider_session_id("prov-1")
        .with_cost(cost)
}

fn kind(error: &CallError) -> String {
    match error {
        CallError::Parked(_) => "parked".into(),
        CallError::Transient(error) => error.last.to_string(),
        other => other.to_string(),
    }
}

async fn bare(client: &Client, url: &str, token: &str, body: &Value) -> Result<(), String> {
    let request = client
        .post(url)
        .insert_header((header::AUTHORIZATION, format!("Bearer {token}")))
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::USER_AGENT, "load"))
        .insert_header(("idempotency-key", url));
    let mut response = request
        .send_body(body.to_string())
        .await
        .map_err(|error| error.to_string())?;
    response.body().await.map_err(|error| error.to_string())?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("the platform answered {status}")),
    }
}

struct Progress {
    results: u64,
    shown: bool,
}

impl Progress {
    fn new(arguments: &Arguments) -> Self {
        Self {
            results: arguments.results,
            shown: io::stderr().is_terminal(),
        }
    }

    fn show(&self, number: u64) {
        if self.shown && number.is_multiple_of(1000) {
            let _ = write!(io::stderr(), "\r{number} of {}", self.results);
        }
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

struct Figures {
    elapsed: Duration,
    cpu: Option<Duration>,
    peak_rss_mib: Option<f64>,
    connections: Option<u64>,
    attempts: Option<u64>,
    tally: Tally,
}

impl Figures {
    fn results(&self) -> u64 {
        self.tally.latencies.len() as u64
    }

    fn failed(&self) -> u64 {
        self.tally.errors.values().sum()
    }

    fn per_second(&self) -> f64 {
        self.results() as f64 / self.elapsed.as_secs_f64()
    }

    fn percentile_ms(&self, percent: usize) -> f64 {
        let last = self.tally.latencies.len().saturating_sub(1);
        let latency = self
            .tally
            .latencies
            .get(last * percent / 100)
            .copied()
            .unwrap_or_default();
        latency.as_secs_f64() * 1000.0
    }

    fn cpu_us(&self) -> Option<f64> {
        let results = self.results().max(1) as f64;
        self.cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / results)
    }

    fn json(&self) -> Value {
        json!({
            "results_per_second": self.per_second(),
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "max_ms": self.percentile_ms(100),
            "cpu_us_per_result": self.cpu_us(),
            "peak_rss_mib": self.peak_rss_mib,
            "connections": self.connections,
            "attempts": self.attempts,
            "ok": self.results().saturating_sub(self.failed()),
            "failed": self.failed(),
            "errors": self.tally.errors,
        })
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.1}"));
        let count = |figure: Option<u64>| figure.map_or("-".to_owned(), |figure| figure.to_string());
        writeln!(
            f,
            "results      {} in {:.2?}, {:.0} a second",
            self.results(),
            self.elapsed,
            self.per_second()
        )?;
        let [p50, p99, max] = [50, 99, 100].map(|percent| self.percentile_ms(percent));
        writeln!(f, "one result   p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
        writeln!(f, "CPU          {} us a result", or_none(self.cpu_us()))?;
        writeln!(f, "peak RSS     {} MiB", or_none(self.peak_rss_mib))?;
        writeln!(f, "connections  {}", count(self.connections))?;
        writeln!(f, "attempts     {}", count(self.attempts))?;
        write!(
            f,
            "delivered    {}, failed {}",
            self.results().saturating_sub(self.failed()),
            self.failed()
        )?;
        for (kind, count) in &self.tally.errors {
            write!(f, "\n  {count} times: {kind}")?;
        }
        Ok(())
    }
}

/// CPU time of all of this process's threads so far.
fn cpu_time() -> Option<Duration> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = threads.filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(nanoseconds.sum()))
}

fn peak_rss_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

// The comparison of the poster with the baseline.

fn compare(arguments: &Arguments, rounds: usize) -> io::Result<()> {
    let mut with = Vec::new();
    let mut without = Vec::new();
    for round in 0..rounds {
        // Alternating, so that other load on the host affects both.
        let mut poster = || round_of(&[]).map(|figures| with.push(figures));
        let mut bare = || round_of(&["--baseline"]).map(|figures| without.push(figures));
        if round.is_multiple_of(2) {
            poster()?;
            bare()?;
        } else {
            bare()?;
            poster()?;
        }
    }
    let figure = |figures: &[Value], name: &str| {
        let mut values: Vec<f64> = figures
            .iter()
            .filter_map(|figures| figures.get(name)?.as_f64())
            .collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let names = [
        "results_per_second",
        "p50_ms",
        "p99_ms",
        "max_ms",
        "cpu_us_per_result",
        "peak_rss_mib",
        "connections",
        "failed",
    ];
    let rows = names.map(|name| (name, figure(&with, name), figure(&without, name)));
    if arguments.json {
        let (mut poster, mut baseline) = (serde_json::Map::new(), serde_json::Map::new());
        for (name, with, without) in rows {
            poster.insert(name.to_owned(), json!(with));
            baseline.insert(name.to_owned(), json!(without));
        }
        say(json!({"rounds": rounds, "poster": poster, "baseline": baseline}));
        return Ok(());
    }
    say(format!(
        "medians of {rounds} rounds   {:>12} {:>12} {:>8}",
        "poster", "bare awc", "ratio"
    ));
    for (name, with, without) in rows {
        let cell = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"));
        let ratio = with
            .zip(without)
            .filter(|(_, without)| *without != 0.0)
            .map(|(with, without)| with / without);
        say(format!(
            "{name:<20} {:>14} {:>12} {:>8}",
            cell(with),
            cell(without),
            cell(ratio)
        ));
    }
    Ok(())
}

/// Runs this program with the arguments of this process and `extra`, and returns its figures.
fn round_of(extra: &[&str]) -> io::Result<Value> {
    let mut words = env::args_os().skip(1);
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--compare") => drop(words.next()),
            Some("--json" | "--baseline") => {}
            _ => kept.push(word),
        }
    }
    let output = Command::new(env::current_exe()?)
        .args(kept)
        .arg("--json")
        .args(extra)
        .stderr(Stdio::inherit())
        .output()?;
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}

// The built-in platform, in its own process.

struct PlatformProcess {
    url: String,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl PlatformProcess {
    fn start(faults: Faults) -> io::Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .arg("--serve")
            .args(["--platform-latency-ms".to_owned(), faults.latency_ms.to_string()])
            .args(["--fail-rate".to_owned(), faults.fail_rate.to_string()])
            .args(["--reset-rate".to_owned(), faults.reset_rate.to_string()])
            .args(["--outage-ms".to_owned(), faults.outage_ms.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("the platform has no pipes"))?;
        let mut output = BufReader::new(output);
        let mut url = String::new();
        output.read_line(&mut url)?;
        Ok(Self {
            url: url.trim().to_owned(),
            process,
            input,
            output,
        })
    }

    /// Stops the platform, and returns the number of accepted connections.
    fn stop(self) -> Option<u64> {
        let Self {
            mut process,
            input,
            mut output,
            ..
        } = self;
        drop(input);
        let mut connections = String::new();
        output.read_to_string(&mut connections).ok()?;
        process.wait().ok()?;
        connections.trim().parse().ok()
    }
}

/// Prints its URL, serves until stdin is closed, then prints the number of accepted connections.
fn serve(faults: Faults) -> io::Result<()> {
    actix_rt::System::new().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        SockRef::from(&listener).listen(4096)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        say(format!("http://{}", listener.local_addr()?));
        let mut connections: u64 = 0;
        let is_down = Rc::new(Cell::new(false));
        let ended = actix_rt::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
        tokio::pin!(ended);
        loop {
            tokio::select! {
                _ = &mut ended => break,
                accepted = listener.accept() => {
                    if connections == 0 {
                        actix_rt::spawn(outage(faults, Rc::clone(&is_down)));
                    }
                    connections = connections.saturating_add(1);
                    actix_rt::spawn(answer(accepted?.0, faults, Rc::clone(&is_down)));
                }
            }
        }
        say(connections);
        Ok(())
    })
}

async fn outage(faults: Faults, is_down: Rc<Cell<bool>>) {
    actix_rt::time::sleep(Duration::from_millis(500)).await;
    is_down.set(faults.outage_ms > 0);
    actix_rt::time::sleep(Duration::from_millis(faults.outage_ms)).await;
    is_down.set(false);
}

async fn answer(mut stream: TcpStream, faults: Faults, is_down: Rc<Cell<bool>>) -> io::Result<()> {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 26\r\n\r\n{\"success\":true,\"data\":{}}";
    const LATER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(2048);
    loop {
        let length = loop {
            if let Some(length) = request_length(&buffer)
                && buffer.len() >= length
            {
                break length;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..length);
        if faults.latency_ms > 0 {
            actix_rt::time::sleep(Duration::from_millis(faults.latency_ms)).await;
        }
        let dice: f64 = rand::random();
        if is_down.get() || dice < faults.reset_rate {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            return SockRef::from(&stream).shutdown(Direction::Both);
        }
        let fails = dice < faults.reset_rate + faults.fail_rate;
        stream.write_all(if fails { LATER } else { OK }).await?;
    }
}

/// The length of the first request in the buffer, head and body. `None` if the head is incomplete.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let head = buffer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?
        .saturating_add(4);
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(buffer).ok()?;
    let length = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    head.checked_add(length)
}
