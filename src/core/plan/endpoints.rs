//! Which endpoints of a Service port take traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::table::PoolEndpoint;
use crate::model::{Condition, Endpoint, EndpointSlice};
use crate::net::{Family, Protocol};

/// The endpoints of one Service port, sorted into what the two traffic policies may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Categories {
    /// For policy Cluster: ready endpoints that topology prefers, else serving terminating ones.
    pub cluster: Vec<PoolEndpoint>,
    /// For policy Local: ready endpoints of this node, else serving terminating ones of this node.
    pub local: Vec<PoolEndpoint>,
    /// Whether any endpoint anywhere is usable: decides between dropping and rejecting.
    pub any: bool,
}

/// Whose hints decide, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Everywhere,
    SameNode,
    SameZone,
}

/// Collects the endpoints of one port from a Service's slices and sorts them (upstream:
/// `pkg/proxy/topology.go`, CategorizeEndpoints).
///
/// * Slices are joined by port name and protocol; an address and port that stands in several slices
///   counts once, in its best condition.
/// * Ready endpoints form the cluster pool. If every ready endpoint has node hints and one of them
///   names this node, only those that do are used; else the same with zone hints and this node's
///   zone. One endpoint without a hint turns hints of that kind off (KEP-2433, KEP-3015).
/// * Without any ready endpoint, those that serve while they terminate are used (KEP-1669); hints do
///   not apply to them. Both pools fall back on their own.
pub fn categorize<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    family: Family,
    port: (&str, Protocol),
    here: Here<'_>,
) -> Categories {
    let found = collect(slices, family, port);
    let topology = topology(found.values().copied(), here);
    let pool = |wanted: Condition, keep: &dyn Fn(&Endpoint) -> bool| -> Vec<PoolEndpoint> {
        let chosen = found.iter().filter(|(_, e)| e.condition == wanted && keep(e));
        let mut pool: Vec<_> =
            chosen.map(|(&(ip, port), e)| PoolEndpoint { ip, port, local: e.local }).collect();
        pool.shrink_to_fit(); // There are as many pools as Services.
        pool
    };

    let mut cluster = pool(Condition::Ready, &|e| prefers(e, topology, here));
    if cluster.is_empty() {
        cluster = pool(Condition::Terminating, &|_| true);
    }
    let mut local = pool(Condition::Ready, &|e| e.local);
    if local.is_empty() {
        local = pool(Condition::Terminating, &|e| e.local);
    }
    Categories { any: !cluster.is_empty(), cluster, local }
}

/// How many pods of this node are ready for a Service: what its health check node port tells load
/// balancers (upstream: `pkg/proxy/endpointschangetracker.go`, LocalReadyEndpoints).
///
/// A pod counts once, however many ports it serves. Pods that terminate do not count although they
/// may still get traffic: balancers shall turn to other nodes before the last one is gone.
pub fn local_ready<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, family: Family) -> usize {
    let serving = slices.filter(|slice| slice.family == family && !slice.ports.is_empty());
    let ready = serving
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.local && endpoint.condition == Condition::Ready);
    ready.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
}

/// Where this node is, for topology hints.
#[derive(Debug, Clone, Copy, Default)]
pub struct Here<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's zone, if it has one.
    pub zone: Option<&'a str>,
}

fn collect<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    family: Family,
    (name, protocol): (&str, Protocol),
) -> BTreeMap<(IpAddr, u16), &'a Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), &Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let ports = slice.ports.iter().filter(|p| *p.name == *name && p.protocol == protocol);
        for port in ports {
            for endpoint in &slice.endpoints {
                let kept = found.entry((endpoint.address, port.port)).or_insert(endpoint);
                if endpoint.condition < kept.condition {
                    *kept = endpoint;
                }
            }
        }
    }
    found
}

fn topology<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, here: Here<'_>) -> Topology {
    let (mut all_nodes, mut this_node, mut all_zones, mut this_zone) = (true, false, true, false);
    for endpoint in endpoints.filter(|e| e.condition == Condition::Ready) {
        let Some(hints) = &endpoint.hints else { return Topology::Everywhere };
        all_nodes &= !hints.nodes.is_empty();
        this_node |= prefers(endpoint, Topology::SameNode, here);
        all_zones &= !hints.zones.is_empty();
        this_zone |= prefers(endpoint, Topology::SameZone, here);
    }
    if all_nodes && this_node {
        Topology::SameNode
    } else if all_zones && this_zone {
        Topology::SameZone
    } else {
        Topology::Everywhere
    }
}

fn prefers(endpoint: &Endpoint, topology: Topology, here: Here<'_>) -> bool {
    let hints = endpoint.hints.as_deref();
    match topology {
        Topology::Everywhere => true,
        Topology::SameNode => hints.is_some_and(|h| h.nodes.iter().any(|n| **n == *here.node)),
        Topology::SameZone => {
            hints.is_some_and(|h| h.zones.iter().any(|z| here.zone == Some(&**z)))
        }
    }
}
