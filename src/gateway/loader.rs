//! From the files of `app_path` to a snapshot.
//!
//! Tyk: `gateway/api_definition.go` (`FromDir`), `gateway/api_loader.go` (`loadApps`). A file whose
//! bytes did not change is neither parsed nor compiled again. A file that went bad keeps what it
//! served before; one that was never good keeps its route and answers 404, so that its traffic
//! never reaches another API.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use sha2::{Digest, Sha256};

use crate::{
    apidef::{self, ApiDefinition, Fault, Severity, references, validate},
    error::LoadError,
    gateway::{
        compile::Compiler,
        listen_path::{HostRule, ListenPath, PathFault},
        reload::{Changed, Refused, ReloadReport},
        router::{Route, RouteKind, Router, tyk_order},
        snapshot::{ErrorResponses, Mount, Port, PortKey, Slot, Snapshot},
        spec::Api,
    },
};

/// Files this large are refused unread.
const FILE_BYTES_MAX: u64 = 10 << 20;

/// Reads definitions, and remembers what it has read.
pub struct Loader {
    compiler: Compiler,
    errors: Arc<ErrorResponses>,
    known: HashMap<PathBuf, Known>,
    /// `api_id`s that were routed under exactly their own listen path.
    mounted: HashSet<String>,
    loaded_before: bool,
}

type Hash = [u8; 32];

/// What one file held when it was last read.
#[derive(Clone)]
struct Known {
    hash: Hash,
    state: State,
}

#[derive(Clone)]
enum State {
    Good(Arc<Api>),
    /// Not served, and what to do with its route; `before` still serves.
    Bad {
        hint: Option<Hint>,
        errors: Vec<LoadError>,
        before: Option<Arc<Api>>,
    },
    /// Listed and not routed (Tyk: `Spec not valid, skipped!`).
    Skipped {
        definition: Arc<ApiDefinition>,
        errors: Vec<LoadError>,
    },
}

/// What could be read of a definition that was refused: enough to keep its route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hint {
    api_id: String,
    domain: String,
    listen_path: String,
    listen_port: i64,
}

/// What a load found. Nothing has changed until [`Loader::commit`].
pub struct Load {
    pub snapshot: Snapshot,
    /// Every definition that could be read, as `/tyk/apis` lists them.
    pub definitions: Vec<Arc<ApiDefinition>>,
    pub report: ReloadReport,
    /// Definitions compiled by this load.
    pub compiled: usize,
    /// Lines for the operator.
    pub warnings: Vec<String>,
    known: HashMap<PathBuf, Known>,
    mounted: HashSet<String>,
}

impl Loader {
    #[must_use]
    pub fn new(compiler: Compiler, errors: Arc<ErrorResponses>) -> Self {
        Self {
            compiler,
            errors,
            known: HashMap::new(),
            mounted: HashSet::new(),
            loaded_before: false,
        }
    }

