//! The router against a table of cases, and against an ordered scan of its own.

use std::{fmt::Write as _, sync::LazyLock};

use proptest::prelude::*;
use regex_automata::{
    Anchored, Input,
    nfa::thompson::{self, pikevm::PikeVM},
    util::syntax,
};

use super::*;

/// One API as a test writes it.
#[derive(Debug, Clone)]
struct Api {
    id: String,
    domain: String,
    path: String,
}

fn api(id: &str, domain: &str, path: &str) -> Api {
    Api {
        id: id.to_owned(),
        domain: domain.to_owned(),
        path: path.to_owned(),
    }
}

/// Two routes per API in Tyk's order; targets are places in `apis` as given.
fn routes(apis: &[Api]) -> Vec<Route> {
    let mut sorted: Vec<(usize, &Api)> = apis.iter().enumerate().collect();
    tyk_order(&mut sorted, |(_, api)| &api.domain, |(_, api)| &api.path);
    let mut routes = Vec::new();
    for (order, (slot, api)) in sorted.into_iter().enumerate() {
        let route = |kind, path| Route {
            order: order as u32,
            kind,
            path,
            host: HostRule::parse(&api.domain).expect("a good domain"),
            target: slot as u32,
        };
        routes.push(route(RouteKind::ApiId, ListenPath::of_api_id(&api.id)));
        let path = ListenPath::parse(&api.path).expect("a good listen path");
        routes.push(route(RouteKind::ListenPath, path));
    }
    routes
}

/// Which API, by id, answers `path` on `host`.
#[track_caller]
fn check(apis: &[Api], host: &str, path: &str, expected: Option<&str>) {
    let router = Router::build(routes(apis));
    let found = router
        .find(host.as_bytes(), path.as_bytes())
        .map(|found| apis[found.target as usize].id.as_str());
    assert_eq!(found, expected, "{host} {path}");
}

#[test]
fn the_longest_listen_path_wins_and_shorter_ones_take_the_rest() {
    let apis = [
        api("root", "", "/"),
        api("nest", "", "/nest/"),
        api("inner", "", "/nest/inner/"),
        api("word", "", "/noslash"),
    ];
    check(&apis, "h", "/nest/inner/x", Some("inner"));
    check(&apis, "h", "/nest/inner", Some("nest"));
    check(&apis, "h", "/nest/", Some("nest"));
    check(&apis, "h", "/nest", Some("root"));
    check(&apis, "h", "/noslashabc", Some("word"));
    check(&apis, "h", "/NEST/", Some("root"));
    check(&apis[1..], "h", "/other", None);
    check(&apis[1..], "h", "", None);
    check(&[], "h", "/", None);
}

#[test]
fn every_api_answers_under_its_id() {
    let apis = [api("a1", "", "/listen/"), api("a2", "", "/a1/deep/")];
    check(&apis, "h", "/a1/x", Some("a1"));
    check(&apis, "h", "/a1/deep/x", Some("a2"));
    check(&apis, "h", "/a1", None);
    let router = Router::build(routes(&apis));
    let kind = |path: &[u8]| router.find(b"h", path).expect("found").kind;
    assert_eq!(kind(b"/a1/x"), RouteKind::ApiId);
    assert_eq!(kind(b"/listen/x"), RouteKind::ListenPath);
}

#[test]
fn an_id_route_is_tried_before_the_listen_path_of_the_same_api() {
    let router = Router::build(routes(&[api("same", "", "/same/")]));
    let found = router.find(b"h", b"/same/x").expect("found");
    assert_eq!(found.kind, RouteKind::ApiId);
}

#[test]
fn order_is_the_length_of_the_template_not_of_what_it_matches() {
    let apis = [
        api("general", "", "/{anything:[a-z]+}/"),
        api("exact", "", "/exact/"),
    ];
    check(&apis, "h", "/exact/x", Some("general"));
    check(&apis, "h", "/EXACT/x", None);
    let apis = [api("v", "", "/v/{id:[a-z]+}/"), api("n", "", "/n/{id}/")];
    check(&apis, "h", "/v/abc/x", Some("v"));
    check(&apis, "h", "/v/123/x", Some("v")); // by its id
    check(&apis, "h", "/n/77/x", Some("n"));
}

