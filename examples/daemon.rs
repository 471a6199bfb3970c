//! A runner daemon on actix-web: it takes the results of its sessions over HTTP, and a poster with an outbox delivers them.
//!
//! `cargo run --example daemon -- daemon.toml`, with a file such as
//!
//! ```toml
//! listen = "127.0.0.1:8080"
//! drain_seconds = 30                  # how long a shutdown waits for the platform
//!
//! [poster]                            # all keys: docs of `OptionsConfig`
//! platform_url = "https://app.example.com"
//! worker_id = "wkr_1"
//! auth_token_file = "/etc/runner/token"
//!
//! [poster.outbox]
//! path = "/var/lib/runner/outbox.db"
//! ```
//!
//! | request | response |
//! |---|---|
//! | `POST /sessions/{id}/result?worker=…&run=…`, the runner's JSON | 202 when the outbox holds the result |
//! | `POST /registration`, `{"workerId", "authToken"}` | 204: the new credentials are in use |
//! | `GET /healthz` | 200 while the poster answers |
//! | `GET /readyz` | 200, or 503 with the reasons: results can't be taken |
//! | `GET /may-take-work` | 200, or 503 with the reasons: give this daemon no new session |
//! | `GET /metrics` | for Prometheus |
//! | `GET /outbox` | the first thousand calls that are not delivered, as JSON |
//!
//! Anyone who reaches the port can change the credentials: listen on loopback, or authenticate the callers.

use std::{
    env,
    error::Error,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use actix_rt::signal::unix::{SignalKind, signal};
use actix_web::{App, HttpResponse, HttpServer, Responder, web};
use futures_util::future::{Either, select};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use result_poster::{
    AgentResult, NextStep, OptionsConfig, PostResult, ResultPoster, Shutdown,
    credentials::{RefreshCredentials, RuntimeCredentials, provider_fn},
    events::Histogram,
    health::{GetHealth, Health},
    outbox::{EntryQuery, ListEntries},
};
use serde::Deserialize;

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: SocketAddr,
    drain_seconds: u64,
    poster: OptionsConfig,
}

/// The longest JSON of a result. actix-web's own limit is 256 KiB, and would lose longer results.
const MAX_RESULT_BYTES: usize = 16 << 20;

/// The state that the handlers share.
struct Daemon {
    poster: Addr<ResultPoster>,
    /// The last registration of this process. Empty before the first one: then the poster uses the fixed pair of the file.
    registration: Arc<Mutex<RuntimeCredentials>>,
    is_stopping: AtomicBool,
    metrics: PrometheusHandle,
}

impl Daemon {
    fn start(config: OptionsConfig) -> Result<Self, Box<dyn Error>> {
        if config.outbox()?.is_none() {
            return Err("the configuration has no [poster.outbox]".into());
        }
        let registration = Arc::new(Mutex::new(RuntimeCredentials::new("", "")));
        let provider = {
            let registration = Arc::clone(&registration);
            provider_fn(async move || Ok(registration.lock().unwrap_or_else(PoisonError::into_inner).clone()))
        };
        let options = config.into_builder()?.credential_provider(provider).build()?;
        let buckets = Matcher::Suffix("_seconds".to_owned());
        Ok(Self {
            // First, so that no metric of the start is missed.
            metrics: PrometheusBuilder::new()
                .set_buckets_for_metric(buckets, &Histogram::BOUNDS)?
                .install_recorder()?,
            poster: ResultPoster::start_supervised(options),
            registration,
            is_stopping: AtomicBool::new(false),
        })
    }
}

/// An error and its causes in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The worker and the run of the session.
#[derive(Deserialize)]
struct Run {
    /// The worker that claimed the session: the platform refuses the result of another one.
    worker: String,
    /// The number of the run, if the session is run more than once: two runs that end alike are different results.
    run: Option<u64>,
}

