//! `Options`: validated once, when they are built.

use std::{env, fmt, rc::Rc, sync::Arc, time::Duration};

use actix::Addr;
use awc::{ClientBuilder, http::header::HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;
use url::{ParseError, Url};

#[cfg(feature = "outbox")]
use crate::outbox::{self, OutboxOptions};
use crate::{
    clock::Clock,
    credentials::{
        self, CredentialActor, CredentialProvider, CredentialSource, Credentials, RefreshEndpoint, RuntimeCredentials,
    },
    delivery::Courier,
    error::OptionsError,
    journal::Journal,
    lanes::Limits,
    outbox::Outbox,
    retry::{DEFAULT_MAX_ATTEMPTS, RetryPolicy},
    transport::{
        self, ClientCertificate, CustomizeClient, DEFAULT_TIMEOUT, Dialer, Proxy, Route, Transport, is_loopback,
    },
    wire::{Platform, is_segment},
};

const MAX_CONNECTIONS: usize = 1_000_000;
const MIN_SUMMARY_BYTES: usize = 64;

/// How a [`ResultPoster`](crate::ResultPoster) works. One that exists is valid.
///
/// ```
/// use result_poster::Options;
///
/// let options = Options::builder("https://app.example.com")
///     .worker_id("wkr_1")
///     .auth_token("token")
///     .build()?;
///
/// let refused = Options::builder("http://app.example.com").auth_token("token").build().unwrap_err();
/// assert_eq!(refused.option, "platform_url");
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    platform: Platform,
    credentials: credentials::Settings,
    source: Source,
    token_required: bool,
    transport: transport::Settings,
    retry: RetryPolicy,
    limits: Limits,
    clock: Clock,
    #[cfg(feature = "outbox")]
    outbox: Option<outbox::Settings>,
}

impl Options {
    /// Begins with the platform's URL, such as `https://app.example.com`; its own path is kept.
    pub fn builder(platform_url: impl Into<String>) -> OptionsBuilder {
        OptionsBuilder {
            platform_url: platform_url.into(),
            credentials: credentials::Settings::default(),
            source: Source::Fixed,
            allow_plaintext_http: false,
            organization_id: None,
            max_summary_bytes: 1024 * 1024,
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: Duration::from_secs(5),
            user_agent: concat!("result-poster/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxy: None,
            no_proxy: None,
            root_certificates: Vec::new(),
            client_certificate: None,
            customize_client: None,
            retry: RetryPolicy::default(),
            limits: Limits {
                max_in_flight: 64,
                max_queued: 10_000,
            },
            clock: Clock::default(),
            #[cfg(feature = "outbox")]
            outbox: None,
        }
    }

    /// For `benches/`: each call is answered with 200 at once.
    #[cfg(feature = "testing")]
    pub(crate) fn without_network(mut self) -> Self {
        self.transport.without_network = true;
        self
    }

    /// Hands each part what is its.
    pub(crate) fn into_parts(self) -> (Courier, Limits) {
        #[cfg(feature = "outbox")]
        let outbox = Outbox::new(
            self.outbox,
            &self.platform.base,
            &self.credentials.fixed.worker_id,
            self.clock.clone(),
        );
        #[cfg(not(feature = "outbox"))]
        let outbox = Outbox;
        let transport = Rc::new(Transport::new(self.transport));
        let own = |source| Credentials::own(self.credentials.clone(), source);
        let credentials = match self.source {
            Source::Fixed => own(None),
            Source::Provider(provider) => own(Some(CredentialSource::Provider(provider))),
            Source::Endpoint(registration_token) => own(Some(CredentialSource::Endpoint(Rc::new(RefreshEndpoint {
                url: self.platform.refresh_url(&self.credentials.fixed.worker_id),
                registration_token,
                transport: Rc::clone(&transport),
            })))),
            Source::Actor(actor) => Credentials::Shared(actor),
        };
        let courier = Courier {
            platform: self.platform,
            credentials,
            token_required: self.token_required,
            transport,
            retry: self.retry,
            outbox,
            clock: self.clock,
            journal: Journal::default(),
            shutdown: CancellationToken::new(),
        };
        (courier, self.limits)
    }
}

/// Where the credentials come from.
#[derive(Clone)]
enum Source {
    Fixed,
    Provider(Arc<dyn CredentialProvider>),
    /// The registration token for the platform's own endpoint.
    Endpoint(SecretString),
    Actor(Addr<CredentialActor>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "Fixed",
            Self::Provider(_) => "Provider",
            Self::Endpoint(_) => "Endpoint",
            Self::Actor(_) => "Actor",
        })
    }
}

