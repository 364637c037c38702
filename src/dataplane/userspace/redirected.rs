//! The forwarding table of the kernel's part: the same frontends, routes and source ranges, with relays of
//! this process instead of endpoints.
//!
//! So every decision by source is made in the kernel, with the rules of the nftables mode, and a relay knows
//! its pool from the socket on which traffic arrives.

use std::net::SocketAddr;
use std::sync::Arc;

use super::visible_source::VisibleSource;
use sluice_core::model::ServiceName;
use sluice_core::net::Protocol;
use sluice_core::plan::{
    Frontend, Masquerade, PoolEndpoint, PoolKind, PortPlan, Route, ServicePlan, Verdict,
};

/// What a relay is for: one pool of one port of a Service, and which source endpoints see.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelayKey {
    pub(super) service: ServiceName,
    pub(super) port: Arc<str>,
    pub(super) protocol: Protocol,
    pub(super) pool: PoolKind,
    pub(super) source: VisibleSource,
}

impl RelayKey {
    pub(super) fn new(
        service: &ServiceName,
        port: &PortPlan,
        pool: PoolKind,
        source: VisibleSource,
    ) -> RelayKey {
        let (service, name) = (service.clone(), Arc::clone(&port.name));
        RelayKey { service, port: name, protocol: port.protocol, pool, source }
    }

    /// Not greater than any of a Service.
    pub(super) fn first_of(service: &ServiceName) -> RelayKey {
        let (protocol, pool, source) = (Protocol::Tcp, PoolKind::Cluster, VisibleSource::Node);
        RelayKey { service: service.clone(), port: "".into(), protocol, pool, source }
    }
}

/// Whether a protocol is relayed in userspace mode. SCTP is forwarded by the kernel: a relay would lose its
/// streams and its unordered and partially reliable messages.
pub fn is_relayed(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::Udp => true,
        Protocol::Sctp => false,
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

/// The pools of a plan that have a relay, each with its port.
pub fn relayed(plan: &ServicePlan) -> Vec<(&PortPlan, PoolKind)> {
    needed(plan).collect()
}

/// The relays of a pool, in the order of the slots that the kernel's table has for them.
pub(super) fn sources(visible: VisibleSource) -> &'static [VisibleSource] {
    match visible {
        VisibleSource::Node => &[VisibleSource::Node],
        VisibleSource::Client => &[VisibleSource::Client, VisibleSource::Node],
    }
}

/// The plan with relays as endpoints; `at` has their addresses. Without a relay, traffic is rejected.
///
/// With transparent relays, rules decide from the routes which traffic is masqueraded, and the relay does it;
/// otherwise masquerading is irrelevant, because relays send from this node anyway.
pub(super) fn redirected(
    plan: &ServicePlan,
    visible: VisibleSource,
    at: impl Fn(&PortPlan, PoolKind, VisibleSource) -> Option<SocketAddr>,
) -> ServicePlan {
    let port = |port: &PortPlan| {
        if !is_relayed(port.protocol) {
            return port.clone();
        }
        let relays = |kind| -> Box<[PoolEndpoint]> {
            // Not local: that would add a hairpin rule, and a relay sends from this node.
            let endpoint =
                |at: SocketAddr| PoolEndpoint { ip: at.ip(), port: at.port(), local: false };
            let relays =
                sources(visible).iter().map(|source| at(port, kind, *source).map(endpoint));
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
            let masquerade = match visible {
                VisibleSource::Node => Masquerade::No,
                VisibleSource::Client => route.masquerade,
            };
            Route { verdict, masquerade, ..route }
        };
        let frontend = |f: &Frontend| Frontend { routes: f.routes.map(route), ..f.clone() };
        let frontends = port.frontends.iter().map(frontend).collect();
        PortPlan { affinity: None, frontends, cluster, local, ..port.clone() }
    };
    ServicePlan { cluster_ip: plan.cluster_ip, ports: plan.ports.iter().map(port).collect() }
}
