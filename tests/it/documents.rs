//! The files and tests that the documents name are there.

use std::{
    fs,
    path::{Path, PathBuf},
};

const DOCUMENTS: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "PERF.md",
    "docs/FEATURES.md",
    "docs/FEATURES.apidef.md",
    "docs/lexicon.md",
    "docs/threat_model.md",
];

/// Where a path named in a document may begin.
const FOLDERS: [&str; 9] = [
    "", "src", "tests/it", "docs", "benches", "loadtest", "configs", "tests", "src/net",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// Files below `folder` whose name ends in `end`.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found
}

/// Words between back quotes, outside of code blocks, with the number of their line.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = !inside;
        } else if !inside {
            let words = line.split('`').skip(1).step_by(2);
            found.extend(words.map(|word| (number + 1, word)));
        }
    }
    found
}

#[test]
fn every_file_that_a_document_names_is_there() {
    let mut errors = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        for (number, word) in quoted(&text) {
            let is_source = [".rs", ".toml", ".md"]
                .iter()
                .any(|end| word.ends_with(end));
            let is_path = is_source && !word.contains(['<', '*', ' ', '{']);
            let is_there = |folder: &&str| root().join(folder).join(word).exists();
            if is_path && !FOLDERS.iter().any(is_there) {
                errors.push(format!("{document}:{number}: `{word}` is no file"));
            }
        }
        // Links between documents.
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap_or_default();
            let folder = root().join(document);
            let folder = folder.parent().expect("inside the repository");
            if !file.is_empty() && !link.starts_with("http") && !folder.join(file).exists() {
                errors.push(format!("{document}: {link} leads nowhere"));
            }
        }
    }
    assert!(errors.is_empty(), "\n{}\n", errors.join("\n"));
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let tests: String = [root().join("src"), root().join("tests/it")]
        .iter()
        .flat_map(|folder| files(folder, ".rs"))
        .map(|path| fs::read_to_string(path).expect("UTF-8"))
        .collect();
    let text = read("ARCHITECTURE.md");
    let mut count = 0;
    for line in text.lines().filter(|line| line.starts_with("| I")) {
        count += 1;
        let shown_by = line.rsplit('|').nth(1).unwrap_or_default();
        for (_, word) in quoted(shown_by) {
            let name = word.rsplit("::").next().unwrap_or(word);
            let is_there = !name.contains('_')
                || name.contains(['/', '.', '-'])
                || tests.contains(&format!("fn {name}("));
            assert!(is_there, "no test is called {name}:\n{line}");
        }
    }
    assert!(count > 10);
    assert!(
        text.lines().count() <= 200,
        "ARCHITECTURE.md is to be read in one go"
    );
}
