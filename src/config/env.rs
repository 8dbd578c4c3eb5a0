//! `TYK_GW_*`: variables that win over the file.
//!
//! A name is the prefix and Go's field names in upper case, joined by `_`; texts follow
//! `kelseyhightower/envconfig`: lists between commas, maps `k:v,k2:v2`, spans as Go writes them,
//! JSON for maps and lists of objects.

use crate::{
    config::{
        Config, Vars,
        field::Field as _,
        unknown::{KEYS, UnknownKey},
    },
    error::LoadError,
};

const PREFIX: &str = "TYK_GW";
const OMIT_FILE: &str = "TYK_GW_OMITCONFIGFILE";
/// Variables below `TYK_GW_` that are no key of the file.
const EXTRA: &[&str] = &[OMIT_FILE];
/// Beginnings of variables that Tyk reads by other code (`opentracing_custom_env_loader.go`).
const EXTRA_PREFIXES: &[&str] = &["TYK_GW_TRACER_OPTIONS_"];

/// Whether `TYK_GW_OMITCONFIGFILE` says that the file does not count.
pub(super) fn omits_file(vars: &Vars) -> bool {
    vars.get(OMIT_FILE)
        .is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// Overrides `config`; returns the variables that nothing reads.
pub(super) fn apply(config: &mut Config, vars: &Vars) -> Result<Vec<UnknownKey>, LoadError> {
    config.apply_env(PREFIX, vars)?;
    let ours = vars.keys().filter(|name| name.starts_with("TYK_GW_"));
    Ok(ours
        .filter(|name| {
            !EXTRA.contains(&name.as_str())
                && !EXTRA_PREFIXES.iter().any(|start| name.starts_with(start))
                && !KEYS.iter().any(|key| key.env == **name)
        })
        .map(|name| UnknownKey::in_environment(name))
        .collect())
}
