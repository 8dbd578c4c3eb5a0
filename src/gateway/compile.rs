//! From a definition as written to an [`Api`] that serves.

#![allow(
    clippy::disallowed_types,
    reason = "definitions are compiled on threads of the control side"
)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::{
    analytics::{ApiRecorder, Recording},
    apidef::{self, ApiDefinition, Fault, Severity, validate},
    config::Config,
    gateway::{
        chain,
        listen_path::ListenPath,
        spec::{Api, Destination},
    },
    hash,
    limit::Cells,
    metrics::Registry,
    middleware::{hard_timeouts::HardTimeouts, version_check},
    net::{
        dns::Names,
        proxy_connect::{HttpProxy, ProxyEnv},
        tls::{Identity, TlsOptions, UpstreamTls},
    },
    telemetry::ApiTracer,
    upstream::target::{Address, Target, TargetParts, Tls, Upstream, Via},
};

/// Value of an environment variable.
pub type Env = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What all definitions are compiled with.
pub struct Compiler {
    pub config: Arc<Config>,
    pub names: Names,
    pub proxies: ProxyEnv,
    pub cells: Arc<Cells>,
    pub registry: Arc<Registry>,
    recording: Option<Arc<Recording>>,
    /// OpenTelemetry is on.
    pub is_traced: bool,
    /// StatsD is told of every step.
    pub times_steps: bool,
    /// For references.
    pub env: Env,
    /// Upstream TLS settings are shared by the APIs that agree on them.
    tls: Mutex<HashMap<String, UpstreamTls>>,
    keys: ahash::RandomState,
}

