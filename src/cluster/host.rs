//! Handles of what is on the lab's network: the client, nodes and pods. They are cheap to clone;
//! a handle that outlives its host answers every request with an error.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use ipnet::IpNet;

use super::address::{self, DualStack};
use super::netns::{self, Namespace};
use sluice_core::net::{Family, Protocol};

/// The source ports of probes: below those that the kernel chooses itself (32768 to 60999) and
/// those of NodePorts (30000 to 32767), so that no other program uses them.
const PROBE_PORTS: std::ops::Range<u16> = 10_000..30_000;

/// Anything on the lab's network: it has a name, an address of each family, and a namespace.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    addresses: DualStack,
    namespace: Namespace,
    next_port: AtomicU16,
}

impl Host {
    pub(super) fn new(name: &str, addresses: DualStack, namespace: Namespace) -> Host {
        let next_port = AtomicU16::new(0);
        Host(Arc::new(Inner { name: name.to_owned(), addresses, namespace, next_port }))
    }

    /// Its name in the lab, e.g. `node-a`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        self.0.addresses.of(family)
    }

    /// Its addresses of both families.
    pub fn addresses(&self) -> DualStack {
        self.0.addresses
    }

    /// Its address of a family, with a port.
    pub fn socket_addr(&self, family: Family, port: u16) -> SocketAddr {
        self.0.addresses.socket_addr(family, port)
    }

    /// The network namespace that it is.
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// A command that will run on this host; see [`Namespace::command`].
    pub fn command(&self, program: &str) -> Result<Command, netns::Error> {
        self.0.namespace.command(program)
    }

    /// A source port that no probe from this host had lately.
    pub(super) fn next_port(&self) -> u16 {
        let count = PROBE_PORTS.end - PROBE_PORTS.start;
        // The counter wraps at 65536, which is no multiple of the count: a port then comes back
        // early, once in 65536 probes.
        PROBE_PORTS.start + self.0.next_port.fetch_add(1, Ordering::Relaxed) % count
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// A node: a router with a prefix of pod addresses.
#[derive(Debug, Clone)]
pub struct Node {
    host: Host,
    number: u8,
}

impl Node {
    pub(super) fn new(host: Host, number: u8) -> Node {
        Node { host, number }
    }

    /// The prefix that the addresses of this node's pods are from.
    pub fn pod_cidr(&self, family: Family) -> IpNet {
        address::pod_cidr(self.number, family)
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// A pod on a node.
#[derive(Debug, Clone)]
pub struct Pod {
    host: Host,
    node: String,
    number: u8,
    ports: Arc<[(Protocol, u16)]>,
}

impl Pod {
    pub(super) fn new(host: Host, node: &Node, number: u8, ports: &[(Protocol, u16)]) -> Pod {
        Pod { host, node: node.name().to_owned(), number, ports: ports.into() }
    }

    /// The name of the node that the pod is on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The name of the pod's interface on its node. It is named after the pod where that fits.
    pub fn node_interface(&self) -> String {
        interface_name(self.name(), self.number)
    }

    /// Where the pod answers.
    pub fn ports(&self) -> &[(Protocol, u16)] {
        &self.ports
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }
}

impl Deref for Pod {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// The node's end of a pod's veth pair: `veth-<pod>`, or, where that is too long for the kernel
/// (15 characters), `veth.<number of the pod on its node>`.
pub(super) fn interface_name(pod: &str, number: u8) -> String {
    let name = format!("veth-{pod}");
    if name.len() <= 15 { name } else { format!("veth.{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_named_after_the_pod_where_that_fits() {
        assert_eq!(interface_name("web-1", 2), "veth-web-1");
        assert_eq!(interface_name("ten-chars!", 2), "veth-ten-chars!");
        assert_eq!(interface_name("web-6d4cf56db6-x7k2p", 254), "veth.254");
    }
}
