//! Records on disk while the embedded store is changing hands: what a draining process still
//! records, its successor writes.
//!
//! One file per batch, complete under its final name or not there at all; each record with four
//! bytes of length before it. The owner of the store takes the files in.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::storage::Records;

/// Files that may wait. One holds about a megabyte.
const FILES_MAX: usize = 64;

/// More than a batch can be: a file beyond it is none of ours.
const FILE_BYTES_MAX: u64 = 256 << 20;

const EXTENSION: &str = "records";

/// A folder of batches.
#[derive(Debug, Clone)]
pub(super) struct Spill {
    dir: PathBuf,
}

impl Spill {
    pub(super) fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir }
    }

    /// Writes a batch; `number` tells it from others of this process.
    ///
    /// # Errors
    /// The folder cannot be written, or enough files wait already.
    pub(super) fn write(&self, number: u64, records: &Records) -> io::Result<()> {
        if self.files()?.len() >= FILES_MAX {
            return Err(io::Error::other("enough records wait already"));
        }
        let name = format!("analytics-{}-{number}.{EXTENSION}", std::process::id());
        let path = self.dir.join(name);
        let unfinished = path.with_extension("part");
        let mut file = io::BufWriter::new(fs::File::create(&unfinished)?);
        for record in records.iter() {
            file.write_all(&(record.len() as u32).to_le_bytes())?;
            file.write_all(record)?;
        }
        file.into_inner()?.sync_data()?;
        fs::rename(&unfinished, path)
    }

    /// The records of one of the files, and the file; to be removed when they are written. `None`
    /// when there is no file.
    ///
    /// # Errors
    /// The folder or the file cannot be read, or the file is broken; then it is renamed, so that it
    /// stands in nobody's way.
    pub(super) fn read(&self) -> io::Result<Option<(PathBuf, Records)>> {
        let Some(path) = self.files()?.into_iter().min() else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let file = fs::File::open(&path)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if let Some(records) = split(&bytes) {
            return Ok(Some((path, records.into_iter().collect())));
        }
        fs::rename(&path, path.with_extension("broken"))?;
        Err(io::Error::other(format!("{}: broken", path.display())))
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            path.extension()
                .is_some_and(|extension| extension == EXTENSION)
                && name.is_some_and(|name| name.starts_with("analytics-"))
        };
        let entries = fs::read_dir(&self.dir)?;
        Ok(entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(is_ours)
            .collect())
    }
}

fn split(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk()?;
        let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        records.push(record);
        bytes = rest;
    }
    Some(records)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An empty folder of this test's own.
    pub(crate) fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("penstock-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn what_is_written_is_read_back_once() {
        let dir = folder("spill");
        let spill = Spill::new(&dir);
        assert!(spill.read().unwrap().is_none());
        let batches = [vec![b"one".to_vec(), Vec::new()], vec![vec![7; 70_000]]];
        for (number, records) in batches.iter().enumerate() {
            let records = records.iter().collect();
            spill.write(number as u64, &records).unwrap();
        }
        fs::write(dir.join("other.records"), b"x").unwrap();
        let mut found = Vec::new();
        while let Some((path, records)) = spill.read().unwrap() {
            found.push(records.iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
            fs::remove_file(path).unwrap();
        }
        assert_eq!(found, batches);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_broken_file_is_put_aside() {
        let dir = folder("spill-broken");
        let spill = Spill::new(&dir);
        fs::write(dir.join("analytics-1-1.records"), b"\x05\0\0\0abc").unwrap();
        fs::write(dir.join("analytics-1-2.part"), b"\x01").unwrap();
        assert!(spill.read().is_err());
        assert!(spill.read().unwrap().is_none());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_so_many_files_wait() {
        let dir = folder("spill-many");
        let spill = Spill::new(&dir);
        for number in 0..FILES_MAX as u64 {
            spill.write(number, &Records::default()).unwrap();
        }
        assert!(spill.write(99, &Records::default()).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
