//! Which Services need a local endpoint and have none, updated Service by Service.

use std::collections::BTreeMap;

use sluice_core::model::ServiceName;
use sluice_core::plan::{FrontendKind, PortPlan, ServicePlan, Verdict};

/// Ports without a local endpoint, by the policy that needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PortCount {
    /// `internalTrafficPolicy: Local`.
    pub(super) internal: usize,
    /// `externalTrafficPolicy: Local`.
    pub(super) external: usize,
}

/// The count of one family. Only Services that lack an endpoint are kept.
#[derive(Debug, Default)]
pub(super) struct NoLocalEndpoints {
    by_service: BTreeMap<ServiceName, PortCount>,
    total: PortCount,
}

impl NoLocalEndpoints {
    /// Updates the count from the plan of a Service.
    pub(super) fn update(&mut self, service: &ServiceName, plan: Option<&ServicePlan>) {
        if let Some(before) = self.by_service.remove(service) {
            self.total.internal -= before.internal;
            self.total.external -= before.external;
        }
        let missing = plan.map(missing).unwrap_or_default();
        if missing != PortCount::default() {
            self.total.internal += missing.internal;
            self.total.external += missing.external;
            self.by_service.insert(service.clone(), missing);
        }
    }

    /// All of them.
    pub(super) fn total(&self) -> PortCount {
        self.total
    }
}

fn missing(plan: &ServicePlan) -> PortCount {
    // Without endpoints anywhere traffic is rejected: dropped is what only lacks local ones.
    let drops = |port: &PortPlan, internal: bool| {
        let mut frontends = port.frontends.iter();
        frontends.any(|frontend| {
            (frontend.kind == FrontendKind::ClusterIp) == internal
                && frontend.routes.for_anyone().verdict == Verdict::Drop
        })
    };
    PortCount {
        internal: plan.ports.iter().filter(|port| drops(port, true)).count(),
        external: plan.ports.iter().filter(|port| drops(port, false)).count(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use sluice_core::model::{Change, Condition, Snapshot, TrafficPolicy};
    use sluice_core::net::Family;
    use sluice_core::plan::build;
    use sluice_core::plan::fixtures::{endpoint, host, service, slice};

    /// What a Service with these policies lacks, by whether it has endpoints here and elsewhere.
    fn gap_of(policies: [TrafficPolicy; 2], here: bool, elsewhere: bool) -> (usize, usize) {
        let mut snapshot = Snapshot::default();
        let mut web = service("web", "10.96.0.1");
        [web.internal_policy, web.external_policy] = policies;
        let name = web.name.clone();
        let mut endpoints = Vec::new();
        endpoints.extend(here.then(|| endpoint("10.244.0.5", Condition::Ready, true)));
        endpoints.extend(elsewhere.then(|| endpoint("10.244.1.5", Condition::Ready, false)));
        for change in [Change::Service(web), Change::Slice(slice("web", "a", endpoints))] {
            snapshot.apply(change, &mut BTreeSet::new());
        }
        let (table, _) = build(Family::V4, "n1", host(), &snapshot);
        let mut counted = NoLocalEndpoints::default();
        for _ in 0..2 {
            counted.update(&name, table.plan(&name));
        }
        let total = counted.total();
        counted.update(&name, None);
        assert_eq!(counted.total(), PortCount::default(), "a Service that is gone lacks nothing");
        (total.internal, total.external)
    }

    #[test]
    fn a_gap_is_a_local_policy_with_endpoints_elsewhere_only() {
        use TrafficPolicy::{Cluster, Local};
        let table = [
            ([Local, Cluster], false, true, (1, 0)),
            ([Cluster, Local], false, true, (0, 1)),
            ([Local, Local], false, true, (1, 1)),
            ([Local, Local], true, true, (0, 0)),
            ([Local, Local], false, false, (0, 0)),
            ([Cluster, Cluster], false, true, (0, 0)),
        ];
        for (policies, here, elsewhere, expected) in table {
            assert_eq!(
                gap_of(policies, here, elsewhere),
                expected,
                "{policies:?} {here} {elsewhere}"
            );
        }
    }
}
