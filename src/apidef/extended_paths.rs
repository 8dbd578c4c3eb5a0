//! What happens on single endpoints of a version: the lists below `extended_paths`.
//!
//! Tyk: `apidef/api_definitions.go` (`ExtendedPathsSet`). A `path` is an unanchored regular
//! expression in which `{name}` stands for one segment (`url_regex`); `method` is compared letter
//! by letter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apidef::value::{List, Map, go_float};

/// All endpoint lists of one version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtendedPathsSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<EndPointMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub white_list: Vec<EndPointMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub black_list: Vec<EndPointMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mock_response: Vec<MockResponseMeta>,
    /// Paths, all safe methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advance_cache_config: Vec<CacheMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transform: Vec<TemplateMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transform_response: Vec<TemplateMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transform_jq: Vec<TransformJqMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transform_jq_response: Vec<TransformJqMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transform_headers: Vec<HeaderInjectionMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transform_response_headers: Vec<HeaderInjectionMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hard_timeouts: Vec<HardTimeoutMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub circuit_breakers: Vec<CircuitBreakerMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub url_rewrites: Vec<UrlRewriteMeta>,
    #[serde(rename = "virtual", skip_serializing_if = "Vec::is_empty")]
    pub virtual_endpoints: Vec<VirtualMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub size_limits: Vec<RequestSizeMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub method_transforms: Vec<MethodTransformMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub track_endpoints: Vec<TrackEndpointMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub do_not_track_endpoints: Vec<TrackEndpointMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validate_json: Vec<ValidatePathMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validate_request: Vec<ValidateRequestMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub internal: Vec<InternalMeta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub go_plugin: Vec<GoPluginMeta>,
    pub persist_graphql: List<PersistGraphQlMeta>,
}

/// Where one endpoint entry stands, and what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// JSON name of its list.
    pub list: &'static str,
    pub index: usize,
    /// As written; see `url_regex`.
    pub path: &'a str,
    pub disabled: bool,
}

impl ExtendedPathsSet {
    /// Visits every entry of every list, the disabled ones too.
    pub fn each_endpoint<'a>(&'a self, mut visit: impl FnMut(Endpoint<'a>)) {
        macro_rules! lists {
            ($($list:ident $name:literal |$entry:ident| $disabled:expr;)*) => {$(
                for (index, $entry) in self.$list.iter().enumerate() {
                    visit(Endpoint {
                        list: $name,
                        index,
                        path: &$entry.path,
                        disabled: $disabled,
                    });
                }
            )*};
        }
        lists! {
            ignored "ignored" |e| e.disabled;
            white_list "white_list" |e| e.disabled;
            black_list "black_list" |e| e.disabled;
            mock_response "mock_response" |e| e.disabled;
            advance_cache_config "advance_cache_config" |e| e.disabled;
            transform "transform" |e| e.disabled;
            transform_response "transform_response" |e| e.disabled;
            transform_jq "transform_jq" |e| false;
            transform_jq_response "transform_jq_response" |e| false;
            transform_headers "transform_headers" |e| e.disabled;
            transform_response_headers "transform_response_headers" |e| e.disabled;
            hard_timeouts "hard_timeouts" |e| e.disabled;
            circuit_breakers "circuit_breakers" |e| e.disabled;
            url_rewrites "url_rewrites" |e| e.disabled;
            virtual_endpoints "virtual" |e| e.disabled;
            size_limits "size_limits" |e| e.disabled;
            method_transforms "method_transforms" |e| e.disabled;
            track_endpoints "track_endpoints" |e| e.disabled;
            do_not_track_endpoints "do_not_track_endpoints" |e| e.disabled;
            validate_json "validate_json" |e| e.disabled;
            validate_request "validate_request" |e| !e.enabled;
            internal "internal" |e| e.disabled;
            go_plugin "go_plugin" |e| e.disabled;
            persist_graphql "persist_graphql" |e| false;
        }
        for (index, path) in self.cache.iter().enumerate() {
            visit(Endpoint {
                list: "cache",
                index,
                path,
                disabled: false,
            });
        }
    }
}

/// Entry of `ignored`, `white_list` and `black_list`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndPointMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    pub ignore_case: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub method_actions: BTreeMap<String, EndpointMethodMeta>,
}

