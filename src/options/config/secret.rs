//! The files that a configuration names: secrets and certificates.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::{
    credentials::secret_file::{self, Refused},
    error::ConfigError,
};

/// A secret that is given by itself or in a file, but not both.
pub(super) fn one_of(
    name: &str,
    secret: Option<SecretString>,
    file: Option<PathBuf>,
) -> Result<Option<SecretString>, ConfigError> {
    let of_file = format!("{name}_file");
    match (secret, file) {
        (Some(_), Some(_)) => Err(ConfigError::excluded(&of_file, name)),
        (None, Some(path)) => secret_file::read_line(&path)
            .map(Some)
            .map_err(|error| refused(&of_file, &path, error)),
        (secret, None) => Ok(secret),
    }
}

pub(super) fn read_text(name: &str, path: &Path) -> Result<SecretString, ConfigError> {
    secret_file::read_text(path).map_err(|error| refused(name, path, error))
}

pub(super) fn read(name: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    secret_file::read(path).map_err(|error| refused(name, path, error))
}

fn refused(name: &str, path: &Path, error: Refused) -> ConfigError {
    let refused = ConfigError::new(name, format!("names {path:?}, {error}"));
    match error.source {
        Some(source) => refused.with_source(source),
        None => refused,
    }
}
