//! `tyk.conf`: every key of Tyk 5.4.0, typed and as written.
//!
//! [`Config`] holds what the file says and nothing derived; what an absent key means stands in
//! `defaults.rs`, what may not be started with in `check.rs`. Field names are the JSON names.
//! Tyk: `config/config.go`.

mod analytics;
mod auth_override;
mod check;
mod coprocess;
mod db_app_conf_options;
mod defaults;
mod dns_cache;
mod env;
mod event_handlers;
mod field;
mod health_check;
mod http_server;
mod kv;
mod load;
mod local_session_cache;
mod monitor;
mod oas;
mod override_messages;
mod penstock;
mod policies;
mod reader;
mod resource_sync;
mod secret_ref;
mod security;
mod slave_options;
mod storage;
mod telemetry;
mod unknown;
mod uptime_tests;
mod value;

use std::collections::BTreeMap;

pub use self::{
    analytics::{AnalyticsConfig, NormaliseUrls},
    auth_override::{AuthOverride, Provider},
    check::{Finding, Severity},
    coprocess::CoprocessOptions,
    db_app_conf_options::DbAppConfOptions,
    dns_cache::DnsCache,
    event_handlers::{EventHandler, EventHandlers},
    field::{Key, Secrets},
    health_check::{HealthCheck, LivenessCheck},
    http_server::{CertificateFile, HttpServerOptions, PortRange, PortWhitelist},
    kv::{Consul, ConsulHttpAuth, ConsulTls, Kv, Vault},
    load::{Loaded, Vars},
    local_session_cache::LocalSessionCache,
    monitor::{Monitor, WebHook},
    oas::OasConfig,
    override_messages::MessageOverride,
    penstock::{AccessLog, Compat, IoDriver, Limits, Penstock, WhenStoreIsAway, parse_network},
    policies::Policies,
    resource_sync::ResourceSync,
    secret_ref::resolve_secret_ref,
    security::{Security, SecurityCertificates},
    slave_options::SlaveOptions,
    storage::{Storage, StoreKind},
    telemetry::{AccessLogs, NewRelic, OpenTelemetry, OpenTelemetryTls, Sampling, Tracing},
    unknown::UnknownKey,
    uptime_tests::{ServiceDiscovery, UptimeTests, UptimeTestsConfig},
    value::{FreeMap, GoDuration, Secret},
};
use crate::config::field::section;

