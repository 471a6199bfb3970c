//! A runner that works through its sessions and reports each result, as a real one would: it keeps what
//! could not be delivered, gives up on what the platform refuses, and shuts down in the right order.
//!
//! `cargo run --example runner`, and Ctrl-C at any time.

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use actix::{Actor, Addr, Context, Handler, Message, ResponseFuture, Supervised};
use futures_util::future::{Either, select};
use result_poster::{
    AgentResult, CallError, CreateComment, GetStats, Options, PostError, PostResult, ResultPoster, SessionStatus,
    Shutdown, Supervisor, UpdateIssueStatus,
    testing::{FakePlatform, Reply},
};

/// What a runner has in its hands when the agent has come to its end.
#[derive(Clone)]
struct Session {
    id: &'static str,
    issue: &'static str,
    result: AgentResult,
}

/// Works through one session after another. Under supervision, like the poster that it reports through.
struct Runner {
    poster: Addr<ResultPoster>,
}

impl Actor for Runner {
    type Context = Context<Self>;
}

impl Supervised for Runner {}

/// Runs a session and reports it. The reply is the session itself if its result is still to be delivered.
struct Run(Session);

impl Message for Run {
    type Result = Option<Session>;
}

impl Handler<Run> for Runner {
    type Result = ResponseFuture<Option<Session>>;

    fn handle(&mut self, Run(session): Run, _: &mut Context<Self>) -> Self::Result {
        let poster = self.poster.clone();
        Box::pin(async move {
            // Here the agent would do its work.
            let outcome = match report(&poster, &session).await {
                Outcome::Delivered => conclude(&poster, &session).await,
                outcome @ (Outcome::Refused | Outcome::Kept) => outcome,
            };
            matches!(outcome, Outcome::Kept).then_some(session)
        })
    }
}

/// What became of a result.
enum Outcome {
    Delivered,
    /// It is worth another try later.
    Kept,
    Refused,
}

async fn report(poster: &Addr<ResultPoster>, session: &Session) -> Outcome {
    let id = session.id;
    let message = PostResult::new(id, session.result.clone());
    let Ok(reply) = poster.send(message).await else {
        // The poster is gone; whether it had sent the result is not known. The same result, sent again by
        // another poster, carries the same keys.
        say(format!("{id}: the poster has stopped, keeping the result"));
        return Outcome::Kept;
    };
    match reply {
        Ok(receipt) => {
            let attempts = receipt.completion.attempts;
            say(format!("{id}: delivered, the completion with attempt {attempts}"));
            Outcome::Delivered
        }
        Err(PostError::Invalid(error)) => {
            say(format!("{id}: a bug in this runner: {error}"));
            Outcome::Refused
        }
        Err(error) if error.is_retryable() || was_stopped(&error) => {
            say(format!("{id}: keeping the result: {error}"));
            Outcome::Kept
        }
        Err(error) => {
            say(format!("{id}: not to be delivered: {error}"));
            if let Some(refusal) = error.permanent() {
                say(format!("{id}: for the operator: {}", refusal.advice()));
            }
            Outcome::Refused
        }
    }
}

/// It was this runner's end that came in between, and the next one is to deliver it.
fn was_stopped(error: &PostError) -> bool {
    let stopped = |call: &CallError| matches!(call, CallError::Cancelled { .. } | CallError::ShuttingDown);
    error.completion().is_some_and(stopped) || error.status().is_some_and(stopped)
}

/// Tells the issue how the session ended. A session that is kept for it has its result delivered again, with the same keys.
async fn conclude(poster: &Addr<ResultPoster>, session: &Session) -> Outcome {
    let (id, issue) = (session.id, session.issue);
    let status = match session.result.status {
        SessionStatus::Completed => "Finished",
        SessionStatus::Failed | SessionStatus::Stopped => "Backlog",
    };
    let update = UpdateIssueStatus::new(issue, status);
    // Worth a second try, with the same key: a clone has it.
    for _ in 0..2 {
        match poster.send(update.clone()).await {
            Ok(Ok(_)) => {
                say(format!("{id}: {issue} is {status}"));
                break;
            }
            Ok(Err(error)) if error.is_retryable() => say(format!("{id}: once more: {error}")),
            Ok(Err(CallError::Cancelled { .. } | CallError::ShuttingDown)) | Err(_) => {
                say(format!("{id}: keeping it, {issue} is still to be moved"));
                return Outcome::Kept;
            }
            Ok(Err(error)) => {
                say(format!("{id}: {issue} is not moved: {error}"));
                break;
            }
        }
    }
    // A nicety: its failure is only told.
    let comment = CreateComment::new(issue, format!("Session {id} {}.", session.result.status));
    match poster.send(comment).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => say(format!("{id}: no comment on {issue}: {error}")),
        Err(closed) => say(format!("{id}: no comment on {issue}: {closed}")),
    }
    Outcome::Delivered
}

