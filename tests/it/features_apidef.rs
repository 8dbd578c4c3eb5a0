//! Holds `docs/FEATURES.apidef.md` against the list of Tyk's fields: every path has one row, every
//! row a path, and the files a row names exist.

use std::{collections::BTreeSet, path::Path};

const KEYS: &str = include_str!("../data/apidef_keys.tsv");
const FEATURES: &str = include_str!("../../docs/FEATURES.apidef.md");
const STATES: &[&str] = &["served", "warned", "refused", "read"];

#[test]
fn every_field_of_a_definition_has_one_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let keys: BTreeSet<&str> = KEYS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split('\t').next())
        .collect();
    let mut rows = BTreeSet::new();
    let mut errors = Vec::new();
    for line in FEATURES.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", key, file, test, state, ""] = cells.as_slice() else {
            continue;
        };
        let (Some(key), true) = (in_backticks(key), STATES.contains(state)) else {
            continue;
        };
        if !rows.insert(key) {
            errors.push(format!("`{key}` has two rows"));
        }
        for path in [file, test] {
            if !in_backticks(path).is_some_and(|path| root.join(path).is_file()) {
                errors.push(format!("`{key}`: no such file: {path}"));
            }
        }
    }
    for key in keys.difference(&rows) {
        errors.push(format!("`{key}` has no row, or its row no known state"));
    }
    for key in rows.difference(&keys) {
        errors.push(format!("`{key}` is no field of Tyk"));
    }
    assert!(errors.is_empty(), "\n{}\n", errors.join("\n"));
}

fn in_backticks(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}
