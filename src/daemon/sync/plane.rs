//! The reconciliation of one IP family: its forwarding table follows the snapshot, and the kernel the table.
//!
//! - A change costs work for the Services that it touches: planner and backend are told which.
//! - What the kernel refuses is tried again with each sync, alone; all else is in force.
//! - What fails as a whole stays pending, and the rules in force stay.
//! - Rules and tracked flows are changed in turn ([`Conntrack`]), so that no flow is judged by rules that
//!   it was not made under.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::Instant;

use super::RemovedTcp;
use super::conntrack::{Conntrack, World};
use super::no_local_endpoints::NoLocalEndpoints;
use super::pacer::Reason;
use super::report::{self, Summary};
use super::unserved::{self, Failure, Need};
use super::view::{View, read, write};
use crate::http::health::Health;
use sluice_core::model::{ServiceName, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::{Effect, ForwardingTable, Host, Planner};
use sluice_dataplane::{Backend, Observation, Report, Scope};
use sluice_telemetry::metrics::{Extent, Metrics, Outcome};
use sluice_telemetry::trace;

/// What a sync needs in addition to the plane's table.
pub(super) struct SyncContext<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) local: &'a BTreeSet<IpAddr>,
    pub(super) on_localhost: bool,
    pub(super) health: &'a Health,
    pub(super) metrics: &'a Metrics,
    pub(super) started: Instant,
}

/// One IP family: its forwarding table, and the backend that implements it.
pub(super) struct Plane {
    family: Family,
    planner: Arc<RwLock<Planner>>,
    /// Where it is noted how far Services are.
    view: View,
    backend: Box<dyn Backend>,
    /// Services that the backend has not applied yet, or that were refused.
    pending: BTreeSet<ServiceName>,
    refused: BTreeMap<ServiceName, String>,
    conntrack: Conntrack,
    no_local_endpoints: NoLocalEndpoints,
    /// The health checks have not been handed on since they changed.
    checks_changed: bool,
    /// No sync has succeeded yet.
    fresh: bool,
    /// What was logged about failing syncs, until one succeeds.
    failing: Option<(Need, String)>,
}

/// How the sync of a family ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SyncResult {
    /// Everything is applied.
    Done,
    /// All but Services that the kernel refuses.
    Refusing,
    /// The previous rules stay.
    Failed(Failure),
}

