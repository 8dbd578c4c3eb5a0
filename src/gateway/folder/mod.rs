//! Folders of files that the REST API writes: API definitions in `app_path`, policies in
//! `policy_path`.
//!
//! A file is there whole or not at all: it is written under another name, made durable, and then
//! put in its place. `// Tyk differs:` there the old file is removed before the new one is written,
//! so that a crash or a full disk in between loses it.

mod id;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use id::FileId;

use crate::hash::random_id;

/// A folder with one file per id.
#[derive(Debug, Clone)]
pub struct Folder {
    dir: Arc<Path>,
}

impl Folder {
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir: dir.into() }
    }

    /// What `<id>.json` holds; `None` when it is not there.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn read(&self, id: &FileId) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(id);
        on_disk(move || match fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    /// Writes `<id>.json`, in place of an older one. Waits for the disk.
    ///
    /// # Errors
    /// The kernel's answer; the older file is then untouched and nothing else is left behind.
    pub async fn write(&self, id: &FileId, text: String) -> io::Result<()> {
        let (dir, path) = (Arc::clone(&self.dir), self.path(id));
        on_disk(move || replace(&dir, &path, |file| file.write_all(text.as_bytes()))).await
    }

    /// Removes `<id>.json`; whether it was there.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn remove(&self, id: &FileId) -> io::Result<bool> {
        let (dir, path) = (Arc::clone(&self.dir), self.path(id));
        on_disk(move || match fs::remove_file(&path) {
            Ok(()) => File::open(&dir)?.sync_all().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    fn path(&self, id: &FileId) -> PathBuf {
        self.dir.join(format!("{}.json", id.as_str()))
    }
}

/// Runs what waits for the disk beside the control thread.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Puts a new file at `path` with the content that `fill` writes.
fn replace(
    dir: &Path,
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    // Not `.json`: the loader must not see it, and a left-over of a crash is recognised by people.
    let temporary = dir.join(format!(".{}.tmp", random_id()?));
    let done = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&temporary)
        .and_then(|mut file| {
            fill(&mut file)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(dir)?.sync_all());
    if done.is_err() {
        // Fails where it was never made, or is in place already.
        let _ = fs::remove_file(&temporary);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let name = format!("penstock-apps-{}", random_id().unwrap());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(test)
    }

    #[test]
    fn a_file_is_written_replaced_and_removed() {
        let dir = Scratch::new();
        let files = Folder::new(dir.0.clone());
        let id = FileId::parse("a").unwrap();
        block_on(async {
            files.write(&id, "1".to_owned()).await.unwrap();
            files.write(&id, "2".to_owned()).await.unwrap();
            assert_eq!(dir.names(), ["a.json"]);
            assert_eq!(fs::read_to_string(dir.0.join("a.json")).unwrap(), "2");
            assert!(files.remove(&id).await.unwrap());
            assert!(!files.remove(&id).await.unwrap());
        });
    }

    #[test]
    fn the_longest_id_is_written() {
        let dir = Scratch::new();
        let id = FileId::parse(&"a".repeat(250)).unwrap();
        block_on(Folder::new(dir.0.clone()).write(&id, String::new())).unwrap();
    }

    #[test]
    fn a_disk_that_fills_up_leaves_the_older_file_and_nothing_else() {
        let dir = Scratch::new();
        let path = dir.0.join("a.json");
        fs::write(&path, "before").unwrap();
        let full = |file: &mut File| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        let error = replace(&dir.0, &path, full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(dir.names(), ["a.json"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let dir = Scratch::new();
        let files = Folder::new(dir.0.join("gone"));
        let id = FileId::parse("a").unwrap();
        block_on(files.write(&id, String::new())).unwrap_err();
        assert_eq!(dir.names(), Vec::<String>::new());
    }

    #[test]
    fn a_link_in_the_folder_is_replaced_and_not_followed() {
        let dir = Scratch::new();
        let target = Scratch::new();
        let outside = target.0.join("outside");
        fs::write(&outside, "untouched").unwrap();
        std::os::unix::fs::symlink(&outside, dir.0.join("a.json")).unwrap();
        let id = FileId::parse("a").unwrap();
        block_on(Folder::new(dir.0.clone()).write(&id, "new".to_owned())).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(dir.0.join("a.json")).unwrap(), "new");
    }
}