    /// Reads what `app_path` holds now.
    ///
    /// # Errors
    /// After a first load: a folder that cannot be read, or in which no file can. The first load
    /// takes a missing folder for an empty one, as Tyk does.
    pub fn load(&self) -> Result<Load, Vec<LoadError>> {
        let dir = self.compiler.config.app_dir();
        let files = match definition_files(&dir) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.loaded_before => {
                tracing::warn!(
                    "app_path {} does not exist: no API is served; create the folder and put \
                     definitions into it, or set app_path",
                    dir.display()
                );
                Vec::new()
            }
            Err(error) => {
                let reason = format!("cannot read this folder of API definitions: {error}");
                return Err(vec![LoadError::whole(dir, reason)]);
            }
        };
        let read = self.read_all(&files);
        if self.loaded_before && !files.is_empty() && read.iter().all(Result::is_err) {
            return Err(read.into_iter().filter_map(Result::err).collect());
        }
        let mut known = HashMap::with_capacity(files.len());
        let mut compiled = 0;
        let mut warnings = Vec::new();
        for (file, read) in files.iter().zip(read) {
            let entry = match read {
                Ok(Read::Unchanged) => match self.known.get(file) {
                    Some(entry) => entry.clone(),
                    None => continue,
                },
                Ok(Read::Fresh { hash, outcome }) => {
                    compiled += usize::from(outcome.was_compiled);
                    warnings.extend(outcome.warnings);
                    self.entry(file, hash, outcome.state)
                }
                Err(error) => self.entry(file, Hash::default(), Err((None, vec![error]))),
            };
            known.insert(file.clone(), entry);
        }
        Ok(self.assemble(&files, known, compiled, warnings))
    }

    /// Compiles one definition that is not loaded, as its file `name` would be, into a snapshot in
    /// which every request reaches it. Beside it what is served with something left out.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn single(
        &self,
        name: &Path,
        bytes: &[u8],
    ) -> Result<(Snapshot, Vec<String>), Vec<LoadError>> {
        let outcome = self.outcome(name, bytes);
        let api = match outcome.state {
            Ok(Ok(api)) => api,
            Ok(Err((_, errors))) | Err((_, errors)) => return Err(errors),
        };
        let wrong = |pointer: &str, reason: String| vec![LoadError::at(name, pointer, reason)];
        let path =
            ListenPath::parse("/").map_err(|fault| wrong("/proxy/listen_path", fault.reason))?;
        let route = Route {
            order: 0,
            // Such routes match whatever follows them.
            kind: RouteKind::ApiId,
            path,
            host: HostRule::parse("").map_err(|reason| wrong("/domain", reason))?,
            target: 0,
        };
        let snapshot = Snapshot {
            slots: vec![Slot::Api(Mount {
                listen_path: api.listen_path.clone(),
                api,
            })],
            ports: vec![Port {
                key: PortKey::NONE,
                router: Router::build([route]),
                carries_control: false,
            }],
            errors: Arc::clone(&self.errors),
        };
        Ok((snapshot, outcome.warnings))
    }

    /// Remembers a load as what is served now.
    pub fn commit(&mut self, load: &mut Load) {
        self.known = std::mem::take(&mut load.known);
        self.mounted = std::mem::take(&mut load.mounted);
        self.loaded_before = true;
    }

    /// Reads and compiles what changed, on as many threads as there are CPUs.
    fn read_all(&self, files: &[PathBuf]) -> Vec<Result<Read, LoadError>> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let part = files.len().div_ceil(threads).max(256);
        if files.len() <= part {
            return files.iter().map(|file| self.read(file)).collect();
        }
        thread::scope(|scope| {
            let parts: Vec<_> = files
                .chunks(part)
                .map(|files| {
                    scope
                        .spawn(move || files.iter().map(|file| self.read(file)).collect::<Vec<_>>())
                })
                .collect();
            let mut all = Vec::with_capacity(files.len());
            for (part, files) in parts.into_iter().zip(files.chunks(part)) {
                match part.join() {
                    Ok(read) => all.extend(read),
                    Err(_) => all.extend(files.iter().map(|file| {
                        Err(LoadError::whole(
                            file,
                            "reading it failed in an unforeseen way",
                        ))
                    })),
                }
            }
            all
        })
    }

    fn read(&self, file: &Path) -> Result<Read, LoadError> {
        let unreadable =
            |error: io::Error| LoadError::whole(file, format!("cannot be read: {error}"));
        let metadata = fs::metadata(file).map_err(unreadable)?;
        if !metadata.is_file() {
            // Reading a pipe would wait for whoever writes to it.
            return Err(LoadError::whole(file, "is no ordinary file"));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(LoadError::whole(
                file,
                "larger than 10 MiB, which no definition may be",
            ));
        }
        let bytes = fs::read(file).map_err(unreadable)?;
        let hash: Hash = Sha256::digest(&bytes).into();
        if self.known.get(file).is_some_and(|known| known.hash == hash) {
            return Ok(Read::Unchanged);
        }
        Ok(Read::Fresh {
            hash,
            outcome: self.outcome(file, &bytes),
        })
    }

    fn outcome(&self, file: &Path, bytes: &[u8]) -> Outcome {
        let mut outcome = Outcome {
            state: Err((None, Vec::new())),
            was_compiled: false,
            warnings: Vec::new(),
        };
        let env = &*self.compiler.env;
        let secrets = |key: &str| {
            let secret = self.compiler.config.secrets.get(key);
            secret.map(|secret| secret.as_str().to_owned())
        };
        let text = match std::str::from_utf8(bytes)
            .map_err(|_| Fault::refuse("", "not UTF-8"))
            .and_then(|text| references::substitute(text, &env, &secrets))
        {
            Ok(text) => text,
            Err(fault) => {
                outcome.state = Err((Hint::read(bytes), vec![fault.in_file(file)]));
                return outcome;
            }
        };
        let parsed = ApiDefinition::from_json_slice(text.as_bytes()).and_then(|mut definition| {
            references::resolve_proxy(&mut definition.proxy, &env, &secrets)?;
            Ok(Arc::new(definition))
        });
        let definition = match parsed {
            Ok(definition) => definition,
            Err(fault) => {
                let mut faults = [fault];
                validate::place(&mut faults, text.as_bytes());
                let errors = faults.map(|fault| fault.in_file(file)).to_vec();
                outcome.state = Err((Hint::read(text.as_bytes()), errors));
                return outcome;
            }
        };
        outcome.was_compiled = true;
        let located = |mut faults: Vec<Fault>| {
            validate::place(&mut faults, text.as_bytes());
            faults
        };
        match self.compiler.compile(file, &definition) {
            Ok((api, mut faults)) => {
                faults.extend(references::unresolved(&text));
                let faults = located(faults);
                outcome.warnings.extend(
                    faults
                        .into_iter()
                        .map(|fault| fault.in_file(file).to_string()),
                );
                outcome.state = Ok(Ok(Arc::new(api)));
            }
            Err(faults) => {
                let skipped = faults
                    .first()
                    .is_some_and(|fault| fault.severity == Severity::Skip);
                let errors: Vec<_> = located(faults)
                    .into_iter()
                    .filter(|fault| fault.severity != Severity::Warn)
                    .map(|fault| fault.in_file(file))
                    .collect();
                outcome.state = if skipped {
                    Ok(Err((definition, errors)))
                } else {
                    Err((Some(Hint::of(&definition)), errors))
                };
            }
        }
        outcome
    }

    /// What a file stands for now, given what it stood for before.
    fn entry(&self, file: &Path, hash: Hash, state: FileState) -> Known {
        let before = self.known.get(file).and_then(|known| match &known.state {
            State::Good(api) => Some(Arc::clone(api)),
            State::Bad { before, .. } => before.clone(),
            State::Skipped { .. } => None,
        });
        let state = match state {
            Ok(Ok(api)) => State::Good(api),
            Ok(Err((definition, errors))) => State::Skipped { definition, errors },
            Err((hint, errors)) => State::Bad {
                hint,
                errors,
                before,
            },
        };
        Known { hash, state }
    }

    fn assemble(
        &self,
        files: &[PathBuf],
        known: HashMap<PathBuf, Known>,
        compiled: usize,
        mut warnings: Vec<String>,
    ) -> Load {
        let config = &*self.compiler.config;
        let mut definitions = Vec::with_capacity(files.len());
        let mut refused = Vec::new();
        let mut candidates = Vec::with_capacity(files.len());
        for file in files {
            let Some(entry) = known.get(file) else {
                continue;
            };
            match &entry.state {
                State::Good(api) => {
                    definitions.push(Arc::clone(&api.definition));
                    candidates.push(Candidate::of(file, api));
                }
                State::Skipped { definition, errors } => {
                    definitions.push(Arc::clone(definition));
                    refused.extend(errors.iter().cloned().map(Refused::from));
                }
                State::Bad {
                    hint,
                    errors,
                    before,
                } => {
                    refused.extend(errors.iter().cloned().map(Refused::from));
                    if let Some(api) = before {
                        definitions.push(Arc::clone(&api.definition));
                        candidates.push(Candidate::of(file, api));
                    } else if let Some(hint) = hint {
                        candidates.push(Candidate {
                            file: file.clone(),
                            hint: hint.clone(),
                            api: None,
                        });
                    }
                }
            }
        }
        candidates.retain(Candidate::is_routed);
        let mounted = self.rename_collisions(&mut candidates, &mut warnings, &mut refused);
        if !config.enable_custom_domains {
            for candidate in &mut candidates {
                candidate.hint.domain.clear();
            }
        }
        tyk_order(
            &mut candidates,
            |candidate| candidate.hint.domain.as_str(),
            |candidate| candidate.hint.listen_path.as_str(),
        );
        let mut slots = Vec::with_capacity(candidates.len());
        let mut routes: BTreeMap<PortKey, Vec<Route>> = BTreeMap::new();
        let main = main_port(config);
        let control = control_port(config);
        routes.entry(main).or_default();
        routes.entry(control).or_default();
        for (order, candidate) in candidates.iter().enumerate() {
            let Some(key) = port_of(config, candidate, main) else {
                refused.push(Refused::from(LoadError::at(
                    &candidate.file,
                    "/listen_port",
                    format!(
                        "port {} is not in ports_whitelist; add it there or set \
                         disable_ports_whitelist",
                        candidate.hint.listen_port
                    ),
                )));
                continue;
            };
            match candidate.routes(order, slots.len(), &config.hostname) {
                Ok(made) => routes.entry(key).or_default().extend(made),
                Err(reason) => {
                    let error = LoadError::at(&candidate.file, "/domain", reason);
                    refused.push(Refused::from(error));
                    continue;
                }
            }
            slots.push(match &candidate.api {
                Some(api) => match candidate.listen_path() {
                    Ok(listen_path) => Slot::Api(Mount {
                        api: Arc::clone(api),
                        listen_path,
                    }),
                    Err(_) => Slot::Refused,
                },
                None => Slot::Refused,
            });
        }
        let ports = routes
            .into_iter()
            .map(|(key, routes)| Port {
                key,
                router: Router::build(routes),
                carries_control: key == control,
            })
            .collect();
        let report = self.report(&known, refused);
        let snapshot = Snapshot {
            slots,
            ports,
            errors: Arc::clone(&self.errors),
        };
        Load {
            snapshot,
            definitions,
            report,
            compiled,
            warnings,
            known,
            mounted,
        }
    }

    /// Two APIs with one domain and listen path both get `-<api_id>` behind it, unless one was
    /// there first (Tyk: `countApisByListenHash`; C4: people rely on it).
    fn rename_collisions(
        &self,
        candidates: &mut Vec<Candidate>,
        warnings: &mut Vec<String>,
        refused: &mut Vec<Refused>,
    ) -> HashSet<String> {
        let mut count: HashMap<(String, String, i64), Vec<PathBuf>> = HashMap::new();
        for candidate in candidates.iter() {
            count
                .entry(candidate.place())
                .or_default()
                .push(candidate.file.clone());
        }
        let mut taken: HashSet<_> = count.keys().cloned().collect();
        let mut mounted = HashSet::new();
        let strict = self.compiler.config.penstock.compat_is_strict();
        candidates.retain_mut(|candidate| {
            let others = count.get(&candidate.place()).map_or(&[][..], Vec::as_slice);
            let api_id = candidate.hint.api_id.clone();
            if others.len() < 2 {
                mounted.insert(api_id);
                return true;
            }
            let names: Vec<_> = others
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            let path = candidate.hint.listen_path.clone();
            if self.mounted.contains(&api_id) {
                mounted.insert(api_id);
                return true;
            }
            if strict {
                let reason = format!("listen path {path} is also that of {}", names.join(", "));
                let error = LoadError::at(&candidate.file, "/proxy/listen_path", reason);
                refused.push(Refused::from(error));
                candidate.api = None;
                return true;
            }
            candidate.hint.listen_path = format!("{path}-{api_id}");
            while !taken.insert(candidate.place()) {
                candidate.hint.listen_path.push('_');
            }
            warnings.push(format!(
                "Listen path collision, changed to {} (listen path {path} is used by {})",
                candidate.hint.listen_path,
                names.join(", ")
            ));
            true
        });
        mounted
    }

    fn report(&self, known: &HashMap<PathBuf, Known>, refused: Vec<Refused>) -> ReloadReport {
        let served = |known: &HashMap<PathBuf, Known>| -> BTreeMap<String, Arc<ApiDefinition>> {
            known
                .values()
                .filter_map(|known| match &known.state {
                    State::Good(api)
                    | State::Bad {
                        before: Some(api), ..
                    } => Some((api.definition.api_id.clone(), Arc::clone(&api.definition))),
                    _ => None,
                })
                .collect()
        };
        let (before, after) = (served(&self.known), served(known));
        let added = after
            .keys()
            .filter(|id| !before.contains_key(*id))
            .cloned()
            .collect();
        let removed = before
            .keys()
            .filter(|id| !after.contains_key(*id))
            .cloned()
            .collect();
        let changed = after
            .iter()
            .filter_map(|(api_id, definition)| {
                let old = before
                    .get(api_id)
                    .filter(|old| !Arc::ptr_eq(old, definition))?;
                let pointers = difference(old, definition);
                (!pointers.is_empty()).then(|| Changed {
                    api_id: api_id.clone(),
                    pointers,
                })
            })
            .collect();
        ReloadReport::done(added, removed, changed, refused)
    }
}

