//! The steps of building a topology: each creates or connects one object.

use std::future::Future;
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{
    self, DualStack, POD_GATEWAY_V4, POD_GATEWAY_V6, fabric_prefix_len, full_prefix_len,
};
use super::claim::Claim;
use super::host::{Host, Node, Pod};
use super::link::{self, Hop, Reach, Route, VethPair, Wire};
use super::netns::Namespace;
use super::sysctl;
use super::topology_error::Error;
use sluice_core::net::Family;

/// The bridge that connects all hosts except pods.
const BRIDGE: &str = "wire";

/// A host's interface to the fabric (a node has its pods' interfaces, too).
const INTERFACE: &str = "eth0";

/// A host with only a loopback interface, and its sysctls.
pub(super) fn create_host(
    claim: &Claim,
    name: &str,
    addresses: DualStack,
    settings: &'static [(&'static str, &'static str)],
) -> Result<Host, Error> {
    let host = Host::new(name, addresses, Namespace::create(&claim.id().namespace_name(name))?);
    let set = host.namespace().block_on(async move {
        sysctl::write(sysctl::EVERYWHERE)?;
        sysctl::write_if_there(sysctl::EVERYWHERE_IF_THERE)?;
        sysctl::write(settings)
    })?;
    set.map_err(|source| Error::Setting { host: name.to_owned(), source })?;
    in_host(&host, |wire| async move { wire.set_up("lo").await })?;
    Ok(host)
}

/// Creates the fabric's bridge with the gateway's addresses, and returns its index.
pub(super) fn lay_fabric(fabric: &Host) -> Result<u32, Error> {
    let addresses = fabric.addresses();
    in_host(fabric, move |wire| async move {
        let bridge = wire.add_bridge(BRIDGE).await?;
        wire.set_up(BRIDGE).await?;
        add_addresses(&wire, bridge, BRIDGE, addresses, fabric_prefix_len).await?;
        for family in Family::BOTH {
            // Without any route, IPv6 (unlike IPv4) would return an error to the sender.
            let destination = everything(family);
            wire.set_route(Route { destination, hop: Hop::Nowhere, source: None }).await?;
        }
        Ok(bridge)
    })
}

/// The name of the bridge's port towards a host.
pub(super) fn port_name(host: &str) -> String {
    format!("to-{host}")
}

/// Connects a host to the fabric: `eth0` with the host's addresses.
pub(super) fn connect(fabric: &Host, bridge: u32, host: &Host) -> Result<(), Error> {
    let (port, namespace) = (port_name(host.name()), host.namespace().file()?);
    let addresses = host.addresses();
    let fabric_port = port.clone();
    in_host(fabric, move |wire| async move {
        wire.add_veth(VethPair {
            name: &fabric_port,
            peer: INTERFACE,
            peer_namespace: &namespace,
            peer_ethernet: Some(address::ethernet(addresses)),
            bridge: Some(bridge),
        })
        .await
    })?;
    in_host(host, move |wire| async move {
        let index = wire.index(INTERFACE).await?;
        wire.set_up(INTERFACE).await?;
        add_addresses(&wire, index, INTERFACE, addresses, fabric_prefix_len).await?;
        wire.wait_until_ready(INTERFACE).await
    })?;
    in_host(fabric, |wire| async move {
        wire.wait_until_ready(&port).await?;
        wire.wait_until_ready(BRIDGE).await
    })
}

/// Connects a pod to its node, point to point, so that the node routes all of its traffic: the pod
/// has a /32 and a /128 and its default route to an address that exists only on this link, and the
/// node has a route to the pod.
pub(super) fn attach_pod(node: &Node, pod: &Host, interface: &str) -> Result<(), Error> {
    let (name, namespace) = (interface.to_owned(), pod.namespace().file()?);
    let (pod_at, node_at) = (pod.addresses(), node.addresses());
    in_host(node, move |wire| async move {
        let pair = VethPair {
            name: &name,
            peer: INTERFACE,
            peer_namespace: &namespace,
            peer_ethernet: None,
            bridge: None,
        };
        let index = wire.add_veth(pair).await?;
        for (gateway, length) in pod_gateways() {
            wire.add_address(&name, index, prefix(gateway, length), Reach::Link).await?;
        }
        for family in Family::BOTH {
            let destination = prefix(pod_at.of(family), full_prefix_len(family));
            let source = Some(node_at.of(family));
            wire.set_route(Route { destination, hop: Hop::Link(index), source }).await?;
        }
        Ok(())
    })?;
    in_host(pod, move |wire| async move {
        let index = wire.index(INTERFACE).await?;
        wire.set_up(INTERFACE).await?;
        add_addresses(&wire, index, INTERFACE, pod_at, full_prefix_len).await?;
        for (gateway, _) in pod_gateways() {
            let destination = everything(Family::of(gateway));
            let hop = Hop::Router(gateway, index);
            wire.set_route(Route { destination, hop, source: None }).await?;
        }
        wire.wait_until_ready(INTERFACE).await
    })?;
    let name = interface.to_owned();
    in_host(node, |wire| async move { wire.wait_until_ready(&name).await })
}

