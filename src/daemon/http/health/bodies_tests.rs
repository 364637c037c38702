//! The Go kube-proxy's answers, byte for byte.

use futures::FutureExt;
use http_body_util::BodyExt;

use super::*;
use sluice_core::net::Family;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// Status, body, and the other headers.
fn parts(answer: Answer) -> (u16, String, Vec<String>) {
    let (head, body) = answer.into_parts();
    let body = body.collect().now_or_never().and_then(Result::ok).expect("a whole body").to_bytes();
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
    let report = Report { now, node: Eligibility::Ineligible, families: [].into() };
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
        let name = ServiceName::new("shop", "web");
        let (code, body, headers) = parts(service(&name, local_endpoints, pace));
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