type FileState =
    Result<Result<Arc<Api>, (Arc<ApiDefinition>, Vec<LoadError>)>, (Option<Hint>, Vec<LoadError>)>;

/// What reading one file brought.
enum Read {
    Unchanged,
    Fresh { hash: Hash, outcome: Outcome },
}

struct Outcome {
    state: FileState,
    was_compiled: bool,
    warnings: Vec<String>,
}

/// An API on its way into the route table.
struct Candidate {
    file: PathBuf,
    hint: Hint,
    api: Option<Arc<Api>>,
}

impl Candidate {
    fn of(file: &Path, api: &Arc<Api>) -> Self {
        let mut hint = Hint::of(&api.definition);
        // References in it have been followed.
        hint.listen_path = api.listen_path.as_str().to_owned();
        Self {
            file: file.to_owned(),
            hint,
            api: Some(Arc::clone(api)),
        }
    }

    /// Tyk differs: `active: false` takes an API off the air, as its documentation says (C3).
    fn is_routed(&self) -> bool {
        self.api
            .as_ref()
            .is_none_or(|api| api.definition.active && !api.definition.internal)
    }

    /// The API's own, compiled with it, unless it had to give way to another.
    fn listen_path(&self) -> Result<ListenPath, PathFault> {
        match &self.api {
            Some(api) if api.listen_path.as_str() == self.hint.listen_path => {
                Ok(api.listen_path.clone())
            }
            _ => ListenPath::parse(&self.hint.listen_path),
        }
    }

