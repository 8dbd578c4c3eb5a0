//! `/etc/hosts`, read again when it changes (hosts(5)).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// The addresses of a hosts file by name.
#[derive(Debug)]
pub(super) struct HostsFile {
    watch: FileWatch,
    by_name: HashMap<Box<str>, Vec<IpAddr>>,
}

impl HostsFile {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            watch: FileWatch::new(path),
            by_name: HashMap::new(),
        }
    }

    /// The addresses of `host` (lower case), IPv4 first. Looks at the file when the last look is
    /// `age_max` old; a file that cannot be read has no names.
    pub(super) fn find(&mut self, host: &str, age_max: Duration) -> Option<Vec<IpAddr>> {
        if self.watch.has_changed(age_max) {
            let mut text = Vec::new();
            let read = File::open(&self.watch.path)
                .and_then(|file| file.take(HOSTS_BYTES_MAX).read_to_end(&mut text));
            self.by_name = match read {
                Ok(_) => parse(&String::from_utf8_lossy(&text)),
                Err(_) => HashMap::new(),
            };
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        self.by_name.get(host).cloned()
    }
}

/// What is beyond is not read.
const HOSTS_BYTES_MAX: u64 = 4 * 1024 * 1024;

fn parse(text: &str) -> HashMap<Box<str>, Vec<IpAddr>> {
    let mut by_name: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(Ok(addr)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        for name in words {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let addrs = by_name.entry(name.into()).or_default();
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
    }
    for addrs in by_name.values_mut() {
        addrs.sort_by_key(IpAddr::is_ipv6);
    }
    by_name
}

/// Notices when a file has changed, by its time and length.
#[derive(Debug)]
pub(super) struct FileWatch {
    path: PathBuf,
    looked_at: Option<Instant>,
    /// `None`: there was no file.
    seen: Option<(SystemTime, u64)>,
}

impl FileWatch {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            looked_at: None,
            seen: None,
        }
    }

    /// Whether the file is another one than at the last look. Looks when that is `age_max` ago.
    pub(super) fn has_changed(&mut self, age_max: Duration) -> bool {
        if self
            .looked_at
            .is_some_and(|looked_at| looked_at.elapsed() < age_max)
        {
            return false;
        }
        self.looked_at = Some(Instant::now());
        let now = fs::metadata(&self.path)
            .and_then(|file| Ok((file.modified()?, file.len())))
            .ok();
        let has_changed = now != self.seen;
        self.seen = now;
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read_as_hosts_5_says() {
        let by_name = parse(
            "# a comment\n\
             ::1 localhost ip6-localhost\n\
             127.0.0.1\tLocalhost # no.such\n\
             10.0.0.7 db.internal. db\n\
             10.0.0.8 db\n\
             10.0.0.8 db\n\
             fe80::1%lo0 scoped\n\
             not-an-address x\n\
             10.0.0.9\n",
        );
        let addrs = |name: &str| {
            let addrs = by_name.get(name).cloned().unwrap_or_default();
            addrs.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addrs("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(addrs("db"), ["10.0.0.7", "10.0.0.8"]);
        assert_eq!(addrs("db.internal"), ["10.0.0.7"]);
        for none in ["no.such", "scoped", "x", "#"] {
            assert!(!by_name.contains_key(none), "{none}");
        }
    }
}
