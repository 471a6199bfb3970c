//! Helpers that the examples share: output, and errors in one line.

use std::{
    error::Error,
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

/// The failure of a program: one line for stderr, and the exit status.
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: u8, message: impl Display) -> Self {
        Self {
            status,
            message: message.to_string(),
        }
    }
}

/// The exit status of the program. A failure is printed to stderr.
pub(crate) fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { status, message }) => {
            let _ = writeln!(io::stderr(), "{}: {message}", env!("CARGO_CRATE_NAME"));
            ExitCode::from(status)
        }
    }
}

/// Prints a line. Unlike `println!`, it does not panic if stdout is closed.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
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
