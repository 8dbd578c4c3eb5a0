//! The REST API, without a socket: calls come in, answers go out, on the control thread.
//!
//! Where a call came from, the traffic port through a shard's mailbox or a listener of its own, is
//! not known here; [`Paths::owns`] tells a shard which requests to send. Handlers are plain
//! functions, one file per path under `/tyk`; the table of routes is in `routes`, everything that
//! they share (secret, refusals, Go's JSON) in this file.
//!
//! `/live`, `/ready`, `/metrics` and `/hello` take no secret and exist only on the listener that
//! carries the control API; a deployment that must hide them gives the control API a port of its
//! own (`control_api_port`).
//!
//! Tyk: `gateway/server.go` (`loadControlAPIEndpoints`, `checkIsAPIOwner`, `stripSlashes`),
//! `gateway/api.go`.

mod apis;
mod cache;
mod debug;
mod health;
mod keys;
mod oas;
mod org_keys;
mod policies;
mod reload;
mod schema;
mod versions;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderValue, Method, Request, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::{any, delete, get, post},
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tower::ServiceExt as _;

pub use debug::{Debugger, End, Outcome};

use crate::{
    auth::keyspace::Keyspace,
    config::Config,
    gateway::{
        folder::Folder,
        reload::{Bell, Gateway},
    },
    metrics::{Registry, Window},
    net::watch::process_us,
    policy,
    storage::{Liveness, Owner},
    telemetry::StatsD,
};

/// Largest content of a call when `max_request_body_size` says nothing.
pub const CONTENT_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// One request to the control API.
#[derive(Debug)]
pub struct Call {
    pub method: String,
    /// The request target in origin form, as it stood on the wire.
    pub path_and_query: String,
    /// Field lines in order; names in any case.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The whole content, at most [`Control::content_bytes_max`].
    pub body: Vec<u8>,
    pub peer: SocketAddr,
}

/// What goes back. The caller adds framing, and leaves the content out for HEAD.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// Which paths belong to the control API. Cheap to ask for every request.
#[derive(Debug, Clone)]
pub struct Paths {
    hello: Box<[u8]>,
    ready: Box<[u8]>,
}

impl Paths {
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let path = |name: &str| format!("/{}", name.trim_start_matches('/')).into_bytes();
        Self {
            hello: path(config.health_check_endpoint_or_default()).into(),
            ready: path(config.readiness_check_endpoint_or_default()).into(),
        }
    }

    /// Whether a request for `path` (as on the wire, without query) is a control call. Only on the
    /// listener that carries the control API. `/hello/` and `/tyk` are not: Tyk answers them as any
    /// unknown path.
    #[inline]
    #[must_use]
    pub fn owns(&self, path: &[u8]) -> bool {
        path.starts_with(b"/tyk/") || self.is_public(path)
    }

    /// Paths that take no secret.
    fn is_public(&self, path: &[u8]) -> bool {
        *path == *self.hello || *path == *self.ready || matches!(path, b"/live" | b"/metrics")
    }
}

/// What the control API works on.
pub struct Setup<'a> {
    pub config: &'a Config,
    pub gateway: Arc<dyn Gateway>,
    pub bell: Bell,
    pub owner: Arc<Owner>,
    pub liveness: Arc<Liveness>,
    pub registry: Arc<Registry>,
    pub keyspace: Arc<Keyspace>,
    pub policies: Arc<policy::Current>,
    pub debugger: Arc<dyn Debugger>,
    /// `None` without `health_check.enable_health_checks`.
    pub health: Option<Arc<Window>>,
    pub statsd: Option<StatsD>,
}

/// The control API.
pub struct Control {
    router: Router,
    parts: Arc<Parts>,
}

struct Parts {
    paths: Paths,
    /// Digests are compared, so that the time taken says nothing about the secret's length either.
    secret_digest: [u8; 32],
    /// Restricts `/tyk/*` to this host; empty: any.
    hostname: String,
    content_bytes_max: u64,
    files: Folder,
    gateway: Arc<dyn Gateway>,
    bell: Bell,
    owner: Arc<Owner>,
    liveness: Arc<Liveness>,
    registry: Arc<Registry>,
    keys: keys::Keys,
    keyspace: Arc<Keyspace>,
    policies: Arc<policy::Current>,
    debugger: Arc<dyn Debugger>,
    policy_files: Folder,
    /// `suppress_default_org_store`
    suppresses_default_org: bool,
    /// `None` without `health_check.enable_health_checks`.
    health: Option<Arc<Window>>,
    statsd: Option<StatsD>,
}

