//! The checks of `OptionsBuilder::build`, a group of options at a time.

use std::{
    env,
    sync::{Arc, atomic::AtomicBool},
};

use awc::http::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{builder::OptionsBuilder, credential_choice::CredentialChoice, outbox, platform_url, validated::Options};
use crate::{
    call::Platform,
    credentials::{CredentialConfig, RuntimeCredentials},
    delivery::max_hanging,
    error::OptionsError,
    message::{MAX_ID_BYTES, is_path_segment},
    transport::{FailedAddresses, Proxy, TransportConfig, Upstream, is_loopback, tls_config},
};

const MAX_CONNECTIONS: usize = 1_000_000;
const MIN_TEXT_BYTES: usize = 64;
/// A status has two such texts, and at most 512 KiB.
const MAX_TEXT_BYTES: usize = 192 * 1024;

impl OptionsBuilder {
    /// Checks all options, and reads the host's root certificates if the platform is reached by https.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is wrong:
    ///
    /// - `platform_url`: empty, no scheme, not http(s), no host, a port out of range; with credentials, a query or a
    ///   fragment; plain http to a host that is not on loopback, with a token or a provider and without
    ///   [`allow_plaintext_http`](Self::allow_plaintext_http);
    /// - `auth_token`: not a valid header value; missing without a provider, or empty, unless the platform is on
    ///   loopback; set together with `credential_actor`;
    /// - `worker_id`: missing with `refresh_endpoint`; set together with `credential_actor`; blank, though not empty;
    ///   longer than 4096 bytes;
    /// - `organization_id`: blank, though not empty; longer than 4096 bytes;
    /// - `refresh_endpoint`: an empty registration token, or one that is not a valid header value;
    /// - `timeout`, `connect_timeout`, `credential_timeout`: zero; `timeout`: longer than 30 s with an outbox on PostgreSQL;
    /// - `max_delay`: shorter than `base_delay`;
    /// - `max_in_flight`: 0 or more than 1,000,000; `jitter`: not from 0 to 1; `max_text_bytes`: below 64 or
    ///   above 196,608;
    /// - `user_agent`: not a valid header value;
    /// - `proxy`: not a usable URL, in the option or in the environment;
    /// - `add_root_certificates_pem`, `client_certificate_pem`: a bad certificate or key, or no root certificates at
    ///   all;
    /// - `outbox`: the file can't be opened, or the server refuses; the source is an [`OutboxError`](crate::OutboxError). A
    ///   server that can't be reached is no error: the poster tries again.
    pub fn build(self) -> Result<Options, OptionsError> {
        let url = platform_url::parse(&self.platform_url)?;
        let is_on_loopback = url.host().is_some_and(|host| is_loopback(&host));
        let fixed = self.fixed_pair(is_on_loopback)?;
        self.check_source(&fixed, &url, is_on_loopback)?;
        self.check_limits()?;
        let transport = self.transport(&url)?;
        // Last, since it creates a file.
        let outbox = outbox::open(self.outbox)?;

        Ok(Options {
            platform: Platform {
                base: url.as_str().trim_end_matches('/').to_owned(),
                organization_id: self.organization_id,
                wire_format: self.wire_format,
                max_text_bytes: self.max_text_bytes,
            },
            credentials: CredentialConfig {
                fixed,
                refresh_margin: self.refresh_margin,
                timeout: self.credential_timeout,
                clock: self.clock.clone(),
            },
            source: self.source,
            token_required: !is_on_loopback,
            transport,
            retry_policy: self.retry_policy,
            limits: self.limits,
            clock: self.clock,
            subscribers: self.subscribers,
            outbox,
        })
    }

    fn fixed_pair(&self, is_on_loopback: bool) -> Result<RuntimeCredentials, OptionsError> {
        let token = self.auth_token.clone().unwrap_or_default();
        let fixed = RuntimeCredentials::new(self.worker_id.clone().unwrap_or_default(), token);
        let refuse = |reason: &str| Err(OptionsError::new("auth_token", reason));
        if let Err(fault) = fixed.validate_token() {
            return refuse(fault);
        }
        match (&self.auth_token, &self.source) {
            _ if is_on_loopback => Ok(fixed),
            (Some(token), _) if token.expose_secret().is_empty() => refuse("is empty"),
            (None, CredentialChoice::Fixed) => refuse("is missing, and there is no credential provider"),
            (Some(_), _) | (None, _) => Ok(fixed),
        }
    }

    fn check_source(&self, fixed: &RuntimeCredentials, url: &Url, is_on_loopback: bool) -> Result<(), OptionsError> {
        let sends_token = match &self.source {
            CredentialChoice::Fixed => fixed.token().is_some(),
            CredentialChoice::Provider(_) => true,
            CredentialChoice::Endpoint(registration_token) => {
                check_registration_token(registration_token)?;
                check(
                    "worker_id",
                    is_path_segment(&fixed.worker_id),
                    "is required by `refresh_endpoint`",
                )?;
                true
            }
            CredentialChoice::Actor(_) => {
                let reason = "must not be set together with `credential_actor`";
                check("worker_id", self.worker_id.is_none(), reason)?;
                check("auth_token", self.auth_token.is_none(), reason)?;
                true
            }
        };
        let is_plaintext = url.scheme() != "https" && !is_on_loopback;
        check(
            "platform_url",
            !sends_token || !is_plaintext || self.allow_plaintext_http,
            "would send the token in plaintext",
        )
    }

