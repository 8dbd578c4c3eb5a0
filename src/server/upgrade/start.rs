//! Starting the new process, and what it finds when it starts.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Message, PROTOCOL_VERSION, channel};
use crate::net::{
    listener::{Handed, ListenerSet},
    sys,
};

/// Tells a process that it is a new one, and what it inherited. Programs that the gateway starts
/// for other reasons must not get it (`Command::env_remove`).
pub const ENV: &str = "PENSTOCK_UPGRADE";

/// The value of [`ENV`], JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inheritance {
    version: u32,
    /// This end of the socket pair.
    channel: RawFd,
    /// The process at the other end.
    parent: u32,
    listeners: Vec<Handed>,
}

/// How this program was started, kept from its first moment: an upgrade starts what then lies at
/// the same path, which is not what `/proc/self/exe` leads to after a package was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    /// With the name it was called by.
    pub args: Vec<OsString>,
    pub folder: PathBuf,
}

impl Program {
    /// Looks at the arguments, the folder and PATH.
    ///
    /// # Errors
    /// The kernel's, when the current folder is gone or the program cannot be found at all.
    pub fn at_start() -> io::Result<Self> {
        let args: Vec<OsString> = env::args_os().collect();
        let folder = env::current_dir()?;
        let path = args
            .first()
            .and_then(|name| locate(name, &folder, env::var_os("PATH").as_deref()))
            .map_or_else(env::current_exe, Ok)?;
        Ok(Self { path, args, folder })
    }

    /// Starts it again, with the listening sockets and one end of a socket pair. Environment and
    /// standard streams are inherited; no other descriptor is.
    ///
    /// # Errors
    /// The kernel's; a program that is not there or not executable is reported here.
    pub fn start_successor(&self, listeners: Vec<Handed>) -> io::Result<(Child, UnixStream)> {
        let (own, others) = UnixStream::pair()?;
        let channel = others.as_raw_fd();
        let mut fds: Vec<RawFd> = listeners.iter().flat_map(|g| g.fds.clone()).collect();
        fds.push(channel);
        let inheritance = Inheritance {
            version: PROTOCOL_VERSION,
            channel,
            parent: std::process::id(),
            listeners,
        };
        let mut command = Command::new(&self.path);
        if let Some((name, args)) = self.args.split_first() {
            command.arg0(name).args(args);
        }
        command
            .current_dir(&self.folder)
            .env(ENV, serde_json::to_string(&inheritance)?);
        sys::hand_down(&mut command, fds);
        let child = command
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.path.display())))?;
        Ok((child, own))
    }
}