impl Control {
    #[must_use]
    pub fn new(setup: Setup<'_>) -> Self {
        let config = setup.config;
        let parts = Arc::new(Parts {
            paths: Paths::from_config(config),
            secret_digest: Sha256::digest(config.secret.as_str().as_bytes()).into(),
            hostname: config.control_api_hostname.clone(),
            content_bytes_max: config
                .http_server_options
                .request_body_bytes_max()
                .unwrap_or(CONTENT_BYTES_MAX),
            files: Folder::new(config.app_dir()),
            keys: keys::Keys::new(
                config,
                Arc::clone(&setup.keyspace),
                Arc::clone(&setup.policies),
                Arc::clone(&setup.gateway),
            ),
            keyspace: setup.keyspace,
            policies: setup.policies,
            debugger: setup.debugger,
            policy_files: Folder::new(policy_dir(config)),
            suppresses_default_org: config.suppress_default_org_store,
            health: setup.health,
            statsd: setup.statsd,
            gateway: setup.gateway,
            bell: setup.bell,
            owner: setup.owner,
            liveness: setup.liveness,
            registry: setup.registry,
        });
        Self {
            router: routes(&parts.paths).with_state(Arc::clone(&parts)),
            parts,
        }
    }

    /// The most content that a caller reads for a call; beyond it [`Control::call`] answers 413
    /// whatever it is given.
    #[must_use]
    pub fn content_bytes_max(&self) -> u64 {
        self.parts.content_bytes_max
    }

    /// Answers one call. Never fails; waits for disk, store or reload.
    pub async fn call(&self, call: Call) -> Answer {
        let (peer, method) = (call.peer, call.method.clone());
        let path = path_of(&call.path_and_query).to_owned();
        let began_us = process_us();
        let response = self.respond(call).await;
        let status = response.status().as_u16();
        if let Some(statsd) = &self.parts.statsd
            && path.starts_with("/tyk/")
        {
            // Who has no secret has made no call, as in Tyk.
            if status != 403 {
                let took_us = process_us().saturating_sub(began_us);
                statsd.system_api_call(Duration::from_micros(took_us));
            }
            if status != 200 {
                statsd.system_api_error(status);
            }
        }
        tracing::debug!(prefix = "api", %peer, method, path, status, "control call");
        answer(response).await
    }

