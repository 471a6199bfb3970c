//! A scripted platform.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actix_rt::time::timeout;

use super::{
    PlatformRules, RecordedRequest, Reply,
    script::{Shared, is_end_of},
    server::Server,
};

/// How long [`FakePlatform::wait_for_requests`] waits, in real time.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// A platform on loopback that answers from a script and records what it receives.
///
/// The platform runs on its own thread, so that it answers even while the test's arbiter is busy. It stops when it is
/// dropped. It speaks plain HTTP/1.1 and keeps connections alive. It always
/// sends valid HTTP, unless a reply is a [`reset`](Reply::reset) or a [`hang`](Reply::hang), or the platform is
/// [`down`](Self::down).
///
/// A poster sends these requests, all by `POST`. A field in brackets is left out when it is empty, zero or absent. These are
/// the fields of [`WireFormat::Baseline`](crate::WireFormat::Baseline); the default adds those that [`docs::wire`](crate::docs::wire) marks "ext.":
///
/// | path ends with | body |
/// |---|---|
/// | `{session_id}/completion` | `[workerId]`, `summary` |
/// | `{session_id}/status` | `workerId`, `status`, `[providerSessionId]`, `[worktreePath]`, `[error: {message}]`, `[totalCostUsd]`, `[inputTokens]`, `[outputTokens]` |
/// | `issue-tracker-proxy` | `method` (`updateIssueStatus` or `createComment`), `args: [issue_id, text]`, `[organizationId]` |
/// | `{worker_id}/refresh-token` | `{}`; the response holds `runtimeToken` and `[runtimeTokenExpiresAt]` |
///
/// ```
/// use result_poster::{AgentResult, Options, PostResult, ResultPoster, SessionStatus};
/// use result_poster::testing::{FakePlatform, Reply};
///
/// # actix_rt::System::new().block_on(async {
/// let platform = FakePlatform::start()?;
/// platform.script("completion", [Reply::status(400).body("missing summary")]);
///
/// let poster = ResultPoster::start_supervised(Options::builder(platform.url()).build()?);
/// let result = AgentResult::new(SessionStatus::Completed);
/// let error = poster.send(PostResult::new("sess-1", result)).await?.unwrap_err();
///
/// assert_eq!(error.permanent().unwrap().status_code, 400);
/// let paths: Vec<_> = platform.requests().into_iter().map(|request| request.path).collect();
/// assert_eq!(paths, ["/api/sessions/sess-1/completion", "/api/sessions/sess-1/status"]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct FakePlatform {
    server: Server,
    shared: Arc<Shared>,
}

impl FakePlatform {
    /// Starts a platform on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// The error of the operating system, if there is no port or no thread.
    pub fn start() -> io::Result<Self> {
        Self::start_on(0)
    }

    /// Starts a platform on this port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// The error of the operating system, if the port is taken or there is no thread.
    pub fn start_on(port: u16) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            server: Server::start(address, Arc::clone(&shared))?,
            shared,
        })
    }

    /// Takes the platform down, as a restart or an outage does: its connections are closed, also those on which a request
    /// waits for its response, and new ones are refused. Returns when that is so.
    ///
    /// ```
    /// use result_poster::{NextStep, Options, ResultPoster, UpdateIssueStatus, testing::FakePlatform};
    ///
    /// # actix_rt::System::new().block_on(async {
    /// let platform = FakePlatform::start()?;
    /// let options = Options::builder(platform.url()).max_attempts(1).build()?;
    /// let poster = ResultPoster::start_supervised(options);
    /// let update = UpdateIssueStatus::new("issue-1", "Finished");
    ///
    /// platform.down();
    /// let error = poster.send(update.clone()).await?.unwrap_err();
    /// assert!(matches!(error.next_step(), NextStep::RetryLater { .. }));
    ///
    /// platform.up()?;
    /// poster.send(update).await??;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn down(&self) {
        self.server.down();
    }

    /// Brings a platform that was taken [`down`](Self::down) up again, on the same port, with its scripts, rules and
    /// recorded requests. Does nothing if it is up.
    ///
    /// # Errors
    ///
    /// The error of the operating system, if the port was taken meanwhile.
    pub fn up(&self) -> io::Result<()> {
        self.server.up()
    }

    /// The URL, without a trailing slash: `http://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Sets the replies to requests whose path ends with `path_end`, from now on: each reply once, in order, then the
    /// last one repeatedly.
    ///
    /// `path_end` begins at a segment: `status` matches every session, `sess-1/status` one session. The longest match
    /// applies. A path without a script, or with an empty one, is answered with [`Reply::ok`].
    pub fn script(&self, path_end: impl Into<String>, replies: impl IntoIterator<Item = Reply>) {
        self.shared.set_script(path_end.into(), replies.into_iter().collect());
    }

    /// Answers the requests that no script is for by these rules, from now on. Without rules: by [`Reply::ok`].
    ///
    /// The counts for the limits of former rules are forgotten.
    pub fn set_rules(&self, rules: PlatformRules) {
        self.shared.set_rules(rules);
    }

    /// All requests so far, in the order in which they were completely received.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.requests().borrow().clone()
    }

    /// The requests so far whose path ends with `path_end`, as in [`script`](Self::script).
    #[must_use]
    pub fn requests_for(&self, path_end: &str) -> Vec<RecordedRequest> {
        let requests = self.shared.requests();
        let requests = requests.borrow();
        let for_path = requests.iter().filter(|request| is_end_of(path_end, &request.path));
        for_path.cloned().collect()
    }

    /// Waits for at least `count` requests, ten seconds at most, and returns all requests so far, fewer than `count` if the
    /// time is over. Those that were answered before the call count, too.
    pub async fn wait_for_requests(&self, count: usize) -> Vec<RecordedRequest> {
        let mut changes = self.shared.requests();
        let _ = timeout(WAIT_LIMIT, changes.wait_for(|requests| requests.len() >= count)).await;
        self.requests()
    }

    /// How many connections were opened so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// Stops the platform, as dropping it does: waits until its thread has ended.
    pub fn stop(self) {}
}
