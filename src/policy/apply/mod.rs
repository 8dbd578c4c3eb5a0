//! Laying policies over a session.
//!
//! The result is what a key may do: on the data plane at each look-up, and what is stored when a
//! key is made. The order of a session's policies matters; that of the APIs in them does not.
//!
//! Tyk: `internal/policy/apply.go` (`Apply`, `ClearSession`, `ApplyRateLimits`), `util.go`,
//! `user/custom_policies.go`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    apidef::{List, Map},
    policy::{Policies, Policy},
    session::{AccessDefinition, AccessSpec, ApiLimit, GraphQlType, Session},
};

/// Why a session may not be used. The texts are Tyk's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("policy not found: {0:?}")]
    NotFound(String),
    #[error("attempting to apply policy from different organisation to key, skipping")]
    OtherOrganisation,
    #[error("cannot apply policy {0} which has per_api and any of partitions set")]
    PerApiAndPartitions(String),
    #[error("cannot apply multiple policies when some have per_api set and some are partitioned")]
    Mixed,
    /// A policy inside of the session itself.
    #[error("meta_data.policies/{0}: {1}")]
    Custom(usize, String),
}

/// Lays the policies of a session over it. `org_id` is that of the API in question; `None` where
/// there is none, as when a key is previewed: then policies of any organisation are taken.
///
/// A session without policies gets its tags and free data made present, and counters of their own
/// for APIs that have a limit.
///
/// # Errors
/// The key may not be used; the session is then in between and to be thrown away, or kept as it is
/// where Tyk ignores the error.
pub fn apply(
    session: &mut Session,
    policies: &Policies,
    org_id: Option<&str>,
) -> Result<(), ApplyError> {
    session.meta_data.as_mut_map();
    clear(session, policies);
    let custom = custom_policies(session)?;
    let ids = match &custom {
        Some(custom) => custom.iter().map(|policy| policy.id.clone()).collect(),
        None => session.policy_ids().to_vec(),
    };
    let mut laid = Laid::default();
    let mut tags = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let policy = match &custom {
            Some(custom) => custom.get(at),
            None => policies.get(id).map(AsRef::as_ref),
        };
        let Some(policy) = policy else {
            let error = ApplyError::NotFound(id.clone());
            if ids.len() > 1 {
                tracing::warn!(prefix = "policy", "{error}");
                continue;
            }
            return Err(error);
        };
        if org_id.is_some_and(|org_id| policy.org_id != org_id) {
            return Err(ApplyError::OtherOrganisation);
        }
        if policy.partitions.per_api {
            if policy.partitions.is_partial() {
                return Err(ApplyError::PerApiAndPartitions(policy.id.clone()));
            }
            laid.per_api(policy, session)?;
        } else {
            laid.partitions(policy, session);
        }
        session.is_inactive |= policy.is_inactive;
        tags.extend(policy.tags.iter().cloned());
        for (key, value) in &policy.meta_data {
            session.meta_data.insert(key.clone(), value.clone());
        }
        if policy.last_updated > session.last_updated {
            session.last_updated.clone_from(&policy.last_updated);
        }
    }
    // Go's order of these is any.
    tags.extend(session.tags.iter().cloned());
    let mut union = List::from(Vec::new());
    add_missing(&mut union, &tags);
    session.tags = union;
    if ids.is_empty() {
        separate_counters(&mut session.access_rights);
    }
    laid.finish(session);
    Ok(())
}

/// Zeroes what the policies will say, so that a higher value that was stored does not win (Tyk:
/// `ClearSession`). Ends at the first policy that is not known.
fn clear(session: &mut Session, policies: &Policies) {
    let ids = session.policy_ids().to_vec();
    for id in ids {
        let Some(policy) = policies.get(&id) else {
            return;
        };
        let partitions = policy.partitions;
        let is_whole = !partitions.is_partial();
        if partitions.quota || is_whole {
            session.quota_max = 0;
            session.quota_remaining = 0;
        }
        if partitions.rate_limit || is_whole {
            session.rate = 0.0;
            session.per = 0.0;
            session.smoothing = None;
            session.throttle_retry_limit = 0;
            session.throttle_interval = 0.0;
        }
        if partitions.complexity || is_whole {
            session.max_query_depth = 0;
        }
    }
}

