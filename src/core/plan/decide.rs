//! The outcome for one packet, from the forwarding table alone.

use std::net::IpAddr;

use super::table::{
    Address, Admit, ForwardingTable, Frontend, Masquerade, NodePortAddresses, PodDetector,
    PoolEndpoint, PortPlan, Route, SourceClass, Verdict,
};
use crate::model::ServiceName;
use crate::net::Protocol;

/// Where a packet comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From this node itself.
    ThisNode(IpAddr),
    /// Received on an interface of this node: from a pod, another node, a client.
    Interface {
        /// The source address.
        ip: IpAddr,
        /// The interface's name.
        name: String,
    },
}

/// The first packet of a connection, as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: Source,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// The destination address.
    pub destination: IpAddr,
    /// Whether that is an address of this node.
    pub to_this_node: bool,
    /// The destination port.
    pub port: u16,
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes to one of these endpoints, each with the same probability.
    Forward {
        /// The Service.
        service: ServiceName,
        /// The endpoints.
        pool: Vec<PoolEndpoint>,
        /// Whether it is masqueraded. (Hairpin connections always are.)
        masquerade: Masquerade,
    },
    /// It is rejected: TCP with a reset, UDP and SCTP with ICMP port unreachable.
    Reject,
    /// It is dropped silently.
    Drop,
    /// It is routed as if there were no proxy.
    Pass,
}

/// The outcome for a packet.
pub fn decide(table: &ForwardingTable, packet: &Packet) -> Decision {
    let Some((name, port, frontend)) = find_frontend(table, packet) else {
        return without_frontend(table, packet);
    };
    if !admits(&frontend.admit, packet.source.ip()) {
        return Decision::Drop;
    }
    let route = route_for(frontend, &table.host.pods, &packet.source);
    match route.verdict {
        Verdict::Reject => Decision::Reject,
        Verdict::Drop => Decision::Drop,
        Verdict::Forward(pool) => Decision::Forward {
            service: name.clone(),
            pool: port.pool(pool).to_vec(),
            masquerade: route.masquerade,
        },
    }
}

impl Source {
    /// The source address.
    pub fn ip(&self) -> IpAddr {
        match self {
            Source::ThisNode(ip) | Source::Interface { ip, .. } => *ip,
        }
    }
}

/// The outcome for a packet to no frontend: it passes, unless the cluster IP guard stops it.
fn without_frontend(table: &ForwardingTable, packet: &Packet) -> Decision {
    let guard = table.host.cluster_ip_guard;
    let ip = packet.destination;
    if packet.to_this_node {
        Decision::Pass
    } else if table.services.values().any(|plan| plan.cluster_ip == Some(ip)) {
        if guard.refuses_ports() { Decision::Reject } else { Decision::Pass }
    } else if guard.drops_addresses() && table.service_cidrs.iter().any(|net| net.contains(&ip)) {
        Decision::Drop
    } else {
        Decision::Pass
    }
}

/// What happens to traffic from a source at a frontend that admits it.
pub fn route_for(frontend: &Frontend, pods: &PodDetector, source: &Source) -> Route {
    let matched = frontend.routes.iter().find(|route| match route.from {
        SourceClass::Pod => is_pod(pods, source),
        SourceClass::ThisNode => matches!(source, Source::ThisNode(_)),
        SourceClass::Anyone => true,
    });
    matched.copied().unwrap_or_else(|| frontend.routes.for_anyone())
}

/// The frontend of a packet. Virtual IPs are matched before node ports.
pub fn find_frontend<'t>(
    table: &'t ForwardingTable,
    packet: &Packet,
) -> Option<(&'t ServiceName, &'t PortPlan, &'t Frontend)> {
    let (protocol, port) = (packet.protocol, packet.port);
    let vip = Address::Vip { ip: packet.destination, protocol, port };
    let node_port = Address::NodePort { protocol, port };
    let accepts_node_ports = match &table.host.node_ports {
        NodePortAddresses::AnyLocal => packet.to_this_node && !packet.destination.is_loopback(),
        NodePortAddresses::Only(ips) => ips.contains(&packet.destination),
    };
    let at = |address: Address| {
        table.services.iter().find_map(|(name, plan)| {
            plan.ports.iter().find_map(|port| {
                port.frontends.iter().find(|f| f.at == address).map(|f| (name, port, f))
            })
        })
    };
    at(vip).or_else(|| if accepts_node_ports { at(node_port) } else { None })
}

/// Whether a frontend admits a source address.
pub fn admits(admit: &Admit, source: IpAddr) -> bool {
    match admit {
        Admit::Anyone => true,
        Admit::Only(ranges) => ranges.iter().any(|net| net.contains(&source)),
    }
}

/// Whether a source is recognized as a pod.
pub fn is_pod(detector: &PodDetector, source: &Source) -> bool {
    match (detector, source) {
        (PodDetector::None, _) => false,
        (PodDetector::Cidrs(nets), source) => nets.iter().any(|net| net.contains(&source.ip())),
        (PodDetector::BridgeInterface(bridge), Source::Interface { name, .. }) => {
            **name == **bridge
        }
        (PodDetector::InterfacePrefix(prefix), Source::Interface { name, .. }) => {
            name.starts_with(&**prefix)
        }
        (
            PodDetector::BridgeInterface(_) | PodDetector::InterfacePrefix(_),
            Source::ThisNode(_),
        ) => false,
    }
}
