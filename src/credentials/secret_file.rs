//! Files that hold a secret or a certificate.

use std::{fmt, io, io::Read as _, path::Path};

use secrecy::{ExposeSecret as _, SecretString};

use super::token_file::open_without_waiting;

/// The longest file.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a file can't be used, as the end of a sentence that names it: "which is empty".
#[derive(Debug)]
pub(crate) struct Refused {
    reason: &'static str,
    pub(crate) source: Option<io::Error>,
}

impl Refused {
    fn new(reason: &'static str) -> Self {
        Self { reason, source: None }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self {
            reason: "which can't be read",
            source: Some(error),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)
    }
}

/// Reads a file, if it is a regular one of at most 1 MiB. A FIFO is refused at once.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Refused> {
    let file = open_without_waiting(path)?;
    if !file.metadata()?.is_file() {
        return Err(Refused::new("which is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Refused::new("which is longer than 1 MiB"));
    }
    Ok(bytes)
}

pub(crate) fn read_text(path: &Path) -> Result<SecretString, Refused> {
    let text = String::from_utf8(read(path)?).map_err(|_| Refused::new("which is not UTF-8"))?;
    Ok(text.into())
}

/// The content of a file, without white space around it.
pub(crate) fn read_line(path: &Path) -> Result<SecretString, Refused> {
    match read_text(path)?.expose_secret().trim() {
        "" => Err(Refused::new("which is empty")),
        line => Ok(line.into()),
    }
}
