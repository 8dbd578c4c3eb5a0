//! Which API a request is for: host and listen path to the first match in Tyk's order.
//!
//! Tyk scans its routes one after the other (gorilla/mux) in the order of [`tyk_order`]. The answer
//! here is the same, found without the scan: the host picks a few groups of routes, each with a
//! compact radix trie over its literal prefixes; walking down a trie meets every prefix of the path,
//! and the lowest order among them wins. Templates stand aside, sorted, and are tried only while they
//! could still win.
//!
//! Immutable after the build and shared by all shards. A lookup neither allocates nor locks (but for
//! the exceptions in [`listen_path`](super::listen_path)); it costs one hash of the host, one walk of
//! at most the path's length per group, and one literal comparison per template in reach.
//! Source: dataplane facts on `gateway/api_loader.go` and gorilla/mux 1.8.1 `regexp.go`.

use std::{cmp::Reverse, collections::HashMap, mem, ops::Range, sync::Arc};

use crate::gateway::listen_path::{HostRule, HostTemplate, ListenPath, without_port};

/// One way to reach an API. Every API has two: see [`RouteKind`].
#[derive(Debug, Clone)]
pub struct Route {
    /// Rank of its API in [`tyk_order`], below [`ORDER_MAX`]. Two routes of equal rank and kind are
    /// both kept; which of them answers where both match is not defined.
    pub order: u32,
    pub kind: RouteKind,
    pub path: ListenPath,
    pub host: HostRule,
    /// Slot of the API in its snapshot.
    pub target: u32,
}

/// The two prefixes of an API, in the order in which they are tried at its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// `/<api_id>/`. Never stripped, and exempt from strict routes.
    ApiId,
    ListenPath,
}

/// What a lookup finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    pub target: u32,
    pub order: u32,
    pub kind: RouteKind,
}

/// Orders are below this.
pub const ORDER_MAX: u32 = u32::MAX / 2;

/// Sorts APIs as Tyk does: longer domain first when domains differ, else longer listen path first
/// (both by length in bytes).
///
/// What Tyk leaves undefined (its sort is unstable, and its rule says nothing on different domains of
/// equal length) is decided here by longer listen path, then by the order given, which is that of the
/// files.
pub fn tyk_order<T>(apis: &mut [T], domain: impl Fn(&T) -> &str, path: impl Fn(&T) -> &str) {
    apis.sort_by_key(|api| (Reverse(domain(api).len()), Reverse(path(api).len())));
}

/// The routes of one listener.
#[derive(Debug, Default)]
pub struct Router {
    any_host: Group,
    hosts: HashMap<Box<[u8]>, Group, ahash::RandomState>,
    /// Whether a key of `hosts` has a port.
    any_port: bool,
    /// Sorted by the least rank of the group.
    host_templates: Vec<(Arc<HostTemplate>, Group)>,
    trie: Trie,
    /// Sorted by rank within the range of each group.
    templates: Vec<TemplateRoute>,
}

impl Router {
    /// Builds the lookup structure. `O(n log n)`; templates come compiled and are shared.
    ///
    /// # Panics
    /// When an order is not below [`ORDER_MAX`].
    #[must_use]
    pub fn build(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut groups = GroupedRoutes::default();
        for route in routes {
            assert!(route.order < ORDER_MAX, "orders are ranks, counted from 0");
            groups.of(&route.host).push(route);
        }
        let mut router = Self::default();
        router.any_host = router.add_group(groups.any_host);
        for (domain, routes) in groups.exact {
            router.any_port |= domain.contains(':');
            let group = router.add_group(routes);
            router.hosts.insert(domain.as_bytes().into(), group);
        }
        for (template, routes) in groups.templates.into_values() {
            let group = router.add_group(routes);
            router.host_templates.push((template, group));
        }
        router
            .host_templates
            .sort_by_key(|(_, group)| group.least_rank);
        router.trie.shrink();
        router
    }

    /// The route with the lowest order among those that match `host` (the `Host` value, port
    /// included, as received) and `path` (decoded and clean): what an ordered scan would find first.
    #[must_use]
    pub fn find(&self, host: &[u8], path: &[u8]) -> Option<Match> {
        let mut best = Best::NONE;
        if !self.hosts.is_empty() {
            let name = without_port(host);
            if let Some(group) = self.hosts.get(name) {
                self.search(group, path, &mut best);
            }
            if self.any_port
                && name.len() != host.len()
                && let Some(group) = self.hosts.get(host)
            {
                self.search(group, path, &mut best);
            }
        }
        for (template, group) in &self.host_templates {
            if group.least_rank >= best.rank {
                break;
            }
            if template.matches(host) {
                self.search(group, path, &mut best);
            }
        }
        self.search(&self.any_host, path, &mut best);
        best.into_match()
    }

