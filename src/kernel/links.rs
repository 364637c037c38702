//! The interfaces of this host, one at a time, and whether it forwards packets.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::attributes::{find, read_name};
use super::netlink::{Client, NetlinkError, Refusal, SocketError};
use sluice_core::net::Family;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
    /// The longest packet that it sends.
    pub mtu: u32,
}

/// Asks for interfaces of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Links(Client);

impl Links {
    /// Opens the socket to ask through.
    ///
    /// # Errors
    /// If the kernel has no rtnetlink.
    pub fn open() -> Result<Links, SocketError> {
        Client::open(NETLINK_ROUTE).map(Links)
    }

    /// The interface with a number, if there is one.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        self.ask(question)
    }

    /// The interface with a name, if there is one.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn named(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.ask(question)
    }

    fn ask(&mut self, question: LinkMessage) -> Result<Option<Link>, NetlinkError> {
        let mut found = None;
        let asked = self.0.ask(RouteNetlinkMessage::GetLink(question), |content| {
            found = read(content);
        });
        match asked {
            Ok(()) => Ok(found),
            // Names that are too long are refused.
            Err(NetlinkError::Refused(Refusal {
                errno: libc::ENODEV | libc::EINVAL | libc::ERANGE,
                ..
            })) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Reads `struct ifinfomsg` and its attributes (`linux/if_link.h`).
fn read(content: &[u8]) -> Option<Link> {
    const HEADER: usize = 16;
    const IFNAME: u16 = 3; // IFLA_IFNAME
    const MTU: u16 = 4; // IFLA_MTU
    let index = content.get(4..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
    let attributes = content.get(HEADER..)?;
    let mtu = find(attributes, MTU)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
    Some(Link { index, name: find(attributes, IFNAME).and_then(read_name)?.into(), mtu })
}

/// Whether packets that arrive at an interface are forwarded, and the setting that says so; none if it cannot be read.
pub fn forwards(family: Family, arrives_at: &str) -> Option<(bool, String)> {
    // In IPv6, that of one interface says whether this host is a router there.
    let setting = match family {
        Family::V4 => format!("net/ipv4/conf/{arrives_at}/forwarding"),
        Family::V6 => "net/ipv6/conf/all/forwarding".to_owned(),
    };
    let text = fs::read_to_string(PathBuf::from("/proc/sys").join(&setting)).ok()?;
    Some((text.trim() != "0", setting.replace('/', ".")))
}