/// The policies that a session carries in `meta_data.policies`, which replace those it names.
/// `None`: it carries none. The later of two with one id is the one.
///
/// `// Tyk differs:` there one that cannot be read is taken as far as it could be; here the key is
/// refused, because what is lost may be a limit.
fn custom_policies(session: &Session) -> Result<Option<Vec<Policy>>, ApplyError> {
    let Some(Value::Array(values)) = session.meta_data.get("policies") else {
        return Ok(None);
    };
    let mut custom: Vec<Policy> = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        let policy = Policy::from_json_slice(value.to_string().as_bytes())
            .map_err(|error| ApplyError::Custom(at, error.to_string()))?;
        custom.retain(|earlier| earlier.id != policy.id);
        custom.push(policy);
    }
    Ok(Some(custom))
}

/// An API with limits of its own has counters of its own, where no policy says otherwise.
fn separate_counters(rights: &mut Map<AccessDefinition>) {
    if rights.is_nil() {
        return;
    }
    for (api_id, right) in rights.as_mut_map() {
        if !right.limit.is_empty() {
            right.allowance_scope.clone_from(api_id);
        }
    }
}

/// Rights by API as the policies laid so far give them.
#[derive(Default)]
struct Laid<'a> {
    rights: BTreeMap<&'a str, Right<'a>>,
    /// APIs that some policy has said this about.
    quota: BTreeSet<&'a str>,
    rate_limit: BTreeSet<&'a str>,
    acl: BTreeSet<&'a str>,
    complexity: BTreeSet<&'a str>,
}

#[derive(Default)]
struct Right<'a> {
    access: AccessDefinition,
    /// The policy or API that set its limits (Tyk: `SetBy`).
    set_by: &'a str,
}

impl<'a> Laid<'a> {
    fn per_api(&mut self, policy: &'a Policy, session: &Session) -> Result<(), ApplyError> {
        for (api_id, access) in &policy.access_rights {
            let sets = [&self.quota, &self.rate_limit, &self.acl, &self.complexity];
            if sets.iter().any(|set| set.contains(api_id.as_str())) {
                return Err(ApplyError::Mixed);
            }
            let mut access = access.clone();
            let set_by = if access.limit.is_empty() {
                access.limit = policy.limit();
                &policy.id
            } else {
                api_id
            };
            access.allowance_scope.clone_from(set_by);
            keep_renewal(&mut access.limit, session, api_id);
            if let Some(own) = session.access_rights.get(api_id) {
                access.disable_introspection |= own.disable_introspection;
            }
            self.rights.insert(api_id, Right { access, set_by });
            self.acl.insert(api_id);
            self.quota.insert(api_id);
            self.rate_limit.insert(api_id);
            self.complexity.insert(api_id);
        }
        Ok(())
    }

    fn partitions(&mut self, policy: &'a Policy, session: &mut Session) {
        let partitions = policy.partitions;
        let is_whole = !partitions.is_partial();
        for (api_id, access) in &policy.access_rights {
            let right = self.rights.entry(api_id).or_default();
            if is_whole || partitions.acl {
                if self.acl.insert(api_id) {
                    let limit = right.access.limit;
                    right.access = AccessDefinition {
                        limit,
                        ..access.clone()
                    };
                } else {
                    merge_access(&mut right.access, access);
                }
                right.set_by = &policy.id;
            } else {
                // Tyk differs: there a policy without the ACL partition replaces all that those
                // before it said about an API: endpoints and versions that were not allowed are,
                // and limits are gone. Here it adds what its partitions say. The names of counters
                // are Tyk's.
                right.set_by = "";
            }
            let limit = &mut right.access.limit;
            let own = &access.limit;
            if is_whole || partitions.quota {
                if self.quota.insert(api_id) {
                    limit.quota_max = own.quota_max;
                    limit.quota_renews = own.quota_renews;
                    limit.quota_remaining = own.quota_remaining;
                    limit.quota_renewal_rate = own.quota_renewal_rate;
                }
                raise_quota(limit, policy, session);
            }
            if is_whole || partitions.rate_limit {
                if self.rate_limit.insert(api_id) {
                    limit.rate = own.rate;
                    limit.per = own.per;
                    limit.smoothing = own.smoothing;
                    limit.throttle_interval = own.throttle_interval;
                    limit.throttle_retry_limit = own.throttle_retry_limit;
                }
                raise_rate(limit, policy, session);
            }
            if is_whole || partitions.complexity {
                if self.complexity.insert(api_id) {
                    limit.max_query_depth = own.max_query_depth;
                }
                let depth = policy.max_query_depth;
                if is_greater(depth, limit.max_query_depth) {
                    limit.max_query_depth = depth;
                    if is_greater(depth, session.max_query_depth) {
                        session.max_query_depth = depth;
                    }
                }
            }
            keep_renewal(limit, session, api_id);
        }
        if policy.access_rights.is_empty() {
            master(policy, session);
        }
        session.hmac_enabled |= policy.hmac_enabled;
        session.enable_http_signature_validation |= policy.enable_http_signature_validation;
    }

