//! kube-proxy's own families (upstream: `pkg/proxy/metrics/metrics.go`).

use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::{FAMILY, Families};
use sluice_config::Mode;

/// 1 ms to 16 s.
fn sync_buckets() -> Vec<f64> {
    (0..15).map(|step| 0.001 * f64::from(1 << step)).collect()
}

/// A quarter of a second to five minutes.
fn programming_buckets() -> Vec<f64> {
    let seconds = (1..=59).chain((60..=115).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from)).collect()
}

/// The families of every mode.
pub(super) struct Common {
    pub(super) sync: HistogramVec,
    pub(super) last: GaugeVec,
    pub(super) last_queued: GaugeVec,
    pub(super) programming: HistogramVec,
    pub(super) endpoint_changes: IntCounter,
    pub(super) endpoint_changes_pending: IntGauge,
    pub(super) service_changes: IntCounter,
    pub(super) service_changes_pending: IntGauge,
    pub(super) no_local_endpoints: IntGaugeVec,
    pub(super) healthz: IntCounterVec,
    pub(super) livez: IntCounterVec,
}

impl Common {
    pub(super) fn new(make: &Families<'_>) -> Common {
        Common {
            sync: make.histograms(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                sync_buckets(),
                &[FAMILY],
            ),
            last: make.levels(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                &[FAMILY],
            ),
            last_queued: make.levels(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
                &[FAMILY],
            ),
            programming: make.histograms(
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                programming_buckets(),
                &[FAMILY],
            ),
            endpoint_changes: make.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "Cumulative proxy rules Endpoint changes",
            ),
            endpoint_changes_pending: make.gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Pending proxy rules Endpoint changes",
            ),
            service_changes: make.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Cumulative proxy rules Service changes",
            ),
            service_changes_pending: make.gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Pending proxy rules Service changes",
            ),
            no_local_endpoints: make.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Number of services with a Local traffic policy and no endpoints",
                &["traffic_policy", FAMILY],
            ),
            healthz: make.counters(
                "kubeproxy_proxy_healthz_total",
                "Cumulative proxy healthz HTTP status",
                &["code"],
            ),
            livez: make.counters(
                "kubeproxy_proxy_livez_total",
                "Cumulative proxy livez HTTP status",
                &["code"],
            ),
        }
    }
}

/// The families that upstream registers in some modes only.
#[derive(Default)]
pub(super) struct OfMode {
    /// Full and partial syncs.
    pub(super) extents: Option<[HistogramVec; 2]>,
    /// Durations of conntrack checks, and deleted entries.
    pub(super) conntrack: Option<(HistogramVec, IntCounterVec)>,
    /// Syncs that failed.
    pub(super) failures: Option<IntCounterVec>,
    /// Of these, syncs of changes only.
    pub(super) partial_failures: Option<IntCounterVec>,
    /// iptables rules owned, and written last.
    pub(super) rules: Option<[IntGaugeVec; 2]>,
}

impl OfMode {
    pub(super) fn new(make: &Families<'_>, mode: Mode) -> OfMode {
        let restore_failures = || {
            make.counters_of_families(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "Cumulative proxy iptables restore failures",
            )
        };
        match mode {
            Mode::Nftables => {
                // Sluice has no clean-up outside of syncs, so this stays 0.
                make.counters_of_families(
                    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
                    "Cumulative proxy nftables cleanup failures",
                );
                let failures = make.counters_of_families(
                    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                    "Cumulative proxy nftables sync failures",
                );
                let (extents, conntrack) = (Some(extents(make)), Some(conntrack(make)));
                OfMode { extents, conntrack, failures: Some(failures), ..OfMode::default() }
            }
            Mode::Iptables => OfMode {
                extents: Some(extents(make)),
                conntrack: Some(conntrack(make)),
                failures: Some(restore_failures()),
                partial_failures: Some(make.counters_of_families(
                    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
                    "Cumulative proxy iptables partial restore failures",
                )),
                rules: Some(rules(make)),
            },
            Mode::Ipvs => OfMode {
                conntrack: Some(conntrack(make)),
                failures: Some(restore_failures()),
                ..OfMode::default()
            },
            Mode::Userspace => OfMode::default(),
        }
    }
}

fn extents(make: &Families<'_>) -> [HistogramVec; 2] {
    ["full", "partial"].map(|extent| {
        make.histograms(
            &format!("kubeproxy_sync_{extent}_proxy_rules_duration_seconds"),
            &format!("SyncProxyRules latency in seconds for {extent} resyncs"),
            sync_buckets(),
            &[FAMILY],
        )
    })
}

fn conntrack(make: &Families<'_>) -> (HistogramVec, IntCounterVec) {
    let elapsed = make.histograms(
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "ReconcileConntrackFlowsLatency latency in seconds",
        sync_buckets(),
        &[FAMILY],
    );
    let deleted = make.counters_of_families(
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "Cumulative conntrack flows deleted by conntrack reconciler",
    );
    (elapsed, deleted)
}

fn rules(make: &Families<'_>) -> [IntGaugeVec; 2] {
    let labels = ["table", FAMILY];
    [
        make.gauges(
            "kubeproxy_sync_proxy_rules_iptables_total",
            "Total number of iptables rules owned by kube-proxy",
            &labels,
        ),
        make.gauges(
            "kubeproxy_sync_proxy_rules_iptables_last",
            "Number of iptables rules written by kube-proxy in last sync",
            &labels,
        ),
    ]
}
