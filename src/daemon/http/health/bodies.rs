//! Response bodies, byte for byte the Go kube-proxy's: load balancers and scripts parse them.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Serialize;

use super::state::{Eligibility, Pace, Report};
use crate::http::server::{Answer, typed};
use sluice_core::model::ServiceName;

/// Go's zero time, which means "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// How many endpoints of a Service this node has: balancers may weigh nodes by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// `/healthz` and `/livez` (upstream: `ProxyHealth` in `pkg/proxy/healthcheck/proxy_health.go`).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyHealth {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyHealth>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

/// Whether this node should get traffic: is the proxy healthy, and does the node stay?
pub(super) fn healthz(report: &Report) -> Answer {
    let eligible = report.node == Eligibility::Eligible;
    proxy(report, Some(eligible), report.pace() == Pace::InTime && eligible)
}

/// Whether the proxy is healthy, wherever the node goes.
pub(super) fn livez(report: &Report) -> Answer {
    proxy(report, None, report.pace() == Pace::InTime)
}

fn proxy(report: &Report, node_eligible: Option<bool>, good: bool) -> Answer {
    // Old clients want to see a recent time as long as all is well.
    let last_updated = if good { Some(report.now) } else { report.updated() };
    let status = report.families.iter().map(|(family, (updated, pace))| {
        let last_updated = time(Some(*updated));
        (family.to_string(), FamilyHealth { last_updated, healthy: *pace == Pace::InTime })
    });
    let health = ProxyHealth {
        last_updated: time(last_updated),
        current_time: time(Some(report.now)),
        node_eligible,
        healthy: report.pace() == Pace::InTime,
        status: status.collect(),
    };
    // Strings and booleans only: this cannot fail.
    json(status_code(good), serde_json::to_string(&health).unwrap_or_default())
}

/// Whether this node should get traffic of one Service (upstream: `hcHandler` in
/// `pkg/proxy/healthcheck/service_health.go`).
pub(super) fn service(service: &ServiceName, local_endpoints: usize, pace: Pace) -> Answer {
    let count = local_endpoints;
    let healthy = pace == Pace::InTime;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\
         \t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
        service.namespace(),
        service.name(),
    );
    let mut answer = json(status_code(count > 0 && healthy), body);
    answer.headers_mut().insert(WEIGHT, HeaderValue::from(count));
    answer
}

/// A connection that outlives its Service.
pub(super) fn no_such_service() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

fn status_code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn json(status: StatusCode, body: String) -> Answer {
    typed(status, "application/json", body)
}

/// RFC 3339 with as many digits as needed, as Go prints times of UTC.
fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| NEVER.to_owned(), |at| at.to_string())
}

#[cfg(test)]
#[path = "bodies_tests.rs"]
mod tests;