    /// Bytes on the heap, the compiled templates (shared with their definitions) not counted.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let keys: usize = self.hosts.keys().map(|host| host.len()).sum();
        keys + self.hosts.capacity() * (mem::size_of::<(Box<[u8]>, Group)>() + 1)
            + self.host_templates.capacity() * mem::size_of::<(Arc<HostTemplate>, Group)>()
            + self.templates.capacity() * mem::size_of::<TemplateRoute>()
            + self.trie.heap_bytes()
    }

    #[inline]
    fn search(&self, group: &Group, path: &[u8], best: &mut Best) {
        if group.least_rank >= best.rank {
            return;
        }
        self.trie.walk(group.root, path, best);
        let range = group.templates.start as usize..group.templates.end as usize;
        for route in self.templates.get(range).unwrap_or_default() {
            if route.rank >= best.rank {
                break;
            }
            if route.path.matches(path) {
                *best = Best {
                    rank: route.rank,
                    target: route.target,
                };
                break;
            }
        }
    }

    fn add_group(&mut self, routes: Vec<Route>) -> Group {
        let first_template = self.templates.len();
        let mut prefixes = Vec::with_capacity(routes.len());
        for route in &routes {
            let rank = rank(route.order, route.kind);
            if route.path.has_variables() {
                self.templates.push(TemplateRoute {
                    rank,
                    target: route.target,
                    path: route.path.clone(),
                });
            } else {
                prefixes.push(Prefix {
                    text: route.path.as_str().as_bytes(),
                    rank,
                    target: route.target,
                });
            }
        }
        if let Some(templates) = self.templates.get_mut(first_template..) {
            templates.sort_by_key(|route| route.rank);
        }
        let least_rank = routes
            .iter()
            .map(|route| rank(route.order, route.kind))
            .min();
        Group {
            root: self.trie.add(prefixes),
            templates: offset(first_template)..offset(self.templates.len()),
            least_rank: least_rank.unwrap_or(Best::NONE.rank),
        }
    }
}

/// The routes behind one host rule.
#[derive(Debug, Clone)]
struct Group {
    /// Node of the trie over the literal prefixes.
    root: u32,
    /// Where its templates are.
    templates: Range<u32>,
    least_rank: u32,
}

impl Group {
    const EMPTY: Self = Self {
        root: 0,
        templates: 0..0,
        least_rank: Best::NONE.rank,
    };
}

impl Default for Group {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[derive(Debug)]
struct TemplateRoute {
    rank: u32,
    target: u32,
    path: ListenPath,
}

/// The lowest rank seen so far. A rank is the order of the API and, below it, the kind of the route.
#[derive(Debug, Clone, Copy)]
struct Best {
    rank: u32,
    target: u32,
}

impl Best {
    const NONE: Self = Self {
        rank: u32::MAX,
        target: 0,
    };

    fn into_match(self) -> Option<Match> {
        (self.rank != Self::NONE.rank).then_some(Match {
            target: self.target,
            order: self.rank / 2,
            kind: if self.rank.is_multiple_of(2) {
                RouteKind::ApiId
            } else {
                RouteKind::ListenPath
            },
        })
    }
}

fn rank(order: u32, kind: RouteKind) -> u32 {
    order * 2 + u32::from(kind == RouteKind::ListenPath)
}

/// The routes of each host rule while building.
#[derive(Default)]
struct GroupedRoutes {
    any_host: Vec<Route>,
    exact: HashMap<Arc<str>, Vec<Route>, ahash::RandomState>,
    /// By the domain as written.
    templates: HashMap<Box<str>, (Arc<HostTemplate>, Vec<Route>), ahash::RandomState>,
}

impl GroupedRoutes {
    fn of(&mut self, host: &HostRule) -> &mut Vec<Route> {
        match host {
            HostRule::Any => &mut self.any_host,
            HostRule::Exact(domain) => self.exact.entry(Arc::clone(domain)).or_default(),
            HostRule::Pattern(template) => {
                let (_, routes) = self
                    .templates
                    .entry(template.as_str().into())
                    .or_insert_with(|| (Arc::clone(template), Vec::new()));
                routes
            }
        }
    }
}

/// A literal prefix while building.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix<'a> {
    text: &'a [u8],
    rank: u32,
    target: u32,
}

