//! Reports a sync in the metrics and in the log. Nothing is decided here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::no_local_endpoints::PortCount;
use crate::log::ROUTINE;
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_dataplane::{Count, Observation, Report, Scope};
use sluice_telemetry::metrics::Metrics;

/// A sync of one family that worked, but for Services that the kernel refuses.
pub(super) struct Summary<'a> {
    pub(super) table: &'a ForwardingTable,
    pub(super) scope: &'a Scope,
    pub(super) report: &'a Report,
    pub(super) no_local_endpoints: PortCount,
    /// No sync worked before.
    pub(super) first: bool,
    pub(super) elapsed: Duration,
}

impl Summary<'_> {
    pub(super) fn measure(&self, metrics: &Metrics) {
        let (family, report) = (self.table.family, self.report);
        let elements = report.elements;
        metrics.operations(family, elements, report.operations.saturating_sub(elements));
        if self.repaired() {
            metrics.repaired(family, report.operations);
        }
        for Count { kind, count, written } in report.owned.iter().copied() {
            metrics.owns(family, kind, count, written);
        }
        metrics.serves(family, self.table.services.len(), report.refused.len());
        let PortCount { internal, external } = self.no_local_endpoints;
        metrics.no_local_endpoints(family, internal, external);
    }

    pub(super) fn log(&self) {
        let (family, report, elapsed) = (self.table.family, self.report, self.elapsed);
        if self.repaired() {
            tracing::warn!(
                %family,
                operations = report.operations,
                "another program changed our table; repaired"
            );
        }
        if self.first {
            tracing::info!(
                %family,
                services = self.table.services.len(),
                operations = report.operations,
                elements = report.elements,
                ?elapsed,
                "first sync done"
            );
        } else if report.operations > 0 {
            tracing::info!(
                target: ROUTINE,
                %family,
                services = self.scope.services.len(),
                operations = report.operations,
                elements = report.elements,
                ?elapsed,
                "synced"
            );
        }
    }

    /// Whether it repaired changes by another program.
    fn repaired(&self) -> bool {
        self.report.observed == Observation::Drift && self.report.operations > 0
    }
}

/// Says which Services the kernel refuses now, and why, unless that is known.
pub(super) fn refusals(
    family: Family,
    known: &BTreeMap<ServiceName, String>,
    now: &BTreeMap<ServiceName, String>,
) {
    for (service, reason) in
        now.iter().filter(|(service, reason)| known.get(*service) != Some(*reason))
    {
        tracing::error!(%family, %service, "the kernel refuses this Service; all others are served: {reason}");
    }
}
