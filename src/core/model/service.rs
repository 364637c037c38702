//! A Service as the proxy sees it.

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

/// `spec.type`, as far as the proxy handles it: ExternalName and headless Services never enter the
/// model.
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

/// `spec.loadBalancerSourceRanges`: who may use the load balancer addresses.
///
/// Upstream decides for each family on its own (`pkg/proxy/serviceport.go`): one that no prefix
/// belongs to, or with a prefix of length zero, is not restricted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SourceRanges {
    /// No restriction.
    #[default]
    Anyone,
    /// Only these prefixes (of both families). An empty list admits nobody: there were ranges and none
    /// could be read.
    Only(Vec<IpNet>),
}

/// One entry of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The port's name, empty for the only port of a Service. Endpoints are joined by it.
    pub name: Arc<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port on every virtual IP; never 0.
    pub port: u16,
    /// The port on the node's own addresses, if one is allocated; never 0.
    pub node_port: Option<u16>,
}

/// A Service with virtual IPs. Fields that belong to both IP families hold both; the plan picks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.creationTimestamp` in seconds since 1970: of two Services that claim one address,
    /// the older one keeps it. 0 if the API did not say.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs`, at most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` of ipMode VIP (ipMode Proxy is left to the balancer).
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
