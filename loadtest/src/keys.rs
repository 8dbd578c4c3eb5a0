//! Keys under load: their names, their sessions as Tyk stores them, and how they come into the store.
//!
//! Keys are `loadkey-000000`, `loadkey-000001` and so on. They begin with the organisation's id, as Tyk's custom keys
//! do once it has put the id before them: `apikey-loadkey-000000` is where both forms are looked up while `hash_keys` is off.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, Outcome},
    peer::{self, SECRET},
    redis::Redis,
    sys::Event,
};

/// Organisation of all generated definitions (`configs/api.json`).
pub const ORG: &str = "load";

/// The keys of one candidate, and the limits all of them have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Requests draw one of so many.
    #[serde(default = "one")]
    pub count: u32,
    /// Requests per `per` seconds; 0 for no limit.
    #[serde(default)]
    pub rate: f64,
    #[serde(default)]
    pub per: f64,
    /// Requests per `renewal_s` seconds; −1 for no quota.
    #[serde(default = "no_quota")]
    pub quota: i64,
    #[serde(default = "hour")]
    pub renewal_s: i64,
    #[serde(default)]
    pub through: Through,
}

/// How keys come into the store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// Written into Redis where there is one, else through the gateway.
    #[default]
    Store,
    /// `POST /tyk/keys/{key}`.
    Gateway,
}

fn one() -> u32 {
    1
}

fn no_quota() -> i64 {
    -1
}

fn hour() -> i64 {
    3600
}

/// Most keys a run can have: their number has six digits.
pub const COUNT_MAX: u32 = 1_000_000;

impl Keys {
    /// Keys without limits.
    pub fn unlimited(count: u32) -> Self {
        Self {
            count,
            rate: 0.0,
            per: 0.0,
            quota: no_quota(),
            renewal_s: hour(),
            through: Through::Store,
        }
    }

    /// The session that all of them have.
    pub fn session(&self, apis: usize) -> Value {
        session(self, apis)
    }
}

/// The nth key as clients present it.
pub fn name(nth: u32) -> String {
    format!("loadkey-{nth:06}")
}

/// Where Tyk keeps the session of a key while `hash_keys` is off and `hash_key_function` is empty.
pub fn stored_name(key: &str) -> String {
    let id = key.strip_prefix(ORG).unwrap_or(key);
    format!("apikey-{ORG}{id}")
}

/// A session with every field that Tyk writes (`user/session.go`), for the first of `apis` APIs and the one in their middle.
fn session(keys: &Keys, apis: usize) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = now.map_or(0, |span| span.as_secs() as i64);
    let rights: serde_json::Map<String, Value> = [0, apis / 2]
        .into_iter()
        .map(|nth| {
            let id = peer::api_id(nth);
            let right = json!({
                "api_name": id, "api_id": id, "versions": ["Default"],
                "allowed_urls": [], "restricted_types": null, "allowed_types": null,
                "limit": {"rate": 0, "per": 0, "throttle_interval": 0, "throttle_retry_limit": 0,
                    "max_query_depth": 0, "quota_max": 0, "quota_renews": 0, "quota_remaining": 0,
                    "quota_renewal_rate": 0},
                "field_access_rights": null, "disable_introspection": false, "allowance_scope": ""
            });
            (id, right)
        })
        .collect();
    json!({
        "last_check": 0, "allowance": keys.rate, "rate": keys.rate, "per": keys.per,
        "throttle_interval": 0, "throttle_retry_limit": 0, "max_query_depth": 0,
        "date_created": "2026-01-01T00:00:00Z", "expires": 0,
        "quota_max": keys.quota, "quota_renews": now_s + keys.renewal_s,
        "quota_remaining": keys.quota, "quota_renewal_rate": keys.renewal_s,
        "access_rights": rights, "org_id": ORG, "oauth_client_id": "", "oauth_keys": null,
        "certificate": "", "basic_auth_data": {"password": "", "hash_type": ""},
        "jwt_data": {"secret": ""}, "hmac_enabled": false,
        "enable_http_signature_validation": false, "hmac_string": "", "rsa_certificate_id": "",
        "is_inactive": false, "apply_policy_id": "", "data_expires": 0,
        "monitor": {"trigger_limits": null}, "enable_detail_recording": false,
        "enable_detailed_recording": false, "meta_data": null, "tags": null, "alias": "",
        "last_updated": now_s.to_string(), "id_extractor_deadline": 0, "session_lifetime": 0,
        "apply_policies": null, "smoothing": null
    })
}

