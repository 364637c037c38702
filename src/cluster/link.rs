//! Links, addresses and routes of the calling thread's namespace, over rtnetlink.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressScope};
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage, State,
};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

/// The time limit for a link to come up. Usually it takes less than a millisecond; while others make and remove many
/// namespaces, the kernel's one worker for this has been seen to need more than five seconds.
const LINK_UP_DEADLINE: Duration = Duration::from_secs(60);

/// Why the network could not be changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// There is no netlink socket.
    #[error("open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// A link could not be added.
    #[error("add the {kind} {name}: {source}")]
    AddLink { kind: &'static str, name: String, source: io::Error },
    /// A link could not be found.
    #[error("find the link {name}: {source}")]
    FindLink { name: String, source: io::Error },
    /// A link could not be switched on.
    #[error("switch on the link {name}: {source}")]
    SetUp { name: String, source: io::Error },
    /// A link did not come up.
    #[error("the link {name} carries no packets after {LINK_UP_DEADLINE:?}")]
    StaysDown { name: String },
    /// A link could not be removed.
    #[error("remove the link {name}: {source}")]
    RemoveLink { name: String, source: io::Error },
    /// An address could not be added.
    #[error("add the address {address} to the link {link}: {source}")]
    AddAddress { address: String, link: String, source: io::Error },
    /// A route could not be set.
    #[error("set the route {route}: {source}")]
    SetRoute { route: String, source: io::Error },
    /// A route could not be removed.
    #[error("remove the route {route}: {source}")]
    RemoveRoute { route: String, source: io::Error },
}

/// A veth pair: one end here, switched on, the other in another namespace, still switched off (the
/// kernel makes it first, and then there is nothing yet that it could be connected to).
pub(super) struct VethPair<'a> {
    /// The name of the end that is here.
    pub(super) name: &'a str,
    /// The name of the other end.
    pub(super) peer: &'a str,
    /// Where the other end goes.
    pub(super) peer_namespace: &'a File,
    /// The Ethernet address of the other end; the kernel chooses one if there is none.
    pub(super) peer_ethernet: Option<[u8; 6]>,
    /// The index of the bridge that the end here becomes a port of.
    pub(super) bridge: Option<u32>,
}

/// The scope of an address, which decides whether it is chosen as a source address.
#[derive(Clone, Copy)]
pub(super) enum Reach {
    /// Anybody.
    Everywhere,
    /// The other end of this link only.
    Link,
}

/// One route of the main table.
#[derive(Clone, Copy)]
pub(super) struct Route {
    /// Where to.
    pub(super) destination: IpNet,
    /// How.
    pub(super) hop: Hop,
    /// The source address that this host then prefers.
    pub(super) source: Option<IpAddr>,
}

/// The type of a route.
#[derive(Clone, Copy)]
pub(super) enum Hop {
    /// Straight out of the link with this index.
    Link(u32),
    /// To a router behind the link with this index.
    Router(IpAddr, u32),
    /// To this host itself, whose link with this index it is.
    Itself(u32),
    /// Unreachable: the sender gets an error.
    Unreachable,
    /// Blackhole: silently dropped.
    Nowhere,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hop {
            Hop::Link(index) => write!(f, "{} dev #{index}", self.destination),
            Hop::Router(router, index) => {
                write!(f, "{} via {router} dev #{index}", self.destination)
            }
            Hop::Itself(index) => write!(f, "local {} dev #{index}", self.destination),
            Hop::Unreachable => write!(f, "unreachable {}", self.destination),
            Hop::Nowhere => write!(f, "blackhole {}", self.destination),
        }
    }
}

/// The netlink socket of one namespace. It belongs to the namespace of the thread that opens it,
/// and must be opened in a task of that thread's runtime.
pub(super) struct Wire(Handle);

