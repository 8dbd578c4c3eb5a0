//! API definitions as written: Tyk's classic format, every field of 5.4.0, nothing compiled.
//!
//! Pure data: parse, print, validate; no IO and no clock. `gateway::loader` reads the files and
//! compiles what the hot path needs. Field names are the JSON names in snake case; types carry
//! Tyk's names.
//!
//! Tyk: `apidef/api_definitions.go` (`APIDefinition`).

mod auth;
mod cache_options;
mod cors;
mod custom_middleware;
mod event_handlers;
pub mod expiration;
mod extended_paths;
mod fault;
pub mod go_regex;
mod graphql;
pub mod json;
mod proxy;
pub mod references;
mod response_processors;
mod route;
pub mod target_url;
mod unsupported;
mod uptime_tests;
pub mod url_regex;
pub mod validate;
mod value;
mod version;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use auth::{
    AuthConfig, AuthProviderMeta, BasicAuth, ExternalOAuth, ExternalOAuthProvider, Introspection,
    IntrospectionCache, JwtValidation, NotificationsManager, OauthMeta, OpenIdOptions,
    OpenIdProvider, RequestSigningMeta, ScopeClaim, Scopes, SessionProviderMeta, SignatureConfig,
};
pub use cache_options::CacheOptions;
pub use cors::CorsConfig;
pub use custom_middleware::{
    AnalyticsPluginConfig, MiddlewareDefinition, MiddlewareIdExtractor, MiddlewareSection,
};
#[cfg(test)]
pub(crate) use event_handlers::EVENTS;
pub use event_handlers::{EventHandlerMetaConfig, EventHandlerTriggerConfig};
pub use extended_paths::{
    CacheMeta, CircuitBreakerMeta, EndPointMeta, Endpoint, EndpointMethodMeta, ExtendedPathsSet,
    GoPluginMeta, HardTimeoutMeta, HeaderInjectionMeta, InternalMeta, MethodTransformMeta,
    MockResponseMeta, PersistGraphQlMeta, RequestSizeMeta, RoutingTrigger, RoutingTriggerOptions,
    StringRegexMap, TemplateData, TemplateMeta, TrackEndpointMeta, TransformJqMeta, UrlRewriteMeta,
    ValidatePathMeta, ValidateRequestMeta, VirtualMeta,
};
pub use fault::{Fault, Severity};
pub use graphql::{
    GraphQlConfig, GraphQlEngineConfig, GraphQlEngineDataSource, GraphQlFieldConfig,
    GraphQlIntrospectionConfig, GraphQlPlayground, GraphQlProxyConfig, GraphQlProxyFeaturesConfig,
    GraphQlResponseExtensions, GraphQlSubgraphConfig, GraphQlSubgraphEntity,
    GraphQlSupergraphConfig, GraphQlTypeFields, RequestHeadersRewriteConfig, UdgGlobalHeader,
};
use json::Document;
pub use proxy::{ProxyConfig, ServiceDiscoveryConfiguration, Transport};
pub use response_processors::ResponseProcessor;
pub use route::Route;
pub use unsupported::unsupported;
pub use uptime_tests::{CheckCommand, HostCheckObject, UptimeTests, UptimeTestsConfig};
pub use value::{List, Map};
use value::{go_float, is_false};
pub use version::{VersionData, VersionDefinition, VersionInfo, VersionPaths};

