//! What askers read, byte for byte as the Go kube-proxy writes it: balancers and scripts parse it.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Serialize;

use super::checks::Check;
use super::state::{Eligibility, Pace, Report};

/// A whole response.
pub(super) type Answer = Response<Full<Bytes>>;

/// Go's zero time, which stands for "never".
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
pub(super) fn service(check: &Check, pace: Pace) -> Answer {
    let (service, count) = (&check.service, check.local_endpoints);
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

/// A connection that outlives the Service it asks about.
pub(super) fn no_such_service() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

/// A path that nothing is served under, in the words of Go's `http.NotFound`.
pub(super) fn not_found() -> Answer {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    typed(StatusCode::NOT_FOUND, text, "404 page not found\n".to_owned())
}

fn status_code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn json(status: StatusCode, body: String) -> Answer {
    typed(status, HeaderValue::from_static("application/json"), body)
}

fn typed(status: StatusCode, content_type: HeaderValue, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// RFC 3339 with as many digits as needed, as Go prints times of UTC.
fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| NEVER.to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::model::ServiceName;
    use crate::net::Family;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    /// Status, body, and the other headers.
    fn parts(answer: Answer) -> (u16, String, Vec<String>) {
        let (head, body) = answer.into_parts();
        let body = futures::executor::block_on(body.collect()).expect("a whole body").to_bytes();
        let headers = head.headers.iter().map(|(name, value)| format!("{name}: {value:?}"));
        let body = String::from_utf8(body.to_vec()).expect("text");
        (head.status.as_u16(), body, headers.collect())
    }

    fn report(v6: Pace, node: Eligibility) -> Report {
        Report {
            now: at("2025-03-01T10:00:30.5Z"),
            node,
            families: [
                (Family::V4, (at("2025-03-01T10:00:00.123456789Z"), Pace::InTime)),
                (Family::V6, (at("2025-03-01T09:59:00Z"), v6)),
            ]
            .into(),
        }
    }

    #[test]
    fn proxy_health_reads_as_the_go_kube_proxy_prints_it() {
        const FAMILIES: &str = r#""status":{"IPv4":{"lastUpdated":"2025-03-01T10:00:00.123456789Z","healthy":true},"IPv6":{"lastUpdated":"2025-03-01T09:59:00Z","healthy":V6}}}"#;
        const NOW: &str = "2025-03-01T10:00:30.5Z";
        const THEN: &str = "2025-03-01T10:00:00.123456789Z";
        use Eligibility::{Eligible, Ineligible};
        let table = [
            (Pace::InTime, Eligible, (200, NOW, true), (200, NOW)),
            (Pace::InTime, Ineligible, (503, THEN, false), (200, NOW)),
            (Pace::Late, Eligible, (503, THEN, true), (503, THEN)),
            (Pace::Late, Ineligible, (503, THEN, false), (503, THEN)),
        ];
        let headers = ["content-type: \"application/json\"", "x-content-type-options: \"nosniff\""];
        for (v6, node, (healthz_code, healthz_time, eligible), (livez_code, livez_time)) in table {
            let report = report(v6, node);
            let healthy = v6 == Pace::InTime;
            let families = FAMILIES.replace("V6}", &format!("{healthy}}}"));
            let expected = format!(
                r#"{{"lastUpdated":"{healthz_time}","currentTime":"{NOW}","nodeEligible":{eligible},"healthy":{healthy},{families}"#
            );
            let (code, body, found) = parts(healthz(&report));
            assert_eq!((code, body.as_str()), (healthz_code, expected.as_str()));
            assert_eq!(found, headers);
            let expected = format!(
                r#"{{"lastUpdated":"{livez_time}","currentTime":"{NOW}","healthy":{healthy},{families}"#
            );
            let (code, body, found) = parts(livez(&report));
            assert_eq!((code, body.as_str()), (livez_code, expected.as_str()));
            assert_eq!(found, headers);
        }
    }

    #[test]
    fn before_the_first_update_there_is_no_status() {
        let now = at("2025-03-01T10:00:00Z");
        let report = Report { now, node: Eligibility::Ineligible, families: BTreeMap::new() };
        let (code, body, _) = parts(healthz(&report));
        assert_eq!(
            (code, body.as_str()),
            (
                503,
                r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2025-03-01T10:00:00Z","nodeEligible":false,"healthy":true}"#
            )
        );
    }

    #[test]
    fn service_health_reads_as_the_go_kube_proxy_prints_it() {
        let table = [
            (2, Pace::InTime, 200, "true"),
            (0, Pace::InTime, 503, "true"),
            (2, Pace::Late, 503, "false"),
        ];
        for (local_endpoints, pace, expected, healthy) in table {
            let check = Check { service: ServiceName::new("shop", "web"), local_endpoints };
            let (code, body, headers) = parts(service(&check, pace));
            assert_eq!(code, expected);
            assert_eq!(
                body,
                format!(
                    "{{\n\t\"service\": {{\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t}},\n\t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
                )
            );
            let weight = format!("x-load-balancing-endpoint-weight: \"{local_endpoints}\"");
            assert_eq!(headers.last(), Some(&weight));
        }
    }
}
