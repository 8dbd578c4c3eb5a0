//! Where an address is: a MaxMind database, read once at start.
//!
//! Looked up on the tokio thread, beside the encoding: a lookup walks up to 128 nodes of a tree that
//! no cache holds, and a shard has no time for that.
//!
//! Tyk: `analytics_config.enable_geo_ip`, `geo_ip_db_path`; `GetGeo` of `gateway/analytics.go`.

use std::{net::IpAddr, path::Path};

use maxminddb::Reader;

use crate::analytics::record::Geo;

/// An open database.
pub struct GeoIp(Reader<Vec<u8>>);

impl GeoIp {
    /// Reads the file whole.
    ///
    /// # Errors
    /// Why the file cannot be used, with its name.
    pub fn open(path: &Path) -> Result<Self, String> {
        Reader::open_readfile(path)
            .map(Self)
            .map_err(|error| format!("GeoIP database {}: {error}", path.display()))
    }

    /// What the database tells of an address. Nothing for one that it does not know, and for an
    /// entry that is broken or of another kind.
    pub(super) fn find(&self, ip: IpAddr) -> Geo<'_> {
        let Ok(found) = self.0.lookup(ip) else {
            return Geo::default();
        };
        found.decode().ok().flatten().unwrap_or_default()
    }
}

impl std::fmt::Debug for GeoIp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GeoIp")
            .field(&self.0.metadata().database_type)
            .finish()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A database of IPv4 addresses in which `1.0.0.0/8` has the given entry and nothing else has
    /// one (MaxMind DB file format, version 2.0).
    pub(crate) fn database(entry: &[u8]) -> Vec<u8> {
        const NODES: u32 = 8;
        let mut out = Vec::new();
        // One node per bit of the first byte, each with a left and a right record of 24 bits. The
        // count of nodes itself says "not found"; 16 beyond it begin the entries.
        for bit in 0..NODES {
            let next = if bit == NODES - 1 {
                NODES + 16
            } else {
                bit + 1
            };
            let is_set = 1u8 >> (7 - bit) & 1 == 1;
            let (left, right) = if is_set { (NODES, next) } else { (next, NODES) };
            for record in [left, right] {
                out.extend_from_slice(&record.to_be_bytes()[1..]);
            }
        }
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(entry);
        out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        out.extend_from_slice(&map(&[
            ("binary_format_major_version", unsigned(5, 2)),
            ("binary_format_minor_version", unsigned(5, 0)),
            ("build_epoch", unsigned(9, 1)),
            ("database_type", string("Test")),
            ("description", map(&[])),
            ("ip_version", unsigned(5, 4)),
            ("languages", vec![0x00, 0x04]),
            ("node_count", unsigned(6, NODES)),
            ("record_size", unsigned(5, 24)),
        ]));
        out
    }

    fn string(text: &str) -> Vec<u8> {
        assert!(text.len() < 29);
        [&[0x40 | text.len() as u8], text.as_bytes()].concat()
    }

    fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut out = vec![0xe0 | entries.len() as u8];
        for (key, value) in entries {
            out.extend_from_slice(&string(key));
            out.extend_from_slice(value);
        }
        out
    }

    /// Types 5 (16 bits), 6 (32 bits) and 9 (64 bits, an extended type).
    fn unsigned(kind: u8, value: u32) -> Vec<u8> {
        let head = match kind {
            1..8 => vec![kind << 5 | 4],
            _ => vec![4, kind - 7],
        };
        // 16 bits hold two bytes at most.
        let bytes = value.to_be_bytes();
        match kind {
            5 => [&[kind << 5 | 2], &bytes[2..]].concat(),
            _ => [&head, &bytes[..]].concat(),
        }
    }

    fn double(value: f64) -> Vec<u8> {
        [&[0x68], &value.to_be_bytes()[..]].concat()
    }

    pub(crate) fn city() -> Vec<u8> {
        map(&[
            ("continent", map(&[("code", string("EU"))])),
            (
                "country",
                map(&[("iso_code", string("DE")), ("geoname_id", unsigned(6, 7))]),
            ),
            (
                "city",
                map(&[
                    ("geoname_id", unsigned(6, 2_950_159)),
                    (
                        "names",
                        map(&[("en", string("Berlin")), ("fr", string("Berlin"))]),
                    ),
                ]),
            ),
            (
                "location",
                map(&[
                    ("latitude", double(52.5)),
                    ("longitude", double(13.4)),
                    ("time_zone", string("Europe/Berlin")),
                ]),
            ),
        ])
    }

    fn open(entry: &[u8]) -> GeoIp {
        GeoIp(Reader::from_source(database(entry)).unwrap())
    }

    #[test]
    fn an_address_is_found_in_its_network_alone() {
        let geo_ip = open(&city());
        let found = geo_ip.find("1.2.3.4".parse().unwrap());
        assert_eq!(found.country.iso_code, "DE");
        assert_eq!(found.city.geoname_id, 2_950_159);
        assert_eq!(
            found.city.names,
            [("en", "Berlin"), ("fr", "Berlin")].into()
        );
        assert_eq!(
            (found.location.latitude, found.location.longitude),
            (52.5, 13.4)
        );
        assert_eq!(found.location.time_zone, "Europe/Berlin");
        for ip in [
            "2.0.0.0",
            "129.0.0.0",
            "::1",
            "::ffff:1.2.3.4",
            "2001:db8::1",
        ] {
            let found = geo_ip.find(ip.parse().unwrap());
            assert_eq!(found, Geo::default(), "{ip}");
        }
    }

    #[test]
    fn databases_of_other_kinds_tell_what_they_have() {
        let country = map(&[("country", map(&[("iso_code", string("FR"))]))]);
        let geo_ip = open(&country);
        let found = geo_ip.find("1.1.1.1".parse().unwrap());
        assert_eq!(found.country.iso_code, "FR");
        assert_eq!(found.city.geoname_id, 0);
        let asn = map(&[("autonomous_system_number", unsigned(6, 1))]);
        assert_eq!(open(&asn).find("1.1.1.1".parse().unwrap()), Geo::default());
        let odd = map(&[("country", string("FR"))]);
        assert_eq!(open(&odd).find("1.1.1.1".parse().unwrap()), Geo::default());
        assert_eq!(open(b"").find("1.1.1.1".parse().unwrap()), Geo::default());
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let why = GeoIp::open(Path::new("Cargo.toml")).unwrap_err();
        assert!(why.starts_with("GeoIP database Cargo.toml: "), "{why}");
        assert!(GeoIp::open(Path::new("/nowhere.mmdb")).is_err());
    }
}
