//! `slave_options`: the link to MDCB.

use crate::config::{field::section, value::Secret};

section! {
    /// `slave_options`.
    pub struct SlaveOptions {
        use_rpc: bool => USERPC,
        use_ssl: bool => USESSL,
        ssl_insecure_skip_verify: bool => SSLINSECURESKIPVERIFY,
        connection_string: String => CONNECTIONSTRING,
        /// The organisation id.
        rpc_key: Secret => RPCKEY,
        api_key: Secret => APIKEY,
        enable_rpc_cache: bool => ENABLERPCCACHE,
        bind_to_slugs: bool => BINDTOSLUGSINSTEADOFLISTENPATHS,
        disable_keyspace_sync: bool => DISABLEKEYSPACESYNC,
        /// Empty means `ungrouped`.
        group_id: String => GROUPID,
        /// Seconds; 0 means 30.
        call_timeout: i64 => CALLTIMEOUT,
        /// Seconds; 0 means 60.
        ping_timeout: i64 => PINGTIMEOUT,
        rpc_pool_size: i64 => RPCPOOLSIZE,
        /// Seconds; 0 means 10.
        key_space_sync_interval: f64 => KEYSPACESYNCINTERVAL,
        /// Seconds; 0 means 3600.
        rpc_cert_cache_expiration: f64 => RPCCERTCACHEEXPIRATION,
        /// Seconds; 0 means 30.
        rpc_global_cache_expiration: f64 => RPCGLOBALCACHEEXPIRATION,
        synchroniser_enabled: bool => SYNCHRONISERENABLED,
    }
}