    async fn respond(&self, call: Call) -> Response {
        let parts = &*self.parts;
        let path = path_of(&call.path_and_query);
        let is_public = parts.paths.is_public(path.as_bytes());
        if !is_public {
            // Everything that is not on the short list needs the secret, whatever it may be.
            if !parts.hostname.is_empty() && !is_for_host(&call.headers, &parts.hostname) {
                return plain(StatusCode::NOT_FOUND, "Not Found");
            }
            if !path.starts_with("/tyk/") {
                return plain(StatusCode::NOT_FOUND, "Not Found");
            }
        }
        if call.body.len() as u64 > parts.content_bytes_max {
            return go_error(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large\n");
        }
        if !is_public && !parts.is_secret(field(&call.headers, b"x-tyk-authorization")) {
            let (peer, method) = (call.peer, &call.method);
            tracing::warn!(
                prefix = "api", %peer, method, path,
                "Attempted administrative access with invalid or missing key!"
            );
            return refusal(
                StatusCode::FORBIDDEN,
                "Attempted administrative access with invalid or missing key!",
            );
        }
        let Some(request) = parts.request(call) else {
            return go_error(StatusCode::NOT_FOUND, "404 page not found\n");
        };
        let is_changing = !is_public && !matches!(*request.method(), Method::GET);
        let _leave = if is_changing {
            match parts.owner.write() {
                Ok(leave) => Some(leave),
                Err(error) => {
                    let why = error.to_string();
                    return refusal(StatusCode::SERVICE_UNAVAILABLE, &why);
                }
            }
        } else {
            None
        };
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl Parts {
    fn is_secret(&self, given: Option<&[u8]>) -> bool {
        let digest: [u8; 32] = Sha256::digest(given.unwrap_or_default()).into();
        digest.ct_eq(&self.secret_digest).into()
    }

    /// The call as axum takes it. `None` when its target is none. Handlers read no fields.
    fn request(&self, call: Call) -> Option<Request<Body>> {
        let (path, query) = match call.path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (call.path_and_query.as_str(), None),
        };
        let is_public = self.paths.is_public(path.as_bytes());
        // Tyk strips one slash behind `/tyk`; where there are more, the outer router has sent the
        // client to the clean path.
        let path = path
            .strip_suffix('/')
            .filter(|_| !is_public)
            .unwrap_or(path);
        let target: Uri = match query {
            Some(query) => format!("{path}?{query}").parse(),
            None => path.parse(),
        }
        .ok()?;
        let method = match call.method.as_str() {
            // axum answers HEAD wherever there is GET; Tyk's routes do not.
            "HEAD" if !is_public || *path.as_bytes() == *self.paths.hello => "X-HEAD",
            method => method,
        };
        let method = Method::from_bytes(method.as_bytes()).ok()?;
        let mut request = Request::new(Body::from(call.body));
        request.extensions_mut().insert(Peer(call.peer));
        *request.method_mut() = method;
        *request.uri_mut() = target;
        Some(request)
    }
}

/// Every route, as Tyk's `loadControlAPIEndpoints`.
fn routes(paths: &Paths) -> Router<Arc<Parts>> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let hello = get(async |State(parts): Shared| health::hello(parts.liveness.last().as_deref()))
        .fallback(async || refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    let public = [
        (text(&paths.hello), hello),
        ("/live".to_owned(), get(async || health::live())),
        (
            text(&paths.ready),
            get(async |State(parts): Shared| {
                health::ready(parts.gateway.readiness(), &parts.registry)
            }),
        ),
        (
            "/metrics".to_owned(),
            get(async |State(parts): Shared| health::metrics(&parts.registry)),
        ),
    ];
    let mut router = Router::new();
    let mut taken: Vec<String> = Vec::new();
    for (path, handler) in public {
        // A configured name may be one of the fixed ones; the first in this list wins.
        let is_usable = !path.contains(['{', '}', '*']) && !taken.contains(&path);
        if is_usable && path.len() > 1 {
            router = router.route(&path, handler);
            taken.push(path);
        }
    }
    router
        .route(
            "/tyk/reload",
            get(async |State(parts): Shared, Query(asked): Asked| {
                reload::reload(&parts.bell, &*parts.gateway, &asked).await
            }),
        )
        .route(
            "/tyk/reload/group",
            get(async |State(parts): Shared| reload::group(&parts.bell, &parts.keyspace)),
        )
        .route(
            "/tyk/apis",
            get(async |State(parts): Shared| apis::list(&*parts.gateway)).post(
                async |State(parts): Shared, Query(asked): Asked, body: Bytes| {
                    apis::create(&parts.files, &*parts.gateway, &asked, &body).await
                },
            ),
        )
        .route(
            "/tyk/apis/{id}",
            get(async |State(parts): Shared, Path(id): Path<String>| {
                apis::read(&*parts.gateway, &id)
            })
            .post(
                async |State(parts): Shared, Query(asked): Asked, body: Bytes| {
                    apis::create(&parts.files, &*parts.gateway, &asked, &body).await
                },
            )
            .put(
                async |State(parts): Shared, Path(id): Path<String>, body: Bytes| {
                    apis::update(&parts.files, &*parts.gateway, &id, &body).await
                },
            )
            .delete(async |State(parts): Shared, Path(id): Path<String>| {
                apis::delete(&parts.files, &*parts.gateway, &id).await
            }),
        )
        .route(
            "/tyk/apis/{id}/versions",
            get(
                async |State(parts): Shared, Path(id): Path<String>, Query(asked): Asked| {
                    versions::list(&*parts.gateway, &id, &asked)
                },
            ),
        )
        .route(
            "/tyk/apis/oas/{id}",
            get(async |State(parts): Shared, Path(id): Path<String>| {
                oas::read(&*parts.gateway, &id)
            })
            .put(async || not_there_yet_oas())
            .patch(async || not_there_yet_oas())
            .delete(async || not_there_yet_oas()),
        )
        .route(
            "/tyk/apis/oas/{id}/versions",
            get(
                async |State(parts): Shared, Path(id): Path<String>, Query(asked): Asked| {
                    versions::list(&*parts.gateway, &id, &asked)
                },
            ),
        )
        .route(
            "/tyk/apis/oas",
            get(async || oas::list()).post(async || not_there_yet_oas()),
        )
        .route(
            "/tyk/schema",
            get(async |Query(asked): Asked| schema::schema(&asked)),
        )
        .route(
            "/tyk/health",
            get(async |State(parts): Shared, Query(asked): Asked| {
                let window = parts.health.as_deref();
                health::api_health(window, &*parts.gateway, &parts.registry, &asked).map(json)
            }),
        )
        .route(
            "/tyk/debug",
            post(
                async |State(parts): Shared,
                       Extension(Peer(peer)): Extension<Peer>,
                       body: Bytes| {
                    debug::debug(&*parts.debugger, &body, peer).await
                },
            ),
        )
        .route("/tyk/cache/{id}", delete(async || cache::invalidate()))
        .merge(key_routes())
        .merge(org_routes())
        .merge(policy_routes())
        .fallback(async || go_error(StatusCode::NOT_FOUND, "404 page not found\n"))
        .method_not_allowed_fallback(async || {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "Method not supported")
        })
        // The limit is kept before a call gets here.
        .layer(DefaultBodyLimit::disable())
}

/// Where a call came from.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

type Shared = State<Arc<Parts>>;
type Asked = Query<Vec<(String, String)>>;

fn key_routes() -> Router<Arc<Parts>> {
    Router::new()
        .route(
            "/tyk/keys",
            any(
                async |State(parts): Shared, method: Method, Query(asked): Asked, body: Bytes| {
                    parts.keys.call(&method, "", &asked, &body).await
                },
            ),
        )
        .route(
            "/tyk/keys/{id}",
            any(
                async |State(parts): Shared,
                       method: Method,
                       Path(key): Path<String>,
                       Query(asked): Asked,
                       body: Bytes| {
                    parts.keys.call(&method, &key, &asked, &body).await
                },
            ),
        )
        .route(
            "/tyk/keys/policy/{id}",
            post(
                async |State(parts): Shared, Path(name): Path<String>, body: Bytes| {
                    parts.keys.set_policies(&name, &body).await
                },
            ),
        )
}

fn org_routes() -> Router<Arc<Parts>> {
    let write = |action: &'static str| {
        async move |State(parts): Shared,
                    Path(id): Path<String>,
                    Query(asked): Asked,
                    body: Bytes| {
            let target = (id.as_str(), action);
            let suppresses = parts.suppresses_default_org;
            let gateway = &*parts.gateway;
            org_keys::write(&parts.keyspace, gateway, target, suppresses, &asked, &body).await
        }
    };
    Router::new()
        .route(
            "/tyk/org/keys",
            get(async |State(parts): Shared, Query(asked): Asked| {
                org_keys::list(&parts.keyspace, &*parts.gateway, &asked).await
            }),
        )
        .route(
            "/tyk/org/keys/{id}",
            get(async |State(parts): Shared, Path(id): Path<String>| {
                org_keys::read(&parts.keyspace, &*parts.gateway, &id)
                    .await
                    .map(json)
            })
            .post(write("added"))
            .put(write("modified"))
            .delete(async |State(parts): Shared, Path(id): Path<String>| {
                org_keys::delete(&parts.keyspace, &*parts.gateway, &id).await
            }),
        )
}

