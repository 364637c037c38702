//! A dummy device: an interface that makes addresses local to this node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::LinkDummy;

use super::addresses::read_address;
use super::netlink::{Client, NetlinkError, Refusal, SocketError};
use sluice_core::net::Family;

/// A dummy device of the network namespace that this was opened in, whether it exists or not.
#[derive(Debug)]
pub struct Dummy {
    client: Client,
    name: Arc<str>,
}

/// A change of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DummyOp {
    /// Makes the device.
    Create,
    /// Gives it an address.
    Add(IpAddr),
    /// Deletes an address.
    Remove(IpAddr),
}

/// The device could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum DummyError {
    /// There is no such socket.
    #[error("open rtnetlink: {0}")]
    Open(#[source] SocketError),
    /// The device cannot be read.
    #[error("look for the device {name}: {source}")]
    Look { name: Arc<str>, source: NetlinkError },
    /// The addresses cannot be read.
    #[error("list the addresses of {name}: {source}")]
    List { name: Arc<str>, source: NetlinkError },
    /// The changes could not be sent.
    #[error("change {name}: {source}")]
    Change { name: Arc<str>, source: NetlinkError },
}

impl Dummy {
    /// Looks after a device of this name in the current network namespace. It is not made yet.
    ///
    /// # Errors
    /// If the kernel has no rtnetlink.
    pub fn open(name: &str) -> Result<Dummy, DummyError> {
        let client = Client::open(NETLINK_ROUTE).map_err(DummyError::Open)?;
        Ok(Dummy { client, name: Arc::from(name) })
    }

    /// Its addresses of one family, or none if it does not exist.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn addresses(&mut self, family: Family) -> Result<Option<BTreeSet<IpAddr>>, DummyError> {
        let Some(index) = self.index()? else { return Ok(None) };
        let mut question = AddressMessage::default();
        question.header.family = address_family(family);
        let question = RouteNetlinkMessage::GetAddress(question);
        let found = self.client.list(question, |content| address_of(index, content));
        let list = |source| DummyError::List { name: Arc::clone(&self.name), source };
        Ok(Some(found.map_err(list)?.into_iter().collect()))
    }

    /// Applies changes in order, and returns the result of each.
    ///
    /// # Errors
    /// If the kernel could not be talked to; then it is not known which changes were done.
    pub fn apply(&mut self, ops: &[DummyOp]) -> Result<Vec<Result<(), Refusal>>, DummyError> {
        let name = Arc::clone(&self.name);
        let change = |source| DummyError::Change { name: Arc::clone(&name), source };
        let mut answers = Vec::with_capacity(ops.len());
        const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
        // What comes after a device is made needs its number.
        for part in ops.split_inclusive(|op| *op == DummyOp::Create) {
            let index = self.index()?.unwrap_or(0);
            let changes = part.iter().map(|op| match op {
                DummyOp::Create => {
                    (RouteNetlinkMessage::NewLink(LinkDummy::new(&name).build()), NEW)
                }
                DummyOp::Add(ip) => (RouteNetlinkMessage::NewAddress(address(index, *ip)), NEW),
                DummyOp::Remove(ip) => (RouteNetlinkMessage::DelAddress(address(index, *ip)), 0),
            });
            answers.extend(self.client.change(changes).map_err(change)?);
        }
        Ok(answers)
    }

    /// Deletes the device with all its addresses; one that does not exist is no error.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn delete(&mut self) -> Result<(), DummyError> {
        let Some(index) = self.index()? else { return Ok(()) };
        let mut message = LinkMessage::default();
        message.header.index = index;
        let request = RouteNetlinkMessage::DelLink(message);
        let source = match self.client.change([(request, 0)]) {
            Ok(answers) => match answers.into_iter().find_map(Result::err) {
                None => return Ok(()),
                Some(refusal) => refusal.into(),
            },
            Err(source) => source,
        };
        Err(DummyError::Change { name: Arc::clone(&self.name), source })
    }

    fn index(&mut self) -> Result<Option<u32>, DummyError> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(self.name.to_string()));
        let mut index = None;
        let asked = self.client.ask(RouteNetlinkMessage::GetLink(question), |content| {
            // `struct ifinfomsg`
            let number = content.get(4..).and_then(|rest| rest.first_chunk());
            index = number.map(|bytes| u32::from_ne_bytes(*bytes));
        });
        match asked {
            Ok(()) => Ok(index),
            Err(NetlinkError::Refused(Refusal { errno: libc::ENODEV, .. })) => Ok(None),
            Err(source) => Err(DummyError::Look { name: Arc::clone(&self.name), source }),
        }
    }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// A local address that is not chosen as a source address, in particular not by masquerading: by its scope in
/// IPv4, and because it is deprecated in IPv6.
fn address(index: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    let family = Family::of(ip);
    message.header.family = address_family(family);
    message.header.index = index;
    message.header.prefix_len = u8::try_from(family.address_len() * 8).unwrap_or(0);
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    match family {
        Family::V4 => message.header.scope = AddressScope::Host,
        Family::V6 => {
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}

/// The address in a message, if it is one of the device.
fn address_of(index: u32, content: &[u8]) -> Option<IpAddr> {
    let (at, ip) = read_address(content)?;
    // An address of the link itself is the kernel's.
    let own = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    (at == index && !own).then_some(ip)
}
