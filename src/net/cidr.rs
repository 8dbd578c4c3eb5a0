//! Address ranges (RFC 4632) as IP lists and trusted proxies use them.

use std::net::IpAddr;

use crate::config::parse_network;

/// One range; a single address is a range of its full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

impl Net {
    /// Parses `address` or `address/bits`. An IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = parse_network(text)?;
        Some(Self { address, bits })
    }

    /// Whether `ip` lies in the range.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                self.bits == 0 || (net.to_bits() ^ ip.to_bits()) >> (32 - self.bits) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                self.bits == 0 || (net.to_bits() ^ ip.to_bits()) >> (128 - self.bits) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(net: &str, ip: &str, inside: bool) {
        let net = Net::parse(net).expect("a range");
        assert_eq!(net.contains(ip.parse().expect("an address")), inside);
    }

    #[test]
    fn ranges_hold_what_they_say() {
        check("10.0.0.0/8", "10.255.1.2", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("10.1.2.3", "10.1.2.3", true);
        check("10.1.2.3", "10.1.2.4", false);
        check("0.0.0.0/0", "255.1.1.1", true);
        check("0.0.0.0/0", "::1", false);
        check("2001:db8::/32", "2001:db8:1::5", true);
        check("2001:db8::/32", "2001:db9::", false);
        check("127.0.0.1", "::ffff:127.0.0.1", true);
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0/8",
            "x",
            "::/129",
            "1.2.3.4/-1",
        ] {
            assert_eq!(Net::parse(bad), None, "{bad}");
        }
    }
}
