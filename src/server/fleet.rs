//! This node among the gateways of its Redis: what it hears, and what it tells.
//!
//! With the embedded store there is nobody to hear, and everything told stays in the process.
//!
//! Tyk: `gateway/redis_signals.go`, `gateway/distributed_rate_limiter.go`.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    auth::{directory::Directory, keyspace},
    config::Config,
    gateway::reload::Bell,
    hash,
    limit::{Cells, Fleet},
    net::watch::process_ms,
    server::telemetry,
    storage::{
        Event, Owner,
        notification::{CHANNEL, Signer, command},
    },
};

/// Between two attempts to have a store to listen at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Between two looks at which nodes have fallen silent.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// What the node needs to listen and to tell.
pub struct Member {
    owner: Arc<Owner>,
    signer: Signer,
    directory: Arc<Directory>,
    bell: Bell,
    /// `None` where this node takes no part in sharing limits.
    heartbeat: Option<Duration>,
    cells: Arc<Cells>,
    tag_hash: String,
    is_deaf: bool,
    /// This process hands over to another: its heartbeat would count it twice.
    is_leaving: AtomicBool,
}

impl Member {
    /// # Errors
    /// The public key that messages are checked with cannot be read.
    pub fn new(
        config: &Config,
        owner: Arc<Owner>,
        directory: Arc<Directory>,
        cells: Arc<Cells>,
        bell: Bell,
    ) -> Result<Self, String> {
        let is_counted = !(config.management_node
            || config.enable_sentinel_rate_limiter
            || config.enable_redis_rolling_limiter
            || config.enable_fixed_window_rate_limiter);
        let options = &config.db_app_conf_options;
        Ok(Self {
            signer: Signer::from_config(config)?,
            owner,
            directory,
            bell,
            heartbeat: is_counted.then(|| config.drl_notification_interval_or_default()),
            cells,
            tag_hash: if options.node_is_segmented {
                options.tags.concat()
            } else {
                String::new()
            },
            is_deaf: config.suppress_redis_signal_reload,
            is_leaving: AtomicBool::new(false),
        })
    }

    /// Ends the heartbeat, because the successor has one of its own, or takes it up again.
    pub fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.store(is_leaving, Ordering::Relaxed);
    }

    /// Publishes a message to all nodes, this one among them. What nobody hears is lost, as in Tyk.
    pub async fn tell(&self, command: &str, payload: &str) {
        let Ok(store) = self.owner.store() else {
            return;
        };
        let message = self.signer.message(command, payload);
        if let Err(error) = store.publish(CHANNEL, &message).await {
            tracing::warn!(prefix = "pub-sub", %error, command, "not published");
        }
    }

    /// Listens and gives signs of life until the process ends.
    pub async fn run(self: Arc<Self>) {
        let fleet = Rc::new(RefCell::new(Fleet::new(
            &telemetry::host(),
            node_id(),
            &self.tag_hash,
            Arc::clone(self.cells.outlook()),
        )));
        if let Some(every) = self.heartbeat {
            let (member, own) = (Arc::clone(&self), Rc::clone(&fleet));
            tokio::task::spawn_local(async move {
                loop {
                    if !member.is_leaving.load(Ordering::Relaxed) {
                        let payload = own.borrow().message(1);
                        member.tell(command::LOAD, &payload).await;
                    }
                    tokio::time::sleep(every).await;
                }
            });
            let fleet = Rc::clone(&fleet);
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(EXPIRE_EVERY).await;
                    fleet.borrow_mut().expire(process_ms());
                }
            });
        }
        let mut was_connected = false;
        loop {
            let Ok(store) = self.owner.store() else {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            };
            let Some(mut subscription) = store.subscribe(CHANNEL) else {
                return;
            };
            drop(store);
            while let Some(event) = subscription.next().await {
                match event {
                    Event::Reconnected => {
                        // What was said meanwhile was missed.
                        if std::mem::replace(&mut was_connected, true) {
                            self.directory.all_doubtful();
                        }
                    }
                    Event::Message(text) => self.hear(&text, &fleet),
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn hear(&self, text: &[u8], fleet: &RefCell<Fleet>) {
        let message = match self.signer.read(text) {
            Ok(message) => message,
            Err(why) => {
                tracing::warn!(prefix = "pub-sub", "{why}");
                return;
            }
        };
        match message.command.as_str() {
            command::LOAD => {
                fleet.borrow_mut().hear(&message.payload, process_ms());
            }
            command::KEY_SPACE_UPDATE if !self.is_deaf => {
                let names = message
                    .payload
                    .split(',')
                    .filter(|name| !name.ends_with(keyspace::QUOTA_ONLY))
                    .map(|name| name.split(':').next().unwrap_or_default());
                self.directory.changed(names);
            }
            command::API_UPDATED
            | command::API_REMOVED
            | command::API_ADDED
            | command::POLICY_CHANGED
            | command::GROUP_RELOAD
                if !self.is_deaf =>
            {
                tracing::info!(prefix = "pub-sub", command = %message.command, "reload");
                let _ = self.bell.ring();
            }
            // Nothing is cached yet, and no configuration is taken from others.
            command::DELETE_API_CACHE | command::CONFIG_RESPONSE => {}
            _ if self.is_deaf => {}
            other => {
                tracing::warn!(
                    prefix = "pub-sub",
                    "Unknown notification command: {other:?}"
                );
            }
        }
    }
}

/// Passes on what the REST API changed: to this node's shards at once, to others by message.
pub struct Herald(pub Arc<Member>);

impl Herald {
    /// Quotas in stored sessions are new: for gateways that read them there. `names` as they are
    /// sent.
    pub fn key_quotas_changed(&self, names: String) {
        self.tell(command::KEY_SPACE_UPDATE, names);
    }

    fn tell(&self, command: &'static str, payload: String) {
        let member = Arc::clone(&self.0);
        tokio::spawn(async move { member.tell(command, &payload).await });
    }
}

impl keyspace::Notifier for Herald {
    fn key_changed(&self, names: &[String]) {
        self.0.directory.changed(names.iter().map(String::as_str));
        self.tell(command::KEY_SPACE_UPDATE, names.join(","));
    }

    fn counters_reset(&self, names: &[String]) {
        for name in names {
            self.0.cells.forget_quota(name);
        }
    }

    fn reserved(&self, quota: &str) -> i64 {
        self.0.cells.unused(quota)
    }

    fn group_reload(&self) {
        self.tell(command::GROUP_RELOAD, String::new());
    }
}

/// The name of this process among all gateways.
pub fn node_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| format!("solo-{}", uuid(&hash::random_id().unwrap_or_default())))
}

/// 32 hexadecimal digits in the form of a UUID.
fn uuid(hex: &str) -> String {
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_node_id_looks_like_tyks() {
        assert_eq!(
            super::uuid("0123456789abcdef0123456789abcdef"),
            "01234567-89ab-cdef-0123-456789abcdef"
        );
    }
}