/// What one method of an endpoint does (deprecated form of lists and mocks).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointMethodMeta {
    /// `no_action` or `reply`.
    pub action: String,
    pub code: i64,
    pub data: String,
    pub headers: Map<String>,
}

/// An answer the gateway gives by itself, before authentication.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MockResponseMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    pub ignore_case: bool,
    pub code: i64,
    pub body: String,
    pub headers: Map<String>,
}

/// Cache settings of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheMeta {
    pub disabled: bool,
    pub method: String,
    pub path: String,
    pub cache_key_regex: String,
    pub cache_response_codes: List<i64>,
    /// Seconds.
    pub timeout: i64,
}

/// Body transformation by a template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateMeta {
    pub disabled: bool,
    pub template_data: TemplateData,
    pub path: String,
    pub method: String,
}

/// A Go text template and what it is fed with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateData {
    /// `json` or `xml`.
    pub input_type: String,
    /// `blob` (base64) or `file`.
    pub template_mode: String,
    pub enable_session: bool,
    pub template_source: String,
}

/// Body transformation by a jq program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransformJqMeta {
    pub filter: String,
    pub path: String,
    pub method: String,
}

/// Headers taken away and set on one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderInjectionMeta {
    pub disabled: bool,
    pub delete_headers: List<String>,
    pub add_headers: Map<String>,
    pub path: String,
    pub method: String,
    /// Ignored, as in Tyk.
    pub act_on: bool,
}

/// Deadline of the upstream exchange on one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HardTimeoutMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    /// Seconds.
    pub timeout: i64,
}

/// Breaker of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CircuitBreakerMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    /// Fraction, 0 to 1.
    #[serde(serialize_with = "go_float")]
    pub threshold_percent: f64,
    pub samples: i64,
    /// Seconds.
    pub return_to_service_after: i64,
    pub disable_half_open_state: bool,
}

/// Rewriting of the request target on one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UrlRewriteMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    pub match_pattern: String,
    pub rewrite_to: String,
    pub triggers: List<RoutingTrigger>,
}

/// A condition under which another rewrite applies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutingTrigger {
    /// `all` or `any`.
    pub on: String,
    pub options: RoutingTriggerOptions,
    pub rewrite_to: String,
}

/// The parts of a request that a trigger looks at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutingTriggerOptions {
    pub header_matches: Map<StringRegexMap>,
    pub query_val_matches: Map<StringRegexMap>,
    pub path_part_matches: Map<StringRegexMap>,
    pub session_meta_matches: Map<StringRegexMap>,
    pub request_context_matches: Map<StringRegexMap>,
    pub payload_matches: StringRegexMap,
}

/// A regular expression, possibly reversed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StringRegexMap {
    pub match_rx: String,
    pub reverse: bool,
}

/// An endpoint answered by a script.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VirtualMeta {
    pub disabled: bool,
    pub response_function_name: String,
    /// `blob` (base64) or `file`.
    pub function_source_type: String,
    pub function_source_uri: String,
    pub path: String,
    pub method: String,
    pub use_session: bool,
    pub proxy_on_error: bool,
}

/// Largest body of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestSizeMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    /// Bytes.
    pub size_limit: i64,
}

/// Another method towards the upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodTransformMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    pub to_method: String,
}

/// Entry of `track_endpoints` and `do_not_track_endpoints`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrackEndpointMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
}

/// JSON schema that a request body must satisfy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ValidatePathMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    /// JSON schema, draft 4.
    pub schema: Map<Value>,
    /// The same in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub schema_b64: String,
    /// 0: 422.
    pub error_response_code: i64,
}

/// OpenAPI request validation; read but not executed in classic definitions, as in Tyk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ValidateRequestMeta {
    pub enabled: bool,
    pub path: String,
    pub method: String,
    pub error_response_code: i64,
}

/// An endpoint that only internal looping reaches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InternalMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
}

/// An endpoint answered by a Go plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GoPluginMeta {
    pub disabled: bool,
    pub path: String,
    pub method: String,
    pub plugin_path: String,
    pub func_name: String,
}

/// An endpoint that stands for a stored GraphQL operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistGraphQlMeta {
    pub path: String,
    pub method: String,
    pub operation: String,
    pub variables: Map<Value>,
}
