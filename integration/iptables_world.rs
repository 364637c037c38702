//! Services for the tests and the benchmark of the iptables mode, and the mode itself.

#![allow(dead_code)] // each program uses its own part

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sluice_core::model::{
    Condition, EndpointPort, EndpointSlice, Service, ServicePort, ServiceType, SliceName, Snapshot,
};
use sluice_core::net::{Family, Protocol};
pub(crate) use sluice_core::plan::fixtures::snapshot;
use sluice_core::plan::{
    self, ClusterIpGuard, ForwardingTable, Host, NodePortAddresses, PodDetector, fixtures,
};
use sluice_dataplane::iptables::{Iptables, Layout, LocalhostNodePorts, Options, OutOfWindow};
use sluice_kernel::xtables::{Variant, Xtables};

/// Both variants, which the tests need installed.
pub(crate) const VARIANTS: [Variant; 2] = [Variant::Nft, Variant::Legacy];

/// The mode with a layout, and otherwise as by default.
pub(crate) fn mode(family: Family, variant: Variant, layout: Layout) -> Iptables {
    Iptables::new(Xtables::new(family, variant), options(layout))
}

/// A layout, and the defaults.
pub(crate) fn options(layout: Layout) -> Options {
    Options {
        layout,
        localhost_node_ports: LocalhostNodePorts::Open,
        out_of_window: OutOfWindow::Drop,
    }
}

/// A node whose pods are recognized by their CIDR, and whose node ports are open on all addresses.
pub(crate) fn host(family: Family) -> Host {
    let pods = if family == Family::V4 { "10.244.0.0/16" } else { "fd00:10:244::/48" };
    Host {
        pods: PodDetector::Cidrs(vec![pods.parse().expect("a prefix")]),
        masquerade_all: false,
        masquerade_mark: 0x4000,
        node_ports: NodePortAddresses::AnyLocal,
        node_ip: Some(ip(family, [192, 168, 0, 2])),
        cluster_ip_guard: ClusterIpGuard::Open,
    }
}

/// An address of a family: 10.96.0.1 or fd00:10:96::1.
pub(crate) fn ip(family: Family, [a, b, c, d]: [u8; 4]) -> IpAddr {
    let word = |n: u8| u16::from_str_radix(&n.to_string(), 16).unwrap_or_default();
    match family {
        Family::V4 => Ipv4Addr::new(a, b, c, d).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, word(a), word(b), 0, 0, 0, word(c), word(d)).into(),
    }
}

/// A Service without external addresses.
pub(crate) fn service(family: Family, name: &str, cluster_ip: [u8; 4]) -> Service {
    Service {
        kind: ServiceType::ClusterIp,
        cluster_ips: vec![ip(family, cluster_ip)],
        ports: vec![port("", Protocol::Tcp, 80)],
        ..fixtures::service(name, "10.96.0.1")
    }
}

pub(crate) fn port(name: &str, protocol: Protocol, number: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port: number, node_port: None }
}

/// A slice of endpoints; the first of them is on this node.
pub(crate) fn slice(service: &Service, endpoints: &[IpAddr]) -> EndpointSlice {
    let endpoint = |(index, address): (usize, &IpAddr)| {
        fixtures::endpoint(&address.to_string(), Condition::Ready, index == 0)
    };
    let port = |port: &ServicePort| EndpointPort {
        name: Arc::clone(&port.name),
        protocol: port.protocol,
        port: 8080,
    };
    EndpointSlice {
        name: SliceName::new("default", &format!("{}-1", service.name.name())),
        service: service.name.clone(),
        family: service.cluster_ips.first().map_or(Family::V4, |ip| Family::of(*ip)),
        ports: service.ports.iter().map(port).collect(),
        endpoints: endpoints.iter().enumerate().map(endpoint).collect(),
        trigger_time: None,
    }
}

/// One Service at 10.96.255.1 with so many endpoints.
pub(crate) fn large_pool(endpoints: u16) -> Snapshot {
    let mut web = service(Family::V4, "web-0", [10, 96, 255, 1]);
    web.ports = vec![port("", Protocol::Udp, 80)];
    let pods: Vec<IpAddr> = (0..endpoints)
        .map(|n| {
            let [c, d] = n.to_be_bytes();
            ip(Family::V4, [10, 100, c, d])
        })
        .collect();
    let slice = slice(&web, &pods);
    snapshot(vec![web], vec![slice])
}

/// So many Services with so many endpoints, the last of which is at 10.96.255.1.
pub(crate) fn many(services: u16, endpoints: u8) -> Snapshot {
    let mut list = Vec::new();
    let mut slices = Vec::new();
    for n in 0..services {
        // Addresses are drawn all over the prefix, as the API server does.
        let [c, d] = n.wrapping_mul(6007).to_be_bytes();
        let last = n + 1 == services;
        let at = if last { [10, 96, 255, 1] } else { [10, 96, c, d] };
        let mut web = service(Family::V4, &format!("web-{n}"), at);
        if last {
            web.ports = vec![port("", Protocol::Udp, 80)];
        }
        let pods: Vec<IpAddr> =
            (0..endpoints).map(|e| ip(Family::V4, [10, 100 + e, c, d])).collect();
        slices.push(slice(&web, &pods));
        list.push(web);
    }
    snapshot(list, slices)
}

pub(crate) fn table(family: Family, snapshot: &Snapshot) -> ForwardingTable {
    plan::build(family, "node-a", host(family), snapshot).0
}
