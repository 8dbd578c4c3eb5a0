//! The pid file: whoever serves writes it, so after an upgrade it names the new process.
//!
//! Tyk: `pid_file_location`, written at start (0600, its folder 0755), overwritten by the process
//! that an upgrade starts, never removed.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Writes the number in one step: a reader sees the old one or the new one.
///
/// # Errors
/// One line with the path and the remedy; the gateway serves without the file.
pub fn write(path: &Path, pid: u32) -> Result<(), String> {
    replace(path, pid).map_err(|e| {
        format!(
            "cannot write the pid file {}: {e}; check `pid_file_location` and the permissions of its folder",
            path.display()
        )
    })
}

fn replace(path: &Path, pid: u32) -> io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{pid}"));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&name)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| fs::rename(&name, path));
    if written.is_err() {
        let _ = fs::remove_file(&name);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_names_the_process_that_wrote_last_and_only_its_owner_reads_it() {
        let folder = std::env::temp_dir().join(format!("penstock-pid-{}", std::process::id()));
        let path = folder.join("deep/penstock.pid");
        for pid in [17, 4_194_304] {
            write(&path, pid).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), pid.to_string());
        }
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = write(&path.join("below-a-file"), 1).expect_err("refused");
        assert!(error.contains("below-a-file") && error.contains("pid_file_location"));
        fs::remove_dir_all(&folder).expect("its folder");
    }
}
