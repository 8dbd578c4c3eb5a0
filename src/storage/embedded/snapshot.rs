//! Copies of the embedded store, made beside the traffic and checked before they count.
//!
//! The live file is never copied as it lies there: a copy is what one read transaction sees, written
//! table by table into a new file, which is then closed, opened again and looked at page by page.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use redb::{Database, ReadableDatabase as _, StorageError};
use tokio::{sync::oneshot, time::Instant};

use crate::storage::{
    StoreError,
    embedded::{
        file::{self, Fault},
        keeper::Shared,
        tables,
    },
};

/// The first copy after the first change since the store was opened, and further ones where
/// something has changed since.
const FIRST_AFTER: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(15 * 60);

/// Memory for pages of the new file.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Who wants a copy now, and to know what became of it.
pub(super) type Request = oneshot::Sender<Result<(), StoreError>>;

/// The copies that exist, the newest first.
pub(super) fn copies(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let both = [file::beside(path, "copy-1"), file::beside(path, "copy-2")];
    both.into_iter().filter(|copy| copy.exists())
}

/// The thread that makes copies, until nobody can ask for one any more.
pub(super) fn run(shared: &Arc<Shared>, requests: &Receiver<Request>) {
    let mut copied_changes = 0;
    let mut pause = FIRST_AFTER;
    loop {
        let request = match requests.recv_timeout(pause) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let changes = shared.changes.load(Relaxed);
        if request.is_none() && changes == copied_changes {
            continue;
        }
        let began = Instant::now();
        let made = make(shared);
        match &made {
            Ok(content) => {
                copied_changes = changes;
                tracing::debug!(prefix = "storage", ?content, "copied the store");
            }
            Err(_) if shared.is_leaving() => {}
            Err(why) => {
                tracing::error!(prefix = "storage", "no copy of the store: {why}");
            }
        }
        // The disk has other things to do.
        pause = EVERY.max(20 * began.elapsed());
        if let Some(request) = request {
            let _ = request.send(made.map(drop).map_err(StoreError::Away));
        }
    }
}

fn make(shared: &Shared) -> Result<tables::Content, String> {
    // Another process may be at it, at the end of a hand-over.
    let new = file::beside(&shared.path, &format!("copy-new-{}", std::process::id()));
    let made = file::guarded(|| {
        remove(&new)?;
        let copied = copy(shared, &new);
        copied.and_then(|content| settle(shared, &new, content))
    });
    made.map_err(|fault| {
        let _ = fs::remove_file(&new);
        match &fault {
            Fault::Damaged(_) => {
                // The store, or the copy; whichever it is, the store is looked at.
                shared.doubt();
                fault.describe(&shared.path)
            }
            _ => fault.describe(&new),
        }
    })
}

fn remove(file: &Path) -> Result<(), Fault> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes the new file. The store is not touched any more when this returns.
fn copy(shared: &Shared, new: &Path) -> Result<tables::Content, Fault> {
    let copy = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(new)?;
    let content = {
        let _copying = shared.copying();
        let database = shared.database().map_err(Fault::Failed)?;
        let reading = database.begin_read().map_err(redb::Error::from)?;
        tables::copy(&reading, &copy, &|| match shared.is_leaving() {
            // Not `Corrupted`, and nothing the library would say here.
            true => Err(StorageError::DatabaseClosed),
            false => Ok(()),
        })?
    };
    tables::seal(&copy)?;
    Ok(content)
}

/// Looks at the new file as it is on the disk and gives it its name.
fn settle(shared: &Shared, new: &Path, content: tables::Content) -> Result<tables::Content, Fault> {
    let copy = file::open_as_is(new, true)?;
    if tables::walk(&copy)? != content {
        return Err(Fault::Damaged("a copy is not like the original".to_owned()));
    }
    drop(copy);
    fs::File::open(new)?.sync_all()?;
    if shared.is_closing() {
        // The names are the next owner's.
        return Err(Fault::Failed("the store is being closed".to_owned()));
    }
    let (first, second) = (
        file::beside(&shared.path, "copy-1"),
        file::beside(&shared.path, "copy-2"),
    );
    if first.exists() {
        fs::rename(&first, second)?;
    }
    fs::rename(new, first)?;
    file::sync_folder(new)?;
    Ok(content)
}
