//! The three families of errors: refusals a client sees, failed exchanges with an upstream, and
//! files that could not be loaded.
//!
//! A [`Reject`] is a decision and not an error: the chain returns it, and only
//! `gateway::error_response` renders it. Texts and statuses are Tyk 5.4.0's (`handler_error.go`,
//! `mw_*.go`).

use std::{fmt, path::PathBuf};

/// A refusal of one request, with the status and text that Tyk clients assert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    AuthFieldMissing,
    KeyNotFound,
    KeyInactive,
    KeyExpired,
    AccessDisallowed,
    /// Not among the key's `allowed_urls`.
    ResourceDisallowed,
    /// No authentication gave the request a session.
    SessionMissing,
    RateLimitExceeded,
    QuotaExceeded,
    ApiRateLimitExceeded,
    OrganisationInactive,
    OrganisationQuotaExceeded,
    OrganisationRateLimitExceeded,
    IpNotAllowed,
    VersionInfoNotFound,
    VersionDoesNotExist,
    ApiExpired,
    ContentLengthRequired,
    InternalError,
    /// The session store did not answer in time.
    StoreAway,
    /// Body larger than a step that reads it allows.
    BodyTooLarge,
    UpstreamTimeout,
    UpstreamHostLookup,
    UpstreamFailed,
    ClientClosed,
    AllHostsDown,
    TargetInvalid,
}

impl Reject {
    /// One word for counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuthFieldMissing => "auth_missing",
            Self::KeyNotFound => "key_not_found",
            Self::KeyInactive => "key_inactive",
            Self::KeyExpired => "key_expired",
            Self::AccessDisallowed => "access_disallowed",
            Self::ResourceDisallowed => "resource_disallowed",
            Self::SessionMissing => "session_missing",
            Self::RateLimitExceeded => "rate_limit",
            Self::QuotaExceeded => "quota",
            Self::ApiRateLimitExceeded => "api_rate_limit",
            Self::OrganisationInactive => "organisation_inactive",
            Self::OrganisationQuotaExceeded => "organisation_quota",
            Self::OrganisationRateLimitExceeded => "organisation_rate_limit",
            Self::IpNotAllowed => "ip",
            Self::VersionInfoNotFound | Self::VersionDoesNotExist => "version",
            Self::ApiExpired => "api_expired",
            Self::ContentLengthRequired => "length_required",
            Self::BodyTooLarge => "body_too_large",
            Self::StoreAway => "store_away",
            Self::InternalError => "internal",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamHostLookup => "upstream_lookup",
            Self::UpstreamFailed | Self::TargetInvalid => "upstream_failed",
            Self::ClientClosed => "client_closed",
            Self::AllHostsDown => "all_hosts_down",
        }
    }

    /// Status, `override_messages` id (empty: none) and default text.
    #[must_use]
    pub const fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::AuthFieldMissing => (
                401,
                "auth.auth_field_missing",
                "Authorization field missing",
            ),
            Self::KeyNotFound => (
                403,
                "auth.key_not_found",
                "Access to this API has been disallowed",
            ),
            Self::KeyInactive => (403, "", "Key is inactive, please renew"),
            Self::KeyExpired => (401, "", "Key has expired, please renew"),
            Self::AccessDisallowed => (403, "", "Access to this API has been disallowed"),
            Self::ResourceDisallowed => (403, "", "Access to this resource has been disallowed"),
            Self::SessionMissing => (
                400,
                "",
                "Session state is missing or unset! Please make sure that auth headers are properly applied",
            ),
            Self::RateLimitExceeded => (429, "", "Rate Limit Exceeded"),
            Self::QuotaExceeded => (403, "", "Quota exceeded"),
            Self::ApiRateLimitExceeded => (429, "", "API Rate Limit Exceeded"),
            Self::OrganisationInactive => (
                403,
                "",
                "this organisation access has been disabled, please contact your API administrator",
            ),
            Self::OrganisationQuotaExceeded => (
                403,
                "",
                "This organisation quota has been exceeded, please contact your API administrator",
            ),
            Self::OrganisationRateLimitExceeded => (
                403,
                "",
                "This organisation rate limit has been exceeded, please contact your API administrator",
            ),
            Self::IpNotAllowed => (403, "", "access from this IP has been disallowed"),
            Self::VersionInfoNotFound => (403, "", "Version information not found"),
            Self::VersionDoesNotExist => (403, "", "This API version does not seem to exist"),
            Self::ApiExpired => (
                403,
                "",
                "API has expired, please check documentation or contact administrator",
            ),
            Self::ContentLengthRequired => (411, "", "Content length is required for this request"),
            Self::InternalError => (500, "", "Internal Server Error"),
            Self::StoreAway => (503, "", "Service temporarily unavailable."),
            Self::BodyTooLarge => (413, "", "Request is too large"),
            Self::UpstreamTimeout => (504, "", "Upstream service reached hard timeout."),
            Self::UpstreamHostLookup => (500, "", "Upstream host lookup failed"),
            Self::UpstreamFailed => (500, "", "There was a problem proxying the request"),
            Self::ClientClosed => (499, "", "Client closed request"),
            Self::AllHostsDown => (503, "", "all hosts are down"),
            Self::TargetInvalid => (500, "", "Couldn't detect target"),
        }
    }
}

/// Why one file, or one part of it, was not loaded. Made for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    pub file: PathBuf,
    /// 1-based; 0 when the place is not known.
    pub line: u32,
    /// 1-based, in bytes; 0 when the place is not known.
    pub column: u32,
    /// JSON pointer (RFC 6901) of the value at fault; empty for the whole document.
    pub pointer: String,
    /// What was found and what was expected.
    pub reason: String,
}

impl LoadError {
    /// An error about the file as a whole.
    pub fn whole(file: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::at(file, "", reason)
    }

    /// An error about the value at `pointer`.
    pub fn at(
        file: impl Into<PathBuf>,
        pointer: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            pointer: pointer.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.pointer.is_empty() {
            write!(f, ": {}", self.pointer)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for LoadError {}
