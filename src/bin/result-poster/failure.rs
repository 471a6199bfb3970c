//! Failures: one line on stderr, and an exit status.

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

/// Why the command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was sent or changed: arguments, a file or the configuration is wrong.
    Usage(String),
    Failed(String),
    /// The result is in the outbox, which delivers it.
    Parked(String),
    /// The reader of the output has had enough, such as `head`.
    ClosedPipe,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// The first paragraph of clap's error, in one line.
    pub(crate) fn of_arguments(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let paragraph = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let line = paragraph.collect::<Vec<_>>().join(" ");
        let message = line.strip_prefix("error: ").unwrap_or(&line);
        Self::Usage(format!("{message}; see --help"))
    }

    /// The output could not be written.
    pub(crate) fn of_output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ClosedPipe;
        }
        Self::Failed(format!("can't write the output: {error}"))
    }

    pub(crate) fn report(self) -> ExitCode {
        let (status, message) = match self {
            Self::Failed(message) => (1, message),
            Self::Usage(message) => (2, message),
            Self::Parked(message) => (3, message),
            Self::ClosedPipe => return ExitCode::SUCCESS,
        };
        let _ = writeln!(io::stderr(), "result-poster: {message}");
        ExitCode::from(status)
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}
