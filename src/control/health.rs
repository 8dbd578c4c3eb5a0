//! `/hello`, `/live`, `/ready` and `/metrics`.
//!
//! Tyk: `gateway/health_check.go` (`liveCheckHandler`) for `/hello`, which answers 200 whatever it
//! has to say; the others are for orchestrators and scrapers.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    gateway::reload::{Gateway, Readiness},
    metrics::{Registry, Window},
    net::watch::process_ms,
    storage::Probe,
};

#[derive(Serialize)]
struct Hello {
    status: &'static str,
    version: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Serialize)]
struct Details {
    /// The store, under Tyk's name for it whichever it is.
    redis: Item,
}

#[derive(Serialize)]
struct Item {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(rename = "componentType")]
    component_type: &'static str,
    time: String,
}

/// Tyk's health check: the last probe of the store, or nothing about it before the first.
pub(super) fn hello(last: Option<&Probe>) -> impl IntoResponse + use<> {
    let item = last.map(|probe| Item {
        status: if probe.outcome.is_ok() {
            "pass"
        } else {
            "fail"
        },
        output: probe.outcome.as_ref().err().map(ToString::to_string),
        component_type: "datastore",
        time: rfc3339(probe.at),
    });
    Json(Hello {
        // One item: when it fails, all have failed.
        status: item.as_ref().map_or("pass", |item| item.status),
        version: concat!("v", env!("CARGO_PKG_VERSION")),
        description: "Tyk GW",
        details: item.map(|redis| Details { redis }),
    })
}

/// The process runs and its control thread answers.
pub(super) fn live() -> impl IntoResponse + use<> {
    Json(serde_json::json!({"status": "pass"}))
}

/// Whether to send clients here: 503 before the first definitions are loaded and while draining.
/// A failed reload leaves the gateway ready with what it had, which is told as `degraded`.
pub(super) fn ready(readiness: Readiness, registry: &Registry) -> Response {
    let why = match readiness {
        Readiness::Ready => None,
        Readiness::Starting => Some("definitions are being loaded"),
        Readiness::Draining => Some("draining"),
    };
    match why {
        Some(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(serde_json::json!({"status": "fail", "message": why})),
        )
            .into_response(),
        None => {
            let is_degraded = !registry.is_last_reload_successful();
            let status = if is_degraded { "warn" } else { "pass" };
            Json(serde_json::json!({"status": status, "degraded": is_degraded})).into_response()
        }
    }
}

/// `GET /tyk/health`: figures of one API, off by default and deprecated in Tyk.
// Tyk differs: they are those of this node, from its own counters; in Tyk every request adds to sets
// in Redis. The latency is the upstream's, where Tyk takes the whole request's.
pub(super) fn api_health(
    window: Option<&Window>,
    gateway: &dyn Gateway,
    registry: &Registry,
    asked: &[(String, String)],
) -> Result<String, (StatusCode, String)> {
    let api_id = asked.iter().find(|(key, _)| key == "api_id");
    let api_id = api_id.map_or("", |(_, value)| value.as_str());
    let refuse = |status, why: &str| Err((status, why.to_owned()));
    let Some(window) = window else {
        let why = "Health checks are not enabled for this node";
        return refuse(StatusCode::BAD_REQUEST, why);
    };
    if api_id.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "missing api_id parameter");
    }
    if !gateway.definitions().iter().any(|api| api.api_id == api_id) {
        return refuse(StatusCode::NOT_FOUND, "API ID not found");
    }
    let figures = window.figures(process_ms(), api_id, &registry.api(api_id).sums());
    // Go writes a number without a fraction as an integer, as `Display` does.
    Ok(format!(
        "{{\"throttle_reqests_per_second\":{},\"quota_violations_per_second\":{},\
         \"key_failures_per_second\":{},\"average_upstream_latency\":{},\
         \"average_requests_per_second\":{}}}",
        figures.throttled,
        figures.quota_violations,
        figures.key_failures,
        figures.upstream_latency_ms,
        figures.requests
    ))
}

/// The Prometheus page.
pub(super) fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    (
        [(header::CONTENT_TYPE, Registry::CONTENT_TYPE)],
        registry.render(),
    )
}

/// A time as RFC 3339 writes it, in UTC (Tyk: in the local zone, which the format allows to
/// differ).
fn rfc3339(at: SystemTime) -> String {
    let seconds = at
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        of_day / 3_600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Year, month and day of a number of days since 1970. Years begin in March here, so that the day
/// that leap years add is their last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    // 719,468 days before 1970 is the 1st of March of year 0.
    let days = days + 719_468;
    let (era, of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let of_era_year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_era_year + of_era_year / 4 - of_era_year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + of_era_year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(seconds: u64, expected: &str) {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
    }

    #[test]
    fn times_are_written_as_rfc_3339_asks() {
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_800, "2000-03-01T00:00:00Z");
        check(1_795_360_952, "2026-11-22T15:22:32Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
        check(4_102_444_799, "2099-12-31T23:59:59Z");
    }
}
