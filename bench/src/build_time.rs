//! The crates of each feature, and the time of a build from nothing.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use crate::{say, table::Table};

const FEATURES: [&str; 5] = ["", "metrics", "outbox", "testing", "cli"];

pub(crate) fn command() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut table = Table::new(["features", "crates", "build, s"]);
    for features in FEATURES {
        let target = tempfile::tempdir()?;
        let crates = crates(&root, features)?;
        let started = Instant::now();
        let status = Command::new("cargo")
            .args([
                "build",
                "--locked",
                "--quiet",
                "--lib",
                "--no-default-features",
                "--features",
                features,
            ])
            .env("CARGO_TARGET_DIR", target.path())
            .current_dir(&root)
            .status()?;
        if !status.success() {
            return Err(io::Error::other(format!("`cargo build` ended with {status}")));
        }
        let name = if features.is_empty() { "none" } else { features };
        let seconds = format!("{:.0}", started.elapsed().as_secs_f64());
        table.push(vec![name.to_owned(), crates.to_string(), seconds]);
    }
    say(table.text());
    Ok(())
}

/// The number of crates that a user's build gets, this one included.
fn crates(root: &Path, features: &str) -> io::Result<usize> {
    let output = Command::new("cargo")
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--no-default-features",
        ])
        .args(["--features", features, "--format", "{p}"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Without the path and the mark of a repeated line.
    let names: BTreeSet<Vec<&str>> = text.lines().map(|line| line.split(' ').take(2).collect()).collect();
    Ok(names.len())
}
