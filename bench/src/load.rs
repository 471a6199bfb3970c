//! One run: callers that post one result after another until there are no more.

use std::{
    env, io, iter,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use actix_rt::System;
use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    arguments::LoadArguments,
    compare,
    figures::{Figures, Tally},
    peers::{Peer, awc, hyper, poster, reqwest},
    platform::PlatformProcess,
    process::{cpu_time, peak_memory_mib},
    say, sweep,
};

/// How many results pass between two updates of the progress bar.
const PROGRESS_STEP: u64 = 500;

pub(crate) fn command(arguments: &LoadArguments) -> io::Result<bool> {
    if let Some(path) = &arguments.sweep {
        sweep::command(arguments, path)?;
        return Ok(true);
    }
    if let Some(rounds) = arguments.compare {
        compare::command(arguments, rounds)?;
        return Ok(true);
    }
    let figures = run(arguments)?;
    say(if arguments.json {
        serde_json::to_string(&figures)?
    } else {
        figures.to_string()
    });
    Ok(figures.failed == 0)
}

fn run(arguments: &LoadArguments) -> io::Result<Figures> {
    let platform = match &arguments.platform {
        Some(_) => None,
        None => Some(PlatformProcess::start(&arguments.behaviour.words())?),
    };
    let own = platform.as_ref().map(|platform| platform.url.clone());
    let url = arguments.platform.clone().or(own).unwrap_or_default();
    let token = env::var("RESULT_POSTER_TOKEN").unwrap_or_else(|_| "token".into());
    let run = Arc::new(Run::new(arguments));

    // The poster and awc belong to a thread. The others may move, and would pay for a `LocalSet` that they do not need.
    let mut figures = match arguments.peer {
        Peer::Poster => System::new().block_on(async {
            let poster = poster::start(arguments, &url, token)?;
            let send = {
                let poster = poster.clone();
                move |number| poster::send(poster.clone(), number)
            };
            let callers = run.callers(send).map(actix_rt::spawn).collect();
            let mut figures = run.measure(callers).await?;
            figures.attempts = poster::attempts(&poster).await;
            Ok::<_, io::Error>(figures)
        }),
        Peer::Awc => System::new().block_on(async {
            let client = awc::Sender::new(arguments.concurrency, url, token, None);
            let callers = run.callers(move |number| client.clone().send(number));
            run.measure(callers.map(actix_rt::spawn).collect()).await
        }),
        Peer::ReqwestRetry => plain_runtime()?.block_on(async {
            let client = reqwest::Sender::new(url, token)?;
            let callers = run.callers(move |number| client.clone().send(number));
            run.measure(callers.map(tokio::spawn).collect()).await
        }),
        Peer::Hyper => plain_runtime()?.block_on(async {
            let client = hyper::Sender::new(url, token);
            let callers = run.callers(move |number| client.clone().send(number));
            run.measure(callers.map(tokio::spawn).collect()).await
        }),
    }?;
    figures.peak_memory_mib = peak_memory_mib();
    figures.connections = platform.and_then(PlatformProcess::stop);
    Ok(figures)
}

pub(crate) fn plain_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The state that the callers share. No lock in it is ever waited for: there is one thread.
struct Run {
    results: u64,
    concurrency: usize,
    time_limit: std::time::Duration,
    /// The number of the next result.
    next: AtomicU64,
    tally: Mutex<Tally>,
    progress: ProgressBar,
}

impl Run {
    fn new(arguments: &LoadArguments) -> Self {
        let progress = ProgressBar::new(arguments.results);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} results, {per_sec}") {
            progress.set_style(style);
        }
        let mut tally = Tally::default();
        tally
            .latencies
            .reserve(usize::try_from(arguments.results).unwrap_or_default());
        Self {
            results: arguments.results,
            concurrency: arguments.concurrency,
            time_limit: arguments.time_limit_s,
            next: AtomicU64::new(0),
            tally: Mutex::new(tally),
            progress,
        }
    }

    /// One future per caller, as a runner has one task per session.
    fn callers<F, R>(
        self: &Arc<Self>,
        send: F,
    ) -> impl Iterator<Item = impl Future<Output = ()> + use<F, R>> + use<F, R>
    where
        F: Fn(u64) -> R + Clone,
        R: Future<Output = Result<(), String>>,
    {
        let run = Arc::clone(self);
        (0..run.concurrency).map(move |_| Arc::clone(&run).call(send.clone()))
    }

    async fn call<F, R>(self: Arc<Self>, send: F)
    where
        F: Fn(u64) -> R,
        R: Future<Output = Result<(), String>>,
    {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.results {
                break;
            }
            let begun = Instant::now();
            let outcome = send(number).await;
            let latency = begun.elapsed();
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.latencies.push(latency);
            if let Err(error) = outcome {
                *tally.errors.entry(error).or_default() += 1;
            }
            drop(tally);
            if number.is_multiple_of(PROGRESS_STEP) {
                self.progress.set_position(number);
            }
        }
    }

    /// Waits for the callers, and ends them when the time is over.
    async fn measure(&self, mut callers: Vec<JoinHandle<()>>) -> io::Result<Figures> {
        let (started, cpu_before) = (Instant::now(), cpu_time());
        let ended = timeout(self.time_limit, try_join_all(&mut callers)).await;
        let in_time = ended.ok().transpose()?.is_some();
        callers.iter().for_each(JoinHandle::abort);
        let elapsed = started.elapsed();
        let cpu = (cpu_before.zip(cpu_time())).map(|(before, after)| after.saturating_sub(before));
        self.progress.finish_and_clear();

        let mut tally = std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        if !in_time {
            let begun = self.next.load(Ordering::Relaxed).min(self.results);
            let unanswered = begun.saturating_sub(tally.latencies.len() as u64);
            let count = usize::try_from(unanswered).unwrap_or_default();
            tally.latencies.extend(iter::repeat_n(elapsed, count));
            tally.errors.insert("no reply within the time limit".into(), unanswered);
        }
        Ok(Figures::new(tally, elapsed, cpu))
    }
}
