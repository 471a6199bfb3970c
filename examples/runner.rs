//! A runner that works through its sessions and reports each of them. It keeps undelivered sessions, gives up on
//! rejected ones, registers again when its token is rejected, and shuts down in the right order.
//!
//! `cargo run --example runner`, and Ctrl-C at any time.

mod common;

use std::{
    error::Error,
    io,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix::{Actor, Addr, Context, Handler, MailboxError, Message, ResponseFuture, Supervised};
use clap::Parser;
use common::{Failure, chain, say};
use result_poster::{
    AgentResult, CallError, CreateComment, NextStep, Options, PermanentError, PostError, PostResult, ResultPoster,
    SessionStatus, Shutdown, Supervisor, UpdateIssueStatus,
    credentials::{RefreshCredentials, RuntimeCredentials, provider_fn},
    events::GetStats,
    testing::{FakePlatform, Reply},
};

/// Works through a few sessions and reports them to a platform that it starts itself.
#[derive(Parser)]
#[command(after_help = "Environment: RUST_LOG, the log filter, such as result_poster=debug")]
struct Arguments {}

/// The worker that claims the sessions.
const WORKER_ID: &str = "wkr_1";

/// The worker's registration with the platform, which issues its token.
#[derive(Clone, Default)]
struct Registration(Arc<AtomicU32>);

impl Registration {
    /// The worker id and the token of the last registration. A real runner gets both from the platform.
    fn credentials(&self) -> RuntimeCredentials {
        let number = self.0.load(Ordering::Relaxed);
        RuntimeCredentials::new(WORKER_ID, format!("token-{number}"))
    }

    /// Registers again, and makes the new credentials current at once.
    async fn renew(&self, poster: &Addr<ResultPoster>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        match poster.send(RefreshCredentials).await {
            Ok(Ok(issued)) => say(format!(
                "registered again as {}",
                issued.worker_id().unwrap_or("nobody")
            )),
            // The next call asks for credentials again.
            Ok(Err(error)) => say(format!("no new credentials: {}", chain(&error))),
            Err(error) => say(format!("the poster has stopped: {error}")),
        }
    }
}

/// A session that has ended, with the messages that report it. Only clones of the messages are sent, so that a repeated
/// message has the same idempotency key.
struct Session {
    id: &'static str,
    result: PostResult,
    update: UpdateIssueStatus,
    comment: CreateComment,
}

impl Session {
    fn new(id: &'static str, issue: &'static str, result: AgentResult) -> Self {
        let issue_status = match result.status {
            SessionStatus::Completed => "Finished",
            SessionStatus::Failed | SessionStatus::Stopped => "Backlog",
        };
        Self {
            id,
            update: UpdateIssueStatus::new(issue, issue_status),
            comment: CreateComment::new(issue, format!("Session {id} {}.", result.status)),
            result: PostResult::new(id, result).with_worker_id(WORKER_ID),
        }
    }
}

/// Works through one session after another, under supervision like the poster.
struct Runner {
    poster: Addr<ResultPoster>,
    registration: Registration,
}

impl Actor for Runner {
    type Context = Context<Self>;
}

impl Supervised for Runner {}

/// Runs a session and reports it. The reply is the session if it must be reported again.
struct Run(Session);

impl Message for Run {
    type Result = Option<Session>;
}

impl Handler<Run> for Runner {
    type Result = ResponseFuture<Option<Session>>;

    fn handle(&mut self, Run(session): Run, _: &mut Context<Self>) -> Self::Result {
        let (poster, registration) = (self.poster.clone(), self.registration.clone());
        Box::pin(async move {
            // A real runner runs the agent here.
            let Err(error) = report(&poster, &session).await else {
                return None;
            };
            let id = session.id;
            say(format!("{id}: {}", error.text));
            if let Some(advice) = error.advice {
                say(format!("{id}: advice: {advice}"));
            }
            match error.next_step {
                NextStep::RetryLater { after } => say(format!("{id}: kept, to be sent again after {after:?}")),
                NextStep::RenewCredentials => {
                    say(format!("{id}: kept until the credentials are renewed"));
                    registration.renew(&poster).await;
                }
                NextStep::UseNextPoster => say(format!("{id}: kept for the next poster")),
                NextStep::GiveUp => {
                    say(format!("{id}: given up"));
                    return None;
                }
                // The outbox delivers the message, or the message was cancelled by its token: this runner uses neither.
                NextStep::Nothing => return None,
            }
            Some(session)
        })
    }
}

/// The reason why a session was not reported, and the next step.
struct ReportError {
    text: String,
    advice: Option<&'static str>,
    next_step: NextStep,
}

impl From<PostError> for ReportError {
    fn from(error: PostError) -> Self {
        Self {
            text: chain(&error),
            advice: error.permanent().map(PermanentError::advice),
            next_step: error.next_step(),
        }
    }
}

impl From<CallError> for ReportError {
    fn from(error: CallError) -> Self {
        Self {
            text: format!("the issue was not moved: {}", chain(&error)),
            advice: error.permanent().map(PermanentError::advice),
            next_step: error.next_step(),
        }
    }
}

impl From<MailboxError> for ReportError {
    /// The poster has stopped, and may have sent the message. The same message to another poster has the same keys.
    fn from(error: MailboxError) -> Self {
        Self {
            text: format!("the poster has stopped: {error}"),
            advice: None,
            next_step: NextStep::UseNextPoster,
        }
    }
}

/// Posts the result of a session, then moves its issue and comments on it.
async fn report(poster: &Addr<ResultPoster>, session: &Session) -> Result<(), ReportError> {
    let id = session.id;
    let receipt = poster.send(session.result.clone()).await??;
    let attempts = receipt
        .completion
        .attempts()
        .map_or("none".to_owned(), |attempts| attempts.to_string());
    say(format!(
        "{id}: result delivered, attempts of the completion: {attempts}"
    ));

    poster.send(session.update.clone()).await??;
    let (issue, status) = (session.update.issue_id(), session.update.status());
    say(format!("{id}: moved {issue} to {status}"));

    // The comment is optional: a failure is printed and not retried.
    match poster.send(session.comment.clone()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => say(format!("{id}: no comment on {issue}: {}", chain(&error))),
        Err(error) => say(format!("{id}: no comment on {issue}: {error}")),
    }
    Ok(())
}

fn sessions() -> [Session; 7] {
    let completed = |summary| AgentResult::new(SessionStatus::Completed).with_summary(summary);
    let failed = AgentResult::new(SessionStatus::Failed).with_error("the provider closed the stream");
    let stopped = AgentResult::new(SessionStatus::Stopped).with_summary("Stopped by the operator.");
    [
        Session::new("sess-1", "issue-1", completed("Added the widget cache.")),
        Session::new("sess-2", "issue-2", failed),
        Session::new("sess-3", "issue-3", stopped),
        Session::new("flaky", "issue-4", completed("Fixed the flaky test.")),
        Session::new("rejected", "issue-5", completed("Ran a session of another worker.")),
        Session::new("expired", "issue-6", completed("Ran until its token had expired.")),
        Session::new("down", "issue-7", completed("Ran during an outage.")),
    ]
}

/// A platform that fails the calls of the sessions `flaky`, `rejected`, `expired` and `down`.
fn platform() -> io::Result<FakePlatform> {
    let platform = FakePlatform::start()?;
    let busy = Reply::status(503).body(r#"{"error":"busy"}"#);
    platform.script("flaky/completion", [busy.clone(), busy.clone(), Reply::ok()]);
    platform.script("down/completion", [busy.clone(), busy.clone(), busy, Reply::ok()]);
    let forbidden = Reply::status(403).body(r#"{"error":"not your session"}"#);
    platform.script("rejected/completion", [forbidden.clone()]);
    platform.script("rejected/status", [forbidden]);
    for call in ["expired/completion", "expired/status"] {
        // Each of the three attempts is rejected, since there is no other token yet.
        let expired = Reply::status(401).body(r#"{"error":"token expired"}"#);
        platform.script(call, [expired.clone(), expired.clone(), expired, Reply::ok()]);
    }
    Ok(platform)
}

/// Runs all sessions, then runs the kept sessions once more.
async fn work(runner: Addr<Runner>) -> Result<(), MailboxError> {
    let mut kept = Vec::new();
    for session in sessions() {
        kept.extend(runner.send(Run(session)).await?);
    }
    // A real runner keeps these sessions on disk until they are due.
    for session in kept {
        say(format!("{}: trying again", session.id));
        runner.send(Run(session)).await?;
    }
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let platform = platform()?;
    let registration = Registration::default();
    let provider = {
        let registration = registration.clone();
        provider_fn(async move || Ok(registration.credentials()))
    };
    let options = Options::builder(platform.url())
        .credential_provider(provider)
        .base_delay(Duration::from_millis(100))
        .build()?;
    let poster = ResultPoster::start_supervised(options);
    let runner = Supervisor::start({
        let poster = poster.clone();
        |_, _| Runner { poster, registration }
    });

    tokio::select! {
        done = work(runner) => done?,
        // A real runner also stores the sessions that have not started.
        _ = actix_rt::signal::ctrl_c() => say("interrupted; finishing the accepted messages"),
    }

    // The order matters: no new work, then the shutdown of the poster, and last the end of the system, which drops
    // unfinished calls.
    let stats = poster.send(GetStats).await?;
    say(format!(
        "{} calls delivered with {} attempts",
        stats.delivered, stats.attempts
    ));
    let report = poster.send(Shutdown::within(Duration::from_secs(10))).await?;
    say(format!(
        "shut down: {} pending calls delivered, {} cancelled",
        report.delivered, report.cancelled
    ));
    Ok(())
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let Arguments {} = Arguments::parse();
    let ended = actix_rt::System::new().block_on(run());
    common::exit_code(ended.map_err(|error| Failure::new(1, chain(&*error))))
}
