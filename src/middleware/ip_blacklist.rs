//! IP block list: refuses clients whose address is listed.
//!
//! Tyk: `mw_ip_blacklist.go` (`IPBlackListMiddleware`); keys `enable_ip_blacklisting`,
//! `blacklisted_ips`; docs "Blocklist IPs". Order: after `ip_whitelist`.
//! Cost when absent: none (no step). When present: one comparison per listed range, no allocation.

use crate::{
    apidef::ApiDefinition,
    error::Reject,
    exchange::{Client, Ctx, Local, Verdict},
    net::cidr::Net,
};

/// Compiled form of `blacklisted_ips`.
#[derive(Debug)]
pub struct IpBlacklist {
    nets: Box<[Net]>,
}

impl IpBlacklist {
    /// `None` when the definition leaves it off.
    ///
    /// # Errors
    /// The JSON pointer and text of an entry that is neither an address nor a range.
    pub fn from_spec(api: &ApiDefinition) -> Result<Option<Self>, (String, String)> {
        if !api.enable_ip_blacklisting || api.blacklisted_ips.is_empty() {
            return Ok(None);
        }
        let nets = api.blacklisted_ips.iter().enumerate().map(|(index, text)| {
            Net::parse(text.trim()).ok_or_else(|| {
                let reason = format!("`{text}` is no IP address or CIDR range");
                (format!("/blacklisted_ips/{index}"), reason)
            })
        });
        Ok(Some(Self {
            nets: nets.collect::<Result<_, _>>()?,
        }))
    }

    /// Refuses with 403 [`Reject::IpNotAllowed`].
    pub fn check(&self, local: &Local, client: &Client, cx: &Ctx) -> Verdict {
        let ip = cx.real_ip(client.peer.ip(), &local.settings);
        if self.nets.iter().any(|net| net.contains(ip)) {
            Verdict::Reject(Reject::IpNotAllowed)
        } else {
            Verdict::Next
        }
    }
}
