//! Reading policies from disk: a folder with one file per policy, or one file with all of them.
//!
//! A file, or an entry, that cannot be read is named with its place and takes no other with it; what
//! it said before goes on. Tyk: `gateway/policy.go` (`LoadPoliciesFromDir`,
//! `LoadPoliciesFromFile`), `gateway/server.go` (`syncPolicies`).

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    apidef::json::{Document, JsonError, line_and_column},
    config::Config,
    error::LoadError,
    policy::{Entry, POLICY_BYTES_MAX, Policies, Policy},
};

/// Largest file with all policies in it.
const FILE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Where policies come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    None,
    /// `policy_record_name`.
    File(PathBuf),
    /// `policy_path`.
    Dir(PathBuf),
}

impl Source {
    /// # Errors
    /// Policies would come from a Dashboard or from MDCB.
    pub fn from_config(config: &Config) -> Result<Self, String> {
        let policies = &config.policies;
        match policies.policy_source.as_str() {
            source @ ("service" | "rpc") => Err(format!(
                "policies.policy_source {source:?}: policies from a Dashboard or MDCB are not \
                 supported; use \"file\" with policy_path or policy_record_name"
            )),
            _ if !policies.policy_path.is_empty() => {
                Ok(Self::Dir(PathBuf::from(&policies.policy_path)))
            }
            _ if !policies.policy_record_name.is_empty() => {
                Ok(Self::File(PathBuf::from(&policies.policy_record_name)))
            }
            _ => Ok(Self::None),
        }
    }
}

/// What a load found. Nothing is in force until it is published.
#[derive(Debug)]
pub struct Load {
    pub policies: Policies,
    /// What could not be read; where it was in force before, it still is.
    pub refused: Vec<LoadError>,
    /// Lines for the operator.
    pub warnings: Vec<String>,
}

/// Reads what is there now. `before` is what is in force. `may_clear` is what `compat: "strict"`
/// allows: that nothing is left. Waits for the disk.
#[must_use]
pub fn load(source: &Source, before: &Policies, may_clear: bool) -> Load {
    let mut load = Load {
        policies: Policies::default(),
        refused: Vec::new(),
        warnings: Vec::new(),
    };
    let read = match source {
        Source::None => Ok(()),
        Source::File(file) => load.file(file, before),
        Source::Dir(dir) => load.dir(dir, before),
    };
    if let Err(error) = read {
        load.refused.push(error);
        load.policies = before.clone();
    } else if load.policies.is_empty() && !before.is_empty() && !may_clear {
        // Tyk quirk: a load that finds no policy leaves those in force that were; the last one
        // goes at a restart only. A folder that is not mounted yet takes no key's rights away.
        load.warnings.push(format!(
            "no policy was found; the {} in force stay until a restart",
            before.len()
        ));
        load.policies = before.clone();
    }
    load
}

