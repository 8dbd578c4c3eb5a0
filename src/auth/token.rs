//! Where a token is read from: header, query parameter or cookie.
//!
//! Tyk: `middleware.go` (`getAuthToken`): the last source that has a value wins, in the order header,
//! query, cookie.

use std::borrow::Cow;

use crate::{apidef::AuthConfig, http::h1::RequestHead};

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
                .and_then(|query| query_value(query.of(buf), name))
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

/// The first value of a query parameter, decoded as `application/x-www-form-urlencoded`.
fn query_value<'a>(query: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair.get(..at)?, pair.get(at + 1..)?),
            None => (pair, &b""[..]),
        };
        (form_decode(key).as_ref() == name).then(|| form_decode(value))
    })
}

fn form_decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        out.push(match (first, behind) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                match (digit(high), digit(low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        (high * 16 + low) as u8
                    }
                    _ => b'%',
                }
            }
            _ => *first,
        });
    }
    Cow::Owned(out)
}