#[test]
fn domains_go_before_listen_paths() {
    let apis = [
        api("one", "one.example.com", "/d/"),
        api("two", "two.example.com", "/d/"),
        api("none", "", "/d/longer/than/the/others/"),
        api("wild", "{sub:[a-z]+}.wild.example.com", "/w/"),
        api("port", "one.example.com:81", "/d/"),
    ];
    check(&apis, "one.example.com", "/d/x", Some("one"));
    check(&apis, "two.example.com:8080", "/d/x", Some("two"));
    check(&apis, "one.example.com:81", "/d/x", Some("port"));
    check(&apis, "ONE.example.com", "/d/x", None);
    check(
        &apis,
        "one.example.com",
        "/d/longer/than/the/others/x",
        Some("one"),
    );
    check(&apis, "other", "/d/longer/than/the/others/x", Some("none"));
    check(&apis, "abc.wild.example.com", "/w/x", Some("wild"));
    check(&apis, "wild.example.com", "/w/x", None);
    check(&apis, "", "/w/x", None);
}

#[test]
fn among_equals_the_first_file_wins() {
    let apis = [
        api("a", "aaa.x", "/p/"),
        api("b", "", "/{n:[a-z]}/"),
        api("c", "", "/{n:[a-f]}/"),
        api("d", "{h:a}.x", "/q/"),
    ];
    check(&apis, "h", "/b/x", Some("b"));
    let twice = [api("first", "", "/same/"), api("second", "", "/same/")];
    check(&twice, "h", "/same/x", Some("first"));
}

#[test]
fn a_deep_chain_of_prefixes_neither_overflows_nor_slows() {
    let mut text = String::from("/");
    let apis: Vec<Api> = (0..3000)
        .map(|n| {
            text.push((b'a' + (n % 26) as u8) as char);
            api(&format!("id{n}"), "", &text)
        })
        .collect();
    let last = format!("{text}/x");
    check(&apis, "h", &last, Some("id2999"));
    check(&apis, "h", "/abc-", Some("id2"));
}

#[test]
fn all_bytes_may_follow_one_another() {
    let plain: Vec<Route> = (0..=255_u8)
        .map(|byte| Route {
            order: u32::from(byte),
            kind: RouteKind::ListenPath,
            path: ListenPath::of_api_id(&char::from(byte).to_string()),
            host: HostRule::Any,
            target: u32::from(byte),
        })
        .collect();
    let router = Router::build(plain);
    for byte in 0..=255_u8 {
        let path = format!("/{}/x", char::from(byte));
        let found = router.find(b"", path.as_bytes()).expect("found");
        assert_eq!(found.target, u32::from(byte));
    }
}

#[test]
fn tyk_order_compares_lengths_domain_first() {
    let mut apis = [
        api("1", "", "/long/long/long/"),
        api("2", "b.x", "/a/"),
        api("3", "a.x", "/a/b/"),
        api("4", "long.x", "/"),
        api("5", "", "/long/long/lung/"),
    ];
    tyk_order(&mut apis, |api| &api.domain, |api| &api.path);
    let ids: String = apis.iter().map(|api| api.id.as_str()).collect();
    assert_eq!(ids, "43215");
}

/// Templates and the same written as a regex by hand, so that the scan shares no code with the router.
const PATH_TEMPLATES: &[(&str, &str)] = &[
    ("/{a}/", "/[^/]+/"),
    ("/a/{x}/b", "/a/[^/]+/b"),
    ("/{x:[ab]+}", "/[ab]+"),
    ("/a{x:/?}b/", "/a/?b/"),
    ("/{x:.*}/ab", "/.*/ab"),
    ("/{x}{y:b{2}}", "/[^/]+b{2}"),
];

const HOST_TEMPLATES: &[(&str, &str)] = &[
    ("{s}.ab", r"[^.]+\.ab"),
    ("{s:[ab]+}.ab", r"[ab]+\.ab"),
    ("a.{s}", r"a\.[^.]+"),
    ("{s}:8", r"[^.]+:8"),
];

