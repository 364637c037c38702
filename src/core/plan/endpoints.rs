//! Which endpoints of a Service port take traffic.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::net::IpAddr;

use super::table::PoolEndpoint;
use crate::model::{Condition, Endpoint, EndpointSlice};
use crate::net::{Family, Protocol};

/// The pools of one Service port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Categories {
    /// For policy Cluster: ready endpoints that the hints select, else serving terminating ones.
    pub cluster: Vec<PoolEndpoint>,
    /// For policy Local: ready endpoints of this node, else its serving terminating ones.
    pub local: Vec<PoolEndpoint>,
    /// Whether any endpoint on any node is usable: without one traffic is rejected, not dropped.
    pub any: bool,
}

/// Which hints select endpoints, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// None: hints are ignored.
    Everywhere,
    /// Hints for this node.
    SameNode,
    /// Hints for this node's zone.
    SameZone,
}

/// Collects the endpoints of one Service port from its slices and sorts them into pools (upstream:
/// `pkg/proxy/topology.go`, CategorizeEndpoints).
///
/// * Slice ports are matched by name and protocol; an address and port in several slices is one endpoint, in its best
///   condition.
/// * Ready endpoints form the cluster pool. If every ready endpoint has node hints and one names this node, only those
///   with a hint for this node are used; else the same with zone hints and this node's zone. If one ready endpoint has
///   no hint of a kind, hints of that kind are ignored (KEP-2433, KEP-3015).
/// * Without ready endpoints, serving terminating ones are used (KEP-1669); hints do not apply to them. Each pool falls
///   back separately.
pub fn categorize<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    family: Family,
    port: (&str, Protocol),
    here: Here<'_>,
) -> Categories {
    let found = collect(slices, family, port);
    let topology = topology(found.values(), here);
    let pool = |wanted: Condition, keep: &dyn Fn(&Endpoint) -> bool| -> Vec<PoolEndpoint> {
        let chosen = found.iter().filter(|(_, e)| e.condition == wanted && keep(e));
        chosen.map(|(&(ip, port), e)| PoolEndpoint { ip, port, local: e.local }).collect()
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

/// The number of ready pods of a Service on this node, for its health check node port (upstream:
/// `pkg/proxy/endpointschangetracker.go`, LocalReadyEndpoints).
///
/// A pod counts once for any number of ports. Terminating pods do not count although they may still get traffic: load
/// balancers should turn to other nodes before the last pod is gone.
pub fn local_ready<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, family: Family) -> usize {
    let serving = slices.filter(|slice| slice.family == family && !slice.ports.is_empty());
    let ready = serving
        .flat_map(|slice| slice.endpoints.iter())
        .filter(|endpoint| endpoint.local && endpoint.condition == Condition::Ready);
    ready.map(|endpoint| endpoint.address).collect::<BTreeSet<_>>().len()
}

/// This node, as topology hints name it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Here<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's zone, if it has one.
    pub zone: Option<&'a str>,
}

pub(super) fn collect<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    family: Family,
    (name, protocol): (&str, Protocol),
) -> BTreeMap<(IpAddr, u16), Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == family) {
        let ports = slice.ports.iter().filter(|p| *p.name == *name && p.protocol == protocol);
        for port in ports {
            for endpoint in slice.endpoints.iter() {
                match found.entry((endpoint.address, port.port)) {
                    Entry::Vacant(place) => drop(place.insert(endpoint)),
                    Entry::Occupied(kept) if kept.get().condition <= endpoint.condition => {}
                    Entry::Occupied(mut kept) => drop(kept.insert(endpoint)),
                }
            }
        }
    }
    found
}

pub(super) fn topology<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    here: Here<'_>,
) -> Topology {
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

pub(super) fn prefers(endpoint: &Endpoint, topology: Topology, here: Here<'_>) -> bool {
    let hints = endpoint.hints.as_deref();
    match topology {
        Topology::Everywhere => true,
        Topology::SameNode => hints.is_some_and(|h| h.nodes.iter().any(|n| **n == *here.node)),
        Topology::SameZone => {
            hints.is_some_and(|h| h.zones.iter().any(|z| here.zone == Some(&**z)))
        }
    }
}
