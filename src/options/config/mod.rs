//! The options of a poster, from a file or from the environment.

mod env;
mod keys;
mod named;
#[cfg(feature = "outbox")]
mod outbox;
mod secret;
mod set;
mod value;

use std::{env::vars_os, ffi::OsString, fmt};

use serde::{Deserialize, Deserializer};

use self::{env::Variables, keys::Keys, named::Named};
use super::builder::OptionsBuilder;
use crate::error::ConfigError;

/// The options of a poster as an operator writes them: in TOML, JSON or another format of [`serde`], or in the
/// environment. Becomes an [`OptionsBuilder`], to which a program adds what no text can say, such as a provider.
///
/// All keys but `platform_url` are optional; a missing key leaves the default of the builder's option with that name.
/// Unknown keys are refused, and each error names the key.
///
/// | key | value | default |
/// |---|---|---|
/// | `platform_url` | the platform's URL | required |
/// | `worker_id`, `organization_id` | text | none |
/// | `auth_token`, or `auth_token_file` | the worker's token, or a file that holds it | none |
/// | `runtime_token_file` | the daemon's token file, which is followed: see [`RuntimeTokenFile`](crate::credentials::RuntimeTokenFile) | none |
/// | `registration_token`, or `registration_token_file` | for [`OptionsBuilder::refresh_endpoint`] | none |
/// | `refresh_margin`, `credential_timeout` | durations | `60s`, `10s` |
/// | `allow_plaintext_http` | `true` or `false` | `false` |
/// | `wire_format` | `extended` or `baseline` | `extended` |
/// | `max_text_bytes` | bytes, from 64 to 196608 | 98304 |
/// | `timeout`, `connect_timeout` | durations | `30s`, `5s` |
/// | `max_attempts` | a number | 3 |
/// | `base_delay`, `max_delay`, `max_retry_after` | durations | `1s`, `60s`, `60s` |
/// | `jitter` | a fraction, from 0 to 1 | 0 |
/// | `max_in_flight`, `max_queued` | numbers | 64, 10000 |
/// | `proxy`, or `proxy_file` | the proxy's URL, or a file that holds it | from the environment |
/// | `without_proxy` | `true` or `false` | `false` |
/// | `proxy_exemptions` | a list as in `NO_PROXY` | from the environment |
/// | `root_certificates_file` | a file of certificates in PEM, which are trusted as well | none |
/// | `client_certificate_file`, `client_key_file` | files in PEM | none |
/// | `user_agent` | text | `result-poster/<version>` |
/// | `without_keep_alive` | `true` or `false` | `false` |
/// | `outbox` | a table, with the feature `outbox` | none |
///
/// A table `outbox` has these keys:
///
/// | key | value | default |
/// |---|---|---|
/// | `path` | the file | required, or `url` |
/// | `url` | the URL of a PostgreSQL server, with the feature `outbox-postgres`; see `PostgresOptions` | none |
/// | `password`, or `password_file` | the password, or a file that holds it | that of the URL, or else of `PGPASSWORD` |
/// | `schema` | the schema on the server | `result_poster` |
/// | `statement_timeout`, `connect_timeout` | durations, from `100ms` to `20s` | `5s`, `5s` |
/// | `root_certificates_file` | a file of certificates in PEM, which are trusted as well | none |
/// | `base_delay`, `max_delay` | durations | `5s`, `5m` |
/// | `expires_after`, `keep_dead_letters` | durations | `7d`, `30d` |
/// | `max_bytes` | bytes | 1073741824 |
/// | `queue` | text | the platform's URL and the organization id |
///
/// - **Durations** are texts: `500ms`, `30s`, `5m`, `2h`, `7d`, or `1m 30s`. A day has 24 hours.
/// - **Secrets** belong into files (`auth_token_file`, `registration_token_file`, `proxy_file`, `outbox.password_file`),
///   which have one line, and are read once, by [`into_builder`](Self::into_builder); the last one for each connection.
///   A secret and its file exclude each other.
/// - **Paths** that are relative start at the working directory of the process.
/// - **The environment**: [`from_env`](Self::from_env).
///
/// ```
/// use result_poster::OptionsConfig;
///
/// let config: OptionsConfig = serde_json::from_str(r#"{
///     "platform_url": "https://app.example.com",
///     "worker_id": "wkr_1",
///     "auth_token": "token",
///     "timeout": "10s"
/// }"#)?;
/// let options = config.into_builder()?.max_attempts(5).build()?;
///
/// let error = serde_json::from_str::<OptionsConfig>(r#"{"timeout": "soon"}"#).unwrap_err();
/// assert!(error.to_string().starts_with("`timeout`: "));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct OptionsConfig {
    keys: Keys,
    /// Of the variables, for errors. `None` if the configuration is from elsewhere.
    prefix: Option<String>,
}

