//! `health_check` (deprecated counters per API) and `liveness_check` (probes behind `/hello`).

use std::time::Duration;

use crate::config::{field::section, value::GoDuration};

section! {
    /// `health_check`.
    pub struct HealthCheck {
        enable_health_checks: bool => ENABLEHEALTHCHECKS,
        /// Seconds.
        health_check_value_timeouts: i64 => HEALTHCHECKVALUETIMEOUT,
    }
}

section! {
    /// `liveness_check`.
    pub struct LivenessCheck {
        /// 0 means 10 s.
        check_duration: GoDuration => CHECKDURATION,
    }
}

impl LivenessCheck {
    #[must_use]
    pub fn interval_or_default(&self) -> Duration {
        self.check_duration
            .positive()
            .unwrap_or(Duration::from_secs(10))
    }
}
