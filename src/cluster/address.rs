//! The lab's address plan: pure arithmetic, with the same digits in both families: `10.244.2.7` and
//! `fd00:10:244:2::7`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use sluice_core::net::Family;

/// The maximum number of nodes.
pub const MAX_NODES: u8 = 200;

/// The first host number of a pod in its node's prefix; lower ones are for routers.
pub const FIRST_POD: u8 = 2;

/// The last host number of a pod in its node's prefix.
pub const LAST_POD: u8 = 254;

/// One address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DualStack {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl DualStack {
    /// The address of one family.
    pub fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }

    /// The address of one family with a port.
    pub fn socket_addr(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.of(family), port)
    }
}

/// The nodes' default gateway. It forwards nothing, so packets that no rule translates end there.
pub const GATEWAY: DualStack = fabric(1);

/// The client outside the cluster.
pub const CLIENT: DualStack = fabric(2);

/// The next hop of every pod: the node's end of the pod's veth pair, in IPv4.
pub const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The next hop of every pod: the node's end of the pod's veth pair, in IPv6.
pub const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Prefix length of the fabric's prefix in a family.
pub const fn fabric_prefix_len(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// Length of an address of a family in bits: the prefix length of a single address.
pub const fn full_prefix_len(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// The address of node number `node` (1 is `node-a`) on the fabric.
pub const fn node(node: u8) -> DualStack {
    fabric(10 + node)
}

/// The pod CIDR of node number `node`.
pub fn pod_cidr(node: u8, family: Family) -> IpNet {
    let network = pod(node, 0);
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(network.v4, 24)),
        Family::V6 => IpNet::V6(Ipv6Net::new_assert(network.v6, 64)),
    }
}

/// The address of pod number `pod` of node number `node`.
pub const fn pod(node: u8, pod: u8) -> DualStack {
    DualStack {
        v4: Ipv4Addr::new(10, 244, node, pod),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, decimal_as_hex(node), 0, 0, 0, decimal_as_hex(pod)),
    }
}

/// The name of node number `node`: `node-a`, ..., `node-z`, `node-aa`, ...
pub fn node_name(node: u8) -> String {
    let letter = |index: u8| char::from(b'a' + index % 26);
    match node.saturating_sub(1) {
        index @ 0..26 => format!("node-{}", letter(index)),
        index => format!("node-{}{}", letter(index / 26 - 1), letter(index)),
    }
}

/// An Ethernet address derived from the IPv4 address (as Docker does), so that a recreated node has the same one.
pub(super) fn ethernet(address: DualStack) -> [u8; 6] {
    let [a, b, c, d] = address.v4.octets();
    [0x02, 0x42, a, b, c, d]
}

const fn fabric(host: u8) -> DualStack {
    DualStack {
        v4: Ipv4Addr::new(172, 18, 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, decimal_as_hex(host)),
    }
}

/// The number whose hexadecimal form has the digits of `n` in decimal: 37 gives 0x37.
const fn decimal_as_hex(n: u8) -> u16 {
    let n = n as u16;
    n / 100 * 0x100 + n / 10 % 10 * 0x10 + n % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_digits() {
        assert_eq!(pod(12, 254).v4.to_string(), "10.244.12.254");
        assert_eq!(pod(12, 254).v6.to_string(), "fd00:10:244:12::254");
        assert_eq!(node(1).v4.to_string(), "172.18.0.11");
        assert_eq!(node(1).v6.to_string(), "fd00:172:18::11");
        assert_eq!(pod_cidr(2, Family::V6).to_string(), "fd00:10:244:2::/64");
        assert_eq!(pod_cidr(2, Family::V4).to_string(), "10.244.2.0/24");
    }

    #[test]
    fn the_plan_has_room_for_every_node() {
        let names: std::collections::BTreeSet<String> = (1..=MAX_NODES).map(node_name).collect();
        assert_eq!(names.len(), usize::from(MAX_NODES), "node names are distinct");
        assert!(names.contains("node-a") && names.contains("node-z") && names.contains("node-aa"));
        assert!(names.iter().all(|name| name.len() <= 7), "names fit into interface names");
        assert_eq!(node(MAX_NODES).v4.to_string(), "172.18.0.210");
    }
}