/// Finds the file that a shell would have started for `name`, without following links.
fn locate(name: &OsStr, folder: &Path, path_var: Option<&OsStr>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(folder.join(name)).filter(|path| is_program(path));
    }
    env::split_paths(path_var?)
        .map(|entry| folder.join(entry).join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What a new process got from the old one.
pub struct Inherited {
    pub channel: UnixStream,
    pub listeners: ListenerSet,
}

impl Inherited {
    /// Reads the value of [`ENV`]. `None`: this process was started in the ordinary way, or the
    /// variable came through a program that has no socket to go with it.
    ///
    /// Called once, before any descriptor of this process' own could have one of the numbers.
    ///
    /// # Errors
    /// One line, which the old process was told too: this process must end.
    pub fn take(value: Option<&str>) -> Result<Option<Self>, String> {
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let parsed: Value = serde_json::from_str(value).map_err(|e| format!("{ENV}: {e}"))?;
        // Of every version: where to complain.
        let number = |name: &str| parsed.get(name).and_then(Value::as_i64);
        let (Some(channel), Some(parent)) = (number("channel"), number("parent")) else {
            return Err(format!("{ENV}: `channel` or `parent` is missing"));
        };
        let is_ours = RawFd::try_from(channel)
            .ok()
            .filter(|fd| sys::unix_peer_pid(*fd).is_ok_and(|pid| i64::from(pid) == parent));
        let Some(fd) = is_ours else {
            tracing::warn!(
                "{ENV} is set, but no socket of process {parent} was inherited; ignored"
            );
            return Ok(None);
        };
        let channel = UnixStream::from(sys::adopt(fd).map_err(|e| format!("{ENV}: {e}"))?);
        let listeners = if number("version") == Some(i64::from(PROTOCOL_VERSION)) {
            serde_json::from_value::<Inheritance>(parsed)
                .map_err(|e| e.to_string())
                .and_then(|inheritance| ListenerSet::adopt(&inheritance.listeners))
        } else {
            Err(format!(
                "the old process speaks upgrade protocol {}, this one {PROTOCOL_VERSION}; restart instead",
                number("version").unwrap_or(0)
            ))
        };
        match listeners {
            Ok(listeners) => Ok(Some(Self { channel, listeners })),
            Err(reason) => {
                complain(&channel, &reason);
                Err(format!("{ENV}: {reason}"))
            }
        }
    }
}

/// Says why this process ends, while no runtime runs yet. It fits into an empty socket buffer.
fn complain(channel: &UnixStream, reason: &str) {
    let reason = reason.to_owned();
    if let Ok(bytes) = channel::encode(&Message::Failed { reason }) {
        let _ = io::Write::write_all(&mut &*channel, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::IntoRawFd};

    use super::*;

    #[test]
    fn the_program_is_found_as_a_shell_would_and_links_are_kept() {
        let folder = env::temp_dir().join(format!("penstock-start-{}", std::process::id()));
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).expect("a folder");
        std::os::unix::fs::symlink("/bin/sh", bin.join("gateway")).expect("a link");
        std::fs::write(bin.join("notes"), "").expect("a file");
        let path_var = env::join_paths(["/nowhere".into(), bin.clone()]).expect("a path");
        let find = |name: &str| locate(OsStr::new(name), &folder, Some(&path_var));
        assert_eq!(find("gateway"), Some(bin.join("gateway")));
        assert_eq!(find("bin/gateway"), Some(bin.join("gateway")));
        assert_eq!(find("./bin/gateway"), Some(folder.join("./bin/gateway")));
        assert_eq!(find("/bin/sh"), Some("/bin/sh".into()));
        for name in ["notes", "bin/notes", "bin", "./nothing"] {
            assert_eq!(find(name), None, "{name}");
        }
        std::fs::remove_dir_all(&folder).expect("its folder");
    }

    /// A socket pair whose second end is as if it had been inherited under its number.
    fn pair() -> (UnixStream, RawFd) {
        let (near, far) = UnixStream::pair().expect("a pair");
        (near, far.into_raw_fd())
    }

    fn value(version: u32, channel: RawFd, parent: u32, listeners: Vec<Handed>) -> String {
        serde_json::to_string(&Inheritance {
            version,
            channel,
            parent,
            listeners,
        })
        .expect("plain data")
    }

    #[test]
    fn a_process_without_a_socket_of_the_old_one_starts_in_the_ordinary_way() {
        let (_near, far) = pair();
        let own = std::process::id();
        let file = std::fs::File::open("/dev/null")
            .expect("opens")
            .into_raw_fd();
        for text in [
            String::new(),
            value(1, far, own + 1, vec![]),
            value(1, file, own, vec![]),
            value(1, 1_000_000, own, vec![]),
        ] {
            let taken = Inherited::take(Some(&text)).expect("no error");
            assert!(taken.is_none(), "{text}");
        }
        assert!(Inherited::take(None).expect("no error").is_none());
        assert!(Inherited::take(Some("{")).is_err());
        assert!(Inherited::take(Some("{}")).is_err());
    }

    #[test]
    fn another_version_or_a_wrong_descriptor_is_told_to_the_old_process() {
        let own = std::process::id();
        let wrong = Handed {
            name: "traffic".into(),
            place: crate::net::listener::Place::new("", 8080),
            fds: vec![1_000_000],
        };
        for (version, listeners, expected) in [
            (2, vec![], "protocol 2"),
            (1, vec![wrong], "not a listening socket"),
        ] {
            let (mut near, far) = pair();
            let error = Inherited::take(Some(&value(version, far, own, listeners)));
            let error = error.err().expect("refused");
            assert!(error.contains(expected), "{error}");
            let mut decoder = channel::Decoder::default();
            near.read_to_end(decoder.buf()).expect("read");
            match decoder.take_message().expect("a message").expect("whole") {
                Message::Failed { reason } => assert!(reason.contains(expected), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_successor_inherits_the_descriptors_it_is_handed_and_no_others() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        let handed = sys::duplicate(file.as_raw_fd()).expect("a descriptor");
        // As a socket that io_uring accepted: it would stay open across exec.
        let leaked = sys::duplicate(file.as_raw_fd()).expect("a descriptor");
        sys::set_close_on_exec(leaked, false).expect("ours");
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!(
            "test -e /proc/self/fd/{handed} && ! test -e /proc/self/fd/{leaked}"
        ));
        sys::hand_down(&mut command, vec![handed]);
        assert!(command.status().expect("it runs").success());
        for fd in [handed, leaked] {
            drop(sys::adopt(fd).expect("ours"));
        }
    }
}
