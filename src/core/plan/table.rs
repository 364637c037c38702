//! The forwarding table: what this node does with traffic to service addresses of one IP family.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::ServiceName;
use crate::net::{Family, Protocol};

/// What this node does with traffic to service addresses of one IP family.
///
/// A value: it holds no handles, no names of chains, no backend's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardingTable {
    /// The family of every address in it.
    pub family: Family,
    /// What holds for all Services.
    pub host: Host,
    /// Prefixes that cluster IPs are allocated from; what becomes of traffic to an unallocated one is
    /// for [`Host::cluster_ip_guard`] to say.
    pub service_cidrs: BTreeSet<IpNet>,
    /// What to do for each Service. Shared with a backend that keeps what it wrote.
    pub services: BTreeMap<ServiceName, Arc<ServicePlan>>,
    /// Which Services load balancers can ask this node about. No two of them have the same port.
    pub health_checks: BTreeMap<ServiceName, HealthCheck>,
}

impl ForwardingTable {
    /// What to do for one Service.
    pub fn plan(&self, name: &ServiceName) -> Option<&ServicePlan> {
        self.services.get(name).map(|plan| &**plan)
    }
}

/// What load balancers are told about a Service: whether to send its traffic to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`: the TCP port on the node's own addresses where they ask.
    pub port: u16,
    /// How many pods of this node are ready to serve it.
    pub local_endpoints: usize,
}

/// What holds for all Services on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// How traffic from pods is told from other traffic.
    pub pods: PodDetector,
    /// When traffic to cluster IPs gets this node's address as its source.
    pub masquerade_all: bool,
    /// The packet mark bit by which a rule asks for masquerading, as a mask.
    pub masquerade_mark: u32,
    /// Which of the node's own addresses accept traffic to node ports.
    pub node_ports: NodePortAddresses,
    /// This node's primary address: source ranges that contain it admit the node to its own
    /// load balancer addresses.
    pub node_ip: Option<IpAddr>,
    /// What becomes of traffic to cluster IPs that no port of a Service takes.
    pub cluster_ip_guard: ClusterIpGuard,
}

/// What becomes of traffic to cluster IPs that no port of a Service takes. Each mode of kube-proxy has
/// an answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterIpGuard {
    /// It passes, as if there were no proxy (upstream: `pkg/proxy/iptables`, and the userspace mode
    /// when there was one).
    Open,
    /// Other ports of a Service's cluster IP are refused; free addresses pass (upstream:
    /// `pkg/proxy/ipvs`, chain KUBE-IPVS-FILTER).
    Ports,
    /// Other ports are refused, and traffic to addresses of a ServiceCIDR that no Service has is
    /// dropped (upstream: `pkg/proxy/nftables`, cluster-ips-check).
    PortsAndAddresses,
}

impl ClusterIpGuard {
    /// Whether a cluster IP refuses the ports and protocols that its Service does not have.
    pub fn refuses_ports(self) -> bool {
        self != ClusterIpGuard::Open
    }

    /// Whether traffic to an address of a ServiceCIDR that no Service has is dropped.
    pub fn drops_addresses(self) -> bool {
        self == ClusterIpGuard::PortsAndAddresses
    }
}

/// How a packet is recognized as coming from a pod (upstream's detectLocalMode).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodDetector {
    /// Not at all: no traffic is told apart by being from a pod.
    None,
    /// By its source address.
    Cidrs(Vec<IpNet>),
    /// By the bridge it arrives from.
    BridgeInterface(Arc<str>),
    /// By the beginning of the name of the interface it arrives from.
    InterfacePrefix(Arc<str>),
}

/// Which of the node's own addresses accept traffic to node ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All of them, except loopback.
    AnyLocal,
    /// These.
    Only(BTreeSet<IpAddr>),
}

/// What to do for one Service, port by port. Without ports of this family there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePlan {
    /// Its cluster IP of this family, which no other Service of the table has. What becomes of traffic to other ports of it is for
    /// [`Host::cluster_ip_guard`] to say.
    pub cluster_ip: Option<IpAddr>,
    /// Its ports, in the Service's order.
    pub ports: Vec<PortPlan>,
}

/// What to do for one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPlan {
    /// The port's name.
    pub name: Arc<str>,
    /// The transport protocol of all of its frontends and endpoints.
    pub protocol: Protocol,
    /// Usable endpoints anywhere, sorted; empty also when no route uses them.
    pub cluster: Vec<PoolEndpoint>,
    /// Usable endpoints on this node, sorted; empty also when no route uses them.
    pub local: Vec<PoolEndpoint>,
    /// Session affinity by client address.
    pub affinity: Option<Affinity>,
    /// The addresses that clients use.
    pub frontends: Vec<Frontend>,
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
    /// How long a client is remembered after its last new connection, in seconds.
    pub timeout: u32,
    /// The port's own number among all ports with affinity, below [`Affinity::NUMBERS`]: what clients
    /// remember is filed under it, whichever address they use.
    pub number: u32,
}

impl Affinity {
    /// Numbers are below this.
    pub const NUMBERS: u32 = 1 << 29;
}

/// A pod that traffic may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolEndpoint {
    /// The pod's address.
    pub ip: IpAddr,
    /// The port on the pod.
    pub port: u16,
    /// Whether the pod runs on this node.
    pub local: bool,
}

/// One address that clients use, and what happens to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// The address.
    pub at: Address,
    /// Which field of the Service it comes from.
    pub kind: FrontendKind,
    /// Who may use it.
    pub admit: Admit,
    /// What happens, by source; the first match wins and the last one matches anyone.
    pub routes: Routes,
}

/// An address that clients use.
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

/// Who may use a frontend; anyone else is dropped before anything else is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admit {
    /// No restriction.
    Anyone,
    /// Sources in these prefixes (`loadBalancerSourceRanges`); shared by a port's frontends.
    Only(Arc<[IpNet]>),
}

/// What happens to traffic of one class of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Whom it is for.
    pub from: SourceClass,
    /// Where it goes.
    pub verdict: Verdict,
    /// Whether the source address is replaced by this node's, so that replies come back here.
    pub masquerade: Masquerade,
}

/// A class of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceClass {
    /// A pod, as [`PodDetector`] tells it.
    Pod,
    /// This node itself.
    ThisNode,
    /// Anyone else.
    Anyone,
}

/// Where traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To one endpoint of a pool.
    Forward(PoolKind),
    /// Refused with an ICMP error.
    Reject,
    /// Silently dropped.
    Drop,
}

/// Which of a port's two pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolKind {
    /// Endpoints anywhere.
    Cluster,
    /// Endpoints on this node.
    Local,
}

/// Whether a source address is replaced by this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masquerade {
    /// It is kept.
    No,
    /// It is replaced.
    Yes,
}

/// Up to three routes, in place: there is no policy that needs more (see `policy`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Routes {
    list: [Route; 3],
    len: u8,
}

impl Routes {
    const UNUSED: Route =
        Route { from: SourceClass::Anyone, verdict: Verdict::Drop, masquerade: Masquerade::No };

    /// The same for everybody.
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

    /// The route for a source that is neither a pod nor this node.
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
