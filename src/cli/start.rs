//! `start`: finds the configuration, says what is odd about it, and starts the gateway.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    config::{Config, Loaded, Severity, Vars},
    error::LoadError,
    log,
    server::{boot, telemetry::host},
    telemetry::{LogWriter, RemoteLog},
};

/// Where a configuration is looked for without `--conf`.
const CANDIDATES: [&str; 2] = ["tyk.conf", "/etc/tyk/tyk.conf"];

#[derive(Debug, Default, clap::Args)]
pub(super) struct StartArguments {
    /// Configuration file; else tyk.conf here, else /etc/tyk/tyk.conf
    #[arg(long, short, value_name = "FILE")]
    pub(super) conf: Option<PathBuf>,
    /// Port to listen on, in place of listen_port
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(super) port: Option<String>,
    /// Logs at level debug
    #[arg(long)]
    debug: bool,
    /// Accepted without effect
    #[arg(long)]
    memprofile: bool,
    /// Accepted without effect
    #[arg(long)]
    cpuprofile: bool,
    /// Accepted without effect
    #[arg(long)]
    blockprofile: bool,
    /// Accepted without effect
    #[arg(long)]
    mutexprofile: bool,
    /// Accepted without effect
    #[arg(long)]
    httpprofile: bool,
    /// Sends figures to StatsD, as TYK_INSTRUMENTATION=1 does
    #[arg(long = "log-instrumentation")]
    log_instrumentation: bool,
}

pub(super) fn run(name: &str, arguments: &StartArguments, vars: &Vars) -> ExitCode {
    let mut loaded = match find_and_load(arguments.conf.as_deref(), vars) {
        Ok(loaded) => loaded,
        Err(why) => return super::fail(name, &why.to_string()),
    };
    let remote_logs = start_log(&loaded.config, arguments.debug, vars);
    if let Some(port) = &arguments.port {
        match port.parse::<u16>() {
            Ok(port) if port > 0 => loaded.config.listen_port = port.into(),
            // As Tyk: logged and ignored.
            _ => tracing::error!(prefix = "main", port, "--port is no port number, ignored"),
        }
    }
    let ignored = [
        (arguments.memprofile, "--memprofile"),
        (arguments.cpuprofile, "--cpuprofile"),
        (arguments.blockprofile, "--blockprofile"),
        (arguments.mutexprofile, "--mutexprofile"),
        (arguments.httpprofile, "--httpprofile"),
    ];
    for (_, flag) in ignored.iter().filter(|(given, _)| *given) {
        tracing::warn!(prefix = "main", flag, "flag accepted without effect");
    }
    if let Err(errors) = report(&loaded) {
        return super::fail(name, &errors);
    }
    boot::run(boot::Options {
        config: loaded,
        quickstart: false,
        is_instrumented: arguments.log_instrumentation,
        remote_logs,
    })
}

/// Sets logging up as configuration and environment want it. Lines for other machines wait until
/// their writers are started.
pub(super) fn start_log(config: &Config, debug: bool, vars: &Vars) -> Vec<(RemoteLog, LogWriter)> {
    let level = match debug {
        true => tracing::Level::DEBUG,
        false => log::choose_level(
            &config.log_level,
            vars.get("TYK_LOGLEVEL").map(String::as_str),
        ),
    };
    let form = vars.get("TYK_LOGFORMAT").unwrap_or(&config.log_format);
    let form = log::Form::choose(form);
    let (mut remote_logs, mut hooks, mut unusable) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |form, made| match made {
        Ok((log, writer)) => {
            let lines: RemoteLog = log;
            let to_send = lines.clone();
            let hook: log::Hook = Box::new(move |level, line| to_send.send(level, line));
            hooks.push((form, hook));
            remote_logs.push((lines, writer));
        }
        Err(why) => unusable.push(why),
    };
    if config.use_syslog {
        let (transport, address) = (&config.syslog_transport, &config.syslog_network_addr);
        add(form, RemoteLog::syslog(transport, address, &host()));
    }
    if config.use_logstash {
        let (transport, address) = (&config.logstash_transport, &config.logstash_network_addr);
        add(log::Form::Logstash, RemoteLog::logstash(transport, address));
    }
    log::start(level, form, hooks);
    for why in unusable {
        let why: String = why;
        tracing::error!(prefix = "main", "{why}; lines do not go there");
    }
    remote_logs
}

/// Logs unknown keys and findings; `Err` joins those that forbid a start.
pub(super) fn report(loaded: &Loaded) -> Result<(), String> {
    for key in &loaded.unknown {
        tracing::warn!(prefix = "main", "{key}");
    }
    let mut refusals = Vec::new();
    for finding in loaded.config.check() {
        match finding.severity {
            Severity::Warning => tracing::warn!(prefix = "main", "{finding}"),
            Severity::Error => refusals.push(finding.to_string()),
        }
    }
    if refusals.is_empty() {
        return Ok(());
    }
    let place = loaded.path.as_deref().unwrap_or(Path::new("environment"));
    Err(format!("{}: {}", place.display(), refusals.join("; ")))
}

// Tyk differs: where no file is, Tyk writes one with a secret that everybody knows, even a second
// one in the current folder when --conf names another; nothing is ever created here.
pub(super) fn find_and_load(conf: Option<&Path>, vars: &Vars) -> Result<Loaded, LoadError> {
    if let Some(conf) = conf {
        return Config::load(conf, vars);
    }
    let found = CANDIDATES.iter().map(Path::new).find(|path| path.exists());
    match found {
        Some(path) => Config::load(path, vars),
        None if Config::needs_no_file(vars) => Config::from_env(vars),
        None => Err(LoadError::whole(
            CANDIDATES[0],
            "no such file, nor /etc/tyk/tyk.conf; name the configuration with --conf FILE, or try \
             `penstock quickstart`",
        )),
    }
}
