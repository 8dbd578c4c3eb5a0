//! Who may call an API: authentication switches' settings.
//!
//! Tyk: `apidef/api_definitions.go` (`AuthConfig`, `OpenIDOptions`, `ExternalOAuth`, …);
//! controlplane keys `auth`, `auth_configs`, `basic_auth`, `oauth_meta`, `openid_options`,
//! `external_oauth`, `scopes`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apidef::value::{List, Map};

/// Where one kind of credential is read from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    pub name: String,
    pub use_param: bool,
    pub param_name: String,
    pub use_cookie: bool,
    pub cookie_name: String,
    pub disable_header: bool,
    /// Empty: `Authorization`.
    pub auth_header_name: String,
    pub use_certificate: bool,
    pub validate_signature: bool,
    pub signature: SignatureConfig,
}

/// Signature that must accompany a token (`validate_signature`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignatureConfig {
    pub algorithm: String,
    pub header: String,
    pub use_param: bool,
    pub param_name: String,
    pub secret: String,
    /// Seconds.
    pub allowed_clock_skew: i64,
    pub error_code: i64,
    pub error_message: String,
}

/// User name and password.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BasicAuth {
    pub disable_caching: bool,
    /// Seconds.
    pub cache_ttl: i64,
    pub extract_from_body: bool,
    pub body_user_regexp: String,
    pub body_password_regexp: String,
}

/// What the built-in OAuth server hands out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OauthMeta {
    pub allowed_access_types: List<String>,
    pub allowed_authorize_types: List<String>,
    pub auth_login_redirect: String,
}

/// Whom to tell when an OAuth key changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotificationsManager {
    pub shared_secret: String,
    pub oauth_on_keychange_url: String,
}

/// Identity providers whose tokens are accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenIdOptions {
    pub providers: List<OpenIdProvider>,
    pub segregate_by_client: bool,
}

/// One issuer and the clients it vouches for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenIdProvider {
    pub issuer: String,
    /// Client id in base64 to policy id.
    pub client_ids: Map<String>,
}

/// Scope claims per kind of token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scopes {
    pub jwt: ScopeClaim,
    pub oidc: ScopeClaim,
}

/// Which claim holds the scopes, and which policy each scope brings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScopeClaim {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope_claim_name: String,
    /// Scope to policy id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scope_to_policy: BTreeMap<String, String>,
}

/// Tokens of a foreign authorisation server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalOAuth {
    pub enabled: bool,
    pub providers: List<ExternalOAuthProvider>,
}

/// One foreign authorisation server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalOAuthProvider {
    pub jwt: JwtValidation,
    pub introspection: Introspection,
}

/// Validation of a foreign JWT.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JwtValidation {
    pub enabled: bool,
    pub signing_method: String,
    pub source: String,
    pub issued_at_validation_skew: u64,
    pub not_before_validation_skew: u64,
    pub expires_at_validation_skew: u64,
    pub identity_base_field: String,
}

/// RFC 7662 introspection of a foreign token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Introspection {
    pub enabled: bool,
    pub url: String,
    pub client_id: String,
    pub client_secret: String,
    pub identity_base_field: String,
    pub cache: IntrospectionCache,
}

/// How long an introspection answer is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IntrospectionCache {
    pub enabled: bool,
    /// Seconds.
    pub timeout: i64,
}

/// Signature that the gateway puts on upstream requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestSigningMeta {
    pub is_enabled: bool,
    pub secret: String,
    pub key_id: String,
    pub algorithm: String,
    pub header_list: List<String>,
    pub certificate_id: String,
    pub signature_header: String,
}

/// Where keys are looked up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthProviderMeta {
    pub name: String,
    pub storage_engine: String,
    pub meta: Map<Value>,
}

/// Where sessions are stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionProviderMeta {
    pub name: String,
    pub storage_engine: String,
    pub meta: Map<Value>,
}
