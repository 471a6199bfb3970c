//! Rules for `src`: no module imports a later module, no modules use each other, and no file is too long.

#![cfg(test)]
#![expect(
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "a panic is a failed test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The floors, from the bottom up. A module may use modules on lower floors, and earlier modules on its own floor.
const FLOORS: [&[&str]; 8] = [
    &[
        "util",
        "blocking",
        "shared_work",
        "label",
        "seconds",
        "timestamp",
        "clock",
        "call_id",
        "error",
        "warning",
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

/// A module in a file of its own, by its names from the root on. The root has none.
type Module = Vec<String>;

/// The library's modules, each with its code. Comments and attributes are left out. The command in `src/bin` is a crate of
/// its own, which uses the library as any other crate does.
fn modules() -> BTreeMap<Module, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let module = |file: PathBuf| {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
        let module = names.filter(|name| name != "mod" && name != "lib").collect();
        let code = code(&file);
        let lines = code.lines().filter(|line| !line.trim_start().starts_with(['/', '#']));
        (module, lines.collect::<Vec<_>>().join("\n"))
    };
    let files = product_sources(&src).into_iter();
    files
        .filter(|file| !file.starts_with(src.join("bin")))
        .map(module)
        .collect()
}

/// The paths within the crate that the code of a module names, in a `use` or elsewhere, each from the root on.
fn paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for first in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(first) {
            // Not in the middle of a path or of a name.
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                paths.extend(expanded(&code[at..]));
            }
        }
    }
    for path in &mut paths {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let base = match path[0].as_str() {
            "crate" => &module[..0],
            _ => &module[..module.len() - supers],
        };
        path.splice(..supers.max(1), base.iter().cloned());
        assert!(
            !path.contains(&"super".to_owned()),
            "`super` in a group is not followed"
        );
    }
    paths
}

/// The paths of a tree of paths, such as `a::{b, c::d}`, at the start of the text.
fn expanded(text: &str) -> Vec<Vec<String>> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let rest = &text[name.len()..];
    if let Some(group) = text.strip_prefix('{') {
        return items(group).into_iter().flat_map(expanded).collect();
    }
    let mut paths = rest.strip_prefix("::").map(expanded).unwrap_or_default();
    if paths.is_empty() {
        paths.push(Vec::new());
    }
    if !name.is_empty() {
        paths.iter_mut().for_each(|path| path.insert(0, name.clone()));
    }
    paths
}