/// The patterns above by template, as anchored as the scan needs them.
static PATTERNS: LazyLock<HashMap<&str, PikeVM>> = LazyLock::new(|| {
    let compile = |pattern: &str| {
        PikeVM::builder()
            .syntax(syntax::Config::new().utf8(false).unicode(false))
            .thompson(thompson::Config::new().utf8(false))
            .build(pattern)
            .expect("a pattern of these tables")
    };
    let paths = PATH_TEMPLATES
        .iter()
        .map(|(text, regex)| (*text, compile(regex)));
    let hosts = HOST_TEMPLATES
        .iter()
        .map(|(text, regex)| (*text, compile(&format!("(?:{regex})$"))));
    paths.chain(hosts).collect()
});

fn regex_matches(vm: &PikeVM, text: &[u8]) -> bool {
    vm.is_match(
        &mut vm.create_cache(),
        Input::new(text).anchored(Anchored::Yes),
    )
}

/// Tyk's own way: routes one after the other.
fn ordered_scan(apis: &[Api], host: &[u8], path: &[u8]) -> Option<(u32, RouteKind)> {
    let mut sorted: Vec<(usize, &Api)> = apis.iter().enumerate().collect();
    sorted.sort_by_key(|(slot, api)| {
        (
            usize::MAX - api.domain.len(),
            usize::MAX - api.path.len(),
            *slot,
        )
    });
    let host_matches = |domain: &str| {
        let host = match host.iter().position(|byte| *byte == b':') {
            Some(colon) if !domain.contains(':') => &host[..colon],
            _ => host,
        };
        match PATTERNS.get(domain) {
            Some(vm) => regex_matches(vm, host),
            None => domain.is_empty() || host == domain.as_bytes(),
        }
    };
    let path_matches = |listen_path: &str| match PATTERNS.get(listen_path) {
        Some(vm) => regex_matches(vm, path),
        None => path.starts_with(listen_path.as_bytes()),
    };
    sorted
        .into_iter()
        .filter(|(_, api)| host_matches(&api.domain))
        .find_map(|(slot, api)| {
            if path_matches(&format!("/{}/", api.id)) {
                Some((slot as u32, RouteKind::ApiId))
            } else if path_matches(&api.path) {
                Some((slot as u32, RouteKind::ListenPath))
            } else {
                None
            }
        })
}

/// Short words over a tiny alphabet share many prefixes.
fn any_path() -> impl Strategy<Value = String> {
    "(/|/[ab/]{1,8})"
}

fn any_listen_path() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any_path(),
        1 => prop::sample::select(PATH_TEMPLATES).prop_map(|(text, _)| text.to_owned()),
    ]
}

fn any_domain() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        2 => prop::sample::select(&["a.ab", "b.ab", "ab.ab", "a.ab:8"][..]).prop_map(str::to_owned),
        1 => prop::sample::select(HOST_TEMPLATES).prop_map(|(text, _)| text.to_owned()),
    ]
}

fn any_api() -> impl Strategy<Value = Api> {
    ("[ab]{1,3}", any_domain(), any_listen_path()).prop_map(|(id, domain, path)| Api {
        id,
        domain,
        path,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_lookup_finds_what_an_ordered_scan_finds(
        apis in prop::collection::vec(any_api(), 0..40),
        requests in prop::collection::vec(("(a|b|ab|ac)?(\\.ab)?(:8)?", any_path()), 1..20),
    ) {
        let router = Router::build(routes(&apis));
        for (host, path) in requests {
            let found = router.find(host.as_bytes(), path.as_bytes());
            let expected = ordered_scan(&apis, host.as_bytes(), path.as_bytes());
            prop_assert_eq!(
                found.map(|found| (found.target, found.kind)),
                expected,
                "{} {}", host, path
            );
        }
    }
}

#[test]
fn ten_thousand_apis_take_a_few_mebibytes() {
    let apis: Vec<Api> = (0..10_000)
        .map(|n| {
            let mut path = String::new();
            let _ = write!(path, "/team-{}/service-{n}/", n % 97);
            api(&format!("{n:032x}"), "", &path)
        })
        .collect();
    let router = Router::build(routes(&apis));
    let heap_bytes = router.heap_bytes();
    assert!(heap_bytes < 4 << 20, "{heap_bytes}");
}