fn sessions() -> Vec<Session> {
    let session = |id, issue, result| Session { id, issue, result };
    let ended = |status, summary| AgentResult::new(status).with_summary(summary);
    vec![
        session(
            "sess-1",
            "issue-1",
            ended(SessionStatus::Completed, "Added the widget cache."),
        ),
        session(
            "sess-2",
            "issue-2",
            ended(SessionStatus::Failed, "").with_error("the provider closed the stream"),
        ),
        session(
            "sess-3",
            "issue-3",
            ended(SessionStatus::Stopped, "Stopped by the operator."),
        ),
        session(
            "flaky",
            "issue-4",
            ended(SessionStatus::Completed, "Fixed the flaky test."),
        ),
        session(
            "rejected",
            "issue-5",
            ended(SessionStatus::Completed, "Somebody else's session."),
        ),
        session(
            "down",
            "issue-6",
            ended(SessionStatus::Completed, "Worked through an outage."),
        ),
    ]
}

/// A platform that has its moods.
fn platform() -> io::Result<FakePlatform> {
    let platform = FakePlatform::start()?;
    let busy = Reply::status(503).body(r#"{"error":"busy"}"#);
    platform.script("flaky/completion", [busy.clone(), busy.clone(), Reply::ok()]);
    let refused = Reply::status(403).body(r#"{"error":"not your session"}"#);
    platform.script("rejected/completion", [refused.clone()]);
    platform.script("rejected/status", [refused]);
    platform.script("down/completion", [busy.clone(), busy.clone(), busy, Reply::ok()]);
    Ok(platform)
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let platform = platform()?;
    let options = Options::builder(platform.url())
        .worker_id("wkr_1")
        .auth_token("example-token")
        .base_delay(Duration::from_millis(100)) // the platform's moods are short
        .build()?;
    let poster = ResultPoster::start_supervised(options);
    let runner = Supervisor::start({
        let poster = poster.clone();
        |_| Runner { poster }
    });

    let work = async {
        let mut kept = Vec::new();
        for session in sessions() {
            kept.extend(runner.send(Run(session)).await?);
        }
        // A real runner keeps these on disk, and tries again when the platform is back.
        for session in kept {
            say(format!("{}: trying again", session.id));
            runner.send(Run(session)).await?;
        }
        Ok::<_, actix::MailboxError>(())
    };
    let (work, interrupt) = (std::pin::pin!(work), std::pin::pin!(actix_rt::signal::ctrl_c()));
    match select(work, interrupt).await {
        Either::Left((done, _)) => done?,
        // A real runner would also write down here what it has not begun.
        Either::Right(_) => say("interrupted: finishing what was handed over"),
    }

    // In this order: no new work, then the poster's shutdown, and the system last, which drops whatever is unfinished.
    let stats = poster.send(GetStats).await?;
    say(format!(
        "{} calls delivered with {} attempts",
        stats.delivered, stats.attempts
    ));
    let report = poster.send(Shutdown::within(Duration::from_secs(10))).await?;
    say(format!(
        "shut down; meanwhile {} delivered, {} cancelled",
        report.delivered, report.cancelled
    ));
    Ok(())
}

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        None => {}
        Some(word) if word == "--help" || word == "-h" => {
            say(
                "Works through a few sessions, against a platform that it starts itself. Takes no arguments;\nRUST_LOG shows log lines, such as result_poster=debug.",
            );
            return ExitCode::SUCCESS;
        }
        Some(word) => {
            let _ = writeln!(io::stderr(), "runner: {} is too much; see --help", word.display());
            return ExitCode::from(2);
        }
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    match actix_rt::System::new().block_on(run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "runner: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As `println!`, which panics once nobody reads any more.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
