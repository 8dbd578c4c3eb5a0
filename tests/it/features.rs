//! The map of features and the list of keys say the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const KEYS: &str = include_str!("../data/tyk_conf_keys.tsv");
const SECTION: &str = "# tyk.conf";
const STATES: [&str; 3] = ["live", "accepted", "refused"];

/// `| key | file | test | state |` with the back quotes taken off.
struct Row {
    place: String,
    key: String,
    paths: [String; 2],
    state: String,
}

/// Rows below the heading of `tyk.conf`, from every feature document.
fn rows(root: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(root.join("docs")).expect("docs").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("FEATURES") || !name.ends_with(".md") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).expect("UTF-8");
        let mut inside = false;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with("# ") {
                inside = line == SECTION;
            }
            if !inside || !line.starts_with("| `") {
                continue;
            }
            let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
            let cells: Vec<String> = line.trim_matches('|').split('|').map(cell).collect();
            let place = format!("docs/{name}:{}", number + 1);
            let [key, file, test, state] = <[String; 4]>::try_from(cells)
                .unwrap_or_else(|cells| panic!("{place}: {} cells", cells.len()));
            rows.push(Row {
                place,
                key,
                paths: [file, test],
                state,
            });
        }
    }
    rows
}

#[test]
fn every_key_of_tyk_conf_has_one_row_and_every_row_a_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let keys: BTreeSet<&str> = KEYS
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    let mut errors = Vec::new();
    let mut seen = BTreeMap::new();
    for row in rows(root) {
        let Row {
            place, key, state, ..
        } = &row;
        if !keys.contains(key.as_str()) {
            errors.push(format!("{place}: `{key}` is no key of tyk.conf"));
        }
        if let Some(before) = seen.insert(key.clone(), place.clone()) {
            errors.push(format!("{place}: `{key}` stands in {before} already"));
        }
        if !STATES.contains(&state.as_str()) {
            errors.push(format!(
                "{place}: `{state}` is no state; use one of {STATES:?}"
            ));
        }
        for path in &row.paths {
            if !root.join(path).is_file() {
                errors.push(format!("{place}: {path} does not exist"));
            }
        }
        if state == "live" && row.paths[0].starts_with("src/config/") {
            errors.push(format!("{place}: a live key is read outside src/config"));
        }
    }
    for key in keys.iter().filter(|key| !seen.contains_key(**key)) {
        errors.push(format!("docs/FEATURES.md: no row for `{key}`"));
    }
    assert!(errors.is_empty(), "\n{}\n", errors.join("\n"));
}
