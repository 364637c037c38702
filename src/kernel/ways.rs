//! Where the routing tables send a packet: questions about one destination, as `ip route get` asks them.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::requests::{RequestError, Requests, find};

/// Asks for routes in the network namespace that it was opened in; from any thread, one question at a time.
#[derive(Debug)]
pub struct Ways(Requests);

/// The way to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is an address of this host.
    Here,
    /// It is a neighbour at the interface with this index.
    Link(u32),
    /// A router at the interface with this index knows it.
    Gateway(u32),
    /// There is none, or one that loses packets on purpose.
    Nowhere,
}

impl Way {
    /// The index of the interface that leads there, if any.
    pub fn interface(self) -> Option<u32> {
        match self {
            Way::Link(index) | Way::Gateway(index) => Some(index),
            Way::Here | Way::Nowhere => None,
        }
    }
}

impl Ways {
    /// Opens the way to ask.
    ///
    /// # Errors
    /// If the kernel has no rtnetlink.
    pub fn open() -> Result<Ways, RequestError> {
        Requests::open(NETLINK_ROUTE).map(Ways)
    }

    /// The way of a packet that this host sends to an address. Waits for the kernel.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn to(&mut self, ip: IpAddr) -> Result<Way, RequestError> {
        let mut question = RouteMessage::default();
        let (family, address, length) = match ip {
            IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip), 32),
            IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip), 128),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = length;
        question.attributes.push(RouteAttribute::Destination(address));
        let mut way = Way::Nowhere;
        let asked = self.0.ask(RouteNetlinkMessage::GetRoute(question), |_, content| {
            way = read(content).unwrap_or(Way::Nowhere);
        });
        match asked {
            Ok(()) => Ok(way),
            Err(RequestError::Refused(_)) => Ok(Way::Nowhere),
            Err(error) => Err(error),
        }
    }
}

/// Reads `struct rtmsg` and its attributes (`linux/rtnetlink.h`).
fn read(content: &[u8]) -> Option<Way> {
    const HEADER: usize = 12;
    const UNICAST: u8 = 1; // RTN_UNICAST
    const LOCAL: u8 = 2; // RTN_LOCAL
    const OIF: u16 = 4; // RTA_OIF
    const GATEWAY: u16 = 5; // RTA_GATEWAY
    const VIA: u16 = 18; // RTA_VIA
    let attributes = content.get(HEADER..)?;
    match *content.get(7)? {
        LOCAL => return Some(Way::Here),
        UNICAST => {}
        _ => return Some(Way::Nowhere),
    }
    let index = find(attributes, OIF)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
    let through = find(attributes, GATEWAY).or_else(|| find(attributes, VIA)).is_some();
    Some(if through { Way::Gateway(index) } else { Way::Link(index) })
}
