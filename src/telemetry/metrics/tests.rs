//! The text before and after updates.

use super::*;

const MODES: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

/// Names of the families in a text.
fn names(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split(' ').next()).collect()
}

/// The value of a sample.
pub(super) fn value(metrics: &Metrics, sample: &str) -> Option<f64> {
    let text = metrics.text();
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(name, _)| *name == sample)?.1.parse().ok()
}

#[test]
fn every_mode_has_the_families_that_upstream_registers() {
    let table = [
        ("sync_full_proxy_rules_duration_seconds", [true, true, false, false]),
        ("sync_partial_proxy_rules_duration_seconds", [true, true, false, false]),
        ("conntrack_reconciler_sync_duration_seconds", [true, true, true, false]),
        ("conntrack_reconciler_deleted_entries_total", [true, true, true, false]),
        ("sync_proxy_rules_nftables_sync_failures_total", [true, false, false, false]),
        ("sync_proxy_rules_nftables_cleanup_failures_total", [true, false, false, false]),
        ("sync_proxy_rules_iptables_restore_failures_total", [false, true, true, false]),
        ("sync_proxy_rules_iptables_partial_restore_failures_total", [false, true, false, false]),
        ("sync_proxy_rules_iptables_total", [false, true, false, false]),
        ("sync_proxy_rules_iptables_last", [false, true, false, false]),
        ("sync_proxy_rules_duration_seconds", [true; 4]),
        ("sync_proxy_rules_last_timestamp_seconds", [true; 4]),
        ("sync_proxy_rules_last_queued_timestamp_seconds", [true; 4]),
        ("network_programming_duration_seconds", [true; 4]),
        ("sync_proxy_rules_endpoint_changes_pending", [true; 4]),
        ("sync_proxy_rules_endpoint_changes_total", [true; 4]),
        ("sync_proxy_rules_service_changes_pending", [true; 4]),
        ("sync_proxy_rules_service_changes_total", [true; 4]),
        ("sync_proxy_rules_no_local_endpoints_total", [true; 4]),
        ("proxy_healthz_total", [true; 4]),
        ("proxy_livez_total", [true; 4]),
    ];
    for (index, mode) in MODES.into_iter().enumerate() {
        let metrics = everything_once(mode);
        let text = metrics.text();
        let mut found: Vec<_> =
            names(&text).into_iter().filter_map(|n| n.strip_prefix("kubeproxy_")).collect();
        let mut wanted: Vec<_> =
            table.iter().filter(|(_, modes)| modes[index]).map(|(name, _)| *name).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{mode}");
    }
}

/// Updates every metric.
fn everything_once(mode: Mode) -> Metrics {
    let metrics = Metrics::new(mode);
    metrics.changes(1, 2);
    for family in Family::BOTH {
        metrics.queued(family);
        metrics.synced(family, Extent::Full, Outcome::Done, Duration::from_millis(3));
        metrics.synced(family, Extent::Partial, Outcome::Failed, Duration::from_millis(1));
        metrics.operations(family, 5, 7);
        metrics.repaired(family, 2);
        metrics.serves(family, 3, 1);
        metrics.owns(family, "nat", 9, 4);
        metrics.no_local_endpoints(family, 1, 2);
        metrics.programmed(family, Duration::from_secs(2));
        metrics.reconciled(family, Duration::from_millis(1), 4);
    }
    metrics.probed(Probe::Healthz, 200);
    metrics.probed(Probe::Livez, 503);
    metrics
}

#[test]
fn what_happens_is_counted_where_upstream_counts_it() {
    let metrics = everything_once(Mode::Iptables);
    let table = [
        ("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}", 2.0),
        (
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.001\"}",
            1.0,
        ),
        (
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"16.384\"}",
            2.0,
        ),
        ("kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}", 1.0),
        ("kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}", 1.0),
        ("kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family=\"IPv4\"}", 1.0),
        (
            "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family=\"IPv4\"}",
            1.0,
        ),
        ("kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"}", 9.0),
        ("kubeproxy_sync_proxy_rules_iptables_last{ip_family=\"IPv4\",table=\"nat\"}", 4.0),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 2.0),
        (
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"}",
            2.0,
        ),
        ("kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"1\"}", 0.0),
        ("kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"2\"}", 1.0),
        ("kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"}", 4.0),
        ("kubeproxy_proxy_healthz_total{code=\"200\"}", 1.0),
        ("sluice_operations_total{ip_family=\"IPv4\",kind=\"object\"}", 7.0),
        ("sluice_services_refused{ip_family=\"IPv6\"}", 1.0),
        ("sluice_info{mode=\"iptables\",version=\"0.1.0\"}", 1.0),
    ];
    for (sample, expected) in table {
        assert_eq!(value(&metrics, sample), Some(expected), "{sample}");
    }
    metrics.caught_up();
    let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
    assert_eq!(value(&metrics, pending), Some(0.0));
    let last =
        value(&metrics, "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}");
    assert!(last.is_some_and(|time| time > 1.7e9), "{last:?}");
}

#[test]
fn requests_are_counted_by_code_and_those_without_an_answer_as_errors() {
    let metrics = Metrics::new(Mode::Nftables);
    let request = Request {
        method: "GET",
        host: "10.0.0.1:6443",
        code: Some(200),
        elapsed: Some(Duration::from_millis(20)),
        sent: None,
        answered: Some(100),
    };
    metrics.requested(request);
    metrics.requested(Request { code: None, elapsed: None, answered: None, ..request });
    let sample = |code| {
        format!(
            "rest_client_requests_total{{code=\"{code}\",host=\"10.0.0.1:6443\",method=\"GET\"}}"
        )
    };
    assert_eq!(value(&metrics, &sample("200")), Some(1.0));
    assert_eq!(value(&metrics, &sample("<error>")), Some(1.0));
    let labels = "host=\"10.0.0.1:6443\",verb=\"GET\"";
    let count = format!("rest_client_request_duration_seconds_count{{{labels}}}");
    assert_eq!(value(&metrics, &count), Some(1.0));
    let large = format!("rest_client_response_size_bytes_bucket{{{labels},le=\"1.048576e+06\"}}");
    assert_eq!(value(&metrics, &large), Some(1.0), "buckets read as Go writes them");
}

#[test]
fn the_indicators_of_the_metrics_server_begin_with_the_first_probe() {
    let metrics = Metrics::new(Mode::Nftables);
    assert_eq!(names(&metrics.slis()), ["process_start_time_seconds"]);
    metrics.pinged();
    metrics.pinged();
    let text = metrics.slis();
    assert!(text.contains(
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 2\n"
    ));
    metrics.reset_slis();
    assert_eq!(names(&metrics.slis()), ["process_start_time_seconds"]);
}