    fn finish(mut self, session: &mut Session) {
        let setters: BTreeSet<&str> = self
            .rights
            .values()
            .map(|right| right.set_by)
            .filter(|set_by| !set_by.is_empty())
            .collect();
        self.rights.retain(|api_id, _| self.acl.contains(api_id));
        for (api_id, right) in &mut self.rights {
            let limit = &mut right.access.limit;
            if !self.rate_limit.contains(api_id) {
                limit.rate = session.rate;
                limit.per = session.per;
                limit.smoothing = session.smoothing;
                limit.throttle_interval = session.throttle_interval;
                limit.throttle_retry_limit = session.throttle_retry_limit;
            }
            if !self.complexity.contains(api_id) {
                limit.max_query_depth = session.max_query_depth;
            }
            if !self.quota.contains(api_id) {
                limit.quota_max = session.quota_max;
                limit.quota_renewal_rate = session.quota_renewal_rate;
                limit.quota_renews = session.quota_renews;
            }
            if setters.len() > 1 && right.access.allowance_scope.is_empty() {
                right.access.allowance_scope = right.set_by.to_owned();
            }
        }
        // Rules about one API only are the whole key's, too.
        if [&self.quota, &self.rate_limit, &self.complexity]
            .iter()
            .all(|apis| apis.len() == 1)
        {
            for right in self.rights.values() {
                let limit = &right.access.limit;
                session.rate = limit.rate;
                session.per = limit.per;
                session.smoothing = limit.smoothing;
                session.quota_max = limit.quota_max;
                session.quota_renews = limit.quota_renews;
                session.quota_renewal_rate = limit.quota_renewal_rate;
                session.max_query_depth = limit.max_query_depth;
            }
        }
        if !self.acl.is_empty() {
            let rights = self.rights.into_iter();
            session.access_rights = rights
                .map(|(api_id, right)| (api_id.to_owned(), right.access))
                .collect::<BTreeMap<_, _>>()
                .into();
        }
    }
}

/// A policy that names no API sets the whole key's limits.
fn master(policy: &Policy, session: &mut Session) {
    let partitions = policy.partitions;
    let is_whole = !partitions.is_partial();
    if is_whole || partitions.rate_limit {
        session.rate = policy.rate;
        session.per = policy.per;
        session.smoothing = policy.smoothing;
        session.throttle_interval = policy.throttle_interval;
        session.throttle_retry_limit = policy.throttle_retry_limit;
    }
    if is_whole || partitions.complexity {
        session.max_query_depth = policy.max_query_depth;
    }
    if is_whole || partitions.quota {
        session.quota_max = policy.quota_max;
        session.quota_renewal_rate = policy.quota_renewal_rate;
    }
}

/// The period of a counter that runs already goes on.
fn keep_renewal(limit: &mut ApiLimit, session: &Session, api_id: &str) {
    if let Some(own) = session.access_rights.get(api_id)
        && !own.limit.is_empty()
    {
        limit.quota_renews = own.limit.quota_renews;
    }
}

