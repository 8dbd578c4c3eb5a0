//! From a configuration to a serving process: what is made in which order, and how it ends.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use crate::{
    config::{Config, IoDriver, Loaded},
    exchange::Settings,
    gateway::snapshot::ErrorResponses,
    http::h1,
    metrics::Registry,
    net::{cidr::Net, sys},
    server::{
        notify::Notifier,
        process::Process,
        signals,
        upgrade::start::{ENV, Inherited, Program},
    },
    shard::runtime::{Driver, probe_io_uring},
    storage,
    telemetry::{LogWriter, RemoteLog},
};

/// What the command line asks for.
pub struct Options {
    pub config: Loaded,
    /// Starts the built-in origin and prints what to try.
    pub quickstart: bool,
    /// `--log-instrumentation`
    pub is_instrumented: bool,
    /// Where log lines go beside stderr; nothing is written there yet.
    pub remote_logs: Vec<(RemoteLog, LogWriter)>,
}

/// How long a process that ends waits for its last log lines to be written elsewhere.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Serves until a signal ends the process.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    let remote_logs: Vec<RemoteLog> = options
        .remote_logs
        .iter()
        .map(|(log, _)| log.clone())
        .collect();
    let code = match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!(prefix = "main", "{why}");
            ExitCode::FAILURE
        }
    };
    for log in remote_logs {
        log.flush(LAST_LINES);
    }
    code
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is where variables are read"
)]
fn start(options: Options) -> Result<(), String> {
    // First of all: the numbers of inherited descriptors must not be anybody else's by then.
    let inherited = Inherited::take(std::env::var(ENV).ok().as_deref())?;
    let program = Program::at_start().map_err(|error| {
        format!("cannot find out how this program was started, which an upgrade must know: {error}")
    })?;
    signals::block().map_err(|error| format!("cannot block signals: {error}"))?;
    let mut lost_lines = Vec::new();
    for (log, writer) in options.remote_logs {
        lost_lines.push(log.lost());
        writer
            .start()
            .map_err(|error| format!("cannot start a thread for log lines: {error}"))?;
    }
    raise_descriptor_limit();
    let config = Arc::new(options.config.config);
    let errors = error_responses(&config)?;
    let driver = choose_driver(config.penstock.io_driver)?;
    let cpus = sys::allowed_cpus();
    let shards = match config.penstock.shards {
        0 => cpus.len().max(1),
        shards => shards as usize,
    };
    // More shards than CPUs share them; one shard alone may go where the scheduler likes.
    let cpus = if shards > 1 || config.penstock.shards == 0 {
        cpus
    } else {
        Vec::new()
    };
    let state_dir = state_dir(&config);
    let opener = storage::opener(&config, &state_dir)
        .map_err(|error| format!("the store cannot be used: {error}"))?;
    let process = Process {
        settings: Arc::new(settings(&config)),
        registry: Arc::new(Registry::new(shards).with_lost_lines(lost_lines)),
        owner: Arc::new(storage::Owner::new(opener)),
        errors,
        driver,
        cpus,
        shards,
        quickstart: options.quickstart,
        is_instrumented: options.is_instrumented
            || std::env::var("TYK_INSTRUMENTATION").is_ok_and(|word| word == "1"),
        notifier: Notifier::new(std::env::var("NOTIFY_SOCKET").ok().as_deref()),
        program,
        state_dir,
        config,
    };
    // This thread has the REST API, signals and reloads; the other one all that shards wait for.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("store")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the control thread's runtime: {error}"))?;
    tokio::task::LocalSet::new().block_on(&runtime, process.run(inherited))
}

fn state_dir(config: &Config) -> PathBuf {
    config.penstock.store_dir(&std::env::vars().collect())
}

/// As many descriptors as the system allows: each connection needs one or two.
fn raise_descriptor_limit() {
    if let Err(error) = sys::set_open_files_max(None) {
        tracing::debug!(%error, "cannot raise the limit of descriptors");
    }
}

