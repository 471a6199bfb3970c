//! The house rules of `src`: no import runs up, and no file is too long.

#![cfg(test)]
#![expect(
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "a panic is a failed test"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The floors, from the ground up. A module uses modules on lower floors, and those before it on its own floor.
const FLOORS: [&[&str]; 8] = [
    &[
        "util",
        "label",
        "clock",
        "call_id",
        "error",
        "result",
        "receipt",
        "message",
        "supervisor",
    ],
    &["redact", "call", "backoff", "verdict", "queue"],
    &["telemetry", "transport", "credentials"],
    &["delivery", "route"],
    &["outbox"],
    &["options", "poster"],
    &["testing", "bridge", "docs"],
    &["lib"],
];

/// The longest file, in lines, without its tests.
const MAX_LINES: usize = 300;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The lines of a file before its test module.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let tests = ["\n#[cfg(test)]", "\n#[cfg(all(test,"];
    let end = tests.iter().filter_map(|start| text.find(start)).min();
    text[..end.unwrap_or(text.len())].to_owned()
}

/// The modules at the root of the crate that the code names, in a `use` or in a path. Comments do not count.
fn used_modules(code: &str) -> Vec<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => top_level_names(group),
            None => vec![first_name(rest)],
        };
        used.extend(names);
    }
    used.retain(|name| !name.is_empty());
    used
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first name of each path in a group of imports, up to its closing brace.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_name(group[start..at].trim_start()));
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && start == at + 1 {
            break;
        }
    }
    names
}

#[test]
fn no_import_runs_up() {
    let order: Vec<&str> = FLOORS.concat();
    let position = |module: &str| order.iter().position(|name| *name == module);
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in sources(&src) {
        let module = path.strip_prefix(&src).unwrap().iter().next().unwrap();
        let module = module.to_str().unwrap().trim_end_matches(".rs");
        let own = position(module).unwrap_or_else(|| panic!("{module} is on no floor"));
        for used in used_modules(&code(&path)) {
            // Macros and public items are reached by the root; a module is not.
            let Some(used_position) = position(&used) else { continue };
            seen += 1;
            assert!(
                used_position <= own,
                "{} uses {used}, which is above it",
                path.display()
            );
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
}

#[test]
fn the_delivery_knows_no_outbox() {
    let delivery = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/delivery");
    for path in sources(&delivery) {
        for line in fs::read_to_string(&path).unwrap().lines() {
            assert!(!line.contains("outbox"), "{}: {line}", path.display());
        }
    }
}

#[test]
fn no_file_is_too_long() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let lines = code(&path).lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
    }
}