    fn place(&self) -> (String, String, i64) {
        (
            self.hint.domain.clone(),
            self.hint.listen_path.clone(),
            self.hint.listen_port,
        )
    }

    fn routes(&self, order: usize, slot: usize, hostname: &str) -> Result<[Route; 2], String> {
        let domain = if self.hint.domain.is_empty() {
            hostname
        } else {
            &self.hint.domain
        };
        let host = HostRule::parse(domain)?;
        let order = u32::try_from(order).unwrap_or(u32::MAX / 2 - 1);
        let target = u32::try_from(slot).unwrap_or(u32::MAX);
        // A refused listen path still matches what can be matched of it.
        let path = self
            .listen_path()
            .or_else(|fault| fault.still_matches.ok_or(fault.reason))?;
        Ok([
            Route {
                order,
                kind: RouteKind::ApiId,
                path: ListenPath::of_api_id(&self.hint.api_id),
                host: host.clone(),
                target,
            },
            Route {
                order,
                kind: RouteKind::ListenPath,
                path,
                host,
                target,
            },
        ])
    }
}

impl Hint {
    fn of(definition: &ApiDefinition) -> Self {
        let domain = if definition.domain_disabled {
            String::new()
        } else {
            definition.domain.clone()
        };
        Self {
            api_id: definition.api_id.clone(),
            domain,
            listen_path: definition.proxy.listen_path.clone(),
            listen_port: definition.listen_port,
        }
    }

