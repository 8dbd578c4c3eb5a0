//! `opentelemetry`, `tracing` (deprecated), `newrelic` and `access_logs`: what others may see of
//! the traffic.

use std::collections::BTreeMap;

use crate::config::{
    field::section,
    value::{FreeMap, Secret},
};

section! {
    /// `opentelemetry`.
    pub struct OpenTelemetry {
        enabled: bool => ENABLED,
        /// `grpc` or `http`; empty is `grpc`.
        exporter: String => EXPORTER,
        /// Empty means `localhost:4317`.
        endpoint: String => ENDPOINT,
        /// Masked like secrets: they usually hold a token.
        headers: BTreeMap<String, Secret> => HEADERS,
        /// Seconds; 0 means 1.
        connection_timeout: i64 => CONNECTIONTIMEOUT,
        /// Empty means `tyk-gateway`.
        resource_name: String => RESOURCENAME,
        /// `batch` or `simple`; empty is `batch`.
        span_processor_type: String => SPANPROCESSORTYPE,
        /// `tracecontext` or `b3`; empty is `tracecontext`.
        context_propagation: String => CONTEXTPROPAGATION,
        tls: OpenTelemetryTls => TLS,
        sampling: Sampling => SAMPLING,
    }
}

section! {
    /// `opentelemetry.tls`.
    pub struct OpenTelemetryTls {
        enable: bool => ENABLE,
        insecure_skip_verify: bool => INSECURESKIPVERIFY,
        ca_file: String => CAFILE,
        cert_file: String => CERTFILE,
        key_file: String => KEYFILE,
        max_version: String => MAXVERSION,
        min_version: String => MINVERSION,
    }
}

section! {
    /// `opentelemetry.sampling`.
    pub struct Sampling {
        /// `AlwaysOn`, `AlwaysOff` or `TraceIDRatioBased`; empty is `AlwaysOn`.
        kind ("type"): String => TYPE,
        /// 0 to 1; 0 means 0.5 where the type is `TraceIDRatioBased`.
        rate: f64 => RATE,
        parent_based: bool => PARENTBASED,
    }
}

section! {
    /// `tracing`: OpenTracing, deprecated.
    pub struct Tracing {
        name: String => NAME,
        enabled: bool => ENABLED,
        options: FreeMap => OPTIONS,
    }
}

section! {
    /// `newrelic`.
    pub struct NewRelic {
        app_name: String => APPNAME,
        license_key: Secret => LICENSEKEY,
        enable_distributed_tracing: bool => ENABLEDISTRIBUTEDTRACING,
    }
}

section! {
    /// `access_logs` of Tyk 5.8 and later.
    pub struct AccessLogs {
        enabled: bool => ENABLED,
        /// Names of the fields to log; empty means all.
        template: Vec<String> => TEMPLATE,
    }
}