    fn check_limits(&self) -> Result<(), OptionsError> {
        let limits = &self.limits;
        for (option, id) in [
            ("worker_id", &self.worker_id),
            ("organization_id", &self.organization_id),
        ] {
            let id = id.as_deref().unwrap_or_default();
            check(option, id.len() <= MAX_ID_BYTES, "is longer than 4096 bytes")?;
            check(option, id.is_empty() || !id.trim().is_empty(), "is blank")?;
        }
        check("credential_timeout", !self.credential_timeout.is_zero(), "is zero")?;
        check("timeout", !self.timeout.is_zero(), "is zero")?;
        if let Some(longest) = outbox::longest_timeout(&self.outbox)
            && self.timeout > longest
        {
            let reason = format!("is longer than {longest:?}, a third of the lease of an outbox on PostgreSQL");
            return Err(OptionsError::new("timeout", reason));
        }
        check("connect_timeout", !self.connect_timeout.is_zero(), "is zero")?;
        check("max_in_flight", limits.max_in_flight > 0, "is zero")?;
        check(
            "max_in_flight",
            limits.max_in_flight <= MAX_CONNECTIONS,
            "is more than 1,000,000",
        )?;
        check(
            "max_delay",
            self.retry_policy.max_delay >= self.retry_policy.base_delay,
            "is shorter than `base_delay`",
        )?;
        check(
            "jitter",
            (0.0..=1.0).contains(&self.retry_policy.jitter),
            "must be between 0 and 1",
        )?;
        check(
            "max_text_bytes",
            self.max_text_bytes >= MIN_TEXT_BYTES,
            "is less than 64",
        )?;
        check(
            "max_text_bytes",
            self.max_text_bytes <= MAX_TEXT_BYTES,
            "is more than 196,608",
        )
    }

    fn transport(&self, url: &Url) -> Result<TransportConfig, OptionsError> {
        let user_agent = header_value("user_agent", &self.user_agent)?;
        let authority = header_value("platform_url", url.authority())?;
        let is_secure = url.scheme() == "https";
        // Read even when unused, so that a bad certificate fails at build time.
        let needs_tls = is_secure || !self.root_certificates.is_empty() || self.client_certificate.is_some();
        let tls = needs_tls
            .then(|| tls_config(&self.root_certificates, self.client_certificate.as_ref()))
            .transpose()?;
        let proxy = Proxy::choose(url, &self.proxy, self.proxy_exemptions.as_deref(), variable)?;
        let proxy_tls = match &proxy {
            Some(proxy) if proxy.secure => Some(tls_config(&self.root_certificates, None)?),
            Some(_) | None => None,
        };
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(OptionsError::new("platform_url", "has no host"));
        };
        let upstream = Upstream {
            host: host.to_owned(),
            port,
            tls: tls.filter(|_| is_secure).map(Arc::new),
            proxy,
            proxy_tls: proxy_tls.map(Arc::new),
            connect_timeout: self.connect_timeout,
            attempt_timeout: self.timeout,
            failed_addresses: FailedAddresses::default(),
            descriptors_exhausted: AtomicBool::default(),
        };
        let max_in_flight = self.limits.max_in_flight;
        Ok(TransportConfig {
            upstream: Arc::new(upstream),
            authority,
            timeout: self.timeout,
            max_connections: max_in_flight
                .saturating_add(max_hanging(max_in_flight))
                .saturating_add(1),
            user_agent,
            keep_alive: self.keep_alive,
            customize_client: self.customize_client.clone(),
        })
    }
}

fn check(option: &'static str, is_fine: bool, reason: &str) -> Result<(), OptionsError> {
    if is_fine {
        Ok(())
    } else {
        Err(OptionsError::new(option, reason))
    }
}

fn check_registration_token(token: &SecretString) -> Result<(), OptionsError> {
    let registration = RuntimeCredentials::new("", token.clone());
    let fault = match registration.token() {
        None => Some("is empty"),
        Some(_) => registration.validate_token().err(),
    };
    check("refresh_endpoint", fault.is_none(), fault.unwrap_or_default())
}

fn header_value(option: &'static str, value: &str) -> Result<HeaderValue, OptionsError> {
    let is_good = !value.trim().is_empty() && value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    let header = HeaderValue::try_from(value).ok().filter(|_| is_good);
    header.ok_or_else(|| OptionsError::new(option, "is not a valid header value"))
}

/// A variable of the environment, empty if it is not set. A value that is not Unicode is not a URL.
fn variable(name: &str) -> String {
    let value = env::var_os(name).unwrap_or_default();
    value.to_string_lossy().trim().to_owned()
}
