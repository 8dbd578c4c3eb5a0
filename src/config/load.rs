//! From a file and the environment to a [`Config`].

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{
    config::{
        Config, Key, Secrets, UnknownKey, env, field::Field as _, reader::Reader, secret_ref,
        unknown::KEYS,
    },
    error::LoadError,
};

/// Environment variables, handed in so that nothing here reads the process.
pub type Vars = BTreeMap<String, String>;

/// A configuration and what its reading brought to light.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// The file it came from, if one did.
    pub path: Option<PathBuf>,
    /// To be reported once.
    pub unknown: Vec<UnknownKey>,
}

impl Config {
    /// Every leaf: JSON path, what it expects, variable.
    #[must_use]
    pub fn all_keys() -> &'static [Key] {
        &KEYS
    }

    /// Reads one document, without environment and references. `file` is named in messages.
    ///
    /// # Errors
    /// Text that is not JSON, or a value of the wrong type: the first one, with its place.
    // Tyk differs: text after the closing brace is refused; Go's decoder stops reading there.
    pub fn from_json_str(file: &Path, text: &str) -> Result<(Self, Vec<UnknownKey>), LoadError> {
        let mut config = Self::default();
        let mut reader = Reader::new(file, text);
        let document = reader.document()?;
        config.read(document, &mut reader)?;
        Ok((config, reader.into_unknown()))
    }

    /// The whole configuration, secrets in the clear: [`Config::from_json_str`] reads it back.
    #[must_use]
    pub fn to_json_string(&self) -> String {
        format!("{:#}\n", self.print(Secrets::Shown))
    }

    /// As [`Config::to_json_string`] with every secret masked: for eyes and logs.
    #[must_use]
    pub fn to_masked_json(&self) -> serde_json::Value {
        self.print(Secrets::Masked)
    }

    /// Reads `path`, lets `vars` override it and resolves references.
    ///
    /// # Errors
    /// A file that cannot be read (none is ever created), is not UTF-8 or does not parse; a
    /// variable that does not fit; a reference that leads nowhere.
    // Tyk differs: Tyk writes a default file where none is, with a secret that everybody knows.
    pub fn load(path: &Path, vars: &Vars) -> Result<Loaded, LoadError> {
        if env::omits_file(vars) {
            return Self::from_env(vars);
        }
        let bytes = fs::read(path).map_err(|why| unreadable(path, &why))?;
        let text = String::from_utf8(bytes).map_err(|why| not_utf8(path, &why))?;
        let (config, unknown) = Self::from_json_str(path, &text)?;
        Self::finish(config, Some(path.to_owned()), unknown, vars)
    }

    /// Whether `TYK_GW_OMITCONFIGFILE` says that variables are the whole configuration.
    #[must_use]
    pub fn needs_no_file(vars: &Vars) -> bool {
        env::omits_file(vars)
    }

    /// As [`Config::load`] without a file.
    ///
    /// # Errors
    /// A variable that does not fit; a reference that leads nowhere.
    pub fn from_env(vars: &Vars) -> Result<Loaded, LoadError> {
        Self::finish(Self::default(), None, Vec::new(), vars)
    }

    fn finish(
        mut config: Self,
        path: Option<PathBuf>,
        mut unknown: Vec<UnknownKey>,
        vars: &Vars,
    ) -> Result<Loaded, LoadError> {
        unknown.extend(env::apply(&mut config, vars)?);
        secret_ref::resolve(&mut config, vars).map_err(|(pointer, why)| {
            let file = path.as_deref().unwrap_or(Path::new("environment"));
            LoadError::at(file, pointer, why)
        })?;
        Ok(Loaded {
            config,
            path,
            unknown,
        })
    }
}

fn unreadable(path: &Path, why: &std::io::Error) -> LoadError {
    let remedy = match why.kind() {
        ErrorKind::NotFound => {
            "no such file; name the configuration with --conf FILE, or try `penstock quickstart`"
                .to_owned()
        }
        ErrorKind::PermissionDenied => {
            "may not be read; give the gateway's user read access".to_owned()
        }
        ErrorKind::IsADirectory => "is a folder; name the file in it".to_owned(),
        _ => format!("cannot be read: {why}"),
    };
    LoadError::whole(path, remedy)
}

fn not_utf8(path: &Path, why: &std::string::FromUtf8Error) -> LoadError {
    let good = why.utf8_error().valid_up_to();
    let before = why.as_bytes().get(..good).unwrap_or_default();
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let start = before.iter().rposition(|byte| *byte == b'\n');
    LoadError {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(good - start.map_or(0, |at| at + 1) + 1).unwrap_or(u32::MAX),
        ..LoadError::whole(path, "not UTF-8")
    }
}
