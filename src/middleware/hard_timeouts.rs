//! Hard timeouts per endpoint: how long the upstream may take until its answer begins.
//!
//! Tyk: `reverse_proxy.go` (`CheckHardTimeoutEnforced`); key `extended_paths.hard_timeouts`. Decided
//! on the outgoing path, after the listen path is stripped and the target's base path joined.
//! Cost when absent: none. When present: one search of the path table.

use crate::{
    apidef::VersionInfo,
    exchange::{
        Ctx,
        path_set::{PathSet, PathSetFault},
    },
};

/// Compiled form of `hard_timeouts`.
#[derive(Debug)]
pub struct HardTimeouts {
    paths: PathSet,
    spans_ms: Box<[u64]>,
}

impl HardTimeouts {
    /// `None` when no entry is on.
    ///
    /// # Errors
    /// The index of the entry whose pattern is none, and why.
    pub fn from_spec(
        version: &VersionInfo,
        ignore_case: bool,
    ) -> Result<Option<Self>, (String, String)> {
        if !version.use_extended_paths {
            return Ok(None);
        }
        let on: Vec<_> = version
            .extended_paths
            .hard_timeouts
            .iter()
            .enumerate()
            .filter(|(_, entry)| !entry.disabled && entry.timeout > 0)
            .collect();
        if on.is_empty() {
            return Ok(None);
        }
        let entries = on
            .iter()
            .map(|(_, entry)| (entry.method.as_str(), entry.path.as_str()));
        let paths =
            PathSet::new(entries, ignore_case).map_err(|PathSetFault { entry, reason }| {
                let index = on.get(entry).map_or(0, |(index, _)| *index);
                (format!("hard_timeouts/{index}/path"), reason)
            })?;
        let spans_ms = on
            .iter()
            .map(|(_, entry)| u64::try_from(entry.timeout).unwrap_or(0) * 1000)
            .collect();
        Ok(Some(Self { paths, spans_ms }))
    }

    /// Shortens the time the upstream has; never lengthens it.
    pub fn apply(&self, outgoing_path: &[u8], cx: &mut Ctx) {
        let method = cx.part(cx.head.method_span);
        let Some(entry) = self.paths.find(method, outgoing_path) else {
            return;
        };
        let span_ms = self.spans_ms.get(entry).copied().unwrap_or(u64::MAX);
        if cx.header_timeout_ms == 0 || span_ms < cx.header_timeout_ms {
            cx.header_timeout_ms = span_ms;
        }
    }
}