impl Plane {
    pub(super) fn new(
        planner: Planner,
        backend: Box<dyn Backend>,
        removed_tcp: RemovedTcp,
        metrics: &Metrics,
        view: &View,
    ) -> Plane {
        let family = planner.table().family;
        Plane {
            family,
            planner: view.show(planner),
            view: view.clone(),
            backend,
            pending: BTreeSet::new(),
            refused: BTreeMap::new(),
            conntrack: Conntrack::new(family, removed_tcp, metrics),
            no_local_endpoints: NoLocalEndpoints::default(),
            checks_changed: true,
            fresh: true,
            failing: None,
        }
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// The process is about to end. Blocks while the backend drains its connections.
    pub(super) fn stop(&mut self) {
        self.backend.stop();
    }

    /// Applies settings for all Services.
    pub(super) fn set_host(&mut self, snapshot: &Snapshot, host: Host) {
        self.update_plan(|planner| planner.set_host(snapshot, host));
    }

    /// Plans the Services that may have changed.
    pub(super) fn update(&mut self, snapshot: &Snapshot, services: &BTreeSet<ServiceName>) {
        self.update_plan(|planner| planner.update(snapshot, services));
        self.conntrack.touch(services);
    }

    /// Changes the forwarding table, and notes what that means.
    fn update_plan(&mut self, change: impl FnOnce(&mut Planner) -> Effect) {
        let effect = {
            let _span = trace::step("plan");
            change(&mut write(&self.planner))
        };
        let family = self.family;
        self.view.pending(family, &effect.services);
        effect.warnings.iter().for_each(|warning| tracing::warn!(%family, "{warning}"));
        self.conntrack.touch(&effect.services);
        if effect.host {
            self.conntrack.shake();
        }
        self.checks_changed |= effect.health_checks || effect.host;
        self.pending.extend(effect.services);
    }

    /// Brings the kernel in line with the table.
    pub(super) fn sync(&mut self, reason: Reason, context: &SyncContext<'_>) -> SyncResult {
        let scope =
            Scope { services: std::mem::take(&mut self.pending), full: reason == Reason::Full };
        let planner = Arc::clone(&self.planner);
        // Only this thread changes it.
        let planner = read(&planner);
        let table = planner.table();
        let (family, metrics) = (self.family, context.metrics);
        let extent = if scope.full { Extent::Full } else { Extent::Partial };
        let handle = self.conntrack.handle();
        let rules = handle.hold();
        match self.backend.sync(table, &scope) {
            Ok(report) => {
                let repaired = report.observed != Observation::None;
                if report.operations > 0 && (repaired || !report.refused.is_empty()) {
                    // Rules of other Services may have been missing for a while.
                    self.conntrack.shake();
                }
                let extent =
                    if report.observed == Observation::None { extent } else { Extent::Full };
                self.accept(table, &scope, report, context);
                let world = World {
                    table,
                    snapshot: context.snapshot,
                    local: context.local,
                    on_localhost: context.on_localhost,
                    backend: &mut *self.backend,
                };
                self.conntrack.reconcile(rules, world, self.refused.keys());
                // A Service that the kernel refuses is no reason to take the node out of service.
                context.health.updated(family);
                metrics.synced(family, extent, Outcome::Done, context.started.elapsed());
                if std::mem::take(&mut self.checks_changed) {
                    context.health.checks(table);
                }
                if self.refused.is_empty() { SyncResult::Done } else { SyncResult::Refusing }
            }
            Err(error) => {
                // One table may have been written, and another one not.
                self.conntrack.postpone(&rules, table);
                let (elapsed, reason) = (context.started.elapsed(), error.to_string());
                self.view.failed(family, &reason);
                self.view.synced(family, &scope.services, (0, elapsed), Some(reason.clone()));
                self.pending = scope.services;
                SyncResult::Failed(Failure { reason, extent, elapsed })
            }
        }
    }

    /// Evaluates the outcome of its sync, and returns whether everything that a Service needs is applied;
    /// `another_works` if the sync of any family succeeded.
    pub(super) fn settle(
        &mut self,
        result: &SyncResult,
        another_works: bool,
        health: &Health,
        metrics: &Metrics,
    ) -> bool {
        let planner = read(&self.planner);
        let table = planner.table();
        match result {
            SyncResult::Done | SyncResult::Refusing => {
                unserved::over(&mut self.failing, table.family);
                true
            }
            SyncResult::Failed(failure) => {
                let need = unserved::need(table, another_works);
                unserved::tell(&mut self.failing, failure, need, table.family);
                unserved::note(failure, need, table.family, health, metrics);
                need == Need::None
            }
        }
    }

    /// Applies the outcome of a sync: refused Services are pending again.
    fn accept(
        &mut self,
        table: &ForwardingTable,
        scope: &Scope,
        report: Report,
        context: &SyncContext<'_>,
    ) {
        for service in &scope.services {
            self.no_local_endpoints.update(service, table.plan(service));
        }
        let summary = Summary {
            table,
            scope,
            report: &report,
            no_local_endpoints: self.no_local_endpoints.total(),
            first: std::mem::replace(&mut self.fresh, false),
            elapsed: context.started.elapsed(),
        };
        summary.measure(context.metrics);
        summary.log();
        let operations = report.operations;
        let refused: BTreeMap<ServiceName, String> =
            report.refused.into_iter().map(|r| (r.service, r.reason)).collect();
        report::refusals(table.family, &self.refused, &refused);
        self.view.applied(table, &scope.services, &refused);
        let cost = (operations, context.started.elapsed());
        self.view.synced(table.family, &scope.services, cost, None);
        self.pending.extend(refused.keys().cloned());
        self.refused = refused;
    }
}