/// The items of a group, up to its closing brace.
fn items(group: &str) -> Vec<&str> {
    let (mut items, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                // A comma may follow the last item.
                items.extend(Some(group[start..at].trim()).filter(|item| !item.is_empty()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    items
}

/// Whether a module only declares modules and re-exports names.
fn only_reexports(code: &str) -> bool {
    code.split(';').map(str::trim).all(|item| {
        let item = item
            .strip_prefix("pub")
            .map_or(item, |item| match item.strip_prefix('(') {
                Some(item) => item.split_once(')').unwrap().1,
                None => item,
            });
        item.is_empty() || item.trim_start().starts_with("use ") || item.trim_start().starts_with("mod ")
    })
}

/// The module that a path leads to. Re-exports are followed where there is nothing else.
fn target(modules: &BTreeMap<Module, String>, path: &[String]) -> Module {
    let length = (0..=path.len())
        .rev()
        .find(|length| modules.contains_key(&path[..*length]));
    let (module, rest) = path.split_at(length.unwrap());
    let exports = match rest {
        [name, ..] if !module.is_empty() && only_reexports(&modules[module]) => {
            let mut exports = paths(&modules[module], module);
            exports.retain(|export| export.last() == Some(name));
            exports
        }
        _ => Vec::new(),
    };
    exports
        .first()
        .map_or(module.to_vec(), |export| target(modules, export))
}

/// The modules that a module uses. A module that does more than to declare its children uses them.
fn used_modules(modules: &BTreeMap<Module, String>, module: &Module) -> BTreeSet<Module> {
    let code = &modules[module];
    if module.is_empty() || only_reexports(code) {
        return BTreeSet::new();
    }
    let is_child = |other: &Module| other.split_last().is_some_and(|(_, parent)| parent == module);
    let mut used: BTreeSet<Module> = modules.keys().filter(|other| is_child(other)).cloned().collect();
    used.extend(paths(code, module).iter().map(|path| target(modules, path)));
    used.remove(module);
    used
}

#[test]
fn no_module_imports_a_later_module() {
    let order: Vec<&str> = FLOORS.concat();
    let position = |module: &str| order.iter().position(|name| *name == module);
    let mut seen = 0;
    for (module, code) in modules() {
        let floor = module.first().map_or("lib", String::as_str);
        let own = position(floor).unwrap_or_else(|| panic!("{floor} is on no floor"));
        for path in paths(&code, &module) {
            // The root's re-exports would hide the module that a name comes from.
            let used = &path[0];
            let used_position =
                position(used).unwrap_or_else(|| panic!("{module:?} uses {used:?}, which is no module"));
            seen += 1;
            assert!(used_position <= own, "{module:?} uses {used}, which is above it");
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
}

#[test]
fn no_modules_use_each_other() {
    let modules = modules();
    let mut uses: BTreeMap<&Module, BTreeSet<Module>> = modules
        .keys()
        .map(|module| (module, used_modules(&modules, module)))
        .collect();
    // Without a cycle, there is always a module that uses none of the others that are left.
    while let Some(module) = uses.iter().find(|(_, used)| used.is_empty()).map(|(module, _)| *module) {
        uses.remove(module);
        uses.values_mut().for_each(|used| used.retain(|other| other != module));
    }
    assert!(
        uses.is_empty(),
        "these modules, or some of them, use each other: {uses:#?}"
    );
}

#[test]
fn only_test_modules_are_left_out() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "use a;\n#[cfg(test)]\nuse b;\n#[cfg(test)]\nmod f;\n#[cfg(test)]\n#[expect(\n    c,\n)]\nmod tests {\n    use d;\n}\nuse e;\n";
    fs::write(&file, text).unwrap();
    assert_eq!(code(file.path()), "use a;\n#[cfg(test)]\nuse b;\nuse e;\n");
}

#[test]
fn every_path_within_the_crate_is_found() {
    let module = ["m", "n"].map(str::to_owned);
    let found = |code| -> Vec<String> { paths(code, &module).iter().map(|path| path.join("::")).collect() };
    assert_eq!(found("use crate::{a::{b, c}, d,};"), ["a::b", "a::c", "d"]);
    assert_eq!(found("use super::e; let g = super::super::h::i;"), ["m::e", "h::i"]);
    assert_eq!(found("use self::o::P; use std::super_::x; Self::q"), ["m::n::o::P"]);
}

#[test]
fn a_parent_and_its_child_use_each_other_unless_the_parent_only_reexports() {
    let of = |parent: &str, child: &str| {
        let path = |path: &str| path.split_terminator("::").map(str::to_owned).collect::<Module>();
        let modules = BTreeMap::from([
            (path(""), String::new()),
            (path("a"), parent.to_owned()),
            (path("a::b"), child.to_owned()),
            (path("a::c"), "struct C;".to_owned()),
        ]);
        ["a", "a::b"].map(|module| {
            used_modules(&modules, &path(module))
                .iter()
                .map(|used| used.join("::"))
                .collect::<Vec<_>>()
        })
    };
    let both = of("mod b;\nmod c;\nstruct A;", "use super::A; struct B;");
    assert_eq!(both, [vec!["a::b", "a::c"], vec!["a"]]);
    let through_the_parent = of("mod b;\nmod c;\npub(crate) use self::c::C;", "use super::C; struct B;");
    assert_eq!(through_the_parent, [vec![], vec!["a::c"]]);
}

#[test]
fn the_delivery_knows_no_outbox() {
    let delivery = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/delivery");
    for path in sources(&delivery) {
        for line in fs::read_to_string(&path).unwrap().lines() {
            assert!(!line.to_lowercase().contains("outbox"), "{}: {line}", path.display());
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
