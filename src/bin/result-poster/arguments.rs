//! The arguments of the command.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use jiff::{Span, SpanRelativeTo};
use result_poster::{CallId, outbox::EntryState};

const AFTER_HELP: &str = "\
Configuration: the file of --config (TOML, or JSON if its name ends in .json), or else the
environment: RESULT_POSTER_PLATFORM_URL, RESULT_POSTER_AUTH_TOKEN_FILE, and so on. The keys
are those of OptionsConfig in the documentation of the crate.

Exit status: 0 done; 1 failed; 2 invalid arguments, file or configuration, and nothing was
sent or changed; 3 the result is parked in the outbox, which delivers it";

/// Delivers the results of an agent runner's sessions, and looks after their outbox.
#[derive(Debug, Parser)]
#[command(name = "result-poster", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    /// A file of options, instead of the environment
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Post the result of a session: the completion, then the status
    ///
    /// Each failed attempt is reported on stderr as it happens. With an outbox, the result is on disk before it is sent,
    /// and parked calls of the same platform and organization are delivered meanwhile.
    Post(Post),
    /// Inspect and repair an outbox, which posters may use at the same time
    Outbox(Outbox),
    /// Check the configuration: name, connection, proxy, TLS, credentials, response, clock and outbox
    ///
    /// Sends one request, over the connection that a poster would use: a POST to
    /// /api/sessions/result-poster-check/status with the worker's id and without a status. No session has this id, so the
    /// platform refuses the request and changes nothing; it may log it. Credentials are fetched as before a call: a token
    /// file is read, a refresh endpoint issues a token. The outbox is read as a whole, neither created nor changed.
    Check,
    /// Print the completions for a shell
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub(crate) struct Post {
    /// The result as JSON; `-` reads stdin
    pub(crate) file: PathBuf,
    /// The id of the session
    #[arg(long, value_name = "ID")]
    pub(crate) session: String,
    /// The worker that claimed the session, instead of that of the configuration
    #[arg(long, value_name = "ID")]
    pub(crate) worker_id: Option<String>,
    /// The number of the run, if a session is run more than once
    #[arg(long, value_name = "N")]
    pub(crate) run: Option<u64>,
    /// The platform's URL, instead of that of the configuration
    #[arg(long, value_name = "URL")]
    pub(crate) platform: Option<String>,
    /// The file of the outbox, or the URL of its server, instead of that of the configuration
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) outbox: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Outbox {
    /// The file of the outbox, or the URL of its server, instead of that of the configuration
    ///
    /// Other users of the host may see a password in a URL: use PGPASSWORD, or a file of the configuration.
    #[arg(long, global = true, value_name = "FILE|URL")]
    pub(crate) outbox: Option<OsString>,
    #[command(subcommand)]
    pub(crate) command: OutboxCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// List calls, the oldest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only calls after this one
        #[arg(long, value_name = "ID")]
        after: Option<CallId>,
        /// At most this many calls
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Show calls with their bodies
    Show {
        #[arg(required = true)]
        ids: Vec<CallId>,
    },
    /// Make parked calls or dead letters due now, with a fresh history, at the end of their lanes
    Requeue(Selection),
    /// Delete parked calls or dead letters
    Discard(Selection),
    /// Print calls with all that `import` needs, one JSON object per line
    ///
    /// The calls stay in the outbox: discard them once they are imported elsewhere, or both outboxes deliver them.
    Export {
        #[command(flatten)]
        filter: Filter,
    },
    /// Store exported calls that the outbox does not have
    ///
    /// Each is put at the end of its lane, due now; a dead letter stays one. A call with the id, or with the idempotency
    /// key, of a stored call is skipped.
    Import {
        /// The exported calls; `-` reads stdin
        file: PathBuf,
    },
    /// Count the calls, with the age of the oldest and the size
    Stats,
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only calls in this state
    #[arg(long)]
    pub(crate) state: Option<State>,
    /// Only calls about the session or issue with this id
    #[arg(long, value_name = "ID")]
    pub(crate) target: Option<String>,
    /// Only calls stored at least this long ago, such as 30s, 5m, 2h or 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
}

impl Filter {
    pub(crate) fn is_empty(&self) -> bool {
        self.state.is_none() && self.target.is_none() && self.older_than.is_none()
    }
}

/// Calls by their ids, or by a filter.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// The ids of the calls
    #[arg(conflicts_with_all = ["state", "target", "older_than", "all"])]
    pub(crate) ids: Vec<CallId>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// All parked calls and dead letters
    #[arg(long, conflicts_with_all = ["state", "target", "older_than"])]
    pub(crate) all: bool,
    /// Change all calls that the filter selects; without it, they are only counted
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum State {
    Live,
    Parked,
    #[value(alias = "dead_letter")]
    DeadLetter,
}

impl From<State> for EntryState {
    fn from(state: State) -> Self {
        match state {
            State::Live => Self::Live,
            State::Parked => Self::Parked,
            State::DeadLetter => Self::DeadLetter,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok();
    let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.ok_or_else(|| "not a duration such as 30s, 5m, 2h or 7d".to_owned())
}
