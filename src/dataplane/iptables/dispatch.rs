//! From an address to the chain of its Service, without traversing all Services.
//!
//! A chain that would get too long is split by the next bits of the address (four at a time) into chains of
//! one prefix each: `-d 10.96.16.0/20 -j KUBE-SVC-10.96.16.0/20`. A packet outside a prefix skips all of its
//! rules at once. With few Services nothing is split. The shape depends only on the set of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::line::Line;
use super::names::{self, ChainId};
use super::rule::{Rule, Sense};
use sluice_core::net::{Family, Protocol};
use sluice_kernel::xtables::Table;

/// How many rules a chain may have before it is split.
pub(super) const LONGEST: usize = 64;

/// A chain that leads to others by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Dispatch {
    /// Virtual IPs, for address translation.
    Services,
    /// Node ports, for address translation.
    NodePorts,
    /// Virtual IPs that only some sources may use.
    Firewall,
    /// External addresses without endpoints.
    External,
    /// Node ports without endpoints.
    ExternalNodePorts,
    /// Cluster IPs: what still has one as its destination found no endpoint.
    ClusterIps,
}

impl Dispatch {
    pub(super) const ALL: [Dispatch; 6] = [
        Dispatch::Services,
        Dispatch::NodePorts,
        Dispatch::Firewall,
        Dispatch::External,
        Dispatch::ExternalNodePorts,
        Dispatch::ClusterIps,
    ];

    pub(super) fn table(self) -> Table {
        match self {
            Dispatch::Services | Dispatch::NodePorts => Table::Nat,
            _ => Table::Filter,
        }
    }

    /// The chain that it begins with.
    pub(super) fn root(self) -> ChainId {
        let name = match self {
            Dispatch::Services | Dispatch::ClusterIps => names::SERVICES,
            Dispatch::NodePorts => names::NODE_PORTS,
            Dispatch::Firewall => names::FIREWALL,
            Dispatch::External => names::EXTERNAL,
            Dispatch::ExternalNodePorts => names::EXTERNAL_NODE_PORTS,
        };
        ChainId::new(self.table(), name)
    }

    /// What the names of its other chains begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Dispatch::Services | Dispatch::ClusterIps => "KUBE-SVC-",
            Dispatch::NodePorts | Dispatch::ExternalNodePorts => "KUBE-EXT-",
            Dispatch::Firewall => "KUBE-FW-",
            Dispatch::External => "KUBE-EXT-",
        }
    }
}

/// The key by which traffic is dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    V4(u32),
    V6(u128),
    Port(Protocol, u16),
}

impl Key {
    pub(super) fn of(ip: IpAddr) -> Key {
        match ip {
            IpAddr::V4(ip) => Key::V4(ip.to_bits()),
            IpAddr::V6(ip) => Key::V6(ip.to_bits()),
        }
    }

    /// How many bits it has.
    pub(super) fn width(self) -> u32 {
        match self {
            Key::V4(_) => 32,
            Key::V6(_) => 128,
            Key::Port(..) => 16,
        }
    }

    /// The same key with all but the first bits cleared.
    pub(super) fn first(self, bits: u32) -> Key {
        let rest = self.width() - bits;
        match self {
            Key::V4(ip) => {
                Key::V4(ip.checked_shr(rest).unwrap_or(0).checked_shl(rest).unwrap_or(0))
            }
            Key::V6(ip) => {
                Key::V6(ip.checked_shr(rest).unwrap_or(0).checked_shl(rest).unwrap_or(0))
            }
            Key::Port(protocol, port) => {
                let cleared = port.checked_shr(rest).unwrap_or(0).checked_shl(rest).unwrap_or(0);
                Key::Port(protocol, cleared)
            }
        }
    }

    /// The same key with all but the first bits set.
    pub(super) fn last(self, bits: u32) -> Key {
        match self {
            Key::V4(ip) => Key::V4(ip | u32::MAX.checked_shr(bits).unwrap_or(0)),
            Key::V6(ip) => Key::V6(ip | u128::MAX.checked_shr(bits).unwrap_or(0)),
            Key::Port(protocol, port) => {
                Key::Port(protocol, port | u16::MAX.checked_shr(bits).unwrap_or(0))
            }
        }
    }

    /// The condition of a branch, and the end of its chain's name.
    pub(super) fn branch(self, bits: u32) -> (Rule, String) {
        let net = |ip: IpAddr| {
            let length = u8::try_from(bits).unwrap_or(u8::MAX);
            IpNet::new(ip, length).unwrap_or_else(|_| IpNet::from(ip))
        };
        match self.first(bits) {
            Key::V4(ip) => {
                let net = net(Ipv4Addr::from_bits(ip).into());
                (Rule::new().to(Sense::Is, net), net.to_string())
            }
            Key::V6(ip) => {
                // Too long for a name.
                let net = net(Ipv6Addr::from_bits(ip).into());
                (Rule::new().to(Sense::Is, net), names::hash(&net.to_string()))
            }
            Key::Port(protocol, low) => {
                let high = low | u16::MAX.checked_shr(bits).unwrap_or(0);
                (Rule::new().ports(protocol, low, high), format!("{protocol}-{low}-{high}"))
            }
        }
    }
}

/// Whether a rule must come after the others of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Any,
    Last,
}

/// A rule of a dispatch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) rank: Rank,
    pub(super) line: Line,
}

/// The shape of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Chains that get too long are split.
    Tree,
    /// One chain, as upstream has it.
    Linear,
}

/// The address as a prefix of full length.
pub(super) fn only(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// The loopback prefix of a family.
pub(super) fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        Family::V6 => IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    }
}