impl<'de> Deserialize<'de> for OptionsConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = deserializer.deserialize_map(Named::new("", "the options of a poster"))?;
        Ok(Self { keys, prefix: None })
    }
}

impl OptionsConfig {
    /// Reads the variables of the environment that begin with `prefix`, such as `RESULT_POSTER_`. The rest of the name is
    /// a key in upper case; those of the outbox begin with `OUTBOX_`: `RESULT_POSTER_TIMEOUT=10s`,
    /// `RESULT_POSTER_OUTBOX_PATH=/var/lib/runner/outbox.db`. A value has the form that a file has, without quotes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names a variable that is unknown, or whose value has the wrong form or is not Unicode.
    pub fn from_env(prefix: &str) -> Result<Self, ConfigError> {
        Self::from_variables(prefix, vars_os())
    }

    fn from_variables(
        prefix: &str,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut variables = Variables::with_prefix(prefix, variables)?;
        let of_outbox = variables.split_off("outbox_");
        let mut keys: Keys = variables.read()?;
        keys.set_outbox(of_outbox)?;
        Ok(Self {
            keys,
            prefix: Some(prefix.to_owned()),
        })
    }

    /// Replaces the platform's URL.
    pub fn with_platform_url(mut self, url: impl Into<String>) -> Self {
        self.keys.platform_url = Some(url.into());
        self
    }

    /// Replaces the worker's id.
    pub fn with_worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.keys.worker_id = Some(worker_id.into());
        self
    }

    /// Reads the files of secrets and certificates, and sets the options. Nothing else is checked before
    /// [`OptionsBuilder::build`], whose errors name an option as its key does.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the key, or the variable: `platform_url`, or `outbox.path` and `outbox.url`, is missing; a file can't be read,
    /// is empty, is no regular file, or is longer than 1 MiB; two keys exclude each other; one of `client_certificate_file`
    /// and `client_key_file` is missing; or an option of the outbox is refused, as by
    #[cfg_attr(
        feature = "outbox",
        doc = "[`OutboxOptionsBuilder::build`](crate::outbox::OutboxOptionsBuilder::build)."
    )]
    #[cfg_attr(not(feature = "outbox"), doc = "`OutboxOptionsBuilder::build`.")]
    pub fn into_builder(self) -> Result<OptionsBuilder, ConfigError> {
        let keys = self.keys.clone();
        keys.into_builder().map_err(|error| self.named(error))
    }

    /// The error, with the name of a variable if the keys are from the environment.
    fn named(&self, mut error: ConfigError) -> ConfigError {
        if let Some(prefix) = &self.prefix {
            error.name = env::variable(prefix, &error.name);
        }
        error
    }
}

#[cfg(feature = "outbox")]
impl OptionsConfig {
    /// The options of the outbox, if there is one.
    ///
    /// # Errors
    ///
    /// As [`into_builder`](Self::into_builder).
    pub fn outbox(&self) -> Result<Option<crate::outbox::OutboxOptions>, ConfigError> {
        let options = self.keys.outbox.clone().map(outbox::Keys::into_options);
        options.transpose().map_err(|error| self.named(error))
    }

    /// Replaces the location of the outbox: a path, or the URL of a PostgreSQL server, which begins with `postgres://`
    /// or `postgresql://`.
    pub fn with_outbox(mut self, location: impl AsRef<std::ffi::OsStr>) -> Self {
        self.keys.outbox.get_or_insert_default().locate(location.as_ref());
        self
    }

    /// Leaves the outbox out.
    pub fn without_outbox(mut self) -> Self {
        self.keys.outbox = None;
        self
    }
}

impl fmt::Debug for OptionsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An unchecked URL may contain credentials.
        f.debug_struct("OptionsConfig").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
