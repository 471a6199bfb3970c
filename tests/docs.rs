//! Rules for the documentation: each link leads somewhere, each block of Rust is compiled, and each message, builder and
//! actor has an example.

#![cfg(test)]
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// The most words that the README may have without its code: ten minutes for a reader.
const README_WORDS: usize = 1300;

/// The languages of blocks that need no compiler.
const OTHER_LANGUAGES: [&str; 5] = ["json", "sh", "sql", "text", "toml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files with this extension in the folders that belong to the project, by their paths from the root.
fn files(extension: &str) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().to_owned();
            let is_other = name.starts_with(".git") || name.ends_with("target") || name.starts_with("fuzz/corpus");
            if path.is_dir() && !is_other {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

/// The lines of a text in Markdown, each with whether it is within a block of code.
fn lines(markdown: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut in_code = false;
    markdown.lines().map(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (line, in_code || is_fence)
    })
}

/// The anchors of the headings.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let prose = lines(markdown).filter(|(_, is_code)| !is_code);
    let headings = prose.filter_map(|(line, _)| {
        line.trim_start_matches('#')
            .strip_prefix(' ')
            .filter(|_| line.starts_with('#'))
    });
    headings.map(anchor).collect()
}

/// The anchor of a heading, as rustdoc and Git hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

/// The targets of the links and pictures.
fn links(markdown: &str) -> Vec<&str> {
    let prose = lines(markdown).filter(|(_, is_code)| !is_code);
    prose
        .flat_map(|(line, _)| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .collect()
}

/// The definitions of links (`[label]: target`), by their labels.
fn definitions(markdown: &str) -> BTreeMap<&str, &str> {
    let prose = lines(markdown).filter(|(_, is_code)| !is_code);
    prose
        .filter_map(|(line, _)| line.strip_prefix('[')?.split_once("]: "))
        .filter(|(label, _)| !label.contains(['[', ']']))
        .collect()
}

/// The documentation of a file: its `//!` and `///` lines.
fn doc_comments(code: &str) -> String {
    let docs = code.lines().filter_map(|line| {
        let line = line.trim_start();
        let text = line.strip_prefix("//!").or_else(|| line.strip_prefix("///"))?;
        Some(text.strip_prefix(' ').unwrap_or(text))
    });
    docs.collect::<Vec<_>>().join("\n")
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(normal.pop(), "{} leaves the repository", path.display()),
            Component::CurDir => {}
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => normal.push(component),
        }
    }
    normal
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let (pages, sources) = (files("md"), files("rs"));
    let page_anchors: BTreeMap<&Path, _> = pages
        .iter()
        .map(|(path, page)| (path.as_path(), anchors(page)))
        .collect();
    // The front page consists of the comments of `lib.rs`, and of two pages.
    let mut front_page = anchors(&doc_comments(&sources[Path::new("src/lib.rs")]));
    for page in ["src/docs/promises.md", "src/docs/tasks.md"] {
        front_page.extend(page_anchors[Path::new(page)].iter().cloned());
    }

    let texts = pages.iter().map(|(path, page)| (path, page.clone()));
    let comments = sources.iter().map(|(path, code)| (path, doc_comments(code)));
    let mut seen = 0;
    for (path, text) in texts.chain(comments) {
        let inline = links(&text).into_iter();
        for link in inline.chain(definitions(&text).into_values()) {
            let (target, fragment) = link
                .split_once('#')
                .map_or((link, None), |(target, fragment)| (target, Some(fragment)));
            let anchors = if link.starts_with("http") {
                continue;
            } else if target == "crate" || (target.is_empty() && path.ends_with("tasks.md")) {
                &front_page
            } else if let Some(guide) = target.strip_prefix("crate::docs::") {
                &page_anchors[Path::new(&format!("src/docs/{guide}.md"))]
            } else if target.is_empty() && path.extension().is_some_and(|extension| extension == "md") {
                &page_anchors[path.as_path()]
            } else if target.ends_with(".md") || target.contains('/') || target.contains("LICENSE") {
                let file = normal(&path.parent().unwrap().join(target));
                assert!(root().join(&file).exists(), "{}: {link} leads nowhere", path.display());
                page_anchors.get(file.as_path()).unwrap_or(const { &BTreeSet::new() })
            } else {
                // The path of an item, which rustdoc checks.
                continue;
            };
            seen += 1;
            if let Some(fragment) = fragment {
                assert!(
                    anchors.contains(fragment),
                    "{}: {link} names no heading",
                    path.display()
                );
            }
        }
    }
    assert!(seen > 100, "only {seen} links were found");
}

