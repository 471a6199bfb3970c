use std::{fs::File, io::Read as _, process::Stdio};

use crate::support::{Fixture, Ran, command};

#[test]
fn wrong_arguments_are_one_line_and_status_2() {
    for (arguments, expected) in [
        (&["nope"][..], "unrecognized subcommand 'nope'"),
        (
            &["post"],
            "the following required arguments were not provided: --session <ID> <FILE>",
        ),
        (
            &["outbox", "list", "--older-than", "1"],
            "invalid value '1' for '--older-than <DURATION>': not a duration",
        ),
        (&["outbox", "show", "x"], "invalid value 'x' for '<IDS>...'"),
        (
            &["outbox", "list"],
            "there is no outbox: give --outbox, or `outbox.path` or `outbox.url` in the configuration",
        ),
    ] {
        let ran = Ran::of(command().args(arguments));
        assert!(ran.failed(2).starts_with(expected), "{}", ran.errors);
    }
}

#[test]
fn the_help_documents_each_exit_status() {
    let help = Ran::of(command().arg("--help")).succeeded();
    for expected in ["0 done", "1 failed", "2 invalid arguments", "3 the result is parked"] {
        assert!(help.contains(expected), "{help}");
    }
    let help = Ran::of(command().args(["check", "--help"])).succeeded();
    assert!(help.contains("/api/sessions/result-poster-check/status"), "{help}");
}

#[test]
fn each_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Ran::of(command().args(["completions", shell])).succeeded();
        assert!(script.contains("requeue"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let fixture = Fixture::new();
    fixture.outbox(&["sess-1"]);
    // More than a pipe holds.
    let mut child = fixture
        .command()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_an_error() {
    let fixture = Fixture::new();
    let path = fixture.outbox(&["sess-1"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = fixture
        .command()
        .args(["outbox", "export", "--outbox"])
        .arg(path)
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn();
    let ran: Ran = child.unwrap().wait_with_output().unwrap().into();
    assert!(
        ran.failed(1).starts_with("can't write the output: No space left"),
        "{}",
        ran.errors
    );
}
