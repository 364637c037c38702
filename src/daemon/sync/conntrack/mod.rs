//! Finds and deletes stale flows.
//!
//! Conntrack keeps the translation of a flow as long as the flow lives. A UDP client that keeps sending from
//! one port keeps it alive, and would send to a dead endpoint for ever, or to none if it began before there
//! was one. [`Frontends`] (pure) knows which endpoints may answer at each address, and after a change which
//! flows are stale. A thread per family deletes these once the new rules are in place ([`remover`]): reading
//! a large table takes time, and neither health nor the next change waits for it. See `docs/conntrack.md`.

mod frontends;
mod remover;

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use self::frontends::Frontends;
pub(super) use self::frontends::World;
use self::remover::{Shared, State};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_telemetry::metrics::Metrics;

/// What happens to TCP connections whose endpoint no longer belongs to the Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RemovedTcp {
    /// It lives for as long as the endpoint answers (upstream's behaviour).
    #[default]
    Keep,
    /// The client's next segment is answered by a reset.
    Reset,
}

/// Removes flows of one family that have outlived their endpoint.
#[derive(Debug)]
pub(super) struct Conntrack {
    shared: Arc<Shared>,
    /// Services that may have changed since the last applied rules.
    touched: BTreeSet<ServiceName>,
    /// Rules may have been missing, of which it is not known.
    shaken: bool,
}

/// Held while rules are written: no flow is removed meanwhile, so that each is judged by the rules that
/// it was made under.
pub(super) struct Rules<'a>(MutexGuard<'a, State>);

/// The source of [`Rules`].
pub(super) struct Handle(Arc<Shared>);

impl Handle {
    /// Waits at most for the deletion of a few flows.
    pub(super) fn hold(&self) -> Rules<'_> {
        Rules(self.0.lock())
    }
}

impl Conntrack {
    /// For a family; what is removed is counted in `metrics`.
    pub(super) fn new(family: Family, removed_tcp: RemovedTcp, metrics: &Metrics) -> Conntrack {
        let shared = remover::start(family, Frontends::new(family, removed_tcp), metrics.clone());
        Conntrack { shared, touched: BTreeSet::new(), shaken: false }
    }

    /// To be held from before rules are written until [`Conntrack::reconcile`].
    pub(super) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Services may have changed.
    pub(super) fn touch<'a>(&mut self, services: impl IntoIterator<Item = &'a ServiceName>) {
        self.touched.extend(services.into_iter().cloned());
    }

    /// Rules may be, or have been, missing or others than was known: they were repaired, could not be
    /// written, or something changed for all Services.
    pub(super) fn shake(&mut self) {
        self.shaken = true;
    }

    /// The rules of the changes so far could not be written, all of them or some.
    pub(super) fn postpone(&mut self, rules: &Rules<'_>, table: &ForwardingTable) {
        self.shake();
        // A family may be left out for months; Services that came and went meanwhile are not kept.
        let frontends = &rules.0.frontends;
        self.touched.retain(|name| table.services.contains_key(name) || frontends.holds(name));
    }

    /// Lets what the changes so far have made stale be removed. To be called when the rules are in
    /// force, but for the Services that were `refused`.
    pub(super) fn reconcile<'a>(
        &mut self,
        mut rules: Rules<'_>,
        mut world: World<'_>,
        refused: impl IntoIterator<Item = &'a ServiceName>,
    ) {
        let mut touched = std::mem::take(&mut self.touched);
        for service in refused {
            if touched.remove(service) {
                self.touched.insert(service.clone());
            }
        }
        let now = Instant::now();
        rules.0.frontends.update(&mut world, &touched, now);
        if std::mem::take(&mut self.shaken) {
            rules.0.frontends.suspect_all(now);
        }
        drop(rules);
        self.shared.tell();
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_config::Mode;
    use sluice_core::plan::build;
    use sluice_core::plan::fixtures::{host, service, snapshot};

    #[test]
    fn services_that_come_and_go_while_a_family_is_left_out_are_not_kept() {
        let metrics = Metrics::new(Mode::Iptables);
        let mut conntrack = Conntrack::new(Family::V4, RemovedTcp::Keep, &metrics);
        let objects = snapshot(vec![service("stays", "10.96.0.1")], Vec::new());
        let (table, _) = build(Family::V4, "node-a", host(), &objects);
        let [stays, gone] = ["stays", "gone"].map(|name| ServiceName::new("default", name));
        conntrack.touch([&stays, &gone]);
        let handle = conntrack.handle();
        conntrack.postpone(&handle.hold(), &table);
        assert_eq!(conntrack.touched, [stays].into());
    }
}
