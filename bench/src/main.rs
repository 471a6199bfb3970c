//! Measures `result-poster` beside other ways to send the same requests. `bench/README.md` says how.

mod all;
mod arguments;
mod build_time;
mod child;
mod compare;
mod figures;
mod load;
mod peers;
mod platform;
mod probes;
mod process;
mod sweep;
mod table;
mod targets;

use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use clap::Parser as _;

use self::arguments::{Arguments, Task};

fn main() -> ExitCode {
    let started = Instant::now();
    let done = match Arguments::parse().task {
        Task::Load(arguments) => load::command(&arguments),
        Task::All(arguments) => all::command(&arguments).map(|()| true),
        Task::Build => build_time::command().map(|()| true),
        Task::Platform(arguments) => platform::serve(&arguments).map(|()| true),
        Task::Probe(probe) => probes::command(&probe, started).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints a line. Unlike `println!`, it does not panic if stdout is closed.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
