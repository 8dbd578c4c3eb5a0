//! `kv`: stores that `consul://` and `vault://` references point into.

use crate::config::{
    field::section,
    value::{GoDuration, Secret},
};

section! {
    /// `kv`.
    pub struct Kv {
        consul: Consul => CONSUL,
        vault: Vault => VAULT,
    }
}

section! {
    /// `kv.consul`.
    pub struct Consul {
        address: String => ADDRESS,
        scheme: String => SCHEME,
        datacenter: String => DATACENTER,
        http_auth: ConsulHttpAuth => HTTPAUTH,
        wait_time: GoDuration => WAITTIME,
        token: Secret => TOKEN,
        tls_config: ConsulTls => TLSCONFIG,
    }
}

section! {
    /// `kv.consul.http_auth`.
    pub struct ConsulHttpAuth {
        username: String => USERNAME,
        password: Secret => PASSWORD,
    }
}

section! {
    /// `kv.consul.tls_config`.
    pub struct ConsulTls {
        address: String => ADDRESS,
        ca_file: String => CAFILE,
        ca_path: String => CAPATH,
        cert_file: String => CERTFILE,
        key_file: String => KEYFILE,
        insecure_skip_verify: bool => INSECURESKIPVERIFY,
    }
}

section! {
    /// `kv.vault`.
    pub struct Vault {
        address: String => ADDRESS,
        agent_address: String => AGENTADDRESS,
        max_retries: i64 => MAXRETRIES,
        timeout: GoDuration => TIMEOUT,
        token: Secret => TOKEN,
        kv_version: i64 => KVVERSION,
    }
}
