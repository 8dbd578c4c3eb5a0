//! Version check for APIs without versions: which version's settings apply, and whether the API has
//! expired.
//!
//! Tyk: `mw_version_check.go` (`VersionCheck`); keys `version_data`, `expiration`. Order: first.
//! Cost: none when the API has one version and no expiration (no step).

use std::io::Write as _;

use crate::{
    apidef::{ApiDefinition, VersionInfo},
    error::Reject,
    exchange::{Ctx, Local, Verdict},
    http::date,
};

/// What is checked of an API that is not versioned.
#[derive(Debug)]
pub enum VersionCheck {
    /// Every request is refused: the definition names no usable version.
    Refuse(Reject),
    /// The API ends at this time, in seconds since 1970.
    Expires(u64),
}

impl VersionCheck {
    /// `None` when every request passes.
    ///
    /// `expires_at_s` is the parsed `expiration`.
    #[must_use]
    pub fn from_spec(api: &ApiDefinition, expires_at_s: Option<u64>) -> Option<Self> {
        if !api.version_data.not_versioned {
            // Tyk C30: a definition without version data is accepted and refuses every request.
            return Some(Self::Refuse(Reject::VersionInfoNotFound));
        }
        if version(api).is_none() {
            return Some(Self::Refuse(Reject::VersionDoesNotExist));
        }
        expires_at_s.map(Self::Expires)
    }

    /// Refuses with 403; tells clients of a coming end by `X-Tyk-Api-Expires`.
    pub fn check(&self, local: &Local, cx: &mut Ctx) -> Verdict {
        match *self {
            Self::Refuse(reject) => Verdict::Reject(reject),
            Self::Expires(at_s) if local.watch.clock().unix_s() >= at_s => {
                Verdict::Reject(Reject::ApiExpired)
            }
            Self::Expires(at_s) => {
                let date = date::httpdate(at_s);
                // Tyk quirk: RFC 1123 with the zone `UTC` instead of `GMT`.
                let day_and_time = date.get(..26).unwrap_or_default();
                let _ = cx
                    .answer_fields
                    .write_all(&[b"X-Tyk-Api-Expires: ", day_and_time, b"UTC\r\n"].concat());
                Verdict::Next
            }
        }
    }
}

/// The version whose settings apply to an API that is not versioned.
///
/// Tyk picks one at random when there are several; the loader refuses that.
#[must_use]
pub fn version(api: &ApiDefinition) -> Option<&VersionInfo> {
    api.version_data
        .versions
        .values()
        .next()
        .map(|version| &**version)
}