fn policy_routes() -> Router<Arc<Parts>> {
    Router::new()
        .route(
            "/tyk/policies",
            get(async |State(parts): Shared| json(policies::list(&parts.policies.load())))
                .post(async |State(parts): Shared, body: Bytes| {
                    policies::create(&parts.policy_files, &body).await
                })
                .put(async || policies::nameless("update"))
                .delete(async || policies::nameless("delete")),
        )
        .route(
            "/tyk/policies/{id}",
            get(async |State(parts): Shared, Path(id): Path<String>| {
                policies::read(&parts.policies.load(), &id).map(json)
            })
            .post(async |State(parts): Shared, body: Bytes| {
                policies::create(&parts.policy_files, &body).await
            })
            .put(
                async |State(parts): Shared, Path(id): Path<String>, body: Bytes| {
                    policies::update(&parts.policy_files, &id, &body).await
                },
            )
            .delete(async |State(parts): Shared, Path(id): Path<String>| {
                policies::delete(&parts.policy_files, &id).await
            }),
        )
}

/// JSON that is text already.
fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Where the REST API writes policies; `policy_path`, else the current folder as in Tyk.
fn policy_dir(config: &Config) -> PathBuf {
    match config.policies.policy_path.as_str() {
        "" => PathBuf::from("."),
        path => PathBuf::from(path),
    }
}

fn not_there_yet_oas() -> Response {
    refusal(
        StatusCode::NOT_IMPLEMENTED,
        "OpenAPI definitions are not there yet",
    )
}