/// Writes sessions straight into Redis, as Tyk would have.
pub fn write(redis: &mut Redis, names: &[String], session: &Value) -> io::Result<()> {
    let session = serde_json::to_vec(session)?;
    for some in names.chunks(1000) {
        let stored: Vec<String> = some.iter().map(|name| stored_name(name)).collect();
        let sets = stored
            .iter()
            .map(|name| vec![&b"SET"[..], name.as_bytes(), &session]);
        redis.pipeline(sets)?;
    }
    Ok(())
}

/// Creates keys through the gateway's API, 32 at a time.
pub fn create(gateway: SocketAddr, names: &[String], session: &Value) -> io::Result<()> {
    const AT_ONCE: usize = 32;
    let slots = AT_ONCE.min(names.len());
    let mut client = Client::new(gateway, slots)?;
    client.keeps_body_start = true;
    let mut left = names.iter();
    let mut under_way = 0;
    let mut ready: Vec<Event> = Vec::new();
    let until = Instant::now() + Duration::from_secs(600);
    let failed = |why: String| io::Error::other(format!("a key could not be created: {why}"));
    let mut ask = |client: &mut Client, slot: usize| -> io::Result<usize> {
        let Some(name) = left.next() else {
            return Ok(0);
        };
        let call = control_call(gateway, "POST", &format!("/tyk/keys/{name}"), session)?;
        if !client.is_open(slot) {
            client.open(slot).map_err(|e| failed(format!("{e:?}")))?;
        }
        client
            .ask(slot, &call, 0)
            .map_err(|e| failed(format!("{e:?}")))?;
        Ok(1)
    };
    for slot in 0..slots {
        under_way += ask(&mut client, slot)?;
    }
    while under_way > 0 {
        client.wait(Some(Duration::from_millis(100)), &mut ready)?;
        for event in &ready {
            let slot = event.token as usize;
            match client.advance(*event) {
                Outcome::Pending | Outcome::ClosedIdle => {}
                Outcome::Answer(answer) if answer.status == 200 => {
                    under_way -= 1;
                    if !answer.keep_alive {
                        client.close(slot);
                    }
                    under_way += ask(&mut client, slot)?;
                }
                Outcome::Answer(answer) => {
                    let text = String::from_utf8_lossy(client.body_start(slot)).into_owned();
                    return Err(failed(format!("{} {text}", answer.status)));
                }
                Outcome::Failed(why) => return Err(failed(format!("{why:?}"))),
            }
        }
        if Instant::now() > until {
            return Err(failed("no answer".to_owned()));
        }
    }
    Ok(())
}

/// A call of the control API as it goes over the wire.
pub fn control_call(
    gateway: SocketAddr,
    method: &str,
    path: &str,
    body: &Value,
) -> io::Result<Vec<u8>> {
    let body = match body {
        Value::Null => Vec::new(),
        body => serde_json::to_vec(body)?,
    };
    let mut call = format!(
        "{method} {path} HTTP/1.1\r\nHost: {gateway}\r\nx-tyk-authorization: {SECRET}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    call.extend_from_slice(&body);
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_stored_where_both_of_its_forms_are_looked_up() {
        assert_eq!(stored_name(&name(123)), "apikey-loadkey-000123");
        assert_eq!(stored_name("other"), "apikey-loadother");
        assert_eq!(name(COUNT_MAX - 1).len(), name(0).len());
    }

    #[test]
    fn a_session_opens_the_first_and_the_middle_api() {
        let session = Keys::unlimited(1).session(3);
        assert!(session["access_rights"]["load00000"].is_object());
        assert!(session["access_rights"]["load00001"].is_object());
        assert_eq!(session["quota_max"], -1);
    }
}