/// The default routes to a router on the fabric.
pub(super) fn default_routes(router: DualStack) -> [(IpNet, IpAddr); 2] {
    Family::BOTH.map(|family| (everything(family), router.of(family)))
}

/// Sets routes to routers on the fabric.
pub(super) fn set_routes(host: &Host, routes: [(IpNet, IpAddr); 2]) -> Result<(), Error> {
    in_host(host, move |wire| async move {
        let index = wire.index(INTERFACE).await?;
        for (destination, router) in routes {
            let hop = Hop::Router(router, index);
            wire.set_route(Route { destination, hop, source: None }).await?;
        }
        Ok(())
    })
}

/// Removes routes that [`set_routes`] set.
pub(super) fn remove_routes(host: &Host, routes: [(IpNet, IpAddr); 2]) -> Result<(), Error> {
    in_host(host, move |wire| async move {
        let index = wire.index(INTERFACE).await?;
        for (destination, router) in routes {
            let hop = Hop::Router(router, index);
            wire.remove_route(Route { destination, hop, source: None }).await?;
        }
        Ok(())
    })
}

/// Gives a pod all addresses of a block: it is reached at each of them, by one next hop, so that
/// thousands of addresses are one neighbour for the node.
pub(super) fn give_block(node: &Node, pod: &Pod, block: IpNet) -> Result<(), Error> {
    in_host(pod, move |wire| async move {
        let hop = Hop::Itself(wire.index("lo").await?);
        wire.set_route(Route { destination: block, hop, source: None }).await
    })?;
    let (interface, router) = (pod.node_interface(), pod.ip(Family::of_net(&block)));
    in_host(node, move |wire| async move {
        let hop = Hop::Router(router, wire.index(&interface).await?);
        wire.set_route(Route { destination: block, hop, source: None }).await
    })
}

/// Lets a node answer at once for addresses of its pod prefix that no pod has, where it would
/// otherwise send the packet on to the gateway.
pub(super) fn reject_unknown_pods(node: &Node) -> Result<(), Error> {
    let own = Family::BOTH.map(|family| node.pod_cidr(family));
    in_host(node, move |wire| async move {
        for destination in own {
            wire.set_route(Route { destination, hop: Hop::Unreachable, source: None }).await?;
        }
        Ok(())
    })
}

/// Calls `f` with the links of a host, on the host's thread.
pub(super) fn in_host<T, F>(
    host: &Host,
    f: impl FnOnce(Wire) -> F + Send + 'static,
) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, link::Error>> + Send,
{
    let done = host.namespace().block_on(async move { f(Wire::open()?).await })?;
    done.map_err(|source| Error::Link { host: host.name().to_owned(), source })
}

async fn add_addresses(
    wire: &Wire,
    index: u32,
    link: &str,
    addresses: DualStack,
    prefix_len: fn(Family) -> u8,
) -> Result<(), link::Error> {
    for family in Family::BOTH {
        let address = prefix(addresses.of(family), prefix_len(family));
        wire.add_address(link, index, address, Reach::Everywhere).await?;
    }
    Ok(())
}

fn pod_gateways() -> [(IpAddr, u8); 2] {
    [(POD_GATEWAY_V4.into(), 32), (POD_GATEWAY_V6.into(), 64)]
}

fn everything(family: Family) -> IpNet {
    prefix(family.unspecified(), 0)
}

/// An address with the length of its prefix; host bits stay.
fn prefix(address: IpAddr, length: u8) -> IpNet {
    IpNet::new_assert(address, length)
}
