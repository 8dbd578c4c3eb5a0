//! The one ordered list of request steps.
//!
//! [`assemble`] reads top to bottom as Tyk's `processSpec` (`gateway/api_loader.go`): each line is
//! one step, in Tyk's order. It runs per API at load; an API pays for exactly the steps it uses.

use crate::{
    apidef::ApiDefinition,
    config::Config,
    limit::Cells,
    middleware::{
        auth_key::AuthKey, ip_blacklist::IpBlacklist, ip_whitelist::IpWhitelist,
        organization_monitor::OrganizationMonitor, organization_records::OrganizationRecords,
        rate_limit_for_api::RateLimitForApi, strip_auth::StripAuth,
        track_endpoints::TrackEndpoints, validate_json::ValidateJson, version_check::VersionCheck,
    },
    session::key_naming,
};

/// A compiled step. What it needs beside the head is told by [`Step::need`].
pub enum Step {
    VersionCheck(VersionCheck),
    IpWhitelist(IpWhitelist),
    IpBlacklist(IpBlacklist),
    AuthKey(AuthKey),
    OrganizationRecords(OrganizationRecords),
    OrganizationMonitor(OrganizationMonitor),
    TrackEndpoints(TrackEndpoints),
    StripAuth(StripAuth),
    KeyExpired,
    AccessRights,
    GranularAccess,
    RateLimitAndQuota,
    RateLimitForApi(RateLimitForApi),
    ValidateJson(ValidateJson),
}

/// What a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: a plain function of the head.
    Head,
    /// The whole content, read once and bounded, when the step concerns the request.
    Content,
    /// An answer of the store.
    Ask,
}

impl Step {
    #[must_use]
    pub const fn need(&self) -> Need {
        match self {
            Self::VersionCheck(_)
            | Self::IpWhitelist(_)
            | Self::IpBlacklist(_)
            | Self::TrackEndpoints(_)
            | Self::StripAuth(_)
            | Self::KeyExpired
            | Self::AccessRights
            | Self::GranularAccess => Need::Head,
            Self::ValidateJson(_) => Need::Content,
            Self::AuthKey(_)
            | Self::OrganizationRecords(_)
            | Self::OrganizationMonitor(_)
            | Self::RateLimitAndQuota
            | Self::RateLimitForApi(_) => Need::Ask,
        }
    }

    /// Whether it has a say in who may come in, and so in who may read limits.
    #[must_use]
    pub const fn decides_rights(&self) -> bool {
        !matches!(
            self,
            Self::OrganizationRecords(_)
                | Self::TrackEndpoints(_)
                | Self::RateLimitAndQuota
                | Self::RateLimitForApi(_)
                | Self::GranularAccess
                | Self::StripAuth(_)
                | Self::ValidateJson(_)
        )
    }

    /// Tyk's name of the middleware, as logs have it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::VersionCheck(_) => "VersionCheck",
            Self::IpWhitelist(_) => "IPWhiteListMiddleware",
            Self::IpBlacklist(_) => "IPBlackListMiddleware",
            Self::AuthKey(_) => "AuthKey",
            Self::OrganizationRecords(_) => "OrganizationRecords",
            Self::OrganizationMonitor(_) => "OrganizationMonitor",
            Self::TrackEndpoints(_) => "TrackEndpointMiddleware",
            Self::RateLimitAndQuota => "RateLimitAndQuotaCheck",
            Self::RateLimitForApi(_) => "RateLimitForAPI",
            Self::StripAuth(_) => "StripAuth",
            Self::KeyExpired => "KeyExpired",
            Self::AccessRights => "AccessRightsCheck",
            Self::GranularAccess => "GranularAccessMiddleware",
            Self::ValidateJson(_) => "ValidateJSON",
        }
    }
}

/// The steps of one API in the order in which they run.
pub type Chain = Box<[Step]>;

/// Builds the chain of one API.
///
/// # Errors
/// JSON pointer and text of the first thing that cannot be compiled.
pub fn assemble(
    api: &ApiDefinition,
    config: &Config,
    cells: &Cells,
    expires_at_s: Option<u64>,
) -> Result<Chain, (String, String)> {
    let version = crate::middleware::version_check::version(api);
    let ignore_case = config.ignore_endpoint_case;
    let mut chain = Vec::new();
    chain.extend(OrganizationRecords::from_spec(api, config).map(Step::OrganizationRecords));
    // Early: an API that has ended must not spend a store question on its clients.
    chain.extend(VersionCheck::from_spec(api, expires_at_s).map(Step::VersionCheck));
    chain.extend(IpWhitelist::from_spec(api)?.map(Step::IpWhitelist));
    chain.extend(IpBlacklist::from_spec(api)?.map(Step::IpBlacklist));
    chain.extend(OrganizationMonitor::from_spec(api, config).map(Step::OrganizationMonitor));
    if let Some(version) = version {
        let step = TrackEndpoints::from_spec(api, version, config);
        let step = step.map_err(|(pointer, reason)| (below_version(api, &pointer), reason))?;
        chain.extend(step.map(Step::TrackEndpoints));
    }
    chain.extend(AuthKey::from_spec(api, config).map(Step::AuthKey));
    chain.extend(StripAuth::from_spec(api).map(Step::StripAuth));
    if !api.use_keyless {
        chain.extend([Step::KeyExpired, Step::AccessRights]);
        // For a granular right the key's own entries count: none costs a comparison.
        chain.push(Step::GranularAccess);
        if !(api.disable_rate_limit && api.disable_quota) {
            chain.push(Step::RateLimitAndQuota);
        }
    }
    let naming = key_naming(config);
    let limiter = RateLimitForApi::from_spec(api, &naming, cells);
    chain.extend(limiter.map(Step::RateLimitForApi));
    if let Some(version) = version {
        let step = ValidateJson::from_spec(version, ignore_case);
        let step = step.map_err(|(pointer, reason)| (below_version(api, &pointer), reason))?;
        chain.extend(step.map(Step::ValidateJson));
    }
    Ok(chain.into())
}

/// Where something below `extended_paths` of the API's one version stands.
fn below_version(api: &ApiDefinition, pointer: &str) -> String {
    let mut names = api.version_data.versions.keys();
    let name = names.next().map_or("", String::as_str);
    format!("/version_data/versions/{name}/extended_paths/{pointer}")
}
