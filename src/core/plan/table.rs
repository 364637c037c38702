//! The forwarding table: what this node does with traffic to Services of one IP family.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::ServiceName;
use crate::net::{Family, Protocol};

/// What this node does with traffic to Services of one IP family.
///
/// A value: it holds no handles, no chain names, nothing of a particular backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardingTable {
    /// The family of every address in it.
    pub family: Family,
    /// Settings for all Services.
    pub host: Host,
    /// CIDRs that cluster IPs are allocated from; [`Host::cluster_ip_guard`] decides about traffic to unallocated ones.
    pub service_cidrs: BTreeSet<IpNet>,
    /// The plan of each Service, shared with backends that keep applied plans.
    pub services: BTreeMap<ServiceName, Arc<ServicePlan>>,
    /// The Services with a health check node port. No two have the same port.
    pub health_checks: BTreeMap<ServiceName, HealthCheck>,
}

impl ForwardingTable {
    /// The plan of one Service.
    pub fn plan(&self, name: &ServiceName) -> Option<&ServicePlan> {
        self.services.get(name).map(|plan| &**plan)
    }
}

/// The answer to load balancers that ask whether to send a Service's traffic to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`: the TCP port on the node's addresses.
    pub port: u16,
    /// The number of ready pods of the Service on this node.
    pub local_endpoints: usize,
}

/// Settings that apply to all Services on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// How traffic from pods is recognized.
    pub pods: PodDetector,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// The packet mark bit that requests masquerading, as a mask.
    pub masquerade_mark: u32,
    /// Which of the node's addresses accept node ports.
    pub node_ports: NodePortAddresses,
    /// This node's primary address: source ranges that contain it also admit the Service's load balancer IPs as sources.
    pub node_ip: Option<IpAddr>,
    /// What happens to traffic to cluster IPs that is for no port of a Service.
    pub cluster_ip_guard: ClusterIpGuard,
}

/// What happens to traffic to cluster IPs that is for no port of a Service. kube-proxy's modes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterIpGuard {
    /// It passes, as without a proxy (upstream: `pkg/proxy/iptables`, and the former userspace mode).
    Open,
    /// Traffic to other ports of a Service's cluster IP is rejected; to unallocated addresses it passes (upstream:
    /// `pkg/proxy/ipvs`, chain KUBE-IPVS-FILTER).
    Ports,
    /// Traffic to other ports is rejected, and to unallocated addresses of a ServiceCIDR dropped (upstream:
    /// `pkg/proxy/nftables`, cluster-ips-check).
    PortsAndAddresses,
}

impl ClusterIpGuard {
    /// Whether traffic to ports and protocols of a cluster IP that its Service does not have is rejected.
    pub fn refuses_ports(self) -> bool {
        self != ClusterIpGuard::Open
    }

    /// Whether traffic to an address of a ServiceCIDR that no Service has is dropped.
    pub fn drops_addresses(self) -> bool {
        self == ClusterIpGuard::PortsAndAddresses
    }
}

/// How traffic from pods is recognized (upstream's detectLocalMode).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodDetector {
    /// Not at all.
    None,
    /// By its source address.
    Cidrs(Vec<IpNet>),
    /// By the bridge on which it arrives.
    BridgeInterface(Arc<str>),
    /// By a prefix of the name of the interface on which it arrives.
    InterfacePrefix(Arc<str>),
}

/// Which of the node's addresses accept node ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All except loopback.
    AnyLocal,
    /// These.
    Only(BTreeSet<IpAddr>),
}

/// The plan of one Service. A Service without ports of this family has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePlan {
    /// Its cluster IP of this family, which no other Service of the table has. [`Host::cluster_ip_guard`] decides about
    /// traffic to its other ports.
    pub cluster_ip: Option<IpAddr>,
    /// Its ports, in the Service's order.
    pub ports: Box<[PortPlan]>,
}

/// The plan of one Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPlan {
    /// The port's name.
    pub name: Arc<str>,
    /// The transport protocol of its frontends and endpoints.
    pub protocol: Protocol,
    /// The pool for policy Cluster, sorted; empty if no route uses it.
    pub cluster: Box<[PoolEndpoint]>,
    /// The pool for policy Local, sorted; empty if no route uses it.
    pub local: Box<[PoolEndpoint]>,
    /// Session affinity by client address.
    pub affinity: Option<Affinity>,
    /// Its frontends.
    pub frontends: Box<[Frontend]>,
}