impl Load {
    fn file(&mut self, file: &Path, before: &Policies) -> Result<(), LoadError> {
        let bytes = read(file, FILE_BYTES_MAX)?;
        let members = Document::parse_within(&bytes, FILE_BYTES_MAX)
            .and_then(|document| document.decode_members::<Policy>())
            .map_err(|error| located(file, &bytes, &error))?;
        let shared: Arc<Path> = file.into();
        for (id, policy) in members {
            match policy {
                Ok(mut policy) => {
                    if policy.id.is_empty() {
                        // Tyk differs: there such a policy works for keys, and the REST API does
                        // not find it.
                        policy.id = id.clone().into_owned();
                    }
                    self.insert(id.into_owned(), policy, &shared);
                }
                Err(error) => {
                    self.refused.push(located(file, &bytes, &error));
                    if let Some(entry) = before.by_id.get(&*id) {
                        self.policies.by_id.insert(id.into_owned(), entry.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn dir(&mut self, dir: &Path, before: &Policies) -> Result<(), LoadError> {
        let unreadable =
            |error: io::Error| LoadError::whole(dir, format!("cannot read this folder: {error}"));
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            // Also `.json`, which a policy without an id is written to.
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().ends_with(b".json") {
                files.push(path);
            }
        }
        files.sort();
        let mut kept = Vec::new();
        for file in files {
            let policy = read(&file, POLICY_BYTES_MAX).and_then(|bytes| {
                Policy::from_json_slice(&bytes).map_err(|error| located(&file, &bytes, &error))
            });
            match policy {
                Ok(policy) => self.insert(policy.id.clone(), policy, &file.into()),
                Err(error) => {
                    self.refused.push(error);
                    kept.push(file);
                }
            }
        }
        for (id, entry) in &before.by_id {
            if kept.iter().any(|file| **file == *entry.file) {
                let by_id = &mut self.policies.by_id;
                by_id.entry(id.clone()).or_insert_with(|| entry.clone());
            }
        }
        Ok(())
    }

    fn insert(&mut self, id: String, policy: Policy, file: &Arc<Path>) {
        let entry = Entry {
            policy: Arc::new(policy.canonical()),
            file: Arc::clone(file),
        };
        if let Some(earlier) = self.policies.by_id.get(&id) {
            self.warnings.push(format!(
                "policy {id:?} stands in {} and in {}; the latter is used",
                earlier.file.display(),
                file.display()
            ));
        }
        self.policies.by_id.insert(id, entry);
    }
}

/// The content of a file that is one; a pipe would make a reload wait for ever.
fn read(file: &Path, bytes_max: usize) -> Result<Vec<u8>, LoadError> {
    let unreadable =
        |error: io::Error| LoadError::whole(file, format!("cannot read this file: {error}"));
    if !fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(LoadError::whole(file, "is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(bytes_max as u64 + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() > bytes_max {
        return Err(LoadError::whole(
            file,
            format!("has more than {bytes_max} bytes"),
        ));
    }
    Ok(bytes)
}

fn located(file: &Path, bytes: &[u8], error: &JsonError) -> LoadError {
    let (line, column) = line_and_column(bytes, error.offset());
    LoadError {
        line,
        column,
        ..LoadError::at(file, error.pointer(), error.reason())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let name = format!(
                "penstock-pol-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, SeqCst)
            );
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).unwrap();
        }

        fn dir(&self) -> Source {
            Source::Dir(self.0.clone())
        }

        fn file(&self) -> Source {
            Source::File(self.0.join("policies.json"))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ids(load: &Load) -> Vec<&str> {
        load.policies.iter().map(|(id, _)| id).collect()
    }

    fn refused(load: &Load) -> Vec<String> {
        let shown = load.refused.iter().map(ToString::to_string);
        shown
            .map(|text| text.rsplit('/').take(2).collect::<Vec<_>>().join(" < "))
            .collect()
    }

    #[test]
    fn a_folder_has_one_policy_per_file() {
        let scratch = Scratch::new();
        scratch.write("b.json", r#"{"id":"two","rate":2}"#);
        scratch.write("a.json", r#"{"id":"one","rate":1}"#);
        scratch.write(".json", r#"{"name":"nameless"}"#);
        scratch.write("c.txt", "no policy");
        let loaded = load(&scratch.dir(), &Policies::default(), false);
        assert_eq!(ids(&loaded), ["", "one", "two"]);
        assert!(loaded.refused.is_empty() && loaded.warnings.is_empty());
        scratch.write("z.json", r#"{"id":"one","rate":9}"#);
        let loaded = load(&scratch.dir(), &Policies::default(), false);
        assert_eq!(loaded.policies.get("one").unwrap().rate, 9.0);
        assert!(
            loaded.warnings[0].contains("a.json and in"),
            "{:?}",
            loaded.warnings
        );
    }

    #[test]
    fn a_broken_file_is_named_and_loses_nothing() {
        let scratch = Scratch::new();
        scratch.write("a.json", r#"{"id":"a","rate":1}"#);
        scratch.write("b.json", r#"{"id":"b"}"#);
        let before = load(&scratch.dir(), &Policies::default(), false).policies;
        scratch.write("a.json", "{\"id\":\"a\",\n \"rate\":\"many\"}");
        scratch.write("new.json", "{");
        let loaded = load(&scratch.dir(), &before, false);
        assert_eq!(ids(&loaded), ["a", "b"]);
        assert_eq!(loaded.policies.get("a").unwrap().rate, 1.0);
        assert_eq!(
            refused(&loaded),
            [
                "rate: found a string, expected a number < a.json:2:9: ",
                &format!(
                    "new.json:1:2: found the end of the document, expected a key in double quotes \
                     < {}",
                    scratch.0.file_name().unwrap().to_str().unwrap()
                ),
            ]
        );
        // Its policy has moved to another file: that one is it.
        scratch.write("c.json", r#"{"id":"a","rate":3}"#);
        let loaded = load(&scratch.dir(), &before, false);
        assert_eq!(loaded.policies.get("a").unwrap().rate, 3.0);
        // Gone for good.
        fs::remove_file(scratch.0.join("a.json")).unwrap();
        fs::remove_file(scratch.0.join("c.json")).unwrap();
        assert_eq!(ids(&load(&scratch.dir(), &before, false)), ["b"]);
    }

    #[test]
    fn one_file_may_hold_all_policies() {
        let scratch = Scratch::new();
        scratch.write("policies.json", r#"{"a":{"rate":1},"b":{"id":"other"}}"#);
        let loaded = load(&scratch.file(), &Policies::default(), false);
        assert_eq!(ids(&loaded), ["a", "b"]);
        assert_eq!(loaded.policies.get("a").unwrap().id, "a");
        assert_eq!(loaded.policies.get("b").unwrap().id, "other");
        scratch.write("policies.json", r#"{"a":{"rate":true},"b":{},"c":[]}"#);
        let next = load(&scratch.file(), &loaded.policies, false);
        assert_eq!(ids(&next), ["a", "b"]);
        assert_eq!(next.policies.get("a").unwrap().rate, 1.0);
        let pointers: Vec<_> = next.refused.iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(pointers, ["/a/rate", "/c"]);
        scratch.write("policies.json", r#"{"a":"#);
        let broken = load(&scratch.file(), &next.policies, true);
        assert_eq!(ids(&broken), ["a", "b"]);
        assert_eq!(broken.refused.len(), 1);
    }

    #[test]
    fn what_is_not_there_leaves_what_is_in_force() {
        let scratch = Scratch::new();
        let gone = Source::Dir(scratch.0.join("gone"));
        let before: Policies = [Policy::default()].into_iter().collect();
        for source in [&gone, &scratch.file()] {
            let loaded = load(source, &before, true);
            assert_eq!((loaded.policies.len(), loaded.refused.len()), (1, 1));
        }
        assert!(load(&gone, &Policies::default(), false).policies.is_empty());
    }

    #[test]
    fn finding_no_policy_clears_them_in_strict_only() {
        let scratch = Scratch::new();
        let before: Policies = [Policy::default()].into_iter().collect();
        let kept = load(&scratch.dir(), &before, false);
        assert_eq!((kept.policies.len(), kept.warnings.len()), (1, 1));
        let cleared = load(&scratch.dir(), &before, true);
        assert_eq!((cleared.policies.len(), cleared.warnings.len()), (0, 0));
        scratch.write("policies.json", "{}");
        assert_eq!(load(&scratch.file(), &before, false).policies.len(), 1);
    }

    #[test]
    fn a_pipe_among_the_policies_does_not_hang_a_load() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.0.join("d.json")).unwrap();
        scratch.write("e.json", "{}");
        let made = std::process::Command::new("mkfifo")
            .arg(scratch.0.join("p.json"))
            .status();
        assert!(made.unwrap().success());
        let loaded = load(&scratch.dir(), &Policies::default(), false);
        assert_eq!((loaded.policies.len(), loaded.refused.len()), (1, 2));
        assert_eq!(loaded.refused[0].reason, "is not a file");
    }

    #[test]
    fn a_file_at_the_limit_is_read_and_one_beyond_is_not() {
        let scratch = Scratch::new();
        let of = |bytes: usize| format!("{}{}", " ".repeat(bytes - 2), "{}");
        for (bytes, is_read) in [
            (POLICY_BYTES_MAX - 1, true),
            (POLICY_BYTES_MAX, true),
            (POLICY_BYTES_MAX + 1, false),
        ] {
            scratch.write("a.json", &of(bytes));
            let loaded = load(&scratch.dir(), &Policies::default(), false);
            assert_eq!(loaded.policies.len() == 1, is_read, "{bytes}");
        }
    }

    #[test]
    fn sources_that_do_not_exist_here_are_refused() {
        let source = |source: &str, path: &str, record: &str| {
            let mut config = Config::default();
            config.policies.policy_source = source.to_owned();
            config.policies.policy_path = path.to_owned();
            config.policies.policy_record_name = record.to_owned();
            Source::from_config(&config)
        };
        assert_eq!(source("file", "p", "r"), Ok(Source::Dir("p".into())));
        assert_eq!(source("", "", "r"), Ok(Source::File("r".into())));
        assert_eq!(source("file", "", ""), Ok(Source::None));
        assert!(
            source("service", "p", "r")
                .unwrap_err()
                .contains("Dashboard")
        );
        assert!(source("rpc", "p", "r").is_err());
    }
}
