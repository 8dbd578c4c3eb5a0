//! Asking sentinels where the master is.

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::Value;
use tokio::sync::{Notify, mpsc};

use crate::storage::{
    Event,
    redis::{
        dial::{self, Connection, Load, Retirer},
        lane,
        options::{Address, Options},
        pubsub,
    },
};

/// For one sentinel.
const ANSWER_MAX: Duration = Duration::from_millis(300);

/// Between attempts to listen to a sentinel.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// Sentinels that are remembered.
const KNOWN_MAX: usize = 32;

/// The sentinels of one master, the one that answered last in front.
pub(super) struct Sentinels {
    options: Options,
    master_name: String,
    password: String,
    known: Mutex<Vec<Address>>,
    /// Connections to what was the master.
    dialled: Mutex<Vec<(Address, Retirer)>>,
    is_needed: Notify,
}

impl Sentinels {
    pub(super) fn new(options: Options, master_name: String, password: String) -> Self {
        Self {
            known: Mutex::new(options.addresses.clone()),
            dialled: Mutex::default(),
            is_needed: Notify::new(),
            options,
            master_name,
            password,
        }
    }

    /// Connects to the master, and makes sure that it is one; and where that was.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn dial(&self, load: Load) -> Result<(Connection, Address), String> {
        let address = self.master().await?;
        let connection = Connection::open(&self.options, &address, load).await?;
        // A sentinel may not know yet that it is none any more.
        match connection.role().await?.as_str() {
            "master" => {
                self.remember(address.clone(), &connection);
                Ok((connection, address))
            }
            role => {
                self.demote();
                Err(format!("{address} is a {role} now"))
            }
        }
    }

    /// Leaves the former master as soon as the sentinels say that there is another. It may go on
    /// taking writes for a while, which it forgets when it learns that it is none any more.
    pub(super) async fn follow(&self) {
        // Connects when somebody else has.
        self.is_needed.notified().await;
        loop {
            if let Some(sentinel) = self.known().first() {
                let (events, heard) = mpsc::channel(16);
                let following = async {
                    let (stream, _) = dial::stream(&self.options, sentinel).await?;
                    let login = dial::login("", &self.password);
                    pubsub::listen(stream, login, "+switch-master", &events).await
                };
                tokio::select! {
                    _ = following => {}
                    () = self.leave_former_masters(heard) => {}
                }
                self.demote();
            }
            tokio::time::sleep(lane::by_chance(LISTEN_PAUSE)).await;
        }
    }

    async fn leave_former_masters(&self, mut heard: mpsc::Receiver<Event>) {
        while let Some(event) = heard.recv().await {
            // `<name> <old host> <old port> <new host> <new port>`.
            let is_ours = match &event {
                Event::Reconnected => true,
                Event::Message(text) => {
                    let name = text.split(|byte| *byte == b' ').next();
                    name == Some(self.master_name.as_bytes())
                }
            };
            if !is_ours {
                continue;
            }
            let Ok(master) = self.master().await else {
                continue;
            };
            let dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
            for (address, connection) in dialled.iter() {
                if *address != master {
                    connection.retire();
                }
            }
        }
    }

    fn remember(&self, address: Address, connection: &Connection) {
        let mut dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        dialled.retain(|(_, connection)| !connection.is_over());
        dialled.push((address, connection.retirer()));
        drop(dialled);
        self.is_needed.notify_one();
    }

    /// Where the master is.
    pub(super) async fn master(&self) -> Result<Address, String> {
        let mut why = "no sentinel".to_owned();
        for sentinel in self.known() {
            let asking = self.ask(&sentinel);
            let answer = match tokio::time::timeout(ANSWER_MAX, asking).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            };
            match answer {
                Ok(Some((master, others))) => {
                    self.learn(sentinel, others);
                    return Ok(master);
                }
                Ok(None) => {
                    why = format!(
                        "the sentinel {sentinel} knows no master {:?}",
                        self.master_name
                    );
                }
                Err(error) => why = format!("sentinel {sentinel}: {error}"),
            }
        }
        Err(why)
    }

    /// Address of the master and of the other sentinels, as one sentinel says.
    async fn ask(&self, sentinel: &Address) -> io::Result<Option<(Address, Vec<Address>)>> {
        let (mut stream, _) = dial::stream(&self.options, sentinel).await?;
        let question = |what: &str| {
            let mut command = redis::cmd("SENTINEL");
            command.arg(what).arg(&self.master_name);
            command
        };
        let mut commands: Vec<_> = dial::login("", &self.password).into_iter().collect();
        commands.push(question("GET-MASTER-ADDR-BY-NAME"));
        let master = dial::converse(stream.as_mut(), &commands).await?.pop();
        let Some(master) = master.as_ref().and_then(address) else {
            return Ok(None);
        };
        let others = dial::converse(stream.as_mut(), &[question("SENTINELS")]).await?;
        let others = match others.first() {
            Some(Value::Array(others)) => others.iter().filter_map(other_sentinel).collect(),
            _ => Vec::new(),
        };
        Ok(Some((master, others)))
    }

    fn known(&self) -> Vec<Address> {
        let known = self.known.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers who answered, and whom it named.
    fn learn(&self, answered: Address, named: Vec<Address>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|address| *address != answered);
        known.insert(0, answered);
        for address in named {
            if known.len() < KNOWN_MAX && !known.contains(&address) {
                known.push(address);
            }
        }
    }

    /// Asks another one first next time.
    fn demote(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_empty() {
            known.rotate_left(1);
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// A host and a port.
fn address(value: &Value) -> Option<Address> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [host, port] = parts.as_slice() else {
        return None;
    };
    Some(Address {
        host: text(host)?.to_owned(),
        port: text(port)?.parse().ok()?,
    })
}

/// The address among names and values in turn.
fn other_sentinel(value: &Value) -> Option<Address> {
    let Value::Array(parts) = value else {
        return None;
    };
    let field = |name: &str| {
        let mut pairs = parts.chunks_exact(2);
        let pair = pairs.find(|pair| pair.first().and_then(text) == Some(name))?;
        text(pair.get(1)?)
    };
    Some(Address {
        host: field("ip")?.to_owned(),
        port: field("port")?.parse().ok()?,
    })
}