fn path_of(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

/// The first field of a name, as Go's `Header.Get`.
fn field<'a>(headers: &'a [(Vec<u8>, Vec<u8>)], name: &[u8]) -> Option<&'a [u8]> {
    headers
        .iter()
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_slice())
}

fn is_for_host(headers: &[(Vec<u8>, Vec<u8>)], hostname: &str) -> bool {
    // Tyk differs: there `control_api_hostname` protects nothing.
    let host = field(headers, b"host").unwrap_or_default();
    let name = match host.iter().rposition(|byte| *byte == b':') {
        // Not a colon inside of an IPv6 address.
        Some(at) if host.get(at..).is_some_and(|rest| !rest.contains(&b']')) => host.get(..at),
        _ => Some(host),
    };
    name.is_some_and(|name| name.eq_ignore_ascii_case(hostname.as_bytes()))
}

/// Tyk's error body. Rendered by [`answer`].
fn refusal(status: StatusCode, message: &str) -> Response {
    (status, message.to_owned()).into_response()
}

/// A text that is sent as it is.
fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = (status, text).into_response();
    response.extensions_mut().insert(Verbatim);
    response
}

/// As Go's `http.Error`.
fn go_error(status: StatusCode, text: &'static str) -> Response {
    let mut response = plain(status, text);
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// Marks a response that is no refusal in need of Tyk's JSON.
#[derive(Clone, Copy)]
struct Verbatim;

/// The response as bytes. A refusal of a handler, which is a status and a text, becomes Tyk's error
/// body; JSON becomes what Go's encoder writes.
async fn answer(response: Response) -> Answer {
    let (mut head, body) = response.into_parts();
    // From memory: neither large beyond what was built, nor able to fail.
    let mut body = axum::body::to_bytes(body, usize::MAX)
        .await
        .unwrap_or_default()
        .to_vec();
    let is_refusal = head.status.as_u16() >= 400
        && head.extensions.get::<Verbatim>().is_none()
        && !is_json(&head.headers);
    if is_refusal {
        let message = String::from_utf8_lossy(&body);
        let json = serde_json::json!({"status": "error", "message": message});
        body = json.to_string().into_bytes();
        let json = HeaderValue::from_static("application/json");
        head.headers.insert(header::CONTENT_TYPE, json);
    }
    if is_json(&head.headers) {
        body = as_go(body);
    }
    if head.status == StatusCode::SERVICE_UNAVAILABLE && is_refusal {
        let after = HeaderValue::from_static("1");
        head.headers.entry(header::RETRY_AFTER).or_insert(after);
    }
    // Framing is the caller's.
    head.headers.remove(header::CONTENT_LENGTH);
    // axum's list of methods names HEAD, which Tyk's routes refuse.
    if let Some(allow) = head.headers.get_mut(header::ALLOW)
        && let Ok(listed) = allow.to_str()
        && let Ok(listed) = listed.replace("GET,HEAD", "GET").parse()
    {
        *allow = listed;
    }
    Answer {
        status: head.status.as_u16(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (go_name(name.as_str()), value.as_bytes().to_vec()))
            .collect(),
        body,
    }
}

fn is_json(headers: &axum::http::HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes() == b"application/json")
}

/// What Go's `json.Encoder` would have written: a newline at the end, and `<`, `>`, `&` and two
/// line separators escaped. In compact JSON these occur only inside of texts.
fn as_go(json: Vec<u8>) -> Vec<u8> {
    let mut text = Vec::with_capacity(json.len() + 1);
    let mut rest = json.as_slice();
    while let Some((byte, after)) = rest.split_first() {
        let (escaped, length): (&[u8], usize) = match rest {
            [b'<', ..] => (b"\\u003c", 1),
            [b'>', ..] => (b"\\u003e", 1),
            [b'&', ..] => (b"\\u0026", 1),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            _ => {
                text.push(*byte);
                rest = after;
                continue;
            }
        };
        text.extend_from_slice(escaped);
        rest = rest.get(length..).unwrap_or_default();
    }
    text.push(b'\n');
    text
}

/// `content-type` as `Content-Type`.
fn go_name(name: &str) -> String {
    let mut is_first = true;
    name.chars()
        .map(|c| {
            let shown = if is_first { c.to_ascii_uppercase() } else { c };
            is_first = c == '-';
            shown
        })
        .collect()
}

#[cfg(test)]
mod tests;
