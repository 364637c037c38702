//! Who is where: the fixed hosts that every case speaks of, and the twin of an IPv4 address in IPv6.
//!
//! ```text
//!   client ──┐   203.0.113.0/24 is the client's, too
//!            ├── node-a ("node": the daemon runs here)   pods: pod, a1 … a4
//!            ├── node-b                                  pods: b1 … b5
//!            └── node-c ("remote-node": all its traffic goes through node-a)   pod: remote-pod
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sluice_cluster::address;
use sluice_core::net::{Family, Protocol};

/// Every pod with the number of its node, in the order in which they are started.
pub(crate) const PODS: [(&str, u8); 11] = [
    ("pod", 1),
    ("a1", 1),
    ("a2", 1),
    ("a3", 1),
    ("a4", 1),
    ("b1", 2),
    ("b2", 2),
    ("b3", 2),
    ("b4", 2),
    ("b5", 2),
    ("remote-pod", 3),
];

/// What pods answer on, in all protocols.
pub(crate) const PORTS: [u16; 5] = [80, 5353, 8080, 8081, 9090];

/// Addresses that the client may use besides its own.
pub(crate) const CLIENT_RANGE: &str = "203.0.113.0/24";

/// Vantage points that generated probes are sent from.
pub(crate) const VANTAGES: [&str; 6] = ["pod", "node", "remote-node", "remote-pod", "client", "a1"];

/// Ports and protocols of a pod, as the lab wants them.
pub(crate) fn pod_ports() -> Vec<(Protocol, u16)> {
    PORTS.iter().flat_map(|port| Protocol::ALL.map(|protocol| (protocol, *port))).collect()
}

/// The address of a host of the cast.
pub(crate) fn address_of(host: &str, family: Family) -> Option<IpAddr> {
    let addresses = match host {
        "node" => address::node(1),
        "node-b" => address::node(2),
        "remote-node" => address::node(3),
        "client" => address::CLIENT,
        _ => {
            let index = PODS.iter().position(|(name, _)| *name == host)?;
            let node = PODS[index].1;
            let before = PODS[..index].iter().filter(|(_, other)| *other == node).count();
            address::pod(node, address::FIRST_POD + u8::try_from(before).ok()?)
        }
    };
    Some(addresses.of(family))
}

/// The name of the node that a pod is on.
pub(crate) fn node_of(pod: &str) -> Option<String> {
    PODS.iter().find(|(name, _)| *name == pod).map(|(_, node)| address::node_name(*node))
}

/// The IPv6 address with the same digits: 10.96.0.10 is `fd00:10:96::10`, as in the lab's own plan.
pub(crate) fn twin(ip: Ipv4Addr, family: Family) -> IpAddr {
    if family == Family::V4 {
        return IpAddr::V4(ip);
    }
    if ip.is_loopback() {
        return IpAddr::V6(Ipv6Addr::LOCALHOST);
    }
    let digits = |n: u8| u16::from(n / 100) << 8 | u16::from(n / 10 % 10) << 4 | u16::from(n % 10);
    let [a, b, c, d] = ip.octets().map(digits);
    IpAddr::V6(Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, d))
}

/// The IPv6 prefix of the twins of all addresses in an IPv4 prefix. It exists where the digits allow:
/// for whole octets, and for up to eight addresses from the beginning of the last octet.
pub(crate) fn twin_net(net: &str, family: Family) -> Result<IpNet, String> {
    let wrong = |why: &str| format!("{net}: {why}");
    let v4: ipnet::Ipv4Net = net.parse().map_err(|_| wrong("not an IPv4 prefix"))?;
    if family == Family::V4 {
        return Ok(IpNet::V4(v4));
    }
    let length = match v4.prefix_len() {
        0 => return Ok(IpNet::new_assert(Family::V6.unspecified(), 0)),
        length @ (8 | 16 | 24) => 16 + 2 * length,
        32 => 128,
        length @ 29..=31 if v4.broadcast().octets()[3] < 8 => 96 + length,
        _ => return Err(wrong("has no twin in IPv6; use /8, /16, /24, /32, or up to .7")),
    };
    let net = IpNet::new(twin(v4.addr(), family), length).map_err(|_| wrong("is too long"))?;
    Ok(net.trunc())
}

/// Whether an address is that of a pod of node-a.
pub(crate) fn is_on_node_a(ip: IpAddr) -> bool {
    let here = PODS.iter().filter(|(_, node)| *node == 1);
    here.map(|(name, _)| address_of(name, Family::of(ip))).any(|pod| pod == Some(ip))
}