/// Builds [`Options`]. Nothing is checked before [`build`](Self::build).
#[derive(Clone)]
#[must_use]
pub struct OptionsBuilder {
    platform_url: String,
    credentials: credentials::Settings,
    source: Source,
    allow_plaintext_http: bool,
    organization_id: Option<String>,
    max_summary_bytes: usize,
    timeout: Duration,
    connect_timeout: Duration,
    user_agent: String,
    proxy: Option<SecretString>,
    no_proxy: Option<String>,
    root_certificates: Vec<Vec<u8>>,
    client_certificate: Option<ClientCertificate>,
    customize_client: Option<CustomizeClient>,
    retry: RetryPolicy,
    limits: Limits,
    clock: Clock,
    #[cfg(feature = "outbox")]
    outbox: Option<OutboxOptions>,
}

impl OptionsBuilder {
    /// The worker's id, which the platform checks against the session's owner. Default: none, which the status
    /// says by an empty `workerId`, and the completion by leaving it out.
    pub fn worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.credentials.fixed.worker_id = worker_id.into();
        self
    }

    /// The worker's bearer token. An empty one is none. Default: none, which without a provider only a platform on
    /// loopback accepts: to any other, every call fails with
    /// [`CallError::NoCredentials`](crate::CallError::NoCredentials).
    pub fn auth_token(mut self, auth_token: impl Into<SecretString>) -> Self {
        self.credentials.fixed.auth_token = auth_token.into();
        self
    }

    /// Asks this for the worker's credentials, through a [`CredentialActor`]. What it leaves empty is filled by
    /// [`worker_id`](Self::worker_id) and [`auth_token`](Self::auth_token), which also stand in when it fails.
    /// Default: none. Of this, [`refresh_endpoint`](Self::refresh_endpoint) and
    /// [`credential_actor`](Self::credential_actor), the last that was set counts.
    pub fn credential_provider(mut self, provider: impl CredentialProvider) -> Self {
        self.source = Source::Provider(Arc::new(provider));
        self
    }

    /// Gets runtime tokens from the platform itself, with the worker's registration token:
    /// `POST {base}/api/workers/{worker_id}/refresh-token`, for the [`worker_id`](Self::worker_id), which must then be
    /// set.
    ///
    /// The request goes through the poster's own client, once for each fetch, and takes no slot. It
    /// never registers a new worker: an answer of 404 or 405 is an error that says that the worker is gone. Default:
    /// none.
    pub fn refresh_endpoint(mut self, registration_token: impl Into<SecretString>) -> Self {
        self.source = Source::Endpoint(registration_token.into());
        self
    }

    /// Shares the credentials of an actor that runs already, in place of a child of the poster's own. It has its own
    /// fixed pair, margin, time limit and [clock](CredentialActor::with_clock): `worker_id` and `auth_token` must not
    /// be set here. Default: none.
    pub fn credential_actor(mut self, actor: Addr<CredentialActor>) -> Self {
        self.source = Source::Actor(actor);
        self
    }

    /// How long before its expiry a token is renewed. Default: 60 s.
    pub fn refresh_margin(mut self, margin: Duration) -> Self {
        self.credentials.refresh_margin = margin;
        self
    }

    /// The time limit on one fetch of credentials, in real time. Default: 10 s.
    pub fn credential_timeout(mut self, timeout: Duration) -> Self {
        self.credentials.timeout = timeout;
        self
    }

    /// Lets the token travel in clear text, by `http://`, to a host that is not on loopback. Default: false.
    pub fn allow_plaintext_http(mut self, allow: bool) -> Self {
        self.allow_plaintext_http = allow;
        self
    }

    /// The organization that goes with the calls to the issue-tracker proxy. An empty one is none. Default: none.
    pub fn organization_id(mut self, organization_id: impl Into<String>) -> Self {
        self.organization_id = Some(organization_id.into()).filter(|id| !id.is_empty());
        self
    }

    /// The longest summary that is sent, in bytes, at least 64. A longer one is cut between two
    /// characters, and its last line says how much is missing. Default: 1 MiB.
    pub fn max_summary_bytes(mut self, bytes: usize) -> Self {
        self.max_summary_bytes = bytes;
        self
    }

    /// The deadline of one attempt, from the connection to the end of the body. It runs in real
    /// time, whatever the [`clock`](Self::clock). Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The time limit on a new connection: name service, TCP (each of the name's addresses gets its share), proxy and
    /// TLS. (With a platform that speaks nothing but HTTP/2, the TLS handshake has as much again.) Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Attempts of one call; that it is sent once more with new credentials is part of an attempt. 0 stands for the
    /// default: 3.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.retry.max_attempts = if attempts == 0 { DEFAULT_MAX_ATTEMPTS } else { attempts };
        self
    }

    /// The wait before the second attempt; it doubles before each further one. Zero never waits,
    /// but for `Retry-After`. Default: 1 s.
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.retry.base_delay = delay;
        self
    }

    /// The longest wait between two attempts, but for `Retry-After`. Default: 60 s.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.retry.max_delay = delay;
        self
    }

    /// Lengthens or shortens each wait by a random share of it, up to this one: 0.2 makes 1 s a
    /// wait of 0.8 s to 1.2 s. From 0 to 1. Default: 0, no jitter.
    pub fn jitter(mut self, share: f64) -> Self {
        self.retry.jitter = share;
        self
    }

    /// The longest `Retry-After` that is waited for. If the platform asks for more, the call ends
    /// at once with its [`TransientError`](crate::TransientError), which says how much. Default: 60 s.
    pub fn max_retry_after(mut self, limit: Duration) -> Self {
        self.retry.max_retry_after = limit;
        self
    }

    /// Attempts that run at once, 1 to 1,000,000; as many connections, and one more for credentials, may be open.
    /// Default: 64.
    pub fn max_in_flight(mut self, attempts: usize) -> Self {
        self.limits.max_in_flight = attempts;
        self
    }

    /// Messages that wait at the most: for their turn, for a slot, or for their next attempt. One more
    /// is refused with [`CallError::Overloaded`](crate::CallError::Overloaded), or with an outbox parked there.
    /// Default: 10,000.
    pub fn max_queued(mut self, messages: usize) -> Self {
        self.limits.max_queued = messages;
        self
    }

    /// The `User-Agent` header. Default: `result-poster/<version>`.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Goes through this forward proxy, `[http[s]://][user:password@]host[:port]`, by curl's rules (and `HTTP_PROXY` counts,
    /// unless `REQUEST_METHOD` is set too, as in a CGI program, where anybody could set it): a `CONNECT` tunnel for an
    /// `https` platform, so that the proxy sees nothing of what is said in it. The port is 1080 if the URL names none (443
    /// with `https`). An empty one is none. A platform on loopback is always reached directly.
    ///
    /// Default: that of the environment, by the variables `https_proxy` (`http_proxy` for a plain `http` platform) and
    /// `all_proxy`, or the same in capitals, read in [`build`](Self::build).
    pub fn proxy(mut self, url: impl Into<SecretString>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// What is reached without a proxy, between commas: names (`example.com` stands for `app.example.com` too),
    /// addresses, networks (`10.0.0.0/8`), or `*` for all. Default: `no_proxy` or `NO_PROXY` of the environment.
    pub fn no_proxy(mut self, list: impl Into<String>) -> Self {
        self.no_proxy = Some(list.into());
        self
    }

    /// Trusts these certificates too, one or more in PEM, beside the host's own roots: for a platform
    /// with a private certificate authority. May be called again for more. Default: none.
    pub fn add_root_certificates_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates.push(pem.into());
        self
    }

    /// Shows this certificate chain, in PEM, to a platform that asks for one (mutual TLS), with its private key, in PEM
    /// too. Default: none.
    pub fn client_certificate_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<SecretString>) -> Self {
        self.client_certificate = Some(ClientCertificate {
            chain: chain.into(),
            key: key.into(),
        });
        self
    }

    /// Changes the HTTP client in ways that no option covers, such as default headers.
    ///
    /// What the poster relies on is set after it: redirects are off, and the deadline is [`timeout`](Self::timeout).
    /// For a platform that speaks HTTP/2 only, a client is built for each request. Connections are the poster's own: what the builder says of them (`local_address`, `max_http_version`) is of no effect, or
    /// breaks the client. The closure runs
    /// on the poster's arbiter, before the first call and whenever the client has to be built anew; a panic in
    /// it is that call's [`CallError::Internal`](crate::CallError::Internal).
    ///
    /// ```
    /// # use result_poster::Options;
    /// let options = Options::builder("https://app.example.com")
    ///     .customize_client(|client| client.add_default_header(("x-runner", "7")))
    ///     .build()?;
    /// # Ok::<_, result_poster::OptionsError>(())
    /// ```
    pub fn customize_client(
        mut self,
        customize: impl Fn(ClientBuilder<Dialer>) -> ClientBuilder<Dialer> + Send + Sync + 'static,
    ) -> Self {
        self.customize_client = Some(Arc::new(customize));
        self
    }

    /// The time that backoff, `Retry-After`, a [`Shutdown`](crate::Shutdown) and the expiry of tokens go by; a
    /// [`credential_actor`](Self::credential_actor) has its own. Default: the host's clock.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Keeps each call on disk until the platform has it: see [`OutboxOptions`]. [`build`](Self::build) opens the file,
    /// and looks through it for damage. Default: none, a call lives in memory.
    #[cfg(feature = "outbox")]
    pub fn outbox(mut self, outbox: OutboxOptions) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// Checks everything, and reads the host's root certificates if the platform is reached by https.
    ///
    /// # Errors
    ///
    /// The first option that is wrong, and why: a `platform_url` that is empty, without a scheme, not http(s), without
    /// a host, with a port out of range, or with credentials, a query or a fragment; one by plain http that is not on
    /// loopback, with a token or a provider and without [`allow_plaintext_http`](Self::allow_plaintext_http); an
    /// `auth_token`, registration token or `user_agent` that can't be a header; an empty registration token, or no
    /// `worker_id` beside it; a `worker_id` or an `auth_token` beside a `credential_actor`; a zero `timeout`,
    /// `connect_timeout` or `credential_timeout`; a `max_in_flight` of 0 or more than a million; a `jitter` outside 0
    /// to 1; a `max_summary_bytes` under 64; a `proxy`, or a variable of the environment in its place, that can't be
    /// used; a bad certificate in `add_root_certificates_pem` or `client_certificate_pem`, or no root certificates at
    /// all; an `outbox` with a lease or delays below 10 ms, or whose file can't be opened.
    pub fn build(self) -> Result<Options, OptionsError> {
        let url = parse_platform_url(&self.platform_url)?;
        let secure = url.scheme() == "https";
        let loopback = url.host().is_some_and(|host| is_loopback(&host));
        let fixed = &self.credentials.fixed;
        if let Some(fault) = fixed.token_fault() {
            return Err(OptionsError::new("auth_token", fault));
        }
        let sends_token = match &self.source {
            Source::Fixed => fixed.token().is_some(),
            Source::Provider(_) => true,
            Source::Endpoint(registration_token) => {
                let registration = RuntimeCredentials::new("", registration_token.clone());
                let fault = registration
                    .token()
                    .map_or(Some("is empty"), |_| registration.token_fault());
                check("refresh_endpoint", fault.is_none(), fault.unwrap_or_default())?;
                check(
                    "worker_id",
                    is_segment(&fixed.worker_id),
                    "is needed by `refresh_endpoint`",
                )?;
                true
            }
            Source::Actor(_) => {
                let reason = "is the business of the actor in `credential_actor`";
                check("worker_id", fixed.worker_id.is_empty(), reason)?;
                check("auth_token", fixed.token().is_none(), reason)?;
                true
            }
        };
        if sends_token && !secure && !loopback && !self.allow_plaintext_http {
            return Err(OptionsError::new(
                "platform_url",
                "would send the token in clear text: use https, or say `allow_plaintext_http(true)`",
            ));
        }
        check("credential_timeout", !self.credentials.timeout.is_zero(), "is zero")?;
        check("timeout", !self.timeout.is_zero(), "is zero")?;
        check("connect_timeout", !self.connect_timeout.is_zero(), "is zero")?;
        check("max_in_flight", self.limits.max_in_flight > 0, "is zero")?;
        check(
            "max_in_flight",
            self.limits.max_in_flight <= MAX_CONNECTIONS,
            "is more than 1,000,000",
        )?;
        check(
            "jitter",
            (0.0..=1.0).contains(&self.retry.jitter),
            "is not a share from 0 to 1",
        )?;
        check(
            "max_summary_bytes",
            self.max_summary_bytes >= MIN_SUMMARY_BYTES,
            "is less than 64",
        )?;
        let header = |option, value: &str| {
            let is_good = !value.trim().is_empty() && value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
            let header = HeaderValue::try_from(value).ok().filter(|_| is_good);
            header.ok_or_else(|| OptionsError::new(option, "can't stand in a header"))
        };
        let user_agent = header("user_agent", &self.user_agent)?;
        let authority = header("platform_url", url.authority())?;
        // Read even where they are of no use, so that a bad certificate never waits for its day.
        let tls = if secure || !self.root_certificates.is_empty() || self.client_certificate.is_some() {
            let config = transport::tls_config(&self.root_certificates, self.client_certificate.as_ref())?;
            Some(Arc::new(config))
        } else {
            None
        };
        let proxy = Proxy::choose(
            &url,
            self.proxy.as_ref().map(|url| url.expose_secret()),
            self.no_proxy.as_deref(),
            // What is not Unicode is set, and no URL.
            |name| {
                env::var_os(name)
                    .unwrap_or_default()
                    .to_string_lossy()
                    .trim()
                    .to_owned()
            },
        )?;
        let proxy_tls = match &proxy {
            Some(proxy) if proxy.secure => Some(Arc::new(transport::tls_config(&self.root_certificates, None)?)),
            Some(_) | None => None,
        };
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(OptionsError::new("platform_url", "has no host"));
        };
        let route = Route {
            host: host.to_owned(),
            port,
            tls: tls.filter(|_| secure),
            proxy,
            proxy_tls,
            connect_timeout: self.connect_timeout,
        };

        // Last, since it makes a file.
        #[cfg(feature = "outbox")]
        let outbox = match self.outbox {
            Some(options) => {
                if let Some(fault) = options.fault() {
                    return Err(OptionsError::new("outbox", fault));
                }
                let refused = format!("can't be used, {}", options.path().display());
                let opened = outbox::Settings::open(options);
                Some(opened.map_err(|error| OptionsError::new("outbox", format!("{refused}: {error}")))?)
            }
            None => None,
        };

        Ok(Options {
            platform: Platform {
                base: url.as_str().trim_end_matches('/').to_owned(),
                organization_id: self.organization_id,
                max_summary_bytes: self.max_summary_bytes,
            },
            credentials: credentials::Settings {
                clock: self.clock.clone(),
                ..self.credentials
            },
            source: self.source,
            token_required: !loopback,
            transport: transport::Settings {
                route: Arc::new(route),
                authority,
                timeout: self.timeout,
                max_connections: self.limits.max_in_flight.saturating_add(1),
                user_agent,
                customize_client: self.customize_client,
                #[cfg(feature = "testing")]
                without_network: false,
            },
            retry: self.retry,
            limits: self.limits,
            clock: self.clock,
            #[cfg(feature = "outbox")]
            outbox,
        })
    }
}

