//! Sessions in Redis, under Tyk's key names.
//!
//! One multiplexed connection that is opened when it is first needed and anew when it breaks; a
//! gateway starts, and serves keyless APIs, while Redis is away (as Tyk).

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

use std::time::Duration;

use redis::{
    Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::{
    config::Storage,
    storage::{Store, StoreError, Waiting, keys},
};

/// How to reach one Redis server.
#[derive(Clone)]
pub struct Options {
    host: String,
    port: u16,
    username: String,
    password: String,
    database: i64,
    timeout: Duration,
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
}

/// A Redis server, connected when needed.
pub struct Redis {
    /// `None` once closed.
    connection: std::sync::RwLock<Option<ConnectionManager>>,
}

impl Redis {
    /// Prepares the connection; opens none. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the options make no sense to the client.
    pub fn open(options: &Options) -> Result<Self, StoreError> {
        let unusable = |error: RedisError| StoreError::Unusable(format!("storage: {error}"));
        let mut login = RedisConnectionInfo::default().set_db(options.database);
        if !options.username.is_empty() {
            login = login.set_username(&options.username);
        }
        if !options.password.is_empty() {
            login = login.set_password(&options.password);
        }
        let info = ConnectionAddr::Tcp(options.host.clone(), options.port)
            .into_connection_info()
            .map_err(unusable)?
            .set_redis_settings(login);
        let client = Client::open(info).map_err(unusable)?;
        // One retry: a question must fail fast while the server is down, and the next one tries
        // again.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(options.timeout))
            .set_response_timeout(Some(options.timeout))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(100));
        let connection =
            ConnectionManager::new_lazy_with_config(client, config).map_err(unusable)?;
        Ok(Self {
            connection: std::sync::RwLock::new(Some(connection)),
        })
    }

    /// A handle to the one connection.
    fn connection(&self) -> Result<ConnectionManager, StoreError> {
        let connection = match self.connection.read() {
            Ok(connection) => connection,
            Err(poisoned) => poisoned.into_inner(),
        };
        connection.clone().ok_or(StoreError::Closed)
    }

    fn query<T: redis::FromRedisValue>(&self, command: redis::Cmd) -> Waiting<'_, T> {
        Box::pin(async move {
            let mut connection = self.connection()?;
            command
                .query_async(&mut connection)
                .await
                .map_err(|error| StoreError::Away(format!("redis: {error}")))
        })
    }
}

impl Store for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn get(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>> {
        self.query(redis::Cmd::get(key))
    }

    fn get_many(&self, keys: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>> {
        if keys.is_empty() {
            return Box::pin(async { Ok(Vec::new()) });
        }
        let mut command = redis::cmd("MGET");
        command.arg(keys);
        self.query(command)
    }

    fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, ()> {
        let mut command = redis::cmd("SET");
        command.arg(key).arg(value);
        if let Some(ttl) = ttl {
            // Whole seconds as Tyk writes them, at least one: 0 is refused by Redis.
            command.arg("EX").arg(ttl.as_secs().max(1));
        }
        self.query(command)
    }

    fn delete(&self, key: &str) -> Waiting<'_, bool> {
        self.query(redis::Cmd::del(key))
    }

    fn exists(&self, key: &str) -> Waiting<'_, bool> {
        self.query(redis::Cmd::exists(key))
    }

    fn probe(&self) -> Waiting<'_, ()> {
        let ttl = Duration::from_secs(keys::LIVENESS_PROBE_TTL_S);
        self.set(
            keys::LIVENESS_PROBE,
            keys::LIVENESS_PROBE.as_bytes(),
            Some(ttl),
        )
    }

    fn flush(&self) -> Waiting<'_, ()> {
        // Each write is awaited to its answer; nothing is kept back here.
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> Waiting<'_, ()> {
        match self.connection.write() {
            Ok(mut connection) => *connection = None,
            Err(poisoned) => *poisoned.into_inner() = None,
        }
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        net::TcpListener,
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// A server of this test's own.
    struct Server(Child, u16);

    impl Server {
        fn start() -> Self {
            // Between giving the port back and the server taking it, another may: try again.
            for _ in 0..20 {
                let port = TcpListener::bind("127.0.0.1:0")
                    .unwrap()
                    .local_addr()
                    .unwrap()
                    .port();
                if let Some(server) = Self::start_on(port) {
                    return server;
                }
            }
            panic!("redis-server found no port");
        }

        fn start_on(port: u16) -> Option<Self> {
            let mut child = Command::new("redis-server")
                .args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                ])
                .stdout(Stdio::piped())
                .spawn()
                .expect("redis-server is installed (see the test command in README.md)");
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let is_ready = lines
                .map_while(Result::ok)
                .any(|line| line.contains("Ready to accept connections"));
            let server = Self(child, port);
            is_ready.then_some(server)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn open(port: u16) -> Redis {
        let storage = Storage {
            kind: "redis".to_owned(),
            port: port.into(),
            timeout: 2,
            ..Storage::default()
        };
        Redis::open(&Options::from_config(&storage).unwrap()).unwrap()
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test)
    }

    #[test]
    fn values_are_set_read_and_removed() {
        let server = Server::start();
        block_on(async {
            let store = open(server.1);
            assert_eq!(store.get("a").await, Ok(None));
            store.set("a", b"\x00\xff", None).await.unwrap();
            store
                .set("b", b"2", Some(Duration::from_secs(100)))
                .await
                .unwrap();
            assert_eq!(store.get("a").await, Ok(Some(vec![0, 0xff])));
            assert_eq!(
                store.get_many(vec!["b".into(), "x".into()]).await,
                Ok(vec![Some(b"2".to_vec()), None])
            );
            assert_eq!(store.get_many(Vec::new()).await, Ok(Vec::new()));
            assert_eq!(store.exists("b").await, Ok(true));
            assert_eq!(store.delete("b").await, Ok(true));
            assert_eq!(store.delete("b").await, Ok(false));
            store.probe().await.unwrap();
            let mut ttl = redis::cmd("TTL");
            ttl.arg("tyk-liveness-probe");
            let ttl: i64 = store.query(ttl).await.unwrap();
            assert!((1..=10).contains(&ttl), "{ttl}");
            store.close().await.unwrap();
            assert_eq!(store.get("a").await, Err(StoreError::Closed));
        });
    }

    #[test]
    fn a_server_that_is_away_is_told_and_used_again_when_it_is_back() {
        let server = Server::start();
        let port = server.1;
        block_on(async {
            let store = open(port);
            store.probe().await.unwrap();
            drop(server);
            assert!(matches!(store.probe().await, Err(StoreError::Away(_))));
            assert!(matches!(store.get("a").await, Err(StoreError::Away(_))));
            let Some(_server) = Server::start_on(port) else {
                return; // Somebody else has the port now.
            };
            // The attempts while it was away may still be in their pause.
            let back = async {
                while store.probe().await.is_err() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), back)
                .await
                .unwrap();
        });
    }
}
