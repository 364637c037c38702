//! The forwarding table of the kernel's part: the same addresses, routes and restrictions, with
//! relays of this process in place of endpoints.
//!
//! So every decision by source is made in the kernel by the same rules as in the nftables mode, and
//! a relay knows from the socket on which traffic arrives which pool it is for.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::nftables::{Sight, is_relayed};
use sluice_core::model::ServiceName;
use sluice_core::net::Protocol;
use sluice_core::plan::{
    Frontend, Masquerade, PoolEndpoint, PoolKind, PortPlan, Route, ServicePlan, Verdict,
};

/// What a relay is for: one pool of one port of a Service, and whom endpoints see.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelayFor {
    pub(super) service: ServiceName,
    pub(super) port: Arc<str>,
    pub(super) protocol: Protocol,
    pub(super) pool: PoolKind,
    pub(super) sight: Sight,
}

impl RelayFor {
    pub(super) fn new(
        service: &ServiceName,
        port: &PortPlan,
        pool: PoolKind,
        sight: Sight,
    ) -> RelayFor {
        let (service, name) = (service.clone(), Arc::clone(&port.name));
        RelayFor { service, port: name, protocol: port.protocol, pool, sight }
    }

    /// Not greater than any of a Service.
    pub(super) fn first_of(service: &ServiceName) -> RelayFor {
        let (protocol, pool, sight) = (Protocol::Tcp, PoolKind::Cluster, Sight::Node);
        RelayFor { service: service.clone(), port: "".into(), protocol, pool, sight }
    }
}

/// Every relay that a plan needs: one for each pool that some route forwards to.
pub(super) fn needed(plan: &ServicePlan) -> impl Iterator<Item = (&PortPlan, PoolKind)> {
    let relayed = plan.ports.iter().filter(|port| is_relayed(port.protocol));
    relayed.flat_map(|port| {
        let used = move |kind: &PoolKind| {
            let forwards = |frontend: &Frontend| {
                frontend.routes.iter().any(|route| route.verdict == Verdict::Forward(*kind))
            };
            !port.pool(*kind).is_empty() && port.frontends.iter().any(forwards)
        };
        [PoolKind::Cluster, PoolKind::Local].into_iter().filter(used).map(move |kind| (port, kind))
    })
}

/// The relays of a pool, in the order of the slots that the kernel's table has for them.
pub(super) fn sights(sight: Sight) -> &'static [Sight] {
    match sight {
        Sight::Node => &[Sight::Node],
        Sight::Client => &[Sight::Client, Sight::Node],
    }
}

/// The plan with relays as endpoints; `at` says where they are. Where there is none, traffic is
/// refused.
///
/// Where endpoints may see clients, the kernel decides by the routes who is masqueraded, and the relay
/// does it; otherwise a route says nothing about that, because relays send from this node anyway.
pub(super) fn carried(
    plan: &ServicePlan,
    sight: Sight,
    at: impl Fn(&PortPlan, PoolKind, Sight) -> Option<SocketAddr>,
) -> ServicePlan {
    let port = |port: &PortPlan| {
        if !is_relayed(port.protocol) {
            return port.clone();
        }
        let relays = |kind| -> Vec<PoolEndpoint> {
            // Not local: that asks for the rule against hairpins, and a relay sends from this node.
            let endpoint =
                |at: SocketAddr| PoolEndpoint { ip: at.ip(), port: at.port(), local: false };
            let relays = sights(sight).iter().map(|sight| at(port, kind, *sight).map(endpoint));
            relays.collect::<Option<_>>().unwrap_or_default()
        };
        let (cluster, local) = (relays(PoolKind::Cluster), relays(PoolKind::Local));
        let route = |route: Route| {
            let missing = match route.verdict {
                Verdict::Forward(PoolKind::Cluster) => cluster.is_empty(),
                Verdict::Forward(PoolKind::Local) => local.is_empty(),
                Verdict::Reject | Verdict::Drop => false,
            };
            let verdict = if missing { Verdict::Reject } else { route.verdict };
            let masquerade = match sight {
                Sight::Node => Masquerade::No,
                Sight::Client => route.masquerade,
            };
            Route { verdict, masquerade, ..route }
        };
        let frontend = |f: &Frontend| Frontend { routes: f.routes.map(route), ..f.clone() };
        let frontends = port.frontends.iter().map(frontend).collect();
        PortPlan { affinity: None, frontends, cluster, local, ..port.clone() }
    };
    ServicePlan { cluster_ip: plan.cluster_ip, ports: plan.ports.iter().map(port).collect() }
}
