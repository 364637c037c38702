//! What holds for all Services on this node, from configuration, Node object and interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, DetectLocal, NodePortAddresses as Configured};
use crate::model::Node;
use crate::net::Family;
use crate::plan::{Host, NodePortAddresses, PodDetector};

/// The facts of one family. `local` are the addresses of this node's interfaces.
pub fn host(
    family: Family,
    config: &Config,
    node: Option<&Node>,
    local: &BTreeSet<IpAddr>,
) -> Host {
    let node_ip = node_ip(family, config, node);
    Host {
        pods: pods(family, &config.detect_local, node),
        masquerade_all: config.masquerade_all,
        masquerade_mark: 1 << config.masquerade_bit,
        node_ports: node_ports(family, &config.node_port_addresses, node_ip, local),
        node_ip,
    }
}

/// The node's own address: the configured one, else the Node object's.
fn node_ip(family: Family, config: &Config, node: Option<&Node>) -> Option<IpAddr> {
    let configured = Some(config.bind_address)
        .filter(|ip| !ip.is_unspecified() && !ip.is_loopback() && Family::of(*ip) == family);
    configured.or_else(|| node.and_then(|node| node.primary(family)))
}

fn pods(family: Family, detect: &DetectLocal, node: Option<&Node>) -> PodDetector {
    let cidrs = match detect {
        DetectLocal::BridgeInterface(name) => {
            return PodDetector::BridgeInterface(name.as_str().into());
        }
        DetectLocal::InterfaceNamePrefix(prefix) => {
            return PodDetector::InterfacePrefix(prefix.as_str().into());
        }
        DetectLocal::ClusterCidr(cidrs) => cidrs.as_slice(),
        DetectLocal::NodeCidr => node.map(|node| node.pod_cidrs.as_slice()).unwrap_or_default(),
    };
    let ours: Vec<IpNet> =
        cidrs.iter().filter(|net| Family::of_net(net) == family).copied().collect();
    if ours.is_empty() { PodDetector::None } else { PodDetector::Cidrs(ours) }
}

fn node_ports(
    family: Family,
    configured: &Configured,
    node_ip: Option<IpAddr>,
    local: &BTreeSet<IpAddr>,
) -> NodePortAddresses {
    match configured {
        Configured::All => NodePortAddresses::AnyLocal,
        Configured::Primary => NodePortAddresses::Only(node_ip.into_iter().collect()),
        Configured::Cidrs(cidrs) => {
            let ours: Vec<&IpNet> =
                cidrs.iter().filter(|net| Family::of_net(net) == family).collect();
            if ours.is_empty() || ours.iter().any(|net| net.prefix_len() == 0) {
                return NodePortAddresses::AnyLocal;
            }
            let chosen = local
                .iter()
                .filter(|ip| !ip.is_loopback() && ours.iter().any(|net| net.contains(*ip)));
            NodePortAddresses::Only(chosen.copied().collect())
        }
    }
}