impl fmt::Debug for OptionsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold credentials, as long as it is not checked.
        f.debug_struct("OptionsBuilder").finish_non_exhaustive()
    }
}

fn check(option: &'static str, fine: bool, reason: &str) -> Result<(), OptionsError> {
    if fine {
        Ok(())
    } else {
        Err(OptionsError::new(option, reason))
    }
}

fn parse_platform_url(text: &str) -> Result<Url, OptionsError> {
    let refuse = |reason: &str| Err(OptionsError::new("platform_url", reason));
    if text.trim().is_empty() {
        return refuse("is empty");
    }
    // What the parser below, made for browsers, would mend in silence.
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return refuse("holds white space, a control character or a backslash");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return refuse("has no scheme: begin it with `https://`");
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return refuse("has a scheme other than http and https");
    }
    if rest.starts_with('/') {
        return refuse("has no host");
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(ParseError::EmptyHost) => return refuse("has no host"),
        Err(ParseError::InvalidPort) => return refuse("has a port out of range"),
        Err(error) => return refuse(&format!("is not a URL: {error}")),
    };
    if url.port() == Some(0) {
        return refuse("has a port out of range");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("holds credentials: pass the token as `auth_token`");
    }
    if url.query().is_some() {
        return refuse("has a query");
    }
    if url.fragment().is_some() {
        return refuse("has a fragment");
    }
    if !transport::can_reach(url.as_str()) {
        return refuse("has a host that can't be reached by HTTP");
    }
    Ok(url)
}
