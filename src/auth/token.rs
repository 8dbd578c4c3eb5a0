//! Where a token is read from: header, query parameter or cookie.
//!
//! Tyk: `middleware.go` (`getAuthToken`): the last source that has a value wins, in the order header,
//! query, cookie.

use std::borrow::Cow;

use crate::{
    apidef::AuthConfig,
    http::{form, h1::RequestHead},
};

/// Compiled form of an `auth_configs` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSource {
    header: Option<Vec<u8>>,
    param: Option<Vec<u8>>,
    cookie: Option<Vec<u8>>,
}

impl TokenSource {
    #[must_use]
    pub fn from_config(config: &AuthConfig) -> Self {
        let or = |name: &str, fallback: &str| {
            if name.is_empty() {
                fallback.to_owned()
            } else {
                name.to_owned()
            }
        };
        // With the header off, its name is not the default of the others either.
        let header = if config.disable_header {
            "Authorization".to_owned()
        } else {
            or(&config.auth_header_name, "Authorization")
        };
        let named = |on: bool, name: &str| on.then(|| or(name, &header).into_bytes());
        Self {
            param: named(config.use_param, &config.param_name),
            cookie: named(config.use_cookie, &config.cookie_name),
            header: (!config.disable_header).then(|| header.clone().into_bytes()),
        }
    }

    /// The token in a head that was parsed from `buf`; empty when there is none.
    #[must_use]
    pub fn token<'a>(&self, head: &RequestHead, buf: &'a [u8]) -> Cow<'a, [u8]> {
        let mut token = Cow::Borrowed(&b""[..]);
        if let Some(name) = &self.header
            && let Some(field) = head
                .fields
                .iter()
                .find(|field| field.name.of(buf).eq_ignore_ascii_case(name))
        {
            token = Cow::Borrowed(field.value.of(buf));
        }
        if let Some(name) = &self.param
            && let Some(value) = head
                .query
                .and_then(|query| form::value(query.of(buf), name))
            && !value.is_empty()
        {
            token = value;
        }
        if let Some(name) = &self.cookie {
            let cookies = head
                .fields
                .iter()
                .filter(|field| field.id == crate::http::h1::FieldName::Cookie)
                .flat_map(|field| field.value.of(buf).split(|byte| *byte == b';'));
            for cookie in cookies {
                let cookie = cookie.trim_ascii();
                if let Some(value) = cookie
                    .strip_prefix(name.as_slice())
                    .and_then(|rest| rest.strip_prefix(b"="))
                    && !value.is_empty()
                {
                    token = Cow::Borrowed(value);
                    break;
                }
            }
        }
        token
    }
}
