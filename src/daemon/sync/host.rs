//! Settings for all Services on this node, from configuration, Node object and interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use sluice_config::{Config, DetectLocal, Mode, NodePortAddresses as Configured};
use sluice_core::model::Node;
use sluice_core::net::Family;
use sluice_core::plan::{ClusterIpGuard, Host, NodePortAddresses, PodDetector};

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
        node_ports: node_ports(family, config, node_ip, local),
        node_ip,
        cluster_ip_guard: cluster_ip_guard(config),
    }
}

/// As the same mode of kube-proxy, unless it is to be as strict as the nftables mode.
fn cluster_ip_guard(config: &Config) -> ClusterIpGuard {
    match config.mode {
        Mode::Nftables => ClusterIpGuard::PortsAndAddresses,
        _ if config.strict_cluster_ips => ClusterIpGuard::PortsAndAddresses,
        Mode::Ipvs => ClusterIpGuard::Ports,
        Mode::Iptables | Mode::Userspace => ClusterIpGuard::Open,
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
    config: &Config,
    node_ip: Option<IpAddr>,
    local: &BTreeSet<IpAddr>,
) -> NodePortAddresses {
    match &config.node_port_addresses {
        Configured::All => NodePortAddresses::AnyLocal,
        Configured::Primary => NodePortAddresses::Only(node_ip.into_iter().collect()),
        Configured::Cidrs(cidrs) => {
            let ours: Vec<&IpNet> =
                cidrs.iter().filter(|net| Family::of_net(net) == family).collect();
            if ours.is_empty() || ours.iter().any(|net| net.prefix_len() == 0) {
                return NodePortAddresses::AnyLocal;
            }
            let answers = |ip: &IpAddr| !ip.is_loopback() || config.can_open_localhost(family);
            let chosen =
                local.iter().filter(|ip| answers(ip) && ours.iter().any(|net| net.contains(*ip)));
            NodePortAddresses::Only(chosen.copied().collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ports_are_open_on_addresses_that_are_named() {
        let local = ["10.0.0.1", "192.0.2.1", "127.0.0.1", "::1", "fd00::1"];
        let local = local.iter().map(|text| text.parse().expect("an address")).collect();
        let open = |family, more: &str| {
            let text = format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{more}"
            );
            let config = sluice_config::parse(&text, std::path::Path::new("file"));
            let config = config.expect("it can be used").config;
            match host(family, &config, None, &local).node_ports {
                NodePortAddresses::AnyLocal => vec!["any".to_owned()],
                NodePortAddresses::Only(ips) => ips.iter().map(ToString::to_string).collect(),
            }
        };
        let table: [(&str, &[&str], &[&str]); 6] = [
            ("nodePortAddresses: [127.0.0.0/8]", &["127.0.0.1"], &["any"]),
            ("nodePortAddresses: [127.0.0.0/8, 10.0.0.0/8]", &["10.0.0.1", "127.0.0.1"], &["any"]),
            ("nodePortAddresses: ['::1/128', 'fd00::/8']", &["any"], &["fd00::1"]),
            (
                "mode: userspace\nnodePortAddresses: ['::1/128', '127.0.0.0/8']",
                &["127.0.0.1"],
                &["::1"],
            ),
            (
                "iptables: {localhostNodePorts: false}\nnodePortAddresses: [127.0.0.0/8]",
                &[],
                &["any"],
            ),
            (
                "mode: nftables\nnodePortAddresses: [127.0.0.0/8, 192.0.2.0/24]",
                &["192.0.2.1"],
                &["any"],
            ),
        ];
        for (more, v4, v6) in table {
            assert_eq!(
                (open(Family::V4, more), open(Family::V6, more)),
                (to_owned(v4), to_owned(v6)),
                "{more}"
            );
        }
    }

    fn to_owned(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }
}