    /// Finds the route in a document whose types are wrong elsewhere.
    fn read(bytes: &[u8]) -> Option<Self> {
        let route = apidef::Route::from_json_slice(bytes)?;
        Some(Self {
            domain: if route.domain_disabled {
                String::new()
            } else {
                route.domain.clone()
            },
            listen_path: route.listen_path().to_owned(),
            listen_port: route.listen_port,
            api_id: route.api_id,
        })
    }
}

/// `*.json` without `*-oas.json`, in the order of their names.
fn definition_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        // Names that begin with a dot are no match of a shell pattern, nor of Go's.
        if name.is_some_and(|name| name.ends_with(".json") && !name.ends_with("-oas.json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The listener that APIs without a port of their own use.
#[must_use]
pub fn main_port(config: &crate::config::Config) -> PortKey {
    PortKey {
        port: config.listen_port_or_default(),
        tls: config.http_server_options.use_ssl,
    }
}

/// The listener of the control API.
#[must_use]
pub fn control_port(config: &crate::config::Config) -> PortKey {
    let main = main_port(config);
    PortKey {
        port: config.control_port().unwrap_or(main.port),
        tls: main.tls,
    }
}

fn port_of(
    config: &crate::config::Config,
    candidate: &Candidate,
    main: PortKey,
) -> Option<PortKey> {
    let port = match u16::try_from(candidate.hint.listen_port) {
        Ok(0) | Err(_) => return Some(main),
        Ok(port) => port,
    };
    let protocol = candidate
        .api
        .as_ref()
        .map_or("", |api| api.definition.protocol.as_str());
    let tls = match protocol {
        "https" => true,
        "" => main.tls,
        _ => false,
    };
    let name = if tls { "https" } else { "http" };
    let listed = port == main.port
        || config.disable_ports_whitelist
        || config
            .ports_whitelist
            .get(name)
            .is_some_and(|list| list.allows(port));
    listed.then_some(PortKey { port, tls })
}

/// JSON pointers of the values in which two definitions differ.
fn difference(old: &ApiDefinition, new: &ApiDefinition) -> Vec<String> {
    use serde_json::Value;
    fn walk(at: &str, old: &Value, new: &Value, out: &mut Vec<String>) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => {
                let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
                for name in names {
                    let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                    let missing = Value::Null;
                    let (old, new) = (old.get(name), new.get(name));
                    walk(&at, old.unwrap_or(&missing), new.unwrap_or(&missing), out);
                }
            }
            (old, new) if old != new => out.push(at.to_owned()),
            _ => {}
        }
    }
    let mut out = Vec::new();
    let tree = |definition: &ApiDefinition| serde_json::to_value(definition).unwrap_or_default();
    walk("", &tree(old), &tree(new), &mut out);
    out
}
