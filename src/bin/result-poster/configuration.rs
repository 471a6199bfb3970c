//! The configuration: a file, or else the environment.

use std::{fs, io::Read as _, path::Path};

use result_poster::{OptionsConfig, OptionsError};

use crate::failure::{Failure, chain};

/// The prefix of the variables.
const PREFIX: &str = "RESULT_POSTER_";

pub(crate) fn load(file: Option<&Path>) -> Result<OptionsConfig, Failure> {
    let Some(path) = file else {
        return OptionsConfig::from_env(PREFIX).map_err(|error| Failure::usage(chain(&error)));
    };
    let refused = |reason: String| Failure::usage(format!("{}: {reason}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    if path.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(&text).map_err(|error| refused(error.to_string()));
    }
    // Not its `Display`, which quotes the line: it may hold a secret.
    toml::from_str(&text).map_err(|error| {
        let message = error.message().lines().next().unwrap_or_default().to_owned();
        // The error of a value names the key, and no line.
        let span = error.span().filter(|_| !message.starts_with('`'));
        let line = span.map(|span| line_of(&text, span.start));
        refused(match line {
            Some(line) => format!("line {line}: {message}"),
            None => message,
        })
    })
}

/// The number of the line at this offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.bytes().take(offset);
    before.filter(|byte| *byte == b'\n').count().saturating_add(1)
}

pub(crate) fn of_options(error: &OptionsError) -> Failure {
    Failure::usage(chain(error))
}

/// The content of a file, or of stdin for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut content).map(|_| ()),
        _ => fs::read(path).map(|read| content = read),
    };
    read.map_err(|error| Failure::usage(format!("can't read {}: {error}", path.display())))?;
    Ok(content)
}
