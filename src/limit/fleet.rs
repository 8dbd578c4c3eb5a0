//! How many gateways share the limits: each tells the others that it lives.
//!
//! Tyk: `gateway/distributed_rate_limiter.go`, command `NoticeGatewayDRLNotification` on the
//! cluster's channel; a gateway that is silent for four seconds is gone.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::limit::Outlook;

/// A sign of life, as Tyk writes it.
#[derive(Debug, Clone, Serialize)]
struct Notice {
    #[serde(rename = "HostName")]
    host_name: String,
    #[serde(rename = "ID")]
    id: String,
    /// Requests per second, at least 1. Read by nobody.
    #[serde(rename = "LoadPerSec")]
    load_per_s: i64,
    #[serde(rename = "Percentage")]
    percentage: u8,
    /// The node's segment tags, one after another; others are another fleet.
    #[serde(rename = "TagHash")]
    tag_hash: String,
}

/// What is read of another node's.
#[derive(Debug, Deserialize)]
struct Heard {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "TagHash", default)]
    tag_hash: String,
}

/// The nodes heard of lately. Lives on tokio's side; cells see only their number.
pub struct Fleet {
    own: Notice,
    others: HashMap<String, u64>,
    outlook: Arc<Outlook>,
}

/// Silence after which a node is gone.
const EXPIRY_MS: u64 = 4_000;

/// Messages name nodes, and anybody who may publish may name any number of them.
const NODES_MAX: usize = 4_096;

impl Fleet {
    /// A fleet of this node alone.
    #[must_use]
    pub fn new(host_name: &str, id: &str, tag_hash: &str, outlook: Arc<Outlook>) -> Self {
        Self {
            own: Notice {
                host_name: host_name.to_owned(),
                id: id.to_owned(),
                load_per_s: 1,
                percentage: 0,
                tag_hash: tag_hash.to_owned(),
            },
            others: HashMap::new(),
            outlook,
        }
    }

    /// This node's own sign of life: the payload of the message.
    #[must_use]
    pub fn message(&self, load_per_s: u64) -> String {
        let notice = Notice {
            load_per_s: i64::try_from(load_per_s).unwrap_or(i64::MAX).max(1),
            ..self.own.clone()
        };
        serde_json::to_string(&notice).unwrap_or_default()
    }

    /// Takes in the payload of a message; whether it was one of this fleet.
    pub fn hear(&mut self, payload: &str, now_ms: u64) -> bool {
        let Ok(heard) = serde_json::from_str::<Heard>(payload) else {
            return false;
        };
        if heard.tag_hash != self.own.tag_hash {
            return false;
        }
        let is_known = self.others.contains_key(&heard.id);
        if heard.id != self.own.id && (is_known || self.others.len() < NODES_MAX) {
            self.others.insert(heard.id, now_ms);
        }
        self.expire(now_ms);
        true
    }

    /// Lets go of silent nodes; for a timer that fires about once a second.
    pub fn expire(&mut self, now_ms: u64) {
        self.others
            .retain(|_, heard_ms| now_ms < heard_ms.saturating_add(EXPIRY_MS));
        self.outlook.set_nodes(self.others.len() as u32 + 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::limit::Settings;

    fn fleet() -> Fleet {
        let settings = Settings {
            is_shared: true,
            ..Settings::default()
        };
        let outlook = Arc::new(Outlook::new(settings, mpsc::channel(1).0));
        Fleet::new("vm", "solo-1", "", outlook)
    }

    #[test]
    fn the_message_is_tyks() {
        assert_eq!(
            fleet().message(0),
            r#"{"HostName":"vm","ID":"solo-1","LoadPerSec":1,"Percentage":0,"TagHash":""}"#
        );
    }

    #[test]
    fn nodes_are_counted_while_they_are_heard_of() {
        let mut fleet = fleet();
        let other = |id: &str, tags: &str| {
            format!(
                r#"{{"HostName":"h","ID":"{id}","LoadPerSec":7,"Percentage":0.5,"TagHash":"{tags}"}}"#
            )
        };
        assert!(fleet.hear(&fleet.message(1), 0));
        assert_eq!(fleet.outlook.nodes(), 1, "itself is heard, too");
        assert!(fleet.hear(&other("solo-2", ""), 10));
        assert!(fleet.hear(&other("solo-3", ""), 2_000));
        assert!(!fleet.hear(&other("solo-4", "other"), 2_000));
        assert!(!fleet.hear("{", 2_000));
        assert!(!fleet.hear("[]", 2_000));
        assert_eq!(fleet.outlook.nodes(), 3);
        fleet.expire(4_009);
        assert_eq!(fleet.outlook.nodes(), 3);
        fleet.expire(4_010);
        assert_eq!(fleet.outlook.nodes(), 2);
        assert!(fleet.hear(&other("solo-3", ""), 5_999));
        fleet.expire(6_500);
        assert_eq!(fleet.outlook.nodes(), 2);
        fleet.expire(20_000);
        assert_eq!(fleet.outlook.nodes(), 1);
    }
}
