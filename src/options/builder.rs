//! The builder of the options: one setter per option. `validate` checks them.

use std::{fmt, sync::Arc, time::Duration};

use actix::{Addr, Recipient};
use secrecy::SecretString;

use super::{credential_choice::CredentialChoice, outbox::ChosenOutbox};
use crate::{
    backoff::{DEFAULT_MAX_ATTEMPTS, RetryPolicy},
    call::WireFormat,
    clock::Clock,
    credentials::{CredentialActor, CredentialProvider, DEFAULT_FETCH_TIMEOUT, DEFAULT_REFRESH_MARGIN},
    queue::Limits,
    telemetry::DeliveryEvent,
    transport::{ClientCertificate, CustomizeClient, DEFAULT_TIMEOUT, ProxyChoice},
};

/// Builds [`Options`](crate::Options). [`build`](Self::build) checks all options.
///
/// | option | default |
/// |---|---|
/// | `worker_id`, `auth_token`, `organization_id` | none |
/// | `credential_provider`, `refresh_endpoint`, `credential_actor` | none |
/// | `refresh_margin`, `credential_timeout` | 60 s, 10 s |
/// | `allow_plaintext_http` | false |
/// | `wire_format`, `max_text_bytes` | `Extended`, 96 KiB |
/// | `timeout`, `connect_timeout` | 30 s, 5 s |
/// | `max_attempts`, `base_delay`, `max_delay`, `jitter`, `max_retry_after` | 3, 1 s, 60 s, 0, 60 s |
/// | `max_in_flight`, `max_queued` | 64, 10,000 |
/// | `proxy`, `proxy_exemptions` | from the environment |
/// | `add_root_certificates_pem`, `client_certificate_pem`, `customize_client` | none |
/// | `user_agent` | `result-poster/<version>` |
/// | `without_keep_alive` | connections are kept for 4 s |
/// | `clock` | the system clock |
/// | `subscriber` | none |
/// | `outbox` | none |
///
/// ```
/// use std::time::Duration;
/// use result_poster::{Options, credentials::RuntimeTokenFile};
///
/// let options = Options::builder("https://app.example.com")
///     .credential_provider(RuntimeTokenFile::new("/var/lib/daemon/runtime-token.json"))
///     .max_attempts(5)
///     .jitter(0.2)
///     .timeout(Duration::from_secs(10))
///     .build()?;
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct OptionsBuilder {
    pub(super) platform_url: String,
    pub(super) worker_id: Option<String>,
    pub(super) auth_token: Option<SecretString>,
    pub(super) source: CredentialChoice,
    pub(super) refresh_margin: Duration,
    pub(super) credential_timeout: Duration,
    pub(super) allow_plaintext_http: bool,
    pub(super) organization_id: Option<String>,
    pub(super) wire_format: WireFormat,
    pub(super) max_text_bytes: usize,
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) user_agent: String,
    pub(super) keep_alive: bool,
    pub(super) proxy: ProxyChoice,
    pub(super) proxy_exemptions: Option<String>,
    pub(super) root_certificates: Vec<Vec<u8>>,
    pub(super) client_certificate: Option<ClientCertificate>,
    pub(super) customize_client: Option<CustomizeClient>,
    pub(super) retry_policy: RetryPolicy,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) subscribers: Vec<Recipient<DeliveryEvent>>,
    pub(super) outbox: ChosenOutbox,
}

