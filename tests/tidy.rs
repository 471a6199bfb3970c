//! Rules for `src`: no module imports a later module, and no file is too long.

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

/// The floors, from the bottom up. A module may use modules on lower floors, and earlier modules on its own floor.
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

/// The files of a folder that are not modules for tests alone.
fn product_sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = sources(folder);
    let test_modules: Vec<PathBuf> = files.iter().flat_map(|file| test_modules(file)).collect();
    files.retain(|file| {
        !test_modules
            .iter()
            .any(|module| file.starts_with(module) || file.with_extension("") == *module)
    });
    files
}

/// The paths, without extension, of the modules in files of their own that a file declares for tests alone.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let folder = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib") => file.parent().unwrap().to_owned(),
        _ => file.with_extension(""),
    };
    let mut modules = Vec::new();
    for (line, next) in text.lines().zip(text.lines().skip(1)) {
        let is_for_tests = line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,");
        if let Some(name) = next.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            && is_for_tests
        {
            modules.push(folder.join(name));
        }
    }
    modules
}

/// The lines of a file without its test modules.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let (mut code, mut in_tests) = (String::new(), false);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // The attributes of an item, then its first line.
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,") {
            let mut item = vec![line];
            while item.last().unwrap().starts_with(['#', ' ', ')']) && lines.peek().is_some() {
                item.extend(lines.next());
            }
            let last = item.last().unwrap();
            in_tests = last.starts_with("mod ") && last.ends_with('{');
            if !last.starts_with("mod ") {
                code += &(item.join("\n") + "\n");
            }
        } else if in_tests {
            in_tests = line != "}";
        } else {
            code += &(line.to_owned() + "\n");
        }
    }
    code
}

/// The names at the root of the crate that the code of a module at this depth uses, in a `use` or in a path. Comments
/// do not count.
fn used_names(code: &str, depth: usize) -> Vec<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut code = lines.collect::<Vec<_>>().join("\n");
    for (at, group) in code.match_indices("super::{") {
        let names = top_level_names(&code[at + group.len()..]);
        assert!(
            !names.contains(&"super".to_owned()),
            "`super` in a group is not followed"
        );
    }
    // The root by another name.
    if depth > 0 {
        code = code.replace(&"super::".repeat(depth), "crate::");
    }
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => top_level_names(group),
            None => vec![first_name(rest)],
        };
        used.extend(names);
    }
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
                let path = group[start..at].trim();
                // A comma may follow the last path.
                if !path.is_empty() {
                    names.push(first_name(path));
                }
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
fn no_module_imports_a_later_module() {
    let order: Vec<&str> = FLOORS.concat();
    let position = |module: &str| order.iter().position(|name| *name == module);
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for path in product_sources(&src) {
        let modules = path.strip_prefix(&src).unwrap().with_extension("");
        let mut modules: Vec<_> = modules.iter().map(|module| module.to_str().unwrap()).collect();
        modules.retain(|module| *module != "mod");
        let own = position(modules[0]).unwrap_or_else(|| panic!("{} is on no floor", modules[0]));
        let depth = if modules == ["lib"] { 0 } else { modules.len() };
        for used in used_names(&code(&path), depth) {
            let file = path.display();
            // The root's re-exports would hide the module that a name comes from.
            let used_position = position(&used).unwrap_or_else(|| panic!("{file} uses {used:?}, which is no module"));
            seen += 1;
            assert!(used_position <= own, "{file} uses {used}, which is above it");
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
}

#[test]
fn only_test_modules_are_left_out() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "use a;\n#[cfg(test)]\nuse b;\n#[cfg(test)]\nmod f;\n#[cfg(test)]\n#[expect(\n    c,\n)]\nmod tests {\n    use d;\n}\nuse e;\n";
    fs::write(&file, text).unwrap();
    assert_eq!(code(file.path()), "use a;\n#[cfg(test)]\nuse b;\nuse e;\n");
}

#[test]
fn every_path_to_the_root_is_followed() {
    let code = "use crate::{a::{b, c}, d};\nuse super::e;\n// crate::f\nlet g = super::super::h::i;";
    assert_eq!(used_names(code, 2), ["a", "d", "h"]);
    assert_eq!(used_names("use super::{a, b::c};", 1), ["a", "b"]);
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
    for path in product_sources(&src) {
        let lines = code(&path).lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
    }
}
