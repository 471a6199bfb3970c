//! The daemon's cache file as a provider.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use actix_rt::task::spawn_blocking;
use futures_util::future::LocalBoxFuture;
use log::{info, warn};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use thiserror::Error;

use super::{CredentialProvider, ProviderError, RuntimeCredentials, parse_object, parse_timestamp};
use crate::error::chain;

/// A larger file is no cache file.
const MAX_SIZE: u64 = 1024 * 1024;

/// Reads the file in which a daemon keeps its worker's runtime token, and follows it:
/// `{"workerId": …, "runtimeToken": …, "runtimeTokenExpiresAt": …}`, where the token may be called
/// `runtimeJwt`, and the expiry (RFC 3339) may be missing.
///
/// The file is read for every attempt, so that a new token or worker id counts from the next attempt
/// on, whether the daemon replaces the file or writes it anew. If it is missing or half-written, the
/// last good value is kept, which the log says once; if there was none yet, that is the
/// provider's error. A file that others may read is warned about, once.
///
/// ```
/// use result_poster::{Options, RuntimeTokenFile};
///
/// let options = Options::builder("https://app.example.com")
///     .credential_provider(RuntimeTokenFile::new("/var/lib/daemon/runtime-token.json"))
///     .build()?;
/// # Ok::<_, result_poster::OptionsError>(())
/// ```
#[derive(Debug)]
pub struct RuntimeTokenFile(Arc<TokenFile>);

#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    last_good: Option<RuntimeCredentials>,
    /// The file is missing or broken, and that was logged.
    broken: bool,
    warned_of_mode: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    worker_id: Option<String>,
    runtime_token: Option<SecretString>,
    runtime_jwt: Option<SecretString>,
    runtime_token_expires_at: Option<String>,
}

#[derive(Debug, Error)]
enum TokenFileError {
    #[error("{} can't be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    // Without serde's own message, which may quote the file.
    #[error("{} does not hold a worker's runtime token as JSON", .0.display())]
    Content(PathBuf),
}

impl RuntimeTokenFile {
    /// Follows the file at this path, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(TokenFile {
            path: path.into(),
            seen: Mutex::default(),
        }))
    }
}

impl CredentialProvider for RuntimeTokenFile {
    fn credentials(&self) -> LocalBoxFuture<'_, Result<RuntimeCredentials, ProviderError>> {
        let file = Arc::clone(&self.0);
        // A disk may take its time, which the arbiter has not got.
        Box::pin(async move { spawn_blocking(move || file.read()).await? })
    }

    fn may_be_cached(&self) -> bool {
        false
    }
}

impl TokenFile {
    fn read(&self) -> Result<RuntimeCredentials, ProviderError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read(&self.path, &mut seen.warned_of_mode);
        match (read, &seen.last_good) {
            (Ok(credentials), _) => {
                if seen.broken {
                    info!("{} is good again", self.path.display());
                }
                seen.broken = false;
                seen.last_good = Some(credentials.clone());
                Ok(credentials)
            }
            (Err(error), None) => Err(error.into()),
            (Err(error), Some(last_good)) => {
                if !seen.broken {
                    warn!("{}: going on with the last token that it held", chain(&error));
                }
                let credentials = last_good.clone();
                seen.broken = true;
                Ok(credentials)
            }
        }
    }
}

fn read(path: &Path, warned_of_mode: &mut bool) -> Result<RuntimeCredentials, TokenFileError> {
    let at = |error| TokenFileError::Read(path.to_owned(), error);
    let file = File::open(path).map_err(at)?;
    warn_of_mode(path, &file, warned_of_mode);
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(at)?;
    parse(&bytes).ok_or_else(|| TokenFileError::Content(path.to_owned()))
}

pub(crate) fn parse(bytes: &[u8]) -> Option<RuntimeCredentials> {
    let content: Content = parse_object(bytes)?;
    let token = [content.runtime_token, content.runtime_jwt]
        .into_iter()
        .flatten()
        .find(|token| !token.expose_secret().is_empty())?;
    let mut credentials = RuntimeCredentials::new(content.worker_id.unwrap_or_default(), token);
    // One that can't be read says nothing; the token's own `exp` still counts.
    credentials.expires_at = content.runtime_token_expires_at.as_deref().and_then(parse_timestamp);
    Some(credentials)
}

#[cfg(unix)]
fn warn_of_mode(path: &Path, file: &File, warned: &mut bool) {
    use std::os::unix::fs::PermissionsExt as _;

    let others_may_read = file.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0);
    if others_may_read && !*warned {
        warn!(
            "{} holds a token, and other users may read it: chmod 600",
            path.display()
        );
        *warned = true;
    }
}

#[cfg(not(unix))]
fn warn_of_mode(_: &Path, _: &File, _: &mut bool) {}