fn raise_quota(limit: &mut ApiLimit, policy: &Policy, session: &mut Session) {
    if is_greater(policy.quota_max, limit.quota_max) {
        limit.quota_max = policy.quota_max;
        if is_greater(policy.quota_max, session.quota_max) {
            session.quota_max = policy.quota_max;
        }
    }
    if policy.quota_renewal_rate > limit.quota_renewal_rate {
        limit.quota_renewal_rate = policy.quota_renewal_rate;
        if policy.quota_renewal_rate > session.quota_renewal_rate {
            session.quota_renewal_rate = policy.quota_renewal_rate;
        }
    }
}

fn raise_rate(limit: &mut ApiLimit, policy: &Policy, session: &mut Session) {
    let other = policy.limit();
    if !other.is_rate_empty() {
        let is_faster =
            |own: &ApiLimit| own.is_rate_empty() || own.interval_ns() > other.interval_ns();
        if is_faster(limit) {
            limit.rate = other.rate;
            limit.per = other.per;
            limit.smoothing = other.smoothing;
        }
        if is_faster(&session.root_limit()) {
            session.rate = other.rate;
            session.per = other.per;
            session.smoothing = other.smoothing;
        }
    }
    if policy.throttle_retry_limit > limit.throttle_retry_limit {
        limit.throttle_retry_limit = policy.throttle_retry_limit;
        if policy.throttle_retry_limit > session.throttle_retry_limit {
            session.throttle_retry_limit = policy.throttle_retry_limit;
        }
    }
    if policy.throttle_interval > limit.throttle_interval {
        limit.throttle_interval = policy.throttle_interval;
        if policy.throttle_interval > session.throttle_interval {
            session.throttle_interval = policy.throttle_interval;
        }
    }
}

/// -1 is without end, and greater than all, itself included.
const fn is_greater(first: i64, second: i64) -> bool {
    first == -1 || (second != -1 && first > second)
}

/// Adds what a further policy allows of an API.
fn merge_access(into: &mut AccessDefinition, other: &AccessDefinition) {
    into.disable_introspection |= other.disable_introspection;
    add_missing(&mut into.versions, &other.versions);
    merge_urls(&mut into.allowed_urls, &other.allowed_urls);
    intersect(&mut into.restricted_types, &other.restricted_types);
    intersect(&mut into.allowed_types, &other.allowed_types);
    for field in &other.field_access_rights {
        let mut is_there = false;
        if !into.field_access_rights.is_nil() {
            for own in into.field_access_rights.as_mut_vec() {
                if own.type_name == field.type_name && own.field_name == field.field_name {
                    is_there = true;
                    let depth = field.limits.max_query_depth;
                    if is_greater(depth, own.limits.max_query_depth) {
                        own.limits.max_query_depth = depth;
                    }
                }
            }
        }
        if !is_there {
            into.field_access_rights.push(field.clone());
        }
    }
}

/// Methods of the same expression are joined. Where one is new, all of the policy's are appended,
/// as in Tyk: those that were there stand twice then, which changes nothing.
fn merge_urls(into: &mut List<AccessSpec>, other: &List<AccessSpec>) {
    for spec in other {
        let mut is_there = false;
        if !into.is_nil() {
            for own in into.as_mut_vec() {
                if own.url == spec.url {
                    is_there = true;
                    add_missing(&mut own.methods, &spec.methods);
                }
            }
        }
        if !is_there {
            into.as_mut_vec().extend(other.iter().cloned());
        }
    }
}

/// Types of one name keep the fields that both have.
fn intersect(into: &mut List<GraphQlType>, other: &List<GraphQlType>) {
    if into.is_nil() {
        return;
    }
    for theirs in other {
        for own in into.as_mut_vec() {
            if own.name == theirs.name {
                let both: Vec<String> = theirs
                    .fields
                    .iter()
                    .filter(|field| own.fields.contains(field))
                    .cloned()
                    .collect();
                own.fields = if both.is_empty() {
                    List::default()
                } else {
                    both.into()
                };
            }
        }
    }
}

/// Appends what is not there yet; each text then stands once, in the order of first sight.
fn add_missing(list: &mut List<String>, more: &[String]) {
    let mut seen = BTreeSet::new();
    let all = list.iter().chain(more).filter(|text| seen.insert(*text));
    let union: Vec<String> = all.cloned().collect();
    if union.len() != list.len() {
        *list = union.into();
    }
}

#[cfg(test)]
mod tests;
