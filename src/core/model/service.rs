//! A Service, reduced to what a proxy needs.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::net::Protocol;

/// Namespace and name of a Service, in one shared string `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The name of the Service `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> ServiceName {
        ServiceName(format!("{namespace}/{name}").into())
    }

    /// The part before the slash.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spec.type`. ExternalName and headless Services never enter the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceType {
    /// Reachable inside the cluster only.
    #[default]
    ClusterIp,
    /// Reachable on a port of every node.
    NodePort,
    /// Reachable through a load balancer outside the cluster.
    LoadBalancer,
}

/// `spec.internalTrafficPolicy` or `spec.externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// `spec.loadBalancerSourceRanges`: which sources may use the load balancer IPs.
///
/// Each family is restricted separately (upstream: `pkg/proxy/serviceport.go`): a family without a range, or with a
/// range of length zero, is not restricted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SourceRanges {
    /// No restriction.
    #[default]
    Anyone,
    /// Only these ranges (of both families). An empty list admits no source: there were ranges, but all were invalid.
    Only(Vec<IpNet>),
}

/// One entry of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name, empty for the only port of a Service. Slice ports are matched by it.
    pub name: Arc<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port on every virtual IP; never 0.
    pub port: u16,
    /// The port on the node's own addresses, if one is allocated; never 0.
    pub node_port: Option<u16>,
}

/// A Service with virtual IPs. Its fields hold addresses of both IP families; the plan selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.creationTimestamp` in seconds since 1970, 0 if absent: of two Services that claim an address, the
    /// older one has it.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs`, at most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP (traffic to those with ipMode Proxy passes).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: SourceRanges,
    /// `spec.internalTrafficPolicy`: for cluster IPs.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: for node ports, external IPs and load balancer IPs.
    pub external_policy: TrafficPolicy,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity: Option<u32>,
    /// `spec.healthCheckNodePort`, if one is allocated; never 0.
    pub health_check_node_port: Option<u16>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}