#[test]
fn a_link_between_guides_leads_to_the_same_place_in_both_renderings() {
    let pages = files("md");
    let folder = Path::new("src/docs");
    let mut unused = definitions(&pages[&folder.join("links.md")]);
    let all = unused.clone();
    for (path, page) in pages
        .iter()
        .filter(|(path, _)| path.starts_with(folder) && !path.ends_with("links.md"))
    {
        assert!(
            !page.contains("](crate::docs::"),
            "{}: a link needs a label",
            path.display()
        );
        for (label, file) in definitions(page) {
            assert!(
                page.matches(&format!("[{label}]")).count() > 1,
                "{}: {label} is not used",
                path.display()
            );
            let (guide, fragment) = label
                .split_once('#')
                .map_or((label, None), |(guide, fragment)| (guide, Some(fragment)));
            let fragment = fragment.map_or_else(String::new, |fragment| format!("#{fragment}"));
            assert_eq!(file, format!("{guide}.md{fragment}"), "{}", path.display());
            // The tasks are a part of the front page.
            let built = match guide {
                "tasks" if fragment.is_empty() => "crate#tasks".to_owned(),
                "tasks" => format!("crate{fragment}"),
                _ => format!("crate::docs::{guide}{fragment}"),
            };
            assert_eq!(all.get(label), Some(&built.as_str()), "{}: {label}", path.display());
            unused.remove(label);
        }
    }
    assert_eq!(unused, BTreeMap::new());
}

#[test]
fn every_block_of_rust_is_compiled() {
    let compiled = files("rs").into_values().collect::<String>();
    for (path, page) in files("md") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_compiled = path.starts_with("src/docs") || path == Path::new("README.md");
        assert!(
            !is_compiled || compiled.contains(&format!("{name}\")")),
            "{} is included nowhere",
            path.display()
        );
        let fences = page.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
        // Every second one ends a block.
        for language in fences.step_by(2) {
            let is_other = OTHER_LANGUAGES.contains(&language);
            assert!(
                is_other || is_compiled,
                "{}: {language:?} is not compiled",
                path.display()
            );
            assert!(!language.contains("ignore"), "{}: a block is ignored", path.display());
        }
    }
}

#[test]
fn every_message_builder_and_actor_has_an_example() {
    let sources = files("rs");
    let library = || {
        sources
            .iter()
            .filter(|(path, _)| path.starts_with("src") && !path.starts_with("src/bin"))
    };
    let lines = || library().flat_map(|(_, code)| code.lines());
    let implements = lines().filter_map(|line| {
        let name = line
            .strip_prefix("impl Message for ")
            .or_else(|| line.strip_prefix("impl Actor for "))?;
        name.split(' ').next()
    });
    let names: BTreeSet<&str> = implements.collect();

    let mut seen = 0;
    for (path, code) in library() {
        let lines: Vec<&str> = code.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(item) = line
                .strip_prefix("pub struct ")
                .or_else(|| line.strip_prefix("pub enum "))
            else {
                continue;
            };
            let name = item.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            if !names.contains(name) && !name.ends_with("Builder") {
                continue;
            }
            seen += 1;
            let above = lines[..at].iter().rev().take_while(|line| !line.is_empty());
            let has_example = above.clone().any(|line| line.starts_with("/// ```"));
            assert!(has_example, "{}: {name} has no example", path.display());
        }
    }
    assert!(seen > 20, "only {seen} were found");
}

#[test]
fn the_readme_is_short() {
    let readme = &files("md")[Path::new("README.md")];
    let prose = lines(readme).filter(|(_, is_code)| !is_code);
    let words: usize = prose.map(|(line, _)| line.split_whitespace().count()).sum();
    assert!(words <= README_WORDS, "the README has {words} words");
}

#[test]
fn anchors_and_links_are_found() {
    let page = "# The `check`\nSee [a](b.md#c), ![d](e.svg).\n```sh\n# no heading\n[f](g)\n```\n## Two words, both\n";
    assert_eq!(
        anchors(page),
        BTreeSet::from(["the-check", "two-words-both"].map(str::to_owned))
    );
    assert_eq!(links(page), ["b.md#c", "e.svg"]);
    assert_eq!(normal(Path::new("docs/decisions/../a.svg")), Path::new("docs/a.svg"));
}