impl OptionsBuilder {
    pub(super) fn new(platform_url: String) -> Self {
        Self {
            platform_url,
            worker_id: None,
            auth_token: None,
            source: CredentialChoice::Fixed,
            refresh_margin: DEFAULT_REFRESH_MARGIN,
            credential_timeout: DEFAULT_FETCH_TIMEOUT,
            allow_plaintext_http: false,
            organization_id: None,
            wire_format: WireFormat::default(),
            max_text_bytes: 96 * 1024,
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: Duration::from_secs(5),
            user_agent: concat!("result-poster/", env!("CARGO_PKG_VERSION")).to_owned(),
            keep_alive: true,
            proxy: ProxyChoice::Environment,
            proxy_exemptions: None,
            root_certificates: Vec::new(),
            client_certificate: None,
            customize_client: None,
            retry_policy: RetryPolicy::default(),
            limits: Limits {
                max_in_flight: 64,
                max_queued: 10_000,
            },
            clock: Clock::default(),
            subscribers: Vec::new(),
            outbox: ChosenOutbox::default(),
        }
    }

    /// The worker's id, which the platform compares with the session's owner. A result may name another one:
    /// [`PostResult::with_worker_id`](crate::PostResult::with_worker_id). Default: none; a result that names none is
    /// then refused, unless a provider names one or the platform is on loopback.
    pub fn worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.worker_id = Some(worker_id.into());
        self
    }

    /// The worker's bearer token. Default: none. For a platform that is not on loopback a token or a provider is
    /// required, and an empty token is refused. On loopback, an empty token counts as none. Trim a token that is read from a
    /// file: one with a line break, or with whitespace at an end, is refused.
    pub fn auth_token(mut self, auth_token: impl Into<SecretString>) -> Self {
        self.auth_token = Some(auth_token.into());
        self
    }

    /// Gets the worker's credentials from this provider, through a cache. [`worker_id`](Self::worker_id) and
    /// [`auth_token`](Self::auth_token) fill the fields that the provider leaves empty, and are used if it fails.
    ///
    /// Default: none. Of this, [`refresh_endpoint`](Self::refresh_endpoint) and
    /// [`credential_actor`](Self::credential_actor), the last one that was set applies.
    pub fn credential_provider(mut self, provider: impl CredentialProvider) -> Self {
        self.source = CredentialChoice::Provider(Arc::new(provider));
        self
    }

    /// Gets runtime tokens from the platform with the worker's registration token:
    /// `POST {base}/api/workers/{worker_id}/refresh-token`. It requires [`worker_id`](Self::worker_id).
    ///
    /// The request uses the poster's own client, is made once per fetch, and takes no permit. It never registers a new
    /// worker: after a 404, 405 or 410 that is not a page
    /// ([`CredentialError::WorkerGone`](crate::CredentialError::WorkerGone)), register it again; until then, the endpoint
    /// is asked at most once a minute. After a 401, a 403 or a redirect, check the registration token. Default: none.
    pub fn refresh_endpoint(mut self, registration_token: impl Into<SecretString>) -> Self {
        self.source = CredentialChoice::Endpoint(registration_token.into());
        self
    }

    /// Shares the credentials of a running [`CredentialActor`] with this poster. That actor has its own fixed pair,
    /// margin, time limit and clock: [`worker_id`](Self::worker_id) and [`auth_token`](Self::auth_token) must not be
    /// set together with `credential_actor`. Default: none.
    pub fn credential_actor(mut self, actor: Addr<CredentialActor>) -> Self {
        self.source = CredentialChoice::Actor(actor);
        self
    }

    /// How long before the end of its life a token is renewed, at most half of its life. Default: 60 s.
    pub fn refresh_margin(mut self, margin: Duration) -> Self {
        self.refresh_margin = margin;
        self
    }

    /// The time limit of one credential fetch, in real time. Default: 10 s.
    pub fn credential_timeout(mut self, timeout: Duration) -> Self {
        self.credential_timeout = timeout;
        self
    }

    /// Permits a token to travel in plaintext, by `http://`, to a host that is not on loopback. Default: false.
    pub fn allow_plaintext_http(mut self, allow: bool) -> Self {
        self.allow_plaintext_http = allow;
        self
    }

    /// The organization id sent with calls to the issue-tracker proxy. An empty one is not sent. Default: none.
    pub fn organization_id(mut self, organization_id: impl Into<String>) -> Self {
        self.organization_id = Some(organization_id.into()).filter(|id| !id.is_empty());
        self
    }

    /// Which fields the bodies of a result have. Default: [`WireFormat::Extended`].
    pub fn wire_format(mut self, format: WireFormat) -> Self {
        self.wire_format = format;
        self
    }

    /// The maximum length of a summary, an error message or a comment, in bytes as encoded in JSON, from 64 to 196,608. A
    /// longer text is cut between two characters, and its last line says how much was cut. Default: 96 KiB; the platform
    /// keeps 100,000 characters.
    pub fn max_text_bytes(mut self, bytes: usize) -> Self {
        self.max_text_bytes = bytes;
        self
    }

    /// The maximum number of attempts of one call. A request that is sent again with renewed credentials is part of its
    /// attempt. 0 selects the default. Default: 3.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.retry_policy.max_attempts = if attempts == 0 { DEFAULT_MAX_ATTEMPTS } else { attempts };
        self
    }

    /// The wait before the second attempt, doubled before each further attempt. If zero, only `Retry-After` causes a
    /// wait. Default: 1 s.
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.retry_policy.base_delay = delay;
        self
    }

    /// The longest wait between two attempts, except for `Retry-After`; not shorter than
    /// [`base_delay`](Self::base_delay). Default: 60 s.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.retry_policy.max_delay = delay;
        self
    }

    /// The fraction, from 0 to 1, by which a wait is lengthened or shortened at random: 0.2 turns 1 s into a wait of
    /// 0.8 s to 1.2 s. Default: 0, no jitter.
    pub fn jitter(mut self, fraction: f64) -> Self {
        self.retry_policy.jitter = fraction;
        self
    }

    /// The longest `Retry-After` that is honoured. A longer one ends the call at once with a
    /// [`TransientError`](crate::TransientError) whose `retry_after` is that pause; with an outbox, the call is parked.
    /// Default: 60 s.
    pub fn max_retry_after(mut self, limit: Duration) -> Self {
        self.retry_policy.max_retry_after = limit;
        self
    }

    /// The maximum number of attempts that run at once, 1 to 1,000,000. As many connections may be open, and one more
    /// for credential fetches. Default: 64.
    ///
    /// A request that hangs does not count: it has had no answer for at least 5 s, while one that was sent at least 2 s
    /// later was answered, or while no other was for 2 s. Up to three times as many requests may hang, each on its
    /// connection and until its own deadline.
    pub fn max_in_flight(mut self, attempts: usize) -> Self {
        self.limits.max_in_flight = attempts;
        self
    }

    /// The maximum number of messages that wait for their turn, a permit, or their next attempt. One more is refused
    /// with [`CallError::Overloaded`](crate::CallError::Overloaded), or parked if there is an outbox. Default: 10,000.
    pub fn max_queued(mut self, messages: usize) -> Self {
        self.limits.max_queued = messages;
        self
    }

    /// The source of time for backoff, `Retry-After`, token expiry, [`Shutdown`](crate::Shutdown) and the outbox. A
    /// [`credential_actor`](Self::credential_actor) has its own. Default: the system clock.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Sends each event from the poster's start on to this actor, and to those that were set before; see
    /// [`Subscribe`](crate::events::Subscribe). Default: none.
    pub fn subscriber(mut self, subscriber: Recipient<DeliveryEvent>) -> Self {
        self.subscribers.push(subscriber);
        self
    }

    /// Stores each call on disk until the platform has acknowledged it. [`build`](Self::build) checks that the file is
    /// an outbox, and creates it if there is none. Default: none; calls live in memory.
    #[cfg(feature = "outbox")]
    pub fn outbox(mut self, outbox: crate::outbox::OutboxOptions) -> Self {
        self.outbox = Some(outbox);
        self
    }
}

impl fmt::Debug for OptionsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An unchecked URL may contain credentials.
        f.debug_struct("OptionsBuilder").finish_non_exhaustive()
    }
}
