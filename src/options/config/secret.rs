//! The files that a configuration names: secrets and certificates.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret as _, SecretString};

use crate::{credentials::token_file::open_without_waiting, error::ConfigError};

/// The longest file.
const MAX_BYTES: u64 = 1024 * 1024;

/// A secret that is given by itself or in a file, but not both.
pub(super) fn one_of(
    name: &str,
    secret: Option<SecretString>,
    file: Option<PathBuf>,
) -> Result<Option<SecretString>, ConfigError> {
    let of_file = format!("{name}_file");
    match (secret, file) {
        (Some(_), Some(_)) => Err(ConfigError::excluded(&of_file, name)),
        (None, Some(path)) => read_line(&of_file, &path).map(Some),
        (secret, None) => Ok(secret),
    }
}

/// The content of a file, without white space around it.
fn read_line(name: &str, path: &Path) -> Result<SecretString, ConfigError> {
    let text = read_text(name, path)?;
    match text.expose_secret().trim() {
        "" => Err(refused(name, path, "which is empty")),
        line => Ok(line.into()),
    }
}

pub(super) fn read_text(name: &str, path: &Path) -> Result<SecretString, ConfigError> {
    let text = String::from_utf8(read(name, path)?);
    text.map(Into::into)
        .map_err(|_| refused(name, path, "which is not UTF-8"))
}

/// Reads a file, if it is a regular one. A FIFO is refused at once.
pub(super) fn read(name: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |error| ConfigError::new(name, format!("names {path:?}, which can't be read")).with_source(error);
    let file = open_without_waiting(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(refused(name, path, "which is not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = MAX_BYTES.saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refused(name, path, "which is longer than 1 MiB"));
    }
    Ok(bytes)
}

fn refused(name: &str, path: &Path, reason: &str) -> ConfigError {
    ConfigError::new(name, format!("names {path:?}, {reason}"))
}
