//! The route of a definition that was refused.
//!
//! A wrong value somewhere in a definition must not hand its traffic to another API: where these
//! few fields can be read, the route is kept and answers 404.

use serde::Deserialize;

use super::json::Document;

/// What decides which requests are meant for an API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Route {
    pub api_id: String,
    pub listen_port: i64,
    pub domain: String,
    pub domain_disabled: bool,
    proxy: RouteProxy,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct RouteProxy {
    listen_path: String,
}

impl Route {
    /// Reads the route and nothing else. `None` when the text is no JSON object, or when a field of the
    /// route itself has the wrong type.
    #[must_use]
    pub fn from_json_slice(bytes: &[u8]) -> Option<Self> {
        Document::parse(bytes).ok()?.decode().ok()
    }

    #[must_use]
    pub fn listen_path(&self) -> &str {
        &self.proxy.listen_path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_elsewhere_leaves_the_route_readable() {
        let route = Route::from_json_slice(
            br#"{"active":"yes","API_ID":"a","domain":"a.example","listen_port":8081,"domain_disabled":true,
                "proxy":{"target_url":5,"listen_path":"/a/"},"version_data":[]}"#,
        )
        .expect("readable");
        assert_eq!(
            (
                route.api_id.as_str(),
                route.domain.as_str(),
                route.listen_path()
            ),
            ("a", "a.example", "/a/")
        );
        assert_eq!((route.listen_port, route.domain_disabled), (8081, true));
    }

    #[test]
    fn a_route_that_cannot_be_read_is_none() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"proxy":5}"#,
            r#"{"proxy":{"listen_path":5}}"#,
            r#"{"domain":1}"#,
        ] {
            assert_eq!(Route::from_json_slice(text.as_bytes()), None, "{text}");
        }
    }
}
