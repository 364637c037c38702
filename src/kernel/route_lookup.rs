//! Route look-ups for one destination, like `ip route get`.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::attributes::find;
use super::netlink::{Client, NetlinkError, Refusal, SocketError};
use netlink_packet_core::DefaultNla;
use sluice_core::net::Protocol;

/// Asks for routes in the network namespace that it was opened in; from any thread, one question at a time.
#[derive(Debug)]
pub struct RouteLookup(Client);

/// How a packet to an address leaves this host, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To this host itself.
    Local,
    /// Without a router, at the interface with this index.
    OnLink(u32),
    /// Through a router at the interface with this index.
    Via(u32),
    /// There is no route, or one that drops or rejects (blackhole, unreachable, prohibit).
    Unreachable,
}

impl Route {
    /// The index of the interface that leads there, if any.
    pub fn interface(self) -> Option<u32> {
        match self {
            Route::OnLink(index) | Route::Via(index) => Some(index),
            Route::Local | Route::Unreachable => None,
        }
    }
}

/// A packet whose way through this host is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Passage {
    /// Its destination.
    pub to: IpAddr,
    /// Its source.
    pub from: Option<IpAddr>,
    /// The index of the interface that it arrives at; none if this host sends it.
    pub arrives_at: Option<u32>,
    /// Its mark.
    pub mark: u32,
    /// Its protocol and destination port.
    pub port: Option<(Protocol, u16)>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// It is for this host itself.
    Here,
    /// It leaves by the interface with this index, through a router if there is one.
    Out {
        /// The interface's index.
        interface: u32,
        /// The router.
        router: Option<IpAddr>,
    },
    /// No route leads there, or one that drops or rejects.
    NoRoute,
    /// A route leads there, but a packet from this source is not taken at this interface: its reverse path filter, or a
    /// source that cannot come from there.
    NotTaken,
}

impl RouteLookup {
    /// Opens the socket to ask through.
    ///
    /// # Errors
    /// If the kernel has no rtnetlink.
    pub fn open() -> Result<RouteLookup, SocketError> {
        Client::open(NETLINK_ROUTE).map(RouteLookup)
    }

    /// The way of a packet, also of one that arrives at an interface. Waits for the kernel.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn passage(&mut self, packet: &Passage) -> Result<Passed, NetlinkError> {
        let mut passed = Passed::NoRoute;
        let question = RouteNetlinkMessage::GetRoute(question(packet));
        let asked = self.0.ask(question, |content| {
            passed = read_passage(content).unwrap_or(Passed::NoRoute);
        });
        match asked {
            Ok(()) => Ok(passed),
            // Also what a route that drops comes to: then it does so for this host itself.
            Err(NetlinkError::Refused(Refusal { errno: libc::EINVAL | libc::EXDEV, .. }))
                if packet.arrives_at.is_some() =>
            {
                let sent = Passage { arrives_at: None, from: None, ..*packet };
                Ok(match self.passage(&sent)? {
                    Passed::NoRoute => Passed::NoRoute,
                    _ => Passed::NotTaken,
                })
            }
            Err(NetlinkError::Refused(_)) => Ok(Passed::NoRoute),
            Err(error) => Err(error),
        }
    }

    /// The route of a packet that this host sends to an address. Waits for the kernel.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn to(&mut self, ip: IpAddr) -> Result<Route, NetlinkError> {
        let mut route = Route::Unreachable;
        let asked = self.0.ask(RouteNetlinkMessage::GetRoute(destination(ip)), |content| {
            route = read(content).unwrap_or(Route::Unreachable);
        });
        match asked {
            Ok(()) => Ok(route),
            Err(NetlinkError::Refused(_)) => Ok(Route::Unreachable),
            Err(error) => Err(error),
        }
    }
}

/// The question for an address.
fn destination(ip: IpAddr) -> RouteMessage {
    let mut question = RouteMessage::default();
    let (family, length) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    question.header.address_family = family;
    question.header.destination_prefix_length = length;
    question.attributes.push(RouteAttribute::Destination(address(ip)));
    question
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn question(packet: &Passage) -> RouteMessage {
    let mut question = destination(packet.to);
    if let Some(from) = packet.from {
        question.header.source_prefix_length = question.header.destination_prefix_length;
        question.attributes.push(RouteAttribute::Source(address(from)));
    }
    question.attributes.extend(packet.arrives_at.map(RouteAttribute::Iif));
    question.attributes.push(RouteAttribute::Mark(packet.mark));
    // The kernel looks rules up by the ports of these protocols only.
    let number = match packet.port {
        Some((Protocol::Tcp, port)) => Some((libc::IPPROTO_TCP, port)),
        Some((Protocol::Udp, port)) => Some((libc::IPPROTO_UDP, port)),
        Some((Protocol::Sctp, _)) | None => None,
    };
    if let Some((protocol, port)) = number {
        const IP_PROTO: u16 = 27; // RTA_IP_PROTO
        const DPORT: u16 = 29; // RTA_DPORT
        let other =
            |kind, value: &[u8]| RouteAttribute::Other(DefaultNla::new(kind, value.to_vec()));
        question.attributes.push(other(IP_PROTO, &[u8::try_from(protocol).unwrap_or(0)]));
        question.attributes.push(other(DPORT, &port.to_be_bytes()));
    }
    question
}

/// The same as [`read`], with the router.
fn read_passage(content: &[u8]) -> Option<Passed> {
    let attributes = content.get(HEADER..)?;
    Some(match read(content)? {
        Route::Local => Passed::Here,
        Route::Unreachable => Passed::NoRoute,
        Route::OnLink(interface) => Passed::Out { interface, router: None },
        Route::Via(interface) => {
            // RTA_VIA begins with a family.
            let via = || find(attributes, VIA)?.get(2..);
            let router = find(attributes, GATEWAY).or_else(via).and_then(ip_of);
            Passed::Out { interface, router }
        }
    })
}

fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        _ => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
    }
}

const HEADER: usize = 12;
const UNICAST: u8 = 1; // RTN_UNICAST
const LOCAL: u8 = 2; // RTN_LOCAL
const OIF: u16 = 4; // RTA_OIF
const GATEWAY: u16 = 5; // RTA_GATEWAY
const VIA: u16 = 18; // RTA_VIA

/// Reads `struct rtmsg` and its attributes (`linux/rtnetlink.h`).
fn read(content: &[u8]) -> Option<Route> {
    let attributes = content.get(HEADER..)?;
    match *content.get(7)? {
        LOCAL => return Some(Route::Local),
        UNICAST => {}
        _ => return Some(Route::Unreachable),
    }
    let index = find(attributes, OIF)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
    let through = find(attributes, GATEWAY).or_else(|| find(attributes, VIA)).is_some();
    Some(if through { Route::Via(index) } else { Route::OnLink(index) })
}