impl Compiler {
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        names: Names,
        proxies: ProxyEnv,
        cells: Arc<Cells>,
        registry: Arc<Registry>,
        env: Env,
    ) -> Self {
        // What stands for the key of a request without one.
        let keyless = hash::hash_key("", config.hash_keys);
        let recording = Recording::from_config(&config, &keyless).map(Arc::new);
        Self {
            registry,
            recording,
            is_traced: false,
            times_steps: false,
            config,
            names,
            proxies,
            cells,
            env,
            tls: Mutex::default(),
            // Fixed keys: equal upstreams get equal pools after every reload.
            keys: ahash::RandomState::with_seeds(1, 2, 3, 4),
        }
    }

    /// Compiles one definition. The faults that let it pass come beside it.
    ///
    /// # Errors
    /// The faults that do not let it pass, the first one decisive.
    pub fn compile(
        &self,
        file: &Path,
        definition: &Arc<ApiDefinition>,
    ) -> Result<(Api, Vec<Fault>), Vec<Fault>> {
        let config = &*self.config;
        let mut faults = validate::load_faults(definition);
        faults.extend(apidef::unsupported(definition));
        faults.sort_by_key(|fault| std::cmp::Reverse(fault.severity));
        if faults
            .first()
            .is_some_and(|fault| fault.severity != Severity::Warn)
        {
            return Err(faults);
        }
        let refuse = |(pointer, reason): (String, String)| vec![Fault::refuse(pointer, reason)];
        let listen_path = ListenPath::parse(&definition.proxy.listen_path)
            .map_err(|fault| vec![Fault::refuse("/proxy/listen_path", fault.reason)])?;
        let expires_at_s = definition
            .expires_at()
            .map(|at_s| u64::try_from(at_s).unwrap_or(0));
        let chain =
            chain::assemble(definition, config, &self.cells, expires_at_s).map_err(refuse)?;
        let version = version_check::version(definition);
        let hard_timeouts = version
            .map(|version| HardTimeouts::from_spec(version, config.ignore_endpoint_case))
            .transpose()
            .map_err(|(pointer, reason)| {
                let name = definition
                    .version_data
                    .versions
                    .keys()
                    .next()
                    .map_or("", String::as_str);
                let pointer = format!("/version_data/versions/{name}/extended_paths/{pointer}");
                vec![Fault::refuse(pointer, reason)]
            })?
            .flatten();
        let upstream = self.destination(definition).map_err(|fault| vec![fault])?;
        let recorder = self.recording.as_ref().and_then(|recording| {
            let url = Url::parse(&definition.proxy.target_url).ok().flatten();
            let host = url.map(|url| url.authority).unwrap_or_default();
            ApiRecorder::from_definition(recording, definition, &host).map(Arc::new)
        });
        let rate_limits = (!definition.use_keyless).then(|| {
            let path = |base: &str| {
                let base = base.trim_end_matches('/');
                format!("{base}/tyk/rate-limits/").into_bytes().into()
            };
            [
                path(listen_path.as_str()),
                path(&format!("/{}", definition.api_id)),
            ]
        });
        let tracer = self
            .is_traced
            .then(|| Arc::new(ApiTracer::from_definition(definition)));
        let has_spans = tracer.as_ref().is_some_and(|tracer| tracer.has_steps());
        let api = Api {
            definition: Arc::clone(definition),
            file: file.to_owned(),
            listen_path,
            strip: definition.proxy.strip_listen_path,
            chain,
            upstream,
            hard_timeouts,
            rate_limits,
            counters: self.registry.api(&definition.api_id),
            recorder,
            tracer,
            times_steps: self.times_steps || has_spans,
        };
        Ok((api, faults))
    }

    fn destination(&self, definition: &ApiDefinition) -> Result<Destination, Fault> {
        let proxy = &definition.proxy;
        let listed = proxy.enable_load_balancing && !proxy.target_list.is_empty();
        let urls: Vec<(String, String)> = if listed {
            proxy
                .target_list
                .iter()
                .enumerate()
                .map(|(index, url)| (format!("/proxy/target_list/{index}"), with_scheme(url)))
                .collect()
        } else {
            vec![("/proxy/target_url".to_owned(), proxy.target_url.clone())]
        };
        let mut targets = Vec::with_capacity(urls.len());
        for (pointer, url) in urls {
            match self.target(definition, &pointer, &url)? {
                Some(target) => targets.push(Arc::new(target)),
                None => return Ok(Destination::Invalid),
            }
        }
        let config = &*self.config;
        let Some(mut upstream) = Upstream::new(targets) else {
            return Ok(Destination::Invalid);
        };
        upstream.preserve_host = proxy.preserve_host_header;
        upstream.close_connections = config.proxy_close_connections;
        let timeout = config.proxy_timeout_or_default();
        // Tyk: the whole seconds of it; below one second there is no limit.
        upstream.header_timeout_ms = timeout.as_secs() * 1000;
        upstream.connect_timeout_ms = u64::try_from(timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        Ok(Destination::Upstream(upstream))
    }

    /// `None` for a URL without a protocol that can be spoken: Tyk serves 500 for it.
    fn target(
        &self,
        definition: &ApiDefinition,
        pointer: &str,
        url: &str,
    ) -> Result<Option<Target>, Fault> {
        let skip = |reason: String| Fault::new(Severity::Skip, pointer, reason);
        let Some(url) = Url::parse(url).map_err(skip)? else {
            return Ok(None);
        };
        let address = self.address(&url.host, url.port);
        let transport = &definition.proxy.transport;
        let via = if transport.proxy_url.is_empty() {
            self.proxies.find(url.tls, &url.host, url.port).cloned()
        } else {
            let pointer = "/proxy/transport/proxy_url";
            Some(
                HttpProxy::parse(&transport.proxy_url)
                    .map_err(|reason| Fault::refuse(pointer, reason))?,
            )
        };
        let proxy = via.map(|proxy| {
            let address = self.address(&proxy.host, proxy.port);
            Via { proxy, address }
        });
        let (tls, tls_key) = if url.tls {
            let (config, key) = self.tls(definition, &url)?;
            (
                Some(Tls {
                    config,
                    host: url.host.clone(),
                }),
                key,
            )
        } else {
            (None, String::new())
        };
        let pool_key = self.keys.hash_one((
            url.host.as_str(),
            url.port,
            tls_key,
            proxy
                .as_ref()
                .map(|via| (&via.proxy.host, via.proxy.port, &via.proxy.authorization)),
        ));
        Ok(Some(Target::new(TargetParts {
            authority: url.authority.into_bytes(),
            address,
            host: url.host,
            port: url.port,
            path: url.path.into_bytes(),
            query: url.query.into_bytes(),
            keep_target_slash: definition.proxy.disable_strip_slash,
            tls,
            proxy,
            pool_key,
        })))
    }

    fn address(&self, host: &str, port: u16) -> Address {
        match host.parse() {
            Ok(ip) => Address::Literal(SocketAddr::new(ip, port)),
            Err(_) => Address::Name {
                name: self.names.subscribe(host),
                port,
            },
        }
    }

    fn tls(&self, definition: &ApiDefinition, url: &Url) -> Result<(UpstreamTls, String), Fault> {
        let config = &*self.config;
        let transport = &definition.proxy.transport;
        let or = |own: u16, shared: u16| if own == 0 { shared } else { own };
        let certificate = if definition.upstream_certificates_disabled {
            None
        } else {
            let own = |host: &str| definition.upstream_certificates.get(host).cloned();
            let shared = |host: &str| config.security.certificates.upstream.get(host).cloned();
            certificate_names(url).find_map(|host| own(&host).or_else(|| shared(&host)))
        };
        let options = TlsOptions {
            insecure_skip_verify: transport.ssl_insecure_skip_verify
                || config.proxy_ssl_insecure_skip_verify,
            min_version: or(transport.ssl_min_version, config.proxy_ssl_min_version),
            max_version: or(transport.ssl_max_version, config.proxy_ssl_max_version),
            ciphers: if transport.ssl_ciphers.is_empty() {
                config.proxy_ssl_ciphers.clone()
            } else {
                transport.ssl_ciphers.to_vec()
            },
            ca_files: Vec::new(),
            identity: None,
            alpn: Vec::new(),
        };
        let key = format!(
            "{} {} {} {:?} {certificate:?}",
            options.insecure_skip_verify, options.min_version, options.max_version, options.ciphers,
        );
        let mut made = self
            .tls
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(tls) = made.get(&key) {
            return Ok((tls.clone(), key));
        }
        let identity = certificate
            .map(|path| {
                let path = PathBuf::from(path);
                Identity::from_files(&path, &path)
                    .map_err(|reason| Fault::refuse("/upstream_certificates", reason))
            })
            .transpose()?;
        let tls = UpstreamTls::new(&TlsOptions {
            identity,
            ..options
        })
        .map_err(|reason| Fault::refuse("/proxy/transport", reason))?;
        made.insert(key.clone(), tls.clone());
        Ok((tls, key))
    }
}

