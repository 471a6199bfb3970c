//! The keys of a configuration, and what each sets.

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::Deserialize;

use super::super::{builder::OptionsBuilder, validated::Options};
#[cfg(feature = "outbox")]
use super::outbox;
use super::{env::Variables, secret, set::set, value};
use crate::{call::WireFormat, credentials::RuntimeTokenFile, error::ConfigError};

/// The keys, named as the options of the builder that they set. A file of secrets has the suffix `_file`.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) platform_url: Option<String>,
    pub(super) worker_id: Option<String>,
    #[serde(deserialize_with = "value::secret")]
    auth_token: Option<SecretString>,
    auth_token_file: Option<PathBuf>,
    runtime_token_file: Option<PathBuf>,
    #[serde(deserialize_with = "value::secret")]
    registration_token: Option<SecretString>,
    registration_token_file: Option<PathBuf>,
    #[serde(deserialize_with = "value::duration")]
    refresh_margin: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    credential_timeout: Option<Duration>,
    allow_plaintext_http: Option<bool>,
    organization_id: Option<String>,
    wire_format: Option<WireFormat>,
    max_text_bytes: Option<usize>,
    #[serde(deserialize_with = "value::duration")]
    timeout: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    connect_timeout: Option<Duration>,
    max_attempts: Option<u32>,
    #[serde(deserialize_with = "value::duration")]
    base_delay: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    max_delay: Option<Duration>,
    jitter: Option<f64>,
    #[serde(deserialize_with = "value::duration")]
    max_retry_after: Option<Duration>,
    max_in_flight: Option<usize>,
    max_queued: Option<usize>,
    #[serde(deserialize_with = "value::secret")]
    proxy: Option<SecretString>,
    proxy_file: Option<PathBuf>,
    without_proxy: bool,
    proxy_exemptions: Option<String>,
    root_certificates_file: Option<PathBuf>,
    client_certificate_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    user_agent: Option<String>,
    without_keep_alive: bool,
    #[cfg(feature = "outbox")]
    #[serde(deserialize_with = "outbox::table")]
    pub(super) outbox: Option<outbox::Keys>,
}

impl Keys {
    pub(super) fn into_builder(self) -> Result<OptionsBuilder, ConfigError> {
        let platform_url = self
            .platform_url
            .ok_or_else(|| ConfigError::new("platform_url", "is missing"))?;
        let mut builder = Options::builder(platform_url);
        set!(builder,
            self.worker_id => worker_id,
            secret::one_of("auth_token", self.auth_token, self.auth_token_file)? => auth_token,
            self.refresh_margin => refresh_margin,
            self.credential_timeout => credential_timeout,
            self.allow_plaintext_http => allow_plaintext_http,
            self.organization_id => organization_id,
            self.wire_format => wire_format,
            self.max_text_bytes => max_text_bytes,
            self.timeout => timeout,
            self.connect_timeout => connect_timeout,
            self.max_attempts => max_attempts,
            self.base_delay => base_delay,
            self.max_delay => max_delay,
            self.jitter => jitter,
            self.max_retry_after => max_retry_after,
            self.max_in_flight => max_in_flight,
            self.max_queued => max_queued,
            self.proxy_exemptions => proxy_exemptions,
            self.user_agent => user_agent,
        );
        if self.without_keep_alive {
            builder = builder.without_keep_alive();
        }

        let registration_token = secret::one_of(
            "registration_token",
            self.registration_token,
            self.registration_token_file,
        )?;
        builder = match (self.runtime_token_file, registration_token) {
            (Some(_), Some(_)) => return Err(ConfigError::excluded("runtime_token_file", "registration_token")),
            (Some(path), None) => builder.credential_provider(RuntimeTokenFile::new(path)),
            (None, Some(token)) => builder.refresh_endpoint(token),
            (None, None) => builder,
        };

        let proxy = secret::one_of("proxy", self.proxy, self.proxy_file)?;
        builder = match (proxy, self.without_proxy) {
            (Some(_), true) => return Err(ConfigError::excluded("without_proxy", "proxy")),
            (Some(proxy), false) => builder.proxy(proxy),
            (None, true) => builder.without_proxy(),
            (None, false) => builder,
        };

        if let Some(path) = self.root_certificates_file {
            builder = builder.add_root_certificates_pem(secret::read("root_certificates_file", &path)?);
        }
        let missing = |name| {
            Err(ConfigError::new(
                name,
                "is missing: a client certificate has a chain and a key",
            ))
        };
        builder = match (self.client_certificate_file, self.client_key_file) {
            (Some(chain), Some(key)) => builder.client_certificate_pem(
                secret::read("client_certificate_file", &chain)?,
                secret::read_text("client_key_file", &key)?,
            ),
            (Some(_), None) => return missing("client_key_file"),
            (None, Some(_)) => return missing("client_certificate_file"),
            (None, None) => builder,
        };

        #[cfg(feature = "outbox")]
        if let Some(outbox) = self.outbox {
            builder = builder.outbox(outbox.into_options()?);
        }
        Ok(builder)
    }
}

#[cfg(feature = "outbox")]
impl Keys {
    pub(super) fn set_outbox(&mut self, variables: Option<Variables>) -> Result<(), ConfigError> {
        self.outbox = variables.map(Variables::read).transpose()?;
        Ok(())
    }
}

#[cfg(not(feature = "outbox"))]
impl Keys {
    /// Refuses the variables.
    pub(super) fn set_outbox(&mut self, variables: Option<Variables>) -> Result<(), ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct NoKeys {}
        variables.map(Variables::read::<NoKeys>).transpose().map(drop)
    }
}
