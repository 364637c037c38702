//! Which Services want an endpoint of this node and have none: kept up to date Service by Service.

use std::collections::BTreeMap;

use sluice_core::model::ServiceName;
use sluice_core::plan::{FrontendKind, PortPlan, ServicePlan, Verdict};

/// Ports without an endpoint of this node, by the policy that asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Gap {
    /// `internalTrafficPolicy: Local`.
    pub(super) internal: usize,
    /// `externalTrafficPolicy: Local`.
    pub(super) external: usize,
}

/// The gaps of one family. Only Services that have one are remembered.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    by_service: BTreeMap<ServiceName, Gap>,
    total: Gap,
}

impl Gaps {
    /// Takes in what is planned for a Service now.
    pub(super) fn update(&mut self, service: &ServiceName, plan: Option<&ServicePlan>) {
        if let Some(before) = self.by_service.remove(service) {
            self.total.internal -= before.internal;
            self.total.external -= before.external;
        }
        let gap = plan.map(gap).unwrap_or_default();
        if gap != Gap::default() {
            self.total.internal += gap.internal;
            self.total.external += gap.external;
            self.by_service.insert(service.clone(), gap);
        }
    }

    /// All of them.
    pub(super) fn total(&self) -> Gap {
        self.total
    }
}

fn gap(plan: &ServicePlan) -> Gap {
    // Without endpoints anywhere traffic is rejected: dropped is what only lacks local ones.
    let drops = |port: &PortPlan, internal: bool| {
        let mut frontends = port.frontends.iter();
        frontends.any(|frontend| {
            (frontend.kind == FrontendKind::ClusterIp) == internal
                && frontend.routes.for_anyone().verdict == Verdict::Drop
        })
    };
    Gap {
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

    /// The gap of a Service with these policies, by whether it has endpoints here and elsewhere.
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
        let mut gaps = Gaps::default();
        for _ in 0..2 {
            gaps.update(&name, table.plan(&name));
        }
        let total = gaps.total();
        gaps.update(&name, None);
        assert_eq!(gaps.total(), Gap::default(), "a Service that is gone lacks nothing");
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
