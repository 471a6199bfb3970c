//! Child processes: each measurement has a process of its own, so that its CPU time and its peak of memory are its own.

use std::{
    env, io,
    process::{Command, Stdio},
};

use serde::de::DeserializeOwned;

/// Runs this program with these arguments and variables, and reads the JSON that it prints.
pub(crate) fn run<T: DeserializeOwned>(words: &[String], variables: &[(&str, &str)]) -> io::Result<T> {
    let output = Command::new(env::current_exe()?)
        .args(words)
        // Roots beside those of `SSL_CERT_FILE` would be read, too.
        .env_remove("SSL_CERT_DIR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        io::Error::other(format!(
            "`bench {}` ended with {}: {error}",
            words.join(" "),
            output.status
        ))
    })
}

/// The words of a command line.
pub(crate) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}