impl<'a> Prefix<'a> {
    fn below(&self, depth: usize) -> &'a [u8] {
        self.text.get(depth..).unwrap_or_default()
    }
}

/// The radix tries of all groups in one arena. Children of a node are neighbours, so that one search
/// over their first bytes finds the next node.
#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
    /// For each node, the byte that leads from its parent to it.
    heads: Vec<u8>,
    labels: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Where in `labels` the bytes between this node and its children are.
    label_at: u32,
    label_len: u32,
    first_child: u32,
    /// 0 to 256.
    child_count: u32,
    /// Rank of the prefix that ends here; `Best::NONE.rank` when none does.
    rank: u32,
    target: u32,
}

impl Node {
    const EMPTY: Self = Self {
        label_at: 0,
        label_len: 0,
        first_child: 0,
        child_count: 0,
        rank: Best::NONE.rank,
        target: 0,
    };
}

impl Trie {
    /// Adds a trie over `prefixes`; the answer is its root.
    fn add(&mut self, mut prefixes: Vec<Prefix<'_>>) -> u32 {
        let root = self.push(0);
        prefixes.sort_unstable();
        // Of equal prefixes only the lowest rank, which now stands first, can ever win.
        prefixes.dedup_by_key(|prefix| prefix.text);
        if prefixes.is_empty() {
            return root;
        }
        // A stack of our own: the depth of a trie is in the hands of whoever names listen paths.
        let mut open = vec![(root, prefixes.as_slice(), 0)];
        while let Some((node, prefixes, depth)) = open.pop() {
            // All start with the same `depth` bytes; being sorted, what the first and the last share
            // beyond that is shared by all.
            let (Some(first), Some(last)) = (prefixes.first(), prefixes.last()) else {
                continue;
            };
            let label = shared(first.below(depth), last.below(depth));
            let depth = depth + label.len();
            let mut filled = Node {
                label_at: offset(self.labels.len()),
                label_len: offset(label.len()),
                first_child: offset(self.nodes.len()),
                ..Node::EMPTY
            };
            self.labels.extend_from_slice(label);
            for same in prefixes.chunk_by(|a, b| a.text.get(depth) == b.text.get(depth)) {
                let Some(one) = same.first() else {
                    continue;
                };
                if let Some(&head) = one.text.get(depth) {
                    open.push((self.push(head), same, depth + 1));
                    filled.child_count += 1;
                } else {
                    filled.rank = one.rank;
                    filled.target = one.target;
                }
            }
            if let Some(node) = self.nodes.get_mut(node as usize) {
                *node = filled;
            }
        }
        root
    }

    fn push(&mut self, head: u8) -> u32 {
        let id = offset(self.nodes.len());
        self.nodes.push(Node::EMPTY);
        self.heads.push(head);
        id
    }

    /// Lowers `best` by every prefix of `path` in the trie at `root`.
    #[inline]
    fn walk(&self, root: u32, path: &[u8], best: &mut Best) {
        let mut at = root as usize;
        let mut rest = path;
        while let Some(node) = self.nodes.get(at) {
            let label_at = node.label_at as usize;
            let label = self
                .labels
                .get(label_at..label_at + node.label_len as usize);
            let Some(below) = label.and_then(|label| rest.strip_prefix(label)) else {
                return;
            };
            if node.rank < best.rank {
                *best = Best {
                    rank: node.rank,
                    target: node.target,
                };
            }
            let first = node.first_child as usize;
            let heads = self.heads.get(first..first + node.child_count as usize);
            let (Some((&head, below)), Some(heads)) = (below.split_first(), heads) else {
                return;
            };
            let Some(child) = memchr::memchr(head, heads) else {
                return;
            };
            at = first + child;
            rest = below;
        }
    }

    fn shrink(&mut self) {
        self.nodes.shrink_to_fit();
        self.heads.shrink_to_fit();
        self.labels.shrink_to_fit();
    }

    fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * mem::size_of::<Node>()
            + self.heads.capacity()
            + self.labels.capacity()
    }
}

/// What `a` and `b` start with.
fn shared<'a>(a: &'a [u8], b: &[u8]) -> &'a [u8] {
    let len = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    a.get(..len).unwrap_or_default()
}

/// An index of the arena. Listen paths come from files that were held in memory, many times smaller
/// than the 4 GiB at which this would give up.
#[expect(clippy::expect_used, reason = "as above")]
fn offset(index: usize) -> u32 {
    u32::try_from(index).expect("the listen paths of one gateway are below 4 GiB")
}

#[cfg(test)]
mod tests;