impl Wire {
    /// Opens the socket.
    pub(super) fn open() -> Result<Wire, Error> {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Wire(handle))
    }

    /// Adds a bridge that floods multicast (no querier is there to tell it who listens) and gives
    /// its index.
    pub(super) async fn add_bridge(&self, name: &str) -> Result<u32, Error> {
        let bridge = LinkBridge::new(name)
            .append_info_data(InfoBridge::MulticastSnooping(false))
            .append_info_data(InfoBridge::ForwardDelay(0))
            .build();
        self.add_link("bridge", name, bridge).await?;
        self.index(name).await
    }

    /// Adds a veth pair and gives the index of the end that is here.
    pub(super) async fn add_veth(&self, pair: VethPair<'_>) -> Result<u32, Error> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(pair.peer)
            .setns_by_fd(pair.peer_namespace.as_raw_fd());
        if let Some(address) = pair.peer_ethernet {
            peer = peer.address(address.to_vec());
        }
        let mut veth = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(pair.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .up();
        if let Some(bridge) = pair.bridge {
            veth = veth.controller(bridge);
        }
        self.add_link("veth pair", pair.name, veth.build()).await?;
        self.index(pair.name).await
    }

    async fn add_link(
        &self,
        kind: &'static str,
        name: &str,
        message: LinkMessage,
    ) -> Result<(), Error> {
        let added = self.0.link().add(message).execute().await;
        added.map_err(|e| Error::AddLink { kind, name: name.to_owned(), source: kernel(e) })
    }

    /// The index of a link.
    pub(super) async fn index(&self, name: &str) -> Result<u32, Error> {
        Ok(self.find(name).await?.header.index)
    }

    async fn find(&self, name: &str) -> Result<LinkMessage, Error> {
        let failed = |source| Error::FindLink { name: name.to_owned(), source };
        let found = self.0.link().get().match_name(name).execute().try_next().await;
        found.map_err(|e| failed(kernel(e)))?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Switches a link on.
    pub(super) async fn set_up(&self, name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_name(name).up().build();
        let changed = self.0.link().change(message).execute().await;
        changed.map_err(|e| Error::SetUp { name: name.to_owned(), source: kernel(e) })
    }

    /// Waits until a link carries packets in both families. The kernel brings a link up in the
    /// background: it drops packets sent before the link is up, and resolves no IPv6 neighbour
    /// before there is a link-local address to ask from. Either would cost a probe a second.
    pub(super) async fn wait_until_ready(&self, name: &str) -> Result<(), Error> {
        let deadline = Instant::now() + LINK_UP_DEADLINE;
        loop {
            let link = self.find(name).await?;
            let up = link.attributes.contains(&LinkAttribute::OperState(State::Up));
            if up && self.has_usable_addresses(name, link.header.index).await? {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::StaysDown { name: name.to_owned() });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Whether a link has a link-local address, and no address that is still being set up.
    async fn has_usable_addresses(&self, name: &str, index: u32) -> Result<bool, Error> {
        let failed = |e| Error::FindLink { name: name.to_owned(), source: kernel(e) };
        let mut addresses = self.0.address().get().set_link_index_filter(index).execute();
        let mut link_local = false;
        while let Some(address) = addresses.try_next().await.map_err(failed)? {
            for attribute in &address.attributes {
                match attribute {
                    AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Tentative) => {
                        return Ok(false);
                    }
                    AddressAttribute::Address(IpAddr::V6(ip)) => {
                        link_local |= ip.is_unicast_link_local();
                    }
                    _ => {}
                }
            }
        }
        Ok(link_local)
    }

    /// Removes a link, and with one end of a veth pair the other.
    pub(super) async fn remove_link(&self, name: &str) -> Result<(), Error> {
        let index = self.index(name).await?;
        let removed = self.0.link().del(index).execute().await;
        removed.map_err(|e| Error::RemoveLink { name: name.to_owned(), source: kernel(e) })
    }

    /// Adds an address to a link.
    pub(super) async fn add_address(
        &self,
        link: &str,
        index: u32,
        address: IpNet,
        reach: Reach,
    ) -> Result<(), Error> {
        let mut request = self.0.address().add(index, address.addr(), address.prefix_len());
        let message = request.message_mut();
        if let Reach::Link = reach {
            message.header.scope = AddressScope::Link;
        }
        request.execute().await.map_err(|e| Error::AddAddress {
            address: address.to_string(),
            link: link.to_owned(),
            source: kernel(e),
        })
    }

    /// Sets a route; one to the same destination is replaced.
    pub(super) async fn set_route(&self, route: Route) -> Result<(), Error> {
        let set = self.0.route().add(message_of(route)).replace().execute().await;
        set.map_err(|e| Error::SetRoute { route: route.to_string(), source: kernel(e) })
    }

    /// Removes a route.
    pub(super) async fn remove_route(&self, route: Route) -> Result<(), Error> {
        let removed = self.0.route().del(message_of(route)).execute().await;
        removed.map_err(|e| Error::RemoveRoute { route: route.to_string(), source: kernel(e) })
    }
}

fn message_of(route: Route) -> RouteMessage {
    let mut message = match route.destination {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .build(),
    };
    match route.hop {
        Hop::Link(index) => {
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Oif(index));
        }
        Hop::Router(router, index) => {
            // The router is always a neighbour, though not always within a prefix of the link.
            message.header.flags |= RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(router.into()));
            message.attributes.push(RouteAttribute::Oif(index));
        }
        Hop::Itself(index) => {
            message.header.kind = RouteType::Local;
            message.header.scope = RouteScope::Host;
            message.attributes.push(RouteAttribute::Oif(index));
        }
        Hop::Unreachable => message.header.kind = RouteType::Unreachable,
        Hop::Nowhere => message.header.kind = RouteType::BlackHole,
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

/// The kernel's own words, where the crate would print its whole message.
fn kernel(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
