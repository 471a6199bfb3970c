//! The actor and its lifecycle.

use std::{fmt, time::Instant};

use actix::{Actor, Addr, Context, Supervised};
use actix_rt::ArbiterHandle;

use crate::{
    options::{Options, Parts},
    supervisor::{StopHandle, Supervisor, check_runtime},
};

/// The actor that delivers results: send it [`PostResult`](crate::PostResult),
/// [`UpdateIssueStatus`](crate::UpdateIssueStatus) and [`CreateComment`](crate::CreateComment), and await the
/// typed reply.
///
/// Every accepted message gets exactly one reply. Messages about one session or one issue are delivered one after
/// another in the order in which they arrived, different targets concurrently. The mailbox never blocks: beyond
/// `max_queued` a message is refused at once with [`CallError::Overloaded`](crate::CallError::Overloaded), or parked if there is an outbox. When the
/// last address is dropped, the actor stops; accepted messages are still delivered while the arbiter runs.
///
/// ```no_run
/// use result_poster::{Options, ResultPoster, UpdateIssueStatus};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let options = Options::builder("https://app.example.com")
///     .worker_id("wkr_1")
///     .auth_token(std::env::var("WORKER_TOKEN")?)
///     .build()?;
/// let poster = ResultPoster::start_supervised(options);
/// poster.send(UpdateIssueStatus::new("issue-1", "Finished")).await??;
/// # Ok(())
/// # }
/// ```
pub struct ResultPoster {
    pub(super) parts: Parts,
    pub(super) stop: StopHandle,
    /// When the time limit of a shutdown expires, if there is one.
    pub(super) shutdown_at: Option<Instant>,
    /// How many credential fetches were reported as metrics.
    #[cfg(feature = "metrics")]
    pub(super) reported_fetches: std::cell::Cell<u64>,
}

impl ResultPoster {
    /// Creates an actor that is not started yet. If it is started with [`Actor::start`], it is not supervised.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::from_parts(options.into_parts(), StopHandle::default())
    }

    pub(crate) fn from_parts(parts: Parts, stop: StopHandle) -> Self {
        Self {
            parts,
            stop,
            shutdown_at: None,
            #[cfg(feature = "metrics")]
            reported_fetches: std::cell::Cell::default(),
        }
    }

    /// Starts the actor on the current arbiter under a [`Supervisor`], which restarts it on failure.
    ///
    /// # Panics
    ///
    /// On a thread that runs neither an actix system nor a tokio `LocalSet`, such as under `#[tokio::main]`; see
    /// [`Supervisor`].
    #[must_use]
    pub fn start_supervised(options: Options) -> Addr<Self> {
        Supervisor::start(|_, stop| Self::from_parts(options.into_parts(), stop))
    }

    /// Starts the actor on another arbiter under a [`Supervisor`], which restarts it on failure.
    #[must_use]
    pub fn start_supervised_in_arbiter(arbiter: &ArbiterHandle, options: Options) -> Addr<Self> {
        Supervisor::start_in_arbiter(arbiter, |_, stop| Self::from_parts(options.into_parts(), stop))
    }
}

impl Actor for ResultPoster {
    type Context = Context<Self>;

    fn start(self) -> Addr<Self> {
        check_runtime();
        Context::new().run(self)
    }

    fn create<F: FnOnce(&mut Context<Self>) -> Self>(create: F) -> Addr<Self> {
        check_runtime();
        let mut context = Context::new();
        let actor = create(&mut context);
        context.run(actor)
    }

    fn started(&mut self, context: &mut Context<Self>) {
        // The poster's own credential actor must exist before its address is requested.
        self.parts.dispatcher.credentials.actor();
        if !self.parts.queue.is_closed() {
            self.parts.route.start(&self.parts.dispatcher, &self.parts.queue);
        }
        #[cfg(feature = "metrics")]
        self.report_gauges(context);
        #[cfg(not(feature = "metrics"))]
        let _ = context;
    }

    #[cfg(feature = "metrics")]
    fn stopped(&mut self, _: &mut Context<Self>) {
        // Otherwise the last values would stay.
        self.set_own_gauges();
    }
}

// The client, the queue and the running calls do not belong to the context: they survive a restart.
impl Supervised for ResultPoster {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.parts.dispatcher.telemetry.restarted();
    }
}

impl fmt::Debug for ResultPoster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultPoster")
            .field("queue", &self.parts.queue)
            .finish_non_exhaustive()
    }
}
