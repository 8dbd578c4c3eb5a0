//! `strip_auth_data`: the upstream does not see the credentials.
//!
//! Tyk: `mw_strip_auth.go` (`StripAuth`). Order: behind authentication. Cost: one pass over fields.

use crate::{
    apidef::{ApiDefinition, AuthConfig},
    exchange::Ctx,
    http::{form, h1::FieldName},
};

/// What is removed, per authentication method.
#[derive(Debug)]
pub struct StripAuth {
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    header: Box<[u8]>,
    param: Option<Box<[u8]>>,
    /// The first cookie that begins with this is removed, as in Tyk.
    cookie: Option<Box<[u8]>>,
}

impl StripAuth {
    /// `None` unless `strip_auth_data` is on and the API is not keyless.
    #[must_use]
    pub fn from_spec(api: &ApiDefinition) -> Option<Self> {
        if !api.strip_auth_data || api.use_keyless {
            return None;
        }
        let places = if api.auth_configs.is_empty() {
            vec![Place::from_config(&api.auth)]
        } else {
            api.auth_configs.values().map(Place::from_config).collect()
        };
        Some(Self { places })
    }

    /// Takes the credentials out of what goes upstream.
    pub fn apply(&self, cx: &mut Ctx) {
        for place in &self.places {
            place.apply(cx);
        }
    }
}

impl Place {
    fn from_config(config: &AuthConfig) -> Self {
        let first = |names: &[&str]| {
            let name = names.iter().find(|name| !name.is_empty());
            Box::from(name.copied().unwrap_or("Authorization").as_bytes())
        };
        Self {
            header: first(&[&config.auth_header_name]),
            param: config
                .use_param
                .then(|| first(&[&config.param_name, &config.auth_header_name])),
            cookie: config
                .use_cookie
                .then(|| first(&[&config.cookie_name, &config.auth_header_name])),
        }
    }

    fn apply(&self, cx: &mut Ctx) {
        if let Some(name) = &self.param {
            let query = cx.upstream_query().unwrap_or_default();
            if let Some(rest) = form::without(query, name) {
                cx.edits().query = Some(rest);
            }
        }
        let is_named = |name: &[u8]| name.eq_ignore_ascii_case(&self.header);
        let named: Vec<_> = (0..cx.head.fields.len())
            .filter(|index| {
                let field = cx.head.fields.get(*index);
                field.is_some_and(|field| is_named(cx.part(field.name)))
            })
            .collect();
        for index in named {
            cx.edits().fields.push((index, None));
        }
        if let Some(name) = &self.cookie {
            strip_cookie(cx, name);
        }
    }
}

/// Tyk looks at the first `Cookie` field.
fn strip_cookie(cx: &mut Ctx, name: &[u8]) {
    let found = cx
        .head
        .fields
        .iter()
        .enumerate()
        .find(|(_, field)| field.id == FieldName::Cookie);
    let Some((index, field)) = found else {
        return;
    };
    let value = cx.part(field.value);
    let mut kept = Vec::with_capacity(value.len());
    let mut is_gone = false;
    for cookie in value.split(|byte| *byte == b';') {
        let cookie = cookie.trim_ascii();
        if !is_gone && cookie.starts_with(name) {
            is_gone = true;
            continue;
        }
        if !kept.is_empty() {
            kept.extend_from_slice(b"; ");
        }
        kept.extend_from_slice(cookie);
    }
    if is_gone {
        let value = (!kept.is_empty()).then_some(kept);
        cx.edits().fields.push((index, value));
    }
}
