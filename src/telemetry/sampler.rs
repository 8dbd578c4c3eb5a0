//! Whether the spans of a request are kept (`opentelemetry.sampling`).

use crate::{config::Sampling, telemetry::TraceContext};

/// Decides per trace, the same way in every process that sees the trace's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    base: Base,
    /// What the caller decided counts, where it did.
    is_parent_based: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    On,
    Off,
    /// Of 63 bits of the id, these below are kept (OpenTelemetry: `TraceIdRatioBased`).
    Below(u64),
}

impl Sampler {
    /// `None` for a type that does not exist.
    #[must_use]
    pub fn from_config(sampling: &Sampling) -> Option<Self> {
        let base = match sampling.kind.as_str() {
            "" | "AlwaysOn" => Base::On,
            "AlwaysOff" => Base::Off,
            "TraceIDRatioBased" => {
                let rate = match sampling.rate {
                    0.0 => 0.5,
                    rate => rate,
                };
                match rate {
                    1.0.. => Base::On,
                    _ => Base::Below((rate.max(0.0) * (1u64 << 63) as f64) as u64),
                }
            }
            _ => return None,
        };
        Some(Self {
            base,
            is_parent_based: sampling.parent_based,
        })
    }

    /// Whether to keep the spans of a trace that goes on from `parent`, or begins here.
    #[inline]
    #[must_use]
    pub fn samples(&self, trace_id: &[u8; 16], parent: Option<&TraceContext>) -> bool {
        if self.is_parent_based
            && let Some(parent) = parent
        {
            // Not decided counts as no, as in OpenTelemetry's flags.
            return parent.is_sampled == Some(true);
        }
        match self.base {
            Base::On => true,
            Base::Off => false,
            Base::Below(bound) => (u128::from_be_bytes(*trace_id) as u64) >> 1 < bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(kind: &str, rate: f64, parent_based: bool) -> Sampler {
        let kind = kind.to_owned();
        Sampler::from_config(&Sampling {
            kind,
            rate,
            parent_based,
        })
        .unwrap()
    }

    #[test]
    fn traces_are_kept_by_their_id() {
        #[track_caller]
        fn check(kind: &str, rate: f64, low: u64, expected: bool) {
            let trace_id = (u128::from(low) | 1 << 127).to_be_bytes();
            assert_eq!(
                sampler(kind, rate, false).samples(&trace_id, None),
                expected
            );
        }
        check("", 0.0, u64::MAX, true);
        check("AlwaysOn", 0.1, u64::MAX, true);
        check("AlwaysOff", 1.0, 0, false);
        check("TraceIDRatioBased", 0.0, u64::MAX / 2 - 1, true);
        check("TraceIDRatioBased", 0.0, u64::MAX / 2 + 2, false);
        check("TraceIDRatioBased", 0.25, u64::MAX / 4 - 1, true);
        check("TraceIDRatioBased", 0.25, u64::MAX / 4 + 2, false);
        check("TraceIDRatioBased", 1.0, u64::MAX, true);
        check("TraceIDRatioBased", 7.0, u64::MAX, true);
        check("TraceIDRatioBased", -1.0, 0, false);
    }

    #[test]
    fn the_callers_decision_counts_where_it_is_asked_for() {
        let parent = |is_sampled| TraceContext {
            trace_id: [1; 16],
            span_id: [1; 8],
            is_sampled,
        };
        for (decision, expected) in [(Some(true), true), (Some(false), false), (None, false)] {
            let sampler = sampler("AlwaysOn", 0.0, true);
            assert_eq!(sampler.samples(&[1; 16], Some(&parent(decision))), expected);
            assert!(sampler.samples(&[1; 16], None));
        }
        let off = parent(Some(false));
        assert!(sampler("AlwaysOn", 0.0, false).samples(&[1; 16], Some(&off)));
    }

    #[test]
    fn an_unknown_type_is_none() {
        let kind = "Sometimes".to_owned();
        let sampling = Sampling {
            kind,
            ..Sampling::default()
        };
        assert!(Sampler::from_config(&sampling).is_none());
    }
}
