//! How to reach Redis, as the configuration says it.

use std::time::Duration;

use crate::{config::Storage, storage::StoreError};

/// How to reach one Redis server.
#[derive(Clone)]
pub struct Options {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) database: i64,
    pub(super) timeout: Duration,
}

impl Options {
    /// Reads the `storage` section.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for what this version does not speak (cluster, sentinel, TLS) and
    /// for an address that is none.
    pub fn from_config(storage: &Storage) -> Result<Self, StoreError> {
        let not_there = [
            (storage.enable_cluster, "enable_cluster", "a Redis cluster"),
            (
                !storage.master_name.is_empty(),
                "master_name",
                "Redis sentinels",
            ),
            (storage.use_ssl, "use_ssl", "TLS to Redis"),
        ];
        for (is_asked, key, what) in not_there {
            if is_asked {
                return Err(StoreError::Unusable(format!(
                    "storage.{key}: {what} is not there yet; name one server without it, or use \
                     storage.type \"embedded\""
                )));
            }
        }
        let addresses = storage.addresses();
        let [address] = addresses.as_slice() else {
            return Err(StoreError::Unusable(format!(
                "storage.addrs: {} servers need a cluster, which is not there yet; name one",
                addresses.len()
            )));
        };
        let parts = address.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host.to_owned(), port.parse().ok()?))
        });
        let Some((host, port)) = parts else {
            return Err(StoreError::Unusable(format!(
                "storage.addrs: {address:?} is no address; write host:port"
            )));
        };
        Ok(Self {
            host,
            port,
            username: storage.username.clone(),
            password: storage.password.as_str().to_owned(),
            database: storage.database,
            timeout: storage.timeout_or_default(),
        })
    }

    /// What a connection says first.
    pub(super) fn login(&self) -> Vec<redis::Cmd> {
        let mut login = redis::cmd("AUTH");
        match (self.username.as_str(), self.password.as_str()) {
            ("", "") => return Vec::new(),
            ("", password) => login.arg(password),
            (username, password) => login.arg(username).arg(password),
        };
        vec![login]
    }
}