section! {
    /// The whole file.
    pub struct Config {
        /// Answers only requests for this host; empty means all.
        hostname: String => HOSTNAME,
        /// Empty means all addresses.
        listen_address: String => LISTENADDRESS,
        /// 0 means 8080.
        listen_port: i64 => LISTENPORT,
        /// Restricts `/tyk/*` to this host.
        control_api_hostname: String => CONTROLAPIHOSTNAME,
        /// 0 means the control API shares `listen_port`.
        control_api_port: i64 => CONTROLAPIPORT,
        /// What a caller of the control API must send in `X-Tyk-Authorization`.
        secret: Secret => SECRET,
        node_secret: Secret => NODESECRET,
        /// Empty means `/var/run/tyk/tyk-gateway.pid`.
        pid_file_location: String => PIDFILELOCATION,
        allow_insecure_configs: bool => ALLOWINSECURECONFIGS,
        public_key_path: String => PUBLICKEYPATH,
        allow_remote_config: bool => ALLOWREMOTECONFIG,
        security: Security => SECURITY,
        http_server_options: HttpServerOptions => HTTPSERVEROPTIONS,
        version_header: String => VERSIONHEADER,
        suppress_redis_signal_reload: bool => SUPPRESSREDISSIGNALRELOAD,
        /// Seconds; at least 1.
        reload_interval: i64 => RELOADINTERVAL,
        hash_keys: bool => HASHKEYS,
        disable_key_actions_by_username: bool => DISABLEKEYACTIONSBYUSERNAME,
        /// `murmur32`, `murmur64`, `murmur128` or `sha256`; empty is `murmur32`.
        hash_key_function: String => HASHKEYFUNCTION,
        basic_auth_hash_key_function: String => BASICAUTHHASHKEYFUNCTION,
        hash_key_function_fallback: Vec<String> => HASHKEYFUNCTIONFALLBACK,
        enable_hashed_keys_listing: bool => ENABLEHASHEDKEYSLISTING,
        /// 0 means 3.
        min_token_length: i64 => MINTOKENLENGTH,
        /// Empty means `templates`.
        template_path: String => TEMPLATEPATH,
        policies: Policies => POLICIES,
        /// Protocol (`http`, `https`, `tcp`, `tls`) to ports.
        ports_whitelist: BTreeMap<String, PortWhitelist> => PORTWHITELIST,
        disable_ports_whitelist: bool => DISABLEPORTWHITELIST,
        /// Folder of API definitions; empty means the current one.
        app_path: String => APPPATH,
        use_db_app_configs: bool => USEDBAPPCONFIGS,
        db_app_conf_options: DbAppConfOptions => DBAPPCONFOPTIONS,
        storage: Storage => STORAGE,
        disable_dashboard_zeroconf: bool => DISABLEDASHBOARDZEROCONF,
        slave_options: SlaveOptions => SLAVEOPTIONS,
        management_node: bool => MANAGEMENTNODE,
        auth_override: AuthOverride => AUTHOVERRIDE,
        enable_fixed_window_rate_limiter: bool => ENABLEFIXEDWINDOWRATELIMITER,
        enable_redis_rolling_limiter: bool => ENABLEREDISROLLINGLIMITER,
        enable_sentinel_rate_limiter: bool => ENABLESENTINELRATELIMITER,
        enable_rate_limit_smoothing: bool => ENABLERATELIMITSMOOTHING,
        enable_non_transactional_rate_limiter: bool => ENABLENONTRANSACTIONALRATELIMITER,
        /// Seconds; 0 means 2.
        drl_notification_frequency: i64 => DRLNOTIFICATIONFREQUENCY,
        /// 0 means 5.
        drl_threshold: f64 => DRLTHRESHOLD,
        drl_enable_sentinel_rate_limiter: bool => DRLENABLESENTINELRATELIMITER,
        enforce_org_data_age: bool => ENFORCEORGDATAAGE,
        enforce_org_data_detail_logging: bool => ENFORCEORGDATADETAILLOGGING,
        enforce_org_quotas: bool => ENFORCEORGQUOTAS,
        experimental_process_org_off_thread: bool => EXPERIMENTALPROCESSORGOFFTHREAD,
        monitor: Monitor => MONITOR,
        /// Idle upstream connections of one API; 0 means no limit.
        max_idle_connections: i64 => MAXIDLECONNS,
        /// 0 means 100.
        max_idle_connections_per_host: i64 => MAXIDLECONNSPERHOST,
        /// Seconds an upstream connection may live; 0 means no limit.
        max_conn_time: i64 => MAXCONNTIME,
        close_connections: bool => CLOSECONNECTIONS,
        enable_custom_domains: bool => ENABLECUSTOMDOMAINS,
        allow_master_keys: bool => ALLOWMASTERKEYS,
        service_discovery: ServiceDiscovery => SERVICEDISCOVERY,
        proxy_ssl_insecure_skip_verify: bool => PROXYSSLINSECURESKIPVERIFY,
        proxy_enable_http2: bool => PROXYENABLEHTTP2,
        /// TLS version number of Go's `crypto/tls`; 0 means 1.2.
        proxy_ssl_min_version: u16 => PROXYSSLMINVERSION,
        /// As `proxy_ssl_min_version`; 0 means the newest.
        proxy_ssl_max_version: u16 => PROXYSSLMAXVERSION,
        proxy_ssl_ciphers: Vec<String> => PROXYSSLCIPHERSUITES,
        /// Seconds; 0 means 30.
        proxy_default_timeout: f64 => PROXYDEFAULTTIMEOUT,
        proxy_ssl_disable_renegotiation: bool => PROXYSSLDISABLERENEGOTIATION,
        proxy_close_connections: bool => PROXYCLOSECONNECTIONS,
        uptime_tests: UptimeTests => UPTIMETESTS,
        health_check: HealthCheck => HEALTHCHECK,
        /// Empty means `hello`.
        health_check_endpoint_name: String => HEALTHCHECKENDPOINTNAME,
        /// Seconds; 0 means 14 days.
        oauth_refresh_token_expire: i64 => OAUTHREFRESHEXPIRE,
        /// Seconds; 0 means 3600.
        oauth_token_expire: i32 => OAUTHTOKENEXPIRE,
        oauth_token_expired_retain_period: i32 => OAUTHTOKENEXPIREDRETAINPERIOD,
        oauth_redirect_uri_separator: String => OAUTHREDIRECTURISEPARATOR,
        /// 0 means 403.
        oauth_error_status_code: i64 => OAUTHERRORSTATUSCODE,
        enable_key_logging: bool => ENABLEKEYLOGGING,
        ssl_force_common_name_check: bool => SSLFORCECOMMONNAMECHECK,
        enable_analytics: bool => ENABLEANALYTICS,
        analytics_config: AnalyticsConfig => ANALYTICSCONFIG,
        enable_separate_analytics_store: bool => ENABLESEPERATEANALYTICSSTORE,
        analytics_storage: Storage => ANALYTICSSTORAGE,
        liveness_check: LivenessCheck => LIVENESSCHECK,
        dns_cache: DnsCache => DNSCACHE,
        disable_regexp_cache: bool => DISABLEREGEXPCACHE,
        /// Seconds; 0 means 60.
        regexp_cache_expire: i32 => REGEXPCACHEEXPIRE,
        local_session_cache: LocalSessionCache => LOCALSESSIONCACHE,
        enable_separate_cache_store: bool => ENABLESEPERATECACHESTORE,
        cache_storage: Storage => CACHESTORAGE,
        enable_bundle_downloader: bool => ENABLEBUNDLEDOWNLOADER,
        bundle_base_url: String => BUNDLEBASEURL,
        bundle_insecure_skip_verify: bool => BUNDLEINSECURESKIPVERIFY,
        enable_jsvm: bool => ENABLEJSVM,
        /// Seconds; 0 means 5.
        jsvm_timeout: i64 => JSVMTIMEOUT,
        disable_virtual_path_blobs: bool => DISABLEVIRTUALPATHBLOBS,
        tyk_js_path: String => TYKJSPATH,
        middleware_path: String => MIDDLEWAREPATH,
        coprocess_options: CoprocessOptions => COPROCESSOPTIONS,
        ignore_endpoint_case: bool => IGNOREENDPOINTCASE,
        ignore_canonical_mime_header_key: bool => IGNORECANONICALMIMEHEADERKEY,
        /// `error`, `warn`, `info` or `debug`; empty is `info`.
        log_level: String => LOGLEVEL,
        tracing: Tracing => TRACER,
        opentelemetry: OpenTelemetry => OPENTELEMETRY,
        newrelic: NewRelic => NEWRELIC,
        enable_http_profiler: bool => HTTPPROFILE,
        use_redis_log: bool => USEREDISLOG,
        use_sentry: bool => USESENTRY,
        sentry_code: Secret => SENTRYCODE,
        sentry_log_level: String => SENTRYLOGLEVEL,
        use_syslog: bool => USESYSLOG,
        syslog_transport: String => SYSLOGTRANSPORT,
        syslog_network_addr: String => SYSLOGNETWORKADDR,
        use_graylog: bool => USEGRAYLOG,
        graylog_network_addr: String => GRAYLOGNETWORKADDR,
        use_logstash: bool => USELOGSTASH,
        logstash_transport: String => LOGSTASHTRANSPORT,
        logstash_network_addr: String => LOGSTASHNETWORKADDR,
        track_404_logs: bool => TRACK404LOGS,
        statsd_connection_string: String => STATSDCONNECTIONSTRING,
        statsd_prefix: String => STATSDPREFIX,
        event_handlers: EventHandlers => EVENTHANDLERS,
        event_trigers_defunct: BTreeMap<String, Vec<EventHandler>> => EVENTTRIGGERS,
        event_triggers_defunct: BTreeMap<String, Vec<EventHandler>> => EVENTTRIGGERSDEFUNCT,
        hide_generator_header: bool => HIDEGENERATORHEADER,
        suppress_default_org_store: bool => SUPRESSDEFAULTORGSTORE,
        legacy_enable_allowance_countdown: bool => LEGACYENABLEALLOWANCECOUNTDOWN,
        force_global_session_lifetime: bool => FORCEGLOBALSESSIONLIFETIME,
        session_lifetime_respects_key_expiration: bool => SESSIONLIFETIMERESPECTSKEYEXPIRATION,
        /// Seconds.
        global_session_lifetime: i64 => GLOBALSESSIONLIFETIME,
        kv: Kv => KV,
        /// What `secrets://` references point to.
        secrets: BTreeMap<String, Secret> => SECRETS,
        /// Refusal id, such as `auth.key_not_found`, to another status and text.
        override_messages: BTreeMap<String, MessageOverride> => OVERRIDEMESSAGES,
        cloud: bool => CLOUD,
        jwt_ssl_insecure_skip_verify: bool => JWTSSLINSECURESKIPVERIFY,
        resource_sync: ResourceSync => RESOURCESYNC,
        oas_config: OasConfig => OAS,
        /// Tyk 5.10 and later: empty means `ready`.
        readiness_check_endpoint_name: String => READINESSCHECKENDPOINTNAME,
        /// Later Tyk versions: seconds that draining may take; 0 means 30.
        graceful_shutdown_timeout_duration: i64 => GRACEFULSHUTDOWNTIMEOUTDURATION,
        /// Later Tyk versions: seconds between "not ready" and the end of accepting.
        graceful_shutdown_delay_seconds: i64 => GRACEFULSHUTDOWNDELAYSECONDS,
        /// Tyk 5.6 and later: `json`, `text` or empty.
        log_format: String => LOGFORMAT,
        access_logs: AccessLogs => ACCESSLOGS,
        penstock: Penstock => PENSTOCK,
    }
}

#[cfg(test)]
mod tests;