/// Under which names a client certificate may be listed: `host:port` as written, then patterns.
fn certificate_names(url: &Url) -> impl Iterator<Item = String> + use<> {
    let host = url.authority.clone();
    let pattern = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    [Some(host), pattern, Some("*".to_owned())]
        .into_iter()
        .flatten()
}

/// Entries of a target list may leave the protocol out.
fn with_scheme(url: &str) -> String {
    if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    }
}

/// The parts of a target URL (RFC 3986) that matter.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    /// `host[:port]` as written.
    authority: String,
    /// Without brackets.
    host: String,
    port: u16,
    path: String,
    query: String,
}

impl Url {
    /// `None` for a URL that can be parsed but whose protocol is none of ours.
    fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            // Go parses `a/b` as a path, and takes what begins with a colon for a broken scheme.
            return match text
                .split(['/', '?', '#'])
                .next()
                .unwrap_or("")
                .contains(':')
            {
                true => Err(format!("`{text}` is no URL: the protocol is missing")),
                false => Ok(None),
            };
        };
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Ok(None),
        };
        if let Some(bad) = rest.chars().find(|c| c.is_control() || *c == ' ') {
            return Err(format!("`{text}` is no URL: it contains {bad:?}"));
        }
        let rest = rest.split('#').next().unwrap_or("");
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match place.find('/') {
            Some(at) => place.split_at(at),
            None => (place, ""),
        };
        let authority = authority.rsplit('@').next().unwrap_or("");
        let (host, port) = match authority
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None | Some("") => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port
                .parse()
                .map_err(|_| format!("`{text}` is no URL: `{port}` is no port"))?,
        };
        if host.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            tls,
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            query: query.to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str, u16, &str, &str)>) {
        let url = Url::parse(text).expect("a URL");
        let parts = url.as_ref().map(|url| {
            (
                url.authority.as_str(),
                url.host.as_str(),
                url.port,
                url.path.as_str(),
                url.query.as_str(),
            )
        });
        assert_eq!(parts, expected, "{text}");
    }

    #[test]
    fn target_urls_are_taken_apart() {
        check("http://h", Some(("h", "h", 80, "", "")));
        check("https://h/a/b?c=d", Some(("h", "h", 443, "/a/b", "c=d")));
        check("wss://h:8443/", Some(("h:8443", "h", 8443, "/", "")));
        check("http://u:p@h:81?x", Some(("h:81", "h", 81, "", "x")));
        check("http://[::1]:9/x", Some(("[::1]:9", "::1", 9, "/x", "")));
        check("", None);
        check("ftp://h/", None);
        check("just/a/path", None);
        for bad in [
            "::not a url::",
            "http://h:x/",
            "http://h h/",
            "http://h:99999",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }
}
