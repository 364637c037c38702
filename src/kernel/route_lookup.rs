//! Route look-ups for one destination, like `ip route get`.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::attributes::find;
use super::netlink::{Client, NetlinkError, SocketError};

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

impl RouteLookup {
    /// Opens the socket to ask through.
    ///
    /// # Errors
    /// If the kernel has no rtnetlink.
    pub fn open() -> Result<RouteLookup, SocketError> {
        Client::open(NETLINK_ROUTE).map(RouteLookup)
    }

    /// The route of a packet that this host sends to an address. Waits for the kernel.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn to(&mut self, ip: IpAddr) -> Result<Route, NetlinkError> {
        let mut question = RouteMessage::default();
        let (family, address, length) = match ip {
            IpAddr::V4(ip) => (AddressFamily::Inet, RouteAddress::Inet(ip), 32),
            IpAddr::V6(ip) => (AddressFamily::Inet6, RouteAddress::Inet6(ip), 128),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = length;
        question.attributes.push(RouteAttribute::Destination(address));
        let mut route = Route::Unreachable;
        let asked = self.0.ask(RouteNetlinkMessage::GetRoute(question), |content| {
            route = read(content).unwrap_or(Route::Unreachable);
        });
        match asked {
            Ok(()) => Ok(route),
            Err(NetlinkError::Refused(_)) => Ok(Route::Unreachable),
            Err(error) => Err(error),
        }
    }
}

/// Reads `struct rtmsg` and its attributes (`linux/rtnetlink.h`).
fn read(content: &[u8]) -> Option<Route> {
    const HEADER: usize = 12;
    const UNICAST: u8 = 1; // RTN_UNICAST
    const LOCAL: u8 = 2; // RTN_LOCAL
    const OIF: u16 = 4; // RTA_OIF
    const GATEWAY: u16 = 5; // RTA_GATEWAY
    const VIA: u16 = 18; // RTA_VIA
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
