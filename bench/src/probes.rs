//! Measurements that need a process of their own, but no comparison of loads.

use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use actix_rt::{System, time::sleep};
use clap::{Subcommand, ValueEnum};
use futures_util::{StreamExt as _, stream};
use result_poster::{ResultPoster, bridge::start_without_network, events::GetStats, outbox::OutboxOptions};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    figures::median,
    load::plain_runtime,
    peers::{Peer, awc, poster, reqwest},
    platform::PlatformProcess,
    process::{cpu_time, flushed_bytes, wake_ups},
    say,
};

/// The time limit for the replay of parked results.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

/// How long a poster rests before it counts as idle: its connections are closed then.
const REST: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
pub(crate) enum Probe {
    /// Messages through actor and queue, with a transport that answers at once.
    Actor {
        #[arg(value_enum)]
        message: Message,
        /// The sessions or issues that the messages are about, in turn.
        targets: u64,
        messages: u64,
        at_once: usize,
    },
    /// A poster that has nothing to do.
    Idle { outbox: PathBuf, seconds: u64 },
    /// Results that are parked while the platform is down, and delivered once it is back.
    Parked { outbox: PathBuf, results: u64 },
    /// The first result of a process, over TLS.
    ColdTls {
        #[arg(value_enum)]
        peer: Peer,
        platform: String,
    },
    /// The flush of a small write.
    Flush { folder: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Message {
    /// `PostResult`: two calls
    Result,
    /// `UpdateIssueStatus`: one call
    Status,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// The bytes that were written to disk.
    pub(crate) written_bytes: Option<u64>,
    pub(crate) wake_ups_per_second: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Parked {
    /// From the platform's return to the first acknowledged call.
    pub(crate) first_ms: f64,
    /// From the first acknowledged call to the last.
    pub(crate) results_per_second: f64,
}

pub(crate) fn command(probe: &Probe, started: Instant) -> io::Result<()> {
    say(match probe {
        Probe::Actor {
            message,
            targets,
            messages,
            at_once,
        } => json!(actor(*message, *targets, *messages, *at_once)?),
        Probe::Idle { outbox, seconds } => json!(idle(outbox, Duration::from_secs(*seconds))?),
        Probe::Parked { outbox, results } => json!(parked(outbox, *results)?),
        Probe::ColdTls { peer, platform } => {
            cold_tls(*peer, platform)?;
            json!(milliseconds(started.elapsed()))
        }
        Probe::Flush { folder } => json!(flush(folder)?),
    });
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The CPU time per message, in microseconds.
fn actor(message: Message, targets: u64, messages: u64, at_once: usize) -> io::Result<f64> {
    let options = poster::options("http://127.0.0.1:1", "token".into());
    let options = options.build().map_err(io::Error::other)?;
    System::new().block_on(async {
        let poster = start_without_network(options);
        let run = async |messages| {
            let numbers = stream::iter(0..messages).map(|number| number % targets);
            let is_failed = |reply: &Result<(), String>| std::future::ready(reply.is_err());
            match message {
                Message::Result => {
                    let replies = numbers.map(|number| poster::send(poster.clone(), number));
                    replies.buffer_unordered(at_once).filter(is_failed).count().await
                }
                Message::Status => {
                    let replies = numbers.map(|number| poster::send_status(poster.clone(), number));
                    replies.buffer_unordered(at_once).filter(is_failed).count().await
                }
            }
        };
        run(messages / 10).await;
        let before = cpu_time().unwrap_or_default();
        if run(messages).await > 0 {
            return Err(io::Error::other("a message failed"));
        }
        let time = cpu_time().unwrap_or_default().saturating_sub(before);
        Ok(time.as_secs_f64() * 1e6 / messages as f64)
    })
}

fn idle(outbox: &Path, time: Duration) -> io::Result<Idle> {
    let platform = PlatformProcess::start(&[])?;
    let options = poster::options(&platform.url, "token".into()).outbox(OutboxOptions::new(outbox));
    let options = options.build().map_err(io::Error::other)?;
    let idle = System::new().block_on(async {
        let poster = ResultPoster::start_supervised(options);
        poster::send(poster, 0).await.map_err(io::Error::other)?;
        sleep(REST).await;
        let (written, woken) = (flushed_bytes(), wake_ups());
        sleep(time).await;
        // This measurement's own sleep is one of them.
        let woken = woken.zip(wake_ups()).map(|(before, after)| after - before - 1);
        Ok::<_, io::Error>(Idle {
            written_bytes: written.zip(flushed_bytes()).map(|(before, after)| after - before),
            wake_ups_per_second: woken.map(|woken| woken as f64 / time.as_secs_f64()),
        })
    })?;
    platform.stop();
    Ok(idle)
}

fn parked(outbox: &Path, results: u64) -> io::Result<Parked> {
    let mut platform = PlatformProcess::start(&["--down".to_owned()])?;
    let options = poster::options(&platform.url, "token".into()).outbox(OutboxOptions::new(outbox));
    let options = options.base_delay(Duration::from_millis(10)).max_queued(20_000);
    let options = options.build().map_err(io::Error::other)?;
    let parked = System::new().block_on(async {
        let poster = ResultPoster::start_supervised(options);
        let send = |number| poster::send(poster.clone(), number);
        let replies = stream::iter(0..results).map(send).buffer_unordered(256);
        let delivered = replies.filter(|reply| std::future::ready(reply.is_ok())).count().await;
        if delivered > 0 {
            return Err(io::Error::other("a result was delivered while the platform was down"));
        }

        platform.come_up()?;
        let up = Instant::now();
        let mut first = None;
        let replayed = timeout(REPLAY_LIMIT, async {
            loop {
                let stats = poster.send(GetStats).await.map_err(io::Error::other)?;
                if stats.delivered > 0 {
                    first.get_or_insert_with(Instant::now);
                }
                if stats.delivered >= results * 2 {
                    return Ok::<_, io::Error>(());
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        replayed.await.map_err(io::Error::other)??;
        let first = first.unwrap_or(up);
        Ok(Parked {
            first_ms: milliseconds(first - up),
            results_per_second: results as f64 / first.elapsed().as_secs_f64(),
        })
    })?;
    platform.stop();
    Ok(parked)
}

/// Posts one result. The roots are those of the host, and of `SSL_CERT_FILE`.
fn cold_tls(peer: Peer, platform: &str) -> io::Result<()> {
    let token = "token".to_owned();
    let sent = match peer {
        Peer::Poster => System::new().block_on(async {
            let options = poster::options(platform, token).build().map_err(io::Error::other)?;
            Ok::<_, io::Error>(poster::send(ResultPoster::start_supervised(options), 0).await)
        })?,
        Peer::Awc => System::new().block_on(async {
            let client = awc::Sender::new(1, platform.to_owned(), token, Some(tls_of_host()?));
            Ok::<_, io::Error>(client.send(0).await)
        })?,
        Peer::ReqwestRetry => plain_runtime()?.block_on(async {
            let client = reqwest::Sender::new(platform.to_owned(), token)?;
            Ok::<_, io::Error>(client.send(0).await)
        })?,
        Peer::Hyper => Err("hyper-util's client has no TLS of its own".to_owned()),
    };
    sent.map_err(io::Error::other)
}

fn tls_of_host() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The median time to write 4 KiB and flush them, in milliseconds.
fn flush(folder: &Path) -> io::Result<f64> {
    let path = folder.join("flush");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(milliseconds(started.elapsed()));
    }
    std::fs::remove_file(path)?;
    Ok(median(times))
}
