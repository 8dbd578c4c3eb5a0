//! IP allow list: refuses clients whose address is not listed.
//!
//! Tyk: `mw_ip_whitelist.go` (`IPWhiteListMiddleware`); keys `enable_ip_whitelisting`, `allowed_ips`;
//! docs "Allowlist IPs". Order: before `ip_blacklist`.
//! Cost when absent: none (no step). When present: one comparison per listed range, no allocation.

use crate::{
    apidef::ApiDefinition,
    error::Reject,
    exchange::{Client, Ctx, Local, Verdict},
    net::cidr::Net,
};

/// Compiled form of `allowed_ips`.
#[derive(Debug)]
pub struct IpWhitelist {
    nets: Box<[Net]>,
}

impl IpWhitelist {
    /// `None` when the definition leaves it off.
    ///
    /// # Errors
    /// The JSON pointer and text of an entry that is neither an address nor a range.
    pub fn from_spec(api: &ApiDefinition) -> Result<Option<Self>, (String, String)> {
        // Tyk: an empty list switches the step off.
        if !api.enable_ip_whitelisting || api.allowed_ips.is_empty() {
            return Ok(None);
        }
        let nets = api.allowed_ips.iter().enumerate().map(|(index, text)| {
            Net::parse(text.trim()).ok_or_else(|| {
                (
                    format!("/allowed_ips/{index}"),
                    format!("`{text}` is no IP address or CIDR range"),
                )
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
            Verdict::Next
        } else {
            Verdict::Reject(Reject::IpNotAllowed)
        }
    }
}
