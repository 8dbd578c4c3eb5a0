//! Opening the embedded store's file, and what is wrong with it in words.

use std::{fs, io, os::unix::fs::DirBuilderExt as _, panic::catch_unwind, path::Path};

use redb::{Database, DatabaseError, StorageError};

use crate::storage::{StoreError, embedded::tables};

/// Memory for pages of the file; the store holds sessions, and shards keep the hot ones.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Makes the store's folder, for this user alone.
pub(super) fn make_folder(dir: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| cannot_use(dir, &error))
}

pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let opened = catch_unwind(|| {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| refused(path, error))?;
        tables::prepare(&database).map_err(|error| damaged(path, &error.to_string()))?;
        Ok(database)
    });
    opened.unwrap_or_else(|_| Err(damaged(path, "it cannot be read")))
}

fn refused(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Unusable(format!(
            "{} is in use by another process; stop that one, or give this gateway a folder of its \
             own with penstock.store_path (TYK_GW_PENSTOCK_STOREPATH)",
            path.display()
        )),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != io::ErrorKind::InvalidData =>
        {
            cannot_use(path, &error)
        }
        error => damaged(path, &error.to_string()),
    }
}

fn cannot_use(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unusable(format!(
        "cannot use {} for the embedded store: {error}; let this user write there, or name another \
         folder with penstock.store_path (TYK_GW_PENSTOCK_STOREPATH)",
        path.display()
    ))
}

fn damaged(path: &Path, why: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{} is damaged ({why}); put a copy of it back, or move it away to start with an empty store",
        path.display()
    ))
}
