//! Rules by which a scripted platform answers like the real one.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{ManualClock, RecordedRequest, Reply};

/// The number of characters in one part of a comment.
const PART_LENGTH: usize = 10_000;

/// Rules by which a [`FakePlatform`](super::FakePlatform) answers the requests that no script is for, as the platform's
/// own handlers do. Set with [`FakePlatform::set_rules`](super::FakePlatform::set_rules).
///
/// The first rule that applies decides:
///
/// | request | response |
/// |---|---|
/// | any, while the platform is [`away`](Self::away) | 503, an HTML page |
/// | a body that is longer than 1 MiB | 413, an HTML page |
/// | a token that was not given by [`with_token`](Self::with_token) | 401, without an envelope |
/// | the 61st request to the proxy within a minute | 429 with `X-RateLimit-Reset` in seconds, and no `Retry-After` |
/// | to the proxy, while the tracker rejects the platform | 401, in the envelope |
/// | a session of another worker | 403 |
/// | a completion | 200, with the number of parts in which the comment was posted |
/// | any other | [`Reply::ok`] |
///
/// ```
/// use result_poster::{AgentResult, Options, PostResult, ResultPoster, SessionStatus};
/// use result_poster::testing::{FakePlatform, PlatformRules};
///
/// # actix_rt::System::new().block_on(async {
/// let platform = FakePlatform::start()?;
/// platform.set_rules(PlatformRules::new().with_token("token").with_owner("sess-1", "wkr_1"));
///
/// let options = Options::builder(platform.url()).worker_id("wkr_2").auth_token("token").build()?;
/// let poster = ResultPoster::start_supervised(options);
/// let result = AgentResult::new(SessionStatus::Completed);
/// let error = poster.send(PostResult::new("sess-1", result)).await?.unwrap_err();
/// assert_eq!(error.permanent().unwrap().status_code, 403);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct PlatformRules {
    tokens: HashSet<String>,
    owners: HashMap<String, String>,
    max_body_bytes: usize,
    proxy_limit: usize,
    clock: Option<ManualClock>,
    is_away: bool,
    is_tracker_unauthorized: bool,
}

impl Default for PlatformRules {
    fn default() -> Self {
        Self {
            tokens: HashSet::new(),
            owners: HashMap::new(),
            max_body_bytes: 1024 * 1024,
            proxy_limit: 60,
            clock: None,
            is_away: false,
            is_tracker_unauthorized: false,
        }
    }
}

impl PlatformRules {
    /// The platform's own limits, and no token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token that is accepted.
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.tokens.insert(token.into());
        self
    }

    /// Sets the worker that owns a session. A session without an owner belongs to every worker.
    pub fn with_owner(mut self, session_id: impl Into<String>, worker_id: impl Into<String>) -> Self {
        self.owners.insert(session_id.into(), worker_id.into());
        self
    }

    /// Sets the longest body. Default: 1 MiB.
    pub fn with_max_body_bytes(mut self, max: usize) -> Self {
        self.max_body_bytes = max;
        self
    }

    /// Counts the minutes of the proxy's limit by this clock. Default: the system clock.
    pub fn with_clock(mut self, clock: ManualClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Whether every request is answered with 503, by a proxy in place of the platform. To refuse connections, use
    /// [`FakePlatform::down`](super::FakePlatform::down). Default: `false`.
    pub fn away(mut self, is_away: bool) -> Self {
        self.is_away = is_away;
        self
    }

    /// Whether the issue tracker rejects the platform's own authorization. Default: `false`.
    pub fn tracker_unauthorized(mut self, is_unauthorized: bool) -> Self {
        self.is_tracker_unauthorized = is_unauthorized;
        self
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a platform that runs by the system clock, in tests alone"
    )]
    fn now(&self) -> SystemTime {
        self.clock.as_ref().map_or_else(SystemTime::now, ManualClock::now)
    }
}

/// Rules, and what the platform remembers.
#[derive(Debug)]
pub(super) struct RuledPlatform {
    pub(super) rules: PlatformRules,
    /// The beginning of the proxy's present minute, and the requests in it.
    minute: Option<(SystemTime, usize)>,
}

impl RuledPlatform {
    pub(super) fn new(rules: PlatformRules) -> Self {
        Self { rules, minute: None }
    }

    pub(super) fn reply(&mut self, request: &RecordedRequest) -> Reply {
        let rules = &self.rules;
        if rules.is_away {
            return Reply::html(503);
        }
        if request.body.len() > rules.max_body_bytes {
            return Reply::html(413);
        }
        let token = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        if !token.is_some_and(|token| rules.tokens.contains(token)) {
            return error(401, "Unauthorized");
        }
        let body = request.json().unwrap_or_default();
        let mut segments = request.path.rsplit('/');
        match (segments.next(), segments.next()) {
            (Some("issue-tracker-proxy"), _) => self.proxy_reply(),
            (Some(step), Some(session)) => self.session_reply(step, session, &body),
            (Some(_) | None, _) => error(404, "Not found"),
        }
    }

    fn proxy_reply(&mut self) -> Reply {
        const MINUTE: Duration = Duration::from_secs(60);
        let now = self.rules.now();
        let (mut start, mut count) = self.minute.unwrap_or((now, 0));
        let mut passed = now.duration_since(start).unwrap_or_default();
        if passed >= MINUTE {
            (start, count, passed) = (now, 0, Duration::ZERO);
        }
        count = count.saturating_add(1);
        self.minute = Some((start, count));
        if count > self.rules.proxy_limit {
            let left = MINUTE.saturating_sub(passed).as_secs_f64().ceil();
            return error(429, "Too many requests").header("x-ratelimit-reset", left.to_string());
        }
        if self.rules.is_tracker_unauthorized {
            let body = json!({
                "success": false,
                "error": {"code": "AUTH_ERROR", "message": "the tracker rejected the platform", "retryable": false},
            });
            return Reply::status(401).body(body.to_string());
        }
        Reply::ok()
    }

    fn session_reply(&self, step: &str, session: &str, body: &Value) -> Reply {
        let worker = body.get("workerId").and_then(Value::as_str).unwrap_or_default();
        if self.rules.owners.get(session).is_some_and(|owner| owner != worker) {
            return error(403, "Session is owned by another worker");
        }
        if step != "completion" {
            return Reply::ok();
        }
        let summary = body.get("summary").and_then(Value::as_str).unwrap_or_default();
        let parts = summary.chars().count().div_ceil(PART_LENGTH).max(1);
        let body = json!({"posted": true, "partsPosted": parts, "totalParts": parts});
        Reply::status(200).body(body.to_string())
    }
}

fn error(status: u16, message: &str) -> Reply {
    Reply::status(status).body(json!({ "error": message }).to_string())
}
