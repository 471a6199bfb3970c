//! A child process that runs one test of this program, and takes part in a test by its input and output.

use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader},
    iter::from_fn,
    process::{Child, ChildStdout, Command, Stdio},
};

/// The environment variable by which a child process knows its input, such as the URL of its platform.
const INPUT: &str = "RESULT_POSTER_TEST_INPUT";

/// This program, with nothing to run but one test, such as `outbox_crash::child_process_…`.
pub(crate) fn child_process(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]);
    command
}

/// The output of a child process that has succeeded.
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    text
}

/// The input of a [`ChildProcess`]. `None` in the process that runs all tests.
pub(crate) fn child_input() -> Option<String> {
    env::var(INPUT).ok()
}

/// Opens files until the process may open no more.
pub(crate) fn take_all_descriptors() -> Vec<File> {
    from_fn(|| File::open("/dev/null").ok()).collect()
}

/// This program, with one test to run, and its output.
pub(crate) struct ChildProcess {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl ChildProcess {
    pub(crate) fn start(test: &str, input: &str) -> Self {
        Self::spawn(&mut child_process(test), input)
    }

    /// The process may have few files open at once.
    pub(crate) fn start_with_few_files(test: &str, input: &str) -> Self {
        let program = child_process(test);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]);
        command.arg(program.get_program()).args(program.get_args());
        Self::spawn(&mut command, input)
    }

    fn spawn(command: &mut Command, input: &str) -> Self {
        let mut process = command.env(INPUT, input).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    /// The next line of the output that begins with this text.
    pub(crate) fn line(&mut self, begin: &str) -> String {
        let mut read = String::new();
        loop {
            let start = read.len();
            assert_ne!(self.output.read_line(&mut read).unwrap(), 0, "no {begin:?} in {read}");
            // The test harness does not end its own line.
            if let Some(at) = read[start..].find(begin) {
                return read[start + at..].trim_end().to_owned();
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn succeeds(mut self) {
        assert!(self.process.wait().unwrap().success());
    }
}
