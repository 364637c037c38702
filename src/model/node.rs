//! This node as the API describes it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::net::Family;

/// The Node object of the machine that Sluice runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// `status.addresses` of type InternalIP, then those of type ExternalIP, in the API's order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The Node has a deletionTimestamp or the taint ToBeDeletedByClusterAutoscaler: load balancers
    /// should stop sending new connections here (KEP-3836).
    pub leaving: bool,
}

impl Node {
    /// The address by which this node is known in `family`: the first one of it.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| Family::of(*ip) == family)
    }
}
