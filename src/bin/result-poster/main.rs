//! `result-poster`, the command: posts results, inspects and repairs an outbox, and checks a configuration.

#![expect(clippy::disallowed_methods, reason = "ages are shown by the clock of the host")]

mod arguments;
mod check;
mod configuration;
mod failure;
mod outbox;
mod output;
mod post;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use self::{
    arguments::{Arguments, Command},
    failure::Failure,
    output::Output,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<(), Failure> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return Err(Failure::of_arguments(&error)),
        // The help or the version.
        Err(error) => return error.print().map_err(Failure::of_output),
    };
    let config = arguments.config.as_deref();
    let mut output = Output::new(arguments.json);
    match arguments.command {
        Command::Post(post) => post::run(config, post, &mut output)?,
        Command::Outbox(outbox) => outbox::run(config, outbox, &mut output)?,
        Command::Check => check::run(config, &mut output)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "result-poster", &mut script);
            output.write(&script)?;
        }
    }
    output.end()
}
