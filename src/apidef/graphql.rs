//! GraphQL settings: `graphql`.
//!
//! Tyk: `apidef/api_definitions.go` (`GraphQLConfig`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apidef::value::{List, Map};

/// GraphQL on this API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlConfig {
    pub enabled: bool,
    /// `proxyOnly`, `executionEngine`, `subgraph` or `supergraph`.
    pub execution_mode: String,
    /// Empty, `1`, `2` or `3-preview`.
    pub version: String,
    pub schema: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_schema_update: Option<String>,
    /// Data sources of the first engine.
    pub type_field_configurations: List<Value>,
    pub playground: GraphQlPlayground,
    pub engine: GraphQlEngineConfig,
    pub proxy: GraphQlProxyConfig,
    pub subgraph: GraphQlSubgraphConfig,
    pub supergraph: GraphQlSupergraphConfig,
    pub introspection: GraphQlIntrospectionConfig,
}

/// The GraphQL playground page.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlPlayground {
    pub enabled: bool,
    pub path: String,
}

/// The execution engine (universal data graph).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlEngineConfig {
    pub field_configs: List<GraphQlFieldConfig>,
    pub data_sources: List<GraphQlEngineDataSource>,
    pub global_headers: List<UdgGlobalHeader>,
}

/// Mapping of one field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlFieldConfig {
    pub type_name: String,
    pub field_name: String,
    pub disable_default_mapping: bool,
    pub path: List<String>,
}

/// Where fields get their data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlEngineDataSource {
    pub kind: String,
    pub name: String,
    pub internal: bool,
    pub root_fields: List<GraphQlTypeFields>,
    pub config: Value,
}

/// Fields of one type.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlTypeFields {
    #[serde(rename = "type")]
    pub type_name: String,
    pub fields: List<String>,
}

/// A header for every data source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UdgGlobalHeader {
    pub key: String,
    pub value: String,
}

/// GraphQL passed on to an upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlProxyConfig {
    pub features: GraphQlProxyFeaturesConfig,
    pub auth_headers: Map<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subscription_type: String,
    pub request_headers: Map<String>,
    pub use_response_extensions: GraphQlResponseExtensions,
    pub request_headers_rewrite: Map<RequestHeadersRewriteConfig>,
}

/// Switches of the GraphQL proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlProxyFeaturesConfig {
    pub use_immutable_headers: bool,
}

/// Response extensions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlResponseExtensions {
    pub on_error_forwarding: bool,
}

/// Rewriting of one request header.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestHeadersRewriteConfig {
    pub value: String,
    pub remove: bool,
}

/// This API as a subgraph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlSubgraphConfig {
    pub sdl: String,
}

/// This API as a supergraph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlSupergraphConfig {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    pub subgraphs: List<GraphQlSubgraphEntity>,
    pub merged_sdl: String,
    pub global_headers: Map<String>,
    pub disable_query_batching: bool,
}

/// One subgraph of a supergraph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlSubgraphEntity {
    pub api_id: String,
    pub name: String,
    pub url: String,
    pub sdl: String,
    pub headers: Map<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subscription_type: String,
}

/// Schema introspection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlIntrospectionConfig {
    pub disabled: bool,
}
