//! The embedded store's file: opening it, telling damage from everything else, and going back to a
//! copy of it.
//!
//! ```text
//!   penstock.redb               the store
//!   penstock.redb.copy-1, -2    copies of it, the newer one first (`snapshot`)
//!   penstock.redb.suspect       there while the store is to be checked before it is used again
//!   penstock.redb.damaged-<t>   what was damaged at this second since 1970, kept for people
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use redb::{Database, DatabaseError, StorageError};

use crate::storage::{
    StoreError,
    embedded::{snapshot, tables},
};

/// Memory for pages of the file; the store holds sessions, and shards keep the hot ones.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A file of at most this size is checked whenever it is opened: that takes milliseconds.
const CHECKED_BYTES: u64 = 4 * 1024 * 1024;

/// Damaged files that are kept.
const DAMAGED_MAX: usize = 2;

/// Why a file cannot be used, or not any more.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not what was written.
    Damaged(String),
    /// Another process has it.
    InUse,
    /// The disk, or the right to it.
    Io(io::Error),
    /// Anything else; a later attempt may succeed.
    Failed(String),
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            // What should be in the file is not.
            redb::Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::Io(error),
            error @ (redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::UpgradeRequired(_)) => Self::Damaged(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Fault {
    /// What people are told about this file.
    pub(super) fn describe(&self, path: &Path) -> String {
        let name = path.display();
        match self {
            Self::Damaged(why) => format!("{name} is damaged ({why})"),
            Self::InUse => format!(
                "{name} is in use by another process; stop that one, or give this gateway a folder \
                 of its own with penstock.store_path (TYK_GW_PENSTOCK_STOREPATH)"
            ),
            Self::Io(error) => format!(
                "cannot use {name} for the embedded store: {error}; let this user write there, or \
                 name another folder with penstock.store_path (TYK_GW_PENSTOCK_STOREPATH)"
            ),
            Self::Failed(why) => format!("{name}: {why}"),
        }
    }
}

/// Runs what may panic on a damaged file.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Fault::Damaged("it cannot be read".to_owned())))
}

/// Makes the store's folder, for this user alone.
pub(super) fn make_folder(dir: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| StoreError::Unusable(Fault::Io(error).describe(dir)))
}

/// Opens the store, or the newest good copy in its place when it is damaged.
///
/// # Errors
/// [`StoreError::Unusable`] naming file and remedy.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let suspect = beside(path, "suspect");
    // Left by a process that ended while it made a copy.
    for left in files_beside(path, "copy-new-") {
        let _ = fs::remove_file(left);
    }
    let bytes = fs::metadata(path).map(|file| file.len()).ok();
    let is_small = bytes.is_some_and(|bytes| bytes <= CHECKED_BYTES);
    let is_suspect = suspect.exists();
    let opened = match bytes {
        // That is how a new one begins, but this is none.
        Some(0) if snapshot::copies(path).next().is_some() => {
            Err(Fault::Damaged("it is empty".to_owned()))
        }
        _ => open_as_is(path, is_small || is_suspect),
    };
    let fault = match opened {
        Ok(database) => {
            if is_suspect {
                tracing::warn!(prefix = "storage", "{}: checked, sound", path.display());
                let _ = fs::remove_file(suspect);
            }
            return Ok(database);
        }
        Err(Fault::Damaged(why)) => Fault::Damaged(why),
        Err(fault) => return Err(StoreError::Unusable(fault.describe(path))),
    };
    let said = fault.describe(path);
    tracing::error!(prefix = "storage", "{said}; going back to a copy of it");
    match go_back(path) {
        Ok(age) => {
            tracing::error!(
                prefix = "storage",
                "{}: a copy of {} s ago has taken its place. What was written since then, removed \
                 keys included, is as it was before. The damaged file is kept beside it",
                path.display(),
                age.as_secs(),
            );
            let _ = fs::remove_file(suspect);
            open_as_is(path, false).map_err(|fault| StoreError::Unusable(fault.describe(path)))
        }
        Err(why) => Err(StoreError::Unusable(format!(
            "{said}, and {why}; `penstock store repair` saves what can be read, or move the file \
             away to start with an empty store"
        ))),
    }
}

/// Has the store checked when it is opened next.
pub(super) fn suspect(path: &Path) {
    if let Err(error) = File::create(beside(path, "suspect")) {
        tracing::error!(
            prefix = "storage",
            "cannot mark {}: {error}",
            path.display()
        );
    }
}

/// Opens a file, made when it is not there; looks at every page of it when it is to be `checked`.
pub(super) fn open_as_is(path: &Path, checked: bool) -> Result<Database, Fault> {
    guarded(|| {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(checked)
            .create(path)?;
        tables::prepare(&database)?;
        if checked {
            tables::walk(&database)?;
        }
        Ok(database)
    })
}

/// Puts the newest good copy in the store's place and keeps the damaged file under another name;
/// how old the copy is.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn go_back(path: &Path) -> Result<Duration, String> {
    let mut why = "there is no copy of it".to_owned();
    for copy in snapshot::copies(path) {
        let Ok(copied_at) = fs::metadata(&copy).and_then(|file| file.modified()) else {
            continue;
        };
        match restore(&copy, path) {
            Ok(()) => return Ok(since(copied_at)),
            Err(fault) => {
                why = fault.describe(&copy);
                tracing::error!(prefix = "storage", "{why}");
            }
        }
    }
    Err(why)
}

fn restore(copy: &Path, path: &Path) -> Result<(), Fault> {
    let new = beside(path, "new");
    let _ = fs::remove_file(&new);
    fs::copy(copy, &new)?;
    open_as_is(&new, true)?;
    replace(path, &new)?;
    Ok(())
}

/// Puts a whole new file in the store's place in one step; the former one is kept under another
/// name.
pub(super) fn replace(path: &Path, new: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    if path.exists() {
        let now_s = since(SystemTime::UNIX_EPOCH).as_secs();
        let kept = beside(path, &format!("damaged-{now_s}"));
        let _ = fs::remove_file(&kept);
        fs::hard_link(path, kept)?;
        let mut damaged = files_beside(path, "damaged-");
        damaged.sort();
        let too_many = damaged.len().saturating_sub(DAMAGED_MAX);
        for old in damaged.iter().take(too_many) {
            let _ = fs::remove_file(old);
        }
    }
    fs::rename(new, path)?;
    sync_folder(path)
}

/// Makes names in a file's folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// `penstock.redb.<what>`.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

fn files_beside(path: &Path, begin: &str) -> Vec<PathBuf> {
    let begin = beside(path, begin);
    let Some(dir) = path.parent() else {
        return Vec::new();
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|file| {
            let (file, begin) = (file.as_os_str(), begin.as_os_str());
            file.as_encoded_bytes()
                .starts_with(begin.as_encoded_bytes())
        })
        .collect()
}

#[allow(
    clippy::disallowed_methods,
    reason = "told to people, and part of a file's name"
)]
fn since(moment: SystemTime) -> Duration {
    SystemTime::now().duration_since(moment).unwrap_or_default()
}
