//! Looking at an embedded store that is not in use, and making it usable again: `penstock store`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use redb::{Database, ReadableDatabase as _};

use crate::storage::{
    StoreError,
    embedded::{
        FILE_NAME,
        file::{self, Fault},
        snapshot,
        tables::{self, Content},
    },
};

/// One file, looked at page by page and value by value.
#[derive(Debug)]
pub struct Inspection {
    /// Its path.
    pub path: PathBuf,
    pub bytes: u64,
    /// What it holds, or what is wrong with it.
    pub outcome: Result<Content, String>,
}

/// What [`repair`] did.
#[derive(Debug)]
pub enum Repaired {
    /// There was nothing to do.
    Sound(Content),
    /// The rest of a broken store, without what cannot be read.
    Saved { content: Content, lost: u64 },
    /// A copy has taken its place.
    WentBack { age: Duration },
}

/// Looks at the store in `dir` and at its copies, in this order.
///
/// # Errors
/// [`StoreError::Unusable`] when there is no store, or somebody has it open.
pub fn check(dir: &Path) -> Result<Vec<Inspection>, StoreError> {
    let path = dir.join(FILE_NAME);
    let mut inspections = vec![inspect(&path)?];
    for copy in snapshot::copies(&path) {
        inspections.push(inspect(&copy)?);
    }
    Ok(inspections)
}

fn inspect(path: &Path) -> Result<Inspection, StoreError> {
    let unusable = |fault: Fault| StoreError::Unusable(fault.describe(path));
    let bytes = fs::metadata(path)
        .map_err(|error| unusable(error.into()))?
        .len();
    let looked_at = file::open_as_is(path, true)
        .and_then(|database| file::guarded(|| Ok(tables::walk(&database)?)));
    let outcome = match looked_at {
        Ok(content) => Ok(content),
        Err(fault @ (Fault::InUse | Fault::Io(_))) => return Err(unusable(fault)),
        Err(fault) => Err(fault.describe(path)),
    };
    Ok(Inspection {
        path: path.to_owned(),
        bytes,
        outcome,
    })
}

/// Makes the store in `dir` usable: saves what can be read of it, else goes back to a copy. The
/// damaged file is kept beside it.
///
/// # Errors
/// [`StoreError::Unusable`] when it is in use or nothing helps.
pub fn repair(dir: &Path) -> Result<Repaired, StoreError> {
    let path = dir.join(FILE_NAME);
    let inspection = inspect(&path)?;
    let why = match inspection.outcome {
        Ok(content) => {
            let _ = fs::remove_file(file::beside(&path, "suspect"));
            return Ok(Repaired::Sound(content));
        }
        Err(why) => why,
    };
    let repaired = match save(&path) {
        Ok((content, lost)) => Repaired::Saved { content, lost },
        Err(_) => match file::go_back(&path) {
            Ok(age) => Repaired::WentBack { age },
            Err(copies) => {
                return Err(StoreError::Unusable(format!(
                    "{why}; nothing in it can be read, and {copies}"
                )));
            }
        },
    };
    let _ = fs::remove_file(file::beside(&path, "suspect"));
    Ok(repaired)
}

/// Copies every value that can be read into a new file.
fn save(path: &Path) -> Result<(Content, u64), Fault> {
    let new = file::beside(path, "new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let saved = file::guarded(|| {
        let broken = Database::open(path)?;
        let reading = broken.begin_read().map_err(redb::Error::from)?;
        let target = Database::create(&new)?;
        tables::prepare(&target)?;
        Ok(tables::salvage(&reading, &target)?)
    })?;
    file::open_as_is(&new, true)?;
    file::replace(path, &new)?;
    Ok(saved)
}