/// A session has ended. The result is the poster's as soon as it is in the outbox.
async fn post_result(
    daemon: web::Data<Daemon>,
    session: web::Path<String>,
    run: web::Query<Run>,
    json: web::Bytes,
) -> HttpResponse {
    if daemon.is_stopping.load(Ordering::Relaxed) {
        return HttpResponse::ServiceUnavailable().body("the daemon is stopping");
    }
    let result = match AgentResult::from_json(&json) {
        Ok(result) => result,
        Err(error) => return HttpResponse::BadRequest().body(chain(&error)),
    };
    let mut message = PostResult::new(session.into_inner(), result)
        .with_worker_id(&run.worker)
        .reply_when_durable();
    if let Some(number) = run.run {
        message = message.with_run(number);
    }
    match daemon.poster.send(message).await {
        Ok(Ok(receipt)) => HttpResponse::Accepted().json(receipt),
        // It is in the outbox already: the session is done, also if somebody has to renew the credentials.
        Ok(Err(error)) if error.parked().is_some() => HttpResponse::Accepted().body(chain(&error)),
        Ok(Err(error)) => match error.next_step() {
            NextStep::Nothing => HttpResponse::Accepted().body(chain(&error)),
            NextStep::GiveUp => HttpResponse::UnprocessableEntity().body(chain(&error)),
            NextStep::RetryLater { after } => HttpResponse::ServiceUnavailable()
                .insert_header(("retry-after", after.as_secs().max(1)))
                .body(chain(&error)),
            NextStep::RenewCredentials | NextStep::UseNextPoster => {
                HttpResponse::ServiceUnavailable().body(chain(&error))
            }
        },
        Err(error) => HttpResponse::ServiceUnavailable().body(chain(&error)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    worker_id: String,
    auth_token: String,
}

/// The worker was registered again: the next call uses its new credentials, and parked ones that were rejected go at once.
async fn register(daemon: web::Data<Daemon>, new: web::Json<Registration>) -> HttpResponse {
    let Registration { worker_id, auth_token } = new.into_inner();
    if worker_id.is_empty() || auth_token.is_empty() {
        return HttpResponse::BadRequest().body("the worker id or the token is empty");
    }
    let credentials = RuntimeCredentials::new(worker_id, auth_token);
    let replace = |credentials| {
        let mut registration = daemon.registration.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *registration, credentials)
    };
    let former = replace(credentials);
    match daemon.poster.send(RefreshCredentials).await {
        Ok(Ok(_)) => HttpResponse::NoContent().finish(),
        Ok(Err(error)) => {
            replace(former);
            HttpResponse::BadRequest().body(chain(&error))
        }
        Err(error) => HttpResponse::ServiceUnavailable().body(chain(&error)),
    }
}

/// Whether to restart this process.
async fn is_alive(daemon: web::Data<Daemon>) -> HttpResponse {
    match daemon.poster.send(GetHealth).await {
        Ok(health) => HttpResponse::Ok().json(health),
        Err(error) => HttpResponse::ServiceUnavailable().body(chain(&error)),
    }
}

/// Whether results are taken.
async fn is_ready(daemon: web::Data<Daemon>) -> HttpResponse {
    answer(&daemon, Health::is_ready).await
}

/// Whether to give this process a new session.
async fn may_take_work(daemon: web::Data<Daemon>) -> HttpResponse {
    answer(&daemon, Health::may_take_work).await
}

async fn answer(daemon: &Daemon, is_good: fn(&Health) -> bool) -> HttpResponse {
    match daemon.poster.send(GetHealth).await {
        Ok(health) if is_good(&health) => HttpResponse::Ok().json(health.problems()),
        Ok(health) => HttpResponse::ServiceUnavailable().json(health.problems()),
        Err(error) => HttpResponse::ServiceUnavailable().body(chain(&error)),
    }
}

async fn metrics(daemon: web::Data<Daemon>) -> impl Responder {
    daemon.metrics.render()
}

async fn outbox(daemon: web::Data<Daemon>) -> HttpResponse {
    match daemon
        .poster
        .send(ListEntries::new(EntryQuery::all().limit(1_000).without_bodies()))
        .await
    {
        Ok(Ok(entries)) => HttpResponse::Ok().json(entries),
        Ok(Err(error)) => HttpResponse::ServiceUnavailable().body(chain(&error)),
        Err(error) => HttpResponse::ServiceUnavailable().body(chain(&error)),
    }
}

async fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let daemon = web::Data::new(Daemon::start(config.poster)?);
    let server = HttpServer::new({
        let daemon = daemon.clone();
        move || {
            App::new()
                .app_data(daemon.clone())
                .app_data(web::PayloadConfig::new(MAX_RESULT_BYTES))
                .route("/sessions/{id}/result", web::post().to(post_result))
                .route("/registration", web::post().to(register))
                .route("/healthz", web::get().to(is_alive))
                .route("/readyz", web::get().to(is_ready))
                .route("/may-take-work", web::get().to(may_take_work))
                .route("/metrics", web::get().to(metrics))
                .route("/outbox", web::get().to(outbox))
        }
    })
    // Otherwise the server would stop at a signal, and the system with it, before the poster has drained.
    .disable_signals()
    .bind(config.listen)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut stop = async || {
        select(Box::pin(terminate.recv()), Box::pin(interrupt.recv())).await;
    };
    log::info!("listening on {:?}", server.addrs());
    let server = server.run();
    let handle = server.handle();
    let mut server = actix_rt::spawn(server);
    let upkeep = daemon.metrics.clone();
    actix_rt::spawn(async move {
        loop {
            actix_rt::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });

    // A server that ends by itself has failed: the results that were accepted are delivered or parked nevertheless.
    select(Box::pin(stop()), &mut server).await;
    log::info!("stopping");
    // The order matters: no new results, then the poster, which waits for the platform and parks what is left, and last the
    // server: until then it answers the sessions that wait, and the probes.
    daemon.is_stopping.store(true, Ordering::Relaxed);
    let drain = Shutdown::within(Duration::from_secs(config.drain_seconds));
    let report = match select(Box::pin(daemon.poster.send(drain)), Box::pin(stop())).await {
        Either::Left((report, _)) => report?,
        // A second signal: what is left stays in the outbox.
        Either::Right((_, drain)) => {
            daemon.poster.do_send(Shutdown::within(Duration::ZERO));
            drain.await?
        }
    };
    log::info!(
        "stopped: {} calls were delivered, {} were parked",
        report.delivered,
        report.parked
    );
    handle.stop(true).await;
    Ok(())
}

/// Runs the daemon with the configuration in this file, until a signal ends it.
pub fn serve(file: &Path) -> Result<(), Box<dyn Error>> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let config = toml::from_str(&fs::read_to_string(file)?)?;
    actix_rt::System::new().block_on(run(config))
}

fn main() -> Result<(), Box<dyn Error>> {
    let file = env::args_os().nth(1).ok_or("usage: daemon <configuration file>")?;
    serve(Path::new(&file))
}