impl PortPlan {
    /// The endpoints of a pool.
    pub fn pool(&self, kind: PoolKind) -> &[PoolEndpoint] {
        match kind {
            PoolKind::Cluster => &self.cluster,
            PoolKind::Local => &self.local,
        }
    }
}

/// Session affinity by client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// Seconds after a client's last new connection until its affinity ends.
    pub timeout: u32,
    /// The port's affinity id, below [`Affinity::IDS`]: affinity entries have it, whichever frontend the client uses.
    pub id: u32,
}

impl Affinity {
    /// Ids are below this.
    pub const IDS: u32 = 1 << 29;
}

/// An endpoint of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolEndpoint {
    /// The pod's address.
    pub ip: IpAddr,
    /// The port on the pod.
    pub port: u16,
    /// Whether the pod runs on this node.
    pub local: bool,
}

/// A frontend, and what happens to traffic to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// The address.
    pub at: Address,
    /// Which field of the Service it comes from.
    pub kind: FrontendKind,
    /// Which sources may use it.
    pub admit: Admit,
    /// What happens, by source; the first match wins, and the last one matches any source.
    pub routes: Routes,
}

/// The address of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A virtual IP and port.
    Vip {
        /// The virtual IP.
        ip: IpAddr,
        /// Its protocol.
        protocol: Protocol,
        /// Its port.
        port: u16,
    },
    /// A port on the node's own addresses.
    NodePort {
        /// Its protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Vip { ip: IpAddr::V6(ip), protocol, port } => {
                write!(f, "[{ip}]:{port}/{protocol}")
            }
            Address::Vip { ip, protocol, port } => write!(f, "{ip}:{port}/{protocol}"),
            Address::NodePort { protocol, port } => write!(f, "node port {port}/{protocol}"),
        }
    }
}

/// Which field of the Service a frontend comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.ports[].nodePort`.
    NodePort,
}

/// Which sources may use a frontend; traffic from others is dropped before anything else is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admit {
    /// No restriction.
    Anyone,
    /// Sources in these prefixes (`loadBalancerSourceRanges`); shared by a port's frontends.
    Only(Arc<[IpNet]>),
}

/// What happens to traffic from one source class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The source class.
    pub from: SourceClass,
    /// Where the traffic goes.
    pub verdict: Verdict,
    /// Whether it is masqueraded.
    pub masquerade: Masquerade,
}

/// A class of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceClass {
    /// A pod, as recognized by [`PodDetector`].
    Pod,
    /// This node itself.
    ThisNode,
    /// Any source (after the others: any other source).
    Anyone,
}

/// Where traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To one endpoint of a pool.
    Forward(PoolKind),
    /// Rejected: TCP with a reset, UDP and SCTP with ICMP port unreachable.
    Reject,
    /// Silently dropped.
    Drop,
}

/// Which of a port's two pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolKind {
    /// For policy Cluster: endpoints on any node.
    Cluster,
    /// For policy Local: endpoints on this node.
    Local,
}

/// Whether the source address is replaced by this node's, so that replies come back through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masquerade {
    /// It is kept.
    No,
    /// It is replaced.
    Yes,
}

/// Up to three routes, stored inline: no policy needs more (see `policy`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Routes {
    list: [Route; 3],
    len: u8,
}

impl Routes {
    const UNUSED: Route =
        Route { from: SourceClass::Anyone, verdict: Verdict::Drop, masquerade: Masquerade::No };

    /// The same for any source.
    pub fn anyone(verdict: Verdict, masquerade: Masquerade) -> Routes {
        Routes::EMPTY.then(SourceClass::Anyone, verdict, masquerade)
    }

    /// No routes yet.
    pub(super) const EMPTY: Routes = Routes { list: [Routes::UNUSED; 3], len: 0 };

    /// Appends a route.
    pub(super) fn then(
        mut self,
        from: SourceClass,
        verdict: Verdict,
        masquerade: Masquerade,
    ) -> Routes {
        self.list[usize::from(self.len)] = Route { from, verdict, masquerade };
        self.len += 1;
        self
    }

    /// The same routes, each changed.
    pub fn map(mut self, change: impl Fn(Route) -> Route) -> Routes {
        let len = usize::from(self.len);
        self.list[..len].iter_mut().for_each(|route| *route = change(*route));
        self
    }

    /// The route for sources that are neither a pod nor this node.
    pub fn for_anyone(&self) -> Route {
        self.last().copied().unwrap_or(Routes::UNUSED)
    }
}

impl Deref for Routes {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.list[..usize::from(self.len)]
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