/// One API as its file says it, every field of Tyk 5.4.0.
///
/// Missing fields and `null` are zero values, as in Go. Printing gives what Tyk prints: all fields
/// in
/// Tyk's order, absent lists and maps as `null`, and only Tyk's `omitempty` fields left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiDefinition {
    /// Database id, 24 hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// May carry `#category` words.
    pub name: String,
    /// `2006-01-02 15:04`, UTC; see `expiration`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expiration: String,
    pub slug: String,
    /// 0: the gateway's own port.
    pub listen_port: i64,
    /// Empty, `http`, `https`, `h2c`, `tcp` or `tls`.
    pub protocol: String,
    pub enable_proxy_protocol: bool,
    pub api_id: String,
    pub org_id: String,
    pub use_keyless: bool,
    pub use_oauth2: bool,
    pub external_oauth: ExternalOAuth,
    pub use_openid: bool,
    pub openid_options: OpenIdOptions,
    pub oauth_meta: OauthMeta,
    /// Deprecated; the fallback for `auth_configs["authToken"]` and `["jwt"]`.
    pub auth: AuthConfig,
    /// By kind: `authToken`, `jwt`, `hmac`, `basic`, `oauth`, `oidc`, `coprocess`, `externalOAuth`.
    pub auth_configs: Map<AuthConfig>,
    pub use_basic_auth: bool,
    pub basic_auth: BasicAuth,
    pub use_mutual_tls_auth: bool,
    pub client_certificates: List<String>,
    /// Host (or pattern) to certificate id.
    pub upstream_certificates: Map<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub upstream_certificates_disabled: bool,
    /// Host (or pattern) to comma-separated key ids.
    pub pinned_public_keys: Map<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub certificate_pinning_disabled: bool,
    pub enable_jwt: bool,
    pub use_standard_auth: bool,
    pub use_go_plugin_auth: bool,
    pub enable_coprocess_auth: bool,
    pub custom_plugin_auth_enabled: bool,
    pub jwt_signing_method: String,
    pub jwt_source: String,
    pub jwt_identity_base_field: String,
    pub jwt_client_base_field: String,
    pub jwt_policy_field_name: String,
    pub jwt_default_policies: List<String>,
    /// Seconds, as the two below.
    pub jwt_issued_at_validation_skew: u64,
    pub jwt_expires_at_validation_skew: u64,
    pub jwt_not_before_validation_skew: u64,
    pub jwt_skip_kid: bool,
    pub scopes: Scopes,
    pub idp_client_id_mapping_disabled: bool,
    pub jwt_scope_to_policy_mapping: Map<String>,
    pub jwt_scope_claim_name: String,
    pub notifications: NotificationsManager,
    pub enable_signature_checking: bool,
    /// Milliseconds; 0 or less: not checked.
    #[serde(serialize_with = "go_float")]
    pub hmac_allowed_clock_skew: f64,
    pub hmac_allowed_algorithms: List<String>,
    pub request_signing: RequestSigningMeta,
    /// Which method sets the session when several are on, such as `auth_token`.
    pub base_identity_provided_by: String,
    pub definition: VersionDefinition,
    pub version_data: VersionData,
    pub uptime_tests: UptimeTests,
    pub proxy: ProxyConfig,
    pub disable_rate_limit: bool,
    pub disable_quota: bool,
    pub custom_middleware: MiddlewareSection,
    /// File name of a plugin bundle.
    pub custom_middleware_bundle: String,
    pub custom_middleware_bundle_disabled: bool,
    pub cache_options: CacheOptions,
    #[serde(skip_serializing_if = "is_false")]
    pub session_lifetime_respects_key_expiration: bool,
    /// Seconds.
    pub session_lifetime: i64,
    pub active: bool,
    pub internal: bool,
    pub auth_provider: AuthProviderMeta,
    pub session_provider: SessionProviderMeta,
    pub event_handlers: EventHandlerMetaConfig,
    pub enable_batch_request_support: bool,
    pub enable_ip_whitelisting: bool,
    /// Addresses and CIDR blocks.
    pub allowed_ips: List<String>,
    pub enable_ip_blacklisting: bool,
    /// Addresses and CIDR blocks.
    pub blacklisted_ips: List<String>,
    pub dont_set_quota_on_create: bool,
    /// Seconds.
    pub expire_analytics_after: i64,
    pub response_processors: List<ResponseProcessor>,
    #[serde(rename = "CORS")]
    pub cors: CorsConfig,
    /// Host that serves this API; may be a pattern such as `{sub:[a-z]+}.example.com`.
    pub domain: String,
    #[serde(skip_serializing_if = "is_false")]
    pub domain_disabled: bool,
    /// Server certificate ids for `domain`.
    pub certificates: List<String>,
    pub do_not_track: bool,
    pub enable_context_vars: bool,
    /// Free data for plugins.
    pub config_data: Map<Value>,
    pub config_data_disabled: bool,
    pub tag_headers: List<String>,
    pub global_rate_limit: GlobalRateLimit,
    pub strip_auth_data: bool,
    pub enable_detailed_recording: bool,
    pub graphql: GraphQlConfig,
    pub analytics_plugin: AnalyticsPluginConfig,
    #[serde(skip_serializing_if = "is_false")]
    pub tags_disabled: bool,
    pub tags: List<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub is_oas: bool,
    pub detailed_tracing: bool,
}

impl ApiDefinition {
    /// Reads a definition by Go's rules (see [`json`]).
    ///
    /// # Errors
    /// The first place that is not JSON, the first value of a wrong type, or a document beyond
    /// [`json::DEPTH_MAX`] or [`json::DOCUMENT_BYTES_MAX`].
    pub fn from_json_slice(bytes: &[u8]) -> Result<Self, Fault> {
        Document::parse(bytes)
            .and_then(|document| document.decode())
            .map_err(|e| {
                let (line, column) = json::line_and_column(bytes, e.offset());
                Fault {
                    severity: Severity::Refuse,
                    line,
                    column,
                    pointer: e.pointer(),
                    reason: e.reason().to_owned(),
                }
            })
    }

    /// Where an auth token is read: `auth_configs["authToken"]`, else the deprecated `auth`.
    #[must_use]
    pub fn token_auth(&self) -> &AuthConfig {
        self.auth_configs.get("authToken").unwrap_or(&self.auth)
    }

    /// One line, as the REST API answers.
    #[must_use]
    pub fn to_json_string(&self) -> String {
        serde_json::to_string(self).expect("keys are texts and numbers are finite")
    }

    /// Two spaces per level, as files are written.
    #[must_use]
    pub fn to_json_string_pretty(&self) -> String {
        serde_json::to_string_pretty(self).expect("keys are texts and numbers are finite")
    }
}

/// Requests that the whole API admits per `per` seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GlobalRateLimit {
    pub disabled: bool,
    #[serde(serialize_with = "go_float")]
    pub rate: f64,
    /// Seconds.
    #[serde(serialize_with = "go_float")]
    pub per: f64,
}

#[cfg(test)]
mod tests;