fn error_responses(config: &Config) -> Result<Arc<ErrorResponses>, String> {
    let (errors, left_out) = ErrorResponses::load(
        &config.template_dir(),
        config
            .override_messages
            .iter()
            .map(|(id, other)| (id.as_str(), other.code, other.message.as_str())),
    )
    .map_err(|error| error.to_string())?;
    for line in left_out {
        tracing::warn!(prefix = "main", "{line}");
    }
    Ok(Arc::new(errors))
}

/// The ring with exactly the flags that shards use, or epoll, said once.
fn choose_driver(wanted: IoDriver) -> Result<Driver, String> {
    match (wanted, probe_io_uring()) {
        (IoDriver::Epoll, _) => Ok(Driver::Epoll),
        (_, Ok(())) => Ok(Driver::IoUring),
        (IoDriver::Auto, Err(error)) => {
            tracing::info!(
                prefix = "main",
                "io_uring is not available ({error}); serving through epoll. Linux 6.1 or later is \
                 needed, kernel.io_uring_disabled=0, and a container profile that allows it"
            );
            Ok(Driver::Epoll)
        }
        (IoDriver::IoUring, Err(error)) => Err(format!(
            "io_uring is not available ({error}) and penstock.io_driver demands it; set it to \
             \"auto\", or allow it (Linux 6.1 or later, kernel.io_uring_disabled=0, container profile)"
        )),
    }
}

/// What the request plane reads of the configuration.
fn settings(config: &Config) -> Settings {
    let limits = &config.penstock.limits;
    let options = &config.http_server_options;
    let ms = |s: u32| u64::from(s) * 1000;
    let trusted: Vec<Net> = config
        .penstock
        .trusted_proxies
        .iter()
        .filter_map(|text| Net::parse(text))
        .collect();
    let trust_anyone = trusted.is_empty() && !config.penstock.compat_is_strict();
    let seconds = |s: std::time::Duration| u64::try_from(s.as_millis()).unwrap_or(u64::MAX);
    Settings {
        limits: h1::Limits {
            request_line_bytes_max: limits.request_line_bytes as usize,
            head_bytes_max: limits.head_bytes as usize,
            fields_max: limits.fields as usize,
            trailer_bytes_max: limits.trailer_bytes as usize,
            trailer_fields_max: limits.trailer_fields as usize,
            chunk_extension_bytes_max: limits.chunk_extension_bytes as usize,
        },
        request_body_bytes_max: options.request_body_bytes_max().unwrap_or(u64::MAX),
        step_body_bytes_max: limits.step_body_bytes,
        interim_max: limits.interim_responses,
        header_deadline_ms: ms(limits.header_deadline_s),
        body_grace_ms: ms(limits.body_rate_grace_s),
        body_rate_min: u64::from(limits.body_rate_min_bytes_per_s),
        keep_alive_idle_ms: ms(limits.keep_alive_idle_s),
        write_timeout_ms: seconds(options.write_timeout_or_default()),
        close_connections: config.close_connections,
        hide_generator: config.hide_generator_header,
        websockets: options.enable_websockets,
        clean_urls: !options.skip_url_cleaning,
        strict_routes: options.enable_strict_routes,
        escape_target_path: !options.skip_target_path_escaping,
        trusted_proxies: (!trust_anyone).then_some(trusted),
        upstream_idle_ms: ms(limits.upstream_idle_s),
        upstream_idle_max: config.idle_per_host_or_default().max(1),
        store_deadline_ms: 100,
        session_fresh_ms: u64::try_from(session_freshness(config).as_millis()).unwrap_or(u64::MAX),
        access_log: config.penstock.access_log,
        times_steps: false,
    }
}

/// How long a session counts without being read again (Tyk: 10 s, in code).
pub fn session_freshness(config: &Config) -> Duration {
    if config.local_session_cache.disable_cached_session_state {
        Duration::ZERO
    } else {
        Duration::from_secs(10)
    }
}
