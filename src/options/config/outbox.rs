//! The keys of the table `outbox`.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

#[cfg(feature = "outbox-postgres")]
use super::secret;
use super::{named::Named, set::set, value};
use crate::{
    error::ConfigError,
    outbox::{OutboxOptions, OutboxOptionsBuilder},
};

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) path: Option<PathBuf>,
    #[serde(deserialize_with = "value::secret")]
    pub(super) url: Option<SecretString>,
    #[serde(deserialize_with = "value::secret")]
    password: Option<SecretString>,
    password_file: Option<PathBuf>,
    schema: Option<String>,
    #[serde(deserialize_with = "value::duration")]
    statement_timeout: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    connect_timeout: Option<Duration>,
    root_certificates_file: Option<PathBuf>,
    #[serde(deserialize_with = "value::duration")]
    expires_after: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    base_delay: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    max_delay: Option<Duration>,
    #[serde(deserialize_with = "value::duration")]
    keep_dead_letters: Option<Duration>,
    max_bytes: Option<u64>,
    queue: Option<String>,
}

pub(super) fn table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Keys>, D::Error> {
    let keys = deserializer.deserialize_map(Named::new("outbox.", "a table `outbox`"))?;
    Ok(Some(keys))
}

impl Keys {
    /// Replaces the location. The settings of a server have no meaning for a file.
    pub(super) fn locate(&mut self, location: &OsStr) {
        let is_url = |text: &&str| text.contains("://");
        match location.to_str().filter(is_url) {
            Some(url) => (self.path, self.url) = (None, Some(url.into())),
            None => {
                *self = Self {
                    path: Some(location.into()),
                    url: None,
                    password: None,
                    password_file: None,
                    schema: None,
                    statement_timeout: None,
                    connect_timeout: None,
                    root_certificates_file: None,
                    ..std::mem::take(self)
                }
            }
        }
    }

    pub(super) fn into_options(self) -> Result<OutboxOptions, ConfigError> {
        let mut builder = self.location()?;
        set!(builder,
            self.expires_after => expires_after,
            self.base_delay => base_delay,
            self.max_delay => max_delay,
            self.keep_dead_letters => keep_dead_letters,
            self.max_bytes => max_bytes,
            self.queue => queue,
        );
        builder
            .build()
            .map_err(|error| ConfigError::new(key(error.option), error.reason))
    }

    fn location(&self) -> Result<OutboxOptionsBuilder, ConfigError> {
        match (&self.path, &self.url) {
            (Some(_), Some(_)) => Err(ConfigError::excluded("outbox.url", "outbox.path")),
            (None, None) => Err(ConfigError::new("outbox.path", "is missing")),
            (Some(path), None) => match self.key_of_a_server() {
                Some(key) => Err(ConfigError::new(key, "is only for an outbox with a `url`")),
                None => Ok(OutboxOptions::builder(path)),
            },
            (None, Some(url)) => self.server(url),
        }
    }

    /// A key that has a value, and has no meaning for a file.
    fn key_of_a_server(&self) -> Option<&'static str> {
        let keys = [
            ("outbox.password", self.password.is_some()),
            ("outbox.password_file", self.password_file.is_some()),
            ("outbox.schema", self.schema.is_some()),
            ("outbox.statement_timeout", self.statement_timeout.is_some()),
            ("outbox.connect_timeout", self.connect_timeout.is_some()),
            ("outbox.root_certificates_file", self.root_certificates_file.is_some()),
        ];
        keys.into_iter().find_map(|(key, has_value)| has_value.then_some(key))
    }

    #[cfg(feature = "outbox-postgres")]
    fn server(&self, url: &SecretString) -> Result<OutboxOptionsBuilder, ConfigError> {
        let mut server = crate::outbox::PostgresOptions::new(url.clone());
        if self.password.is_some() && self.password_file.is_some() {
            return Err(ConfigError::excluded("outbox.password_file", "outbox.password"));
        }
        set!(server,
            self.password.clone() => password,
            self.password_file.clone() => password_file,
            self.schema.clone() => schema,
            self.statement_timeout => statement_timeout,
            self.connect_timeout => connect_timeout,
        );
        if let Some(path) = &self.root_certificates_file {
            server = server.add_root_certificates_pem(secret::read("outbox.root_certificates_file", path)?);
        }
        Ok(OutboxOptions::postgres(server))
    }

    #[cfg(not(feature = "outbox-postgres"))]
    fn server(&self, _: &SecretString) -> Result<OutboxOptionsBuilder, ConfigError> {
        Err(ConfigError::new(
            "outbox.url",
            "needs a build with the feature `outbox-postgres`",
        ))
    }
}

/// The key that sets an option.
fn key(option: &'static str) -> &'static str {
    match option {
        "outbox.add_root_certificates_pem" => "outbox.root_certificates_file",
        option => option,
    }
}
