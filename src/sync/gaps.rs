//! Which Services want an endpoint of this node and have none: kept up to date Service by Service.

use std::collections::BTreeMap;

use crate::model::ServiceName;
use crate::plan::{FrontendKind, PortPlan, ServicePlan, Verdict};

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
