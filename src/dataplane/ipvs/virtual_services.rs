//! The virtual services of the IPVS mode, and which frontends are sent there.
//!
//! Each pool of a port that traffic uses has a virtual service: at the cluster IP and port of the Service if
//! traffic to these uses the pool, else at another port of the cluster IP, to which direct traffic is
//! rejected. Traffic to all other frontends is sent there by `dnat`, so that IPVS, which looks at
//! destinations only, need not distinguish sources, and all addresses of a port share session affinity.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::service_table::pools_of;
use sluice_core::net::Protocol;
use sluice_core::plan::{Address, FrontendKind, PoolKind, PortPlan, ServicePlan};

/// A virtual service that a plan needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VirtualService<'a> {
    /// The cluster IP.
    pub(super) ip: IpAddr,
    /// Its transport protocol.
    pub(super) protocol: Protocol,
    /// The port at the cluster IP.
    pub(super) at: u16,
    /// Who may address it.
    pub(super) reach: Reach,
    /// The port that it serves.
    pub(super) port: &'a PortPlan,
    /// The pool that it serves.
    pub(super) pool: PoolKind,
}

/// Who may address a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Clients: it is a frontend.
    Direct,
    /// Only traffic that the table sends there.
    Translated,
}

/// The virtual services of a plan, at addresses that follow from the plan alone.
pub(super) fn virtual_services(plan: &ServicePlan) -> Vec<VirtualService<'_>> {
    let Some(ip) = plan.cluster_ip else { return Vec::new() };
    let mut taken: BTreeSet<(Protocol, u16)> = plan.ports.iter().flat_map(own_ports).collect();
    let mut found = Vec::new();
    for port in &plan.ports {
        let home = port.frontends.iter().find(|f| f.kind == FrontendKind::ClusterIp);
        let home_pool = home.and_then(|frontend| pools_of(frontend).next()).map(|(_, pool)| pool);
        let pools = port.frontends.iter().flat_map(pools_of).map(|(_, pool)| pool);
        let used: BTreeSet<PoolKind> = pools.filter(|pool| !port.pool(*pool).is_empty()).collect();
        for pool in used {
            let number = own_ports(port).next().map_or(0, |(_, number)| number);
            let (at, reach) = match home.filter(|_| home_pool == Some(pool)) {
                Some(_) => (number, Reach::Direct),
                None => (free_port(number, port.protocol, &mut taken), Reach::Translated),
            };
            found.push(VirtualService { ip, protocol: port.protocol, at, reach, port, pool });
        }
    }
    found
}

/// The numbers that clients know a port by.
fn own_ports(port: &PortPlan) -> impl Iterator<Item = (Protocol, u16)> {
    // The Service's own port comes first: a cluster IP is the first of the frontends.
    port.frontends.iter().map(|frontend| match frontend.at {
        Address::Vip { protocol, port, .. } | Address::NodePort { protocol, port } => {
            (protocol, port)
        }
    })
}

/// A port that no client of the Service knows: half of all ports away, or the next free one.
fn free_port(number: u16, protocol: Protocol, taken: &mut BTreeSet<(Protocol, u16)>) -> u16 {
    let mut candidate = number ^ 0x8000;
    while candidate == 0 || !taken.insert((protocol, candidate)) {
        candidate = candidate.wrapping_add(1);
    }
    candidate
}
