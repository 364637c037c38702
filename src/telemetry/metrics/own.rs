//! Sluice's own families, named `sluice_`.

use prometheus::{Counter, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGaugeVec};

use super::families::{FAMILY, Families, Stability};

/// Half a millisecond to 16 s.
fn change_buckets() -> Vec<f64> {
    (0..16).map(|step| 0.0005 * f64::from(1 << step)).collect()
}

pub(super) struct Own {
    pub(super) change_duration: Histogram,
    pub(super) sync_cpu: Counter,
    pub(super) operations: IntCounterVec,
    pub(super) objects: IntGaugeVec,
    pub(super) services: IntGaugeVec,
    pub(super) refused: IntGaugeVec,
    pub(super) sync_failures: IntCounterVec,
    pub(super) drift: IntCounterVec,
    pub(super) drift_operations: IntCounterVec,
    pub(super) contact: GaugeVec,
    pub(super) received: IntCounter,
    pub(super) watches: IntCounterVec,
    pub(super) connected: IntGaugeVec,
    pub(super) events: IntCounterVec,
}

impl Own {
    pub(super) fn new(registry: &prometheus::Registry) -> Own {
        let make = Families { registry, stability: Stability::None };
        Own {
            change_duration: make.histogram(
                "sluice_change_duration_seconds",
                "From the arrival of a change from the API server to its rules in force",
                change_buckets(),
            ),
            sync_cpu: make.seconds(
                "sluice_sync_cpu_seconds_total",
                "Processor time that syncs took, with the programs that they ran",
            ),
            operations: make.counters(
                "sluice_operations_total",
                "Operations that the kernel carried out, by kind: element (of a set or map) or object \
                 (table, chain, rule, set, address or server)",
                &["kind", FAMILY],
            ),
            objects: make.gauges(
                "sluice_kernel_objects",
                "Objects in the kernel that belong to this proxy, by kind",
                &["kind", FAMILY],
            ),
            services: make.gauges(
                "sluice_services",
                "Services that this node serves",
                &[FAMILY],
            ),
            refused: make.gauges(
                "sluice_services_refused",
                "Services that the kernel refuses; all others are served",
                &[FAMILY],
            ),
            sync_failures: make.counters_of_families(
                "sluice_sync_failures_total",
                "Syncs that failed as a whole; the rules in force stayed",
            ),
            drift: make.counters_of_families(
                "sluice_drift_repaired_total",
                "Syncs that undid what somebody else had done to our objects",
            ),
            drift_operations: make.counters_of_families(
                "sluice_drift_operations_total",
                "Operations that it took to undo what somebody else had done to our objects",
            ),
            contact: make.levels(
                "sluice_api_last_contact_timestamp_seconds",
                "When the API server was last heard of",
                &[],
            ),
            received: make.counter(
                "sluice_api_received_bytes_total",
                "Bytes of answers and watches that the API server sent",
            ),
            watches: make.counters(
                "sluice_watches_opened_total",
                "Watches that were opened; more than one in four minutes is a reconnect",
                &["resource"],
            ),
            connected: make.gauges(
                "sluice_watch_connected",
                "Whether changes of a resource arrive",
                &["resource"],
            ),
            events: make.counters(
                "sluice_events_total",
                "Events for the API server, by what became of them: sent, merged into a series, \
                 dropped because too many waited, or failed",
                &["outcome"],
            ),
        }
    }
}
