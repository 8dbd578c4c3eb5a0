//! `quickstart`: a gateway with nothing but itself.
//!
//! It listens on loopback with a random secret, keeps its store in a folder of its own, and serves
//! the definitions in `configs/apps`, or one built in, in front of a small origin that
//! `server::boot` starts.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    config::{AccessLog, Config, Loaded, Penstock, Storage, Vars},
    server::boot,
};

/// The port of the first try, and how many after it.
const PORT: u16 = 8080;
const PORTS_TRIED: u16 = 100;
const APPS: &str = "configs/apps";
const APP_FILE: &str = "quickstart.json";
const APP: &str = include_str!("../../configs/apps/quickstart.json");

pub(super) fn run(name: &str, vars: &Vars) -> ExitCode {
    let (port, taken) = match free_port(PORT, PORTS_TRIED) {
        Ok(found) => found,
        Err(why) => return super::fail(name, &format!("no port to listen on: {why}")),
    };
    if taken {
        eprintln!("{name}: port {PORT} is taken, listening on {port} instead");
    }
    let folder = std::env::temp_dir().join(format!("penstock-quickstart-{}", std::process::id()));
    let loaded = match prepare(&folder, Path::new(APPS), port) {
        Ok(loaded) => loaded,
        Err(why) => return super::fail(name, &format!("{}: {why}", folder.display())),
    };
    let remote_logs = super::start::start_log(&loaded.config, false, vars);
    if let Err(errors) = super::start::report(&loaded) {
        return super::fail(name, &errors);
    }
    boot::run(boot::Options {
        config: loaded,
        quickstart: true,
        is_instrumented: false,
        remote_logs,
    })
}

/// A configuration for `port` on loopback; what it needs on disk is made below `folder`.
fn prepare(folder: &Path, apps: &Path, port: u16) -> io::Result<Loaded> {
    let store = folder.join("store");
    fs::create_dir_all(&store)?;
    let apps = match has_definitions(apps) {
        true => apps.to_owned(),
        false => {
            let apps = folder.join("apps");
            fs::create_dir_all(&apps)?;
            fs::write(apps.join(APP_FILE), APP)?;
            apps
        }
    };
    let config = Config {
        listen_address: Ipv4Addr::LOCALHOST.to_string(),
        listen_port: port.into(),
        secret: random_secret()?.into(),
        app_path: text(apps)?,
        pid_file_location: text(folder.join("penstock.pid"))?,
        storage: Storage {
            kind: "embedded".to_owned(),
            ..Storage::default()
        },
        penstock: Penstock {
            store_path: text(store)?,
            access_log: AccessLog::Off,
            ..Penstock::default()
        },
        ..Config::default()
    };
    Ok(Loaded {
        config,
        path: None,
        unknown: Vec::new(),
    })
}

fn has_definitions(folder: &Path) -> bool {
    let is_json = |path: PathBuf| path.extension().is_some_and(|end| end == "json");
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(|entry| is_json(entry.path())))
}

/// 128 random bits as 32 hexadecimal digits.
fn random_secret() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The first free port from `first` on, and whether an earlier one was taken.
fn free_port(first: u16, tries: u16) -> io::Result<(u16, bool)> {
    let mut why = None;
    for port in first..=first.saturating_add(tries) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok((port, port != first)),
            Err(error) => why = Some(error),
        }
    }
    Err(why.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

fn text(path: PathBuf) -> io::Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|_| io::Error::other("the path is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_way_to_the_next_free_one() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let port = taken.local_addr().expect("address").port();
        let (next, moved) = free_port(port, 50).expect("a free port");
        assert!(moved && next > port);
        assert!(free_port(port, 0).is_err());
    }

    #[test]
    fn the_configuration_is_sound_and_reachable_from_here_only() {
        let folder = std::env::temp_dir().join(format!("penstock-prepare-{}", std::process::id()));
        let loaded = prepare(&folder, Path::new("/nonexistent"), 9).expect("prepared");
        let config = &loaded.config;
        assert!(config.listens_on_loopback());
        assert_eq!(config.secret.as_str().len(), 32);
        assert_eq!(config.check(), []);
        let app = Path::new(&config.app_path).join(APP_FILE);
        assert_eq!(fs::read_to_string(app).expect("definition"), APP);
        let again = prepare(&folder, Path::new("/nonexistent"), 9).expect("prepared");
        assert_ne!(again.config.secret, config.secret);
        fs::remove_dir_all(&folder).expect("clean up");
    }
}
