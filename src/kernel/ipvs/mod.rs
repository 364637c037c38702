//! IPVS over generic netlink: virtual services and their destinations (`linux/ip_vs.h`).
//!
//! [`object`] has the objects, [`wire`] their encoding, [`socket_option`] reads destinations faster where it can. IPVS has one table per network namespace, for both IP
//! families and all programs.

mod object;
mod socket_option;
#[cfg(test)]
mod tests;
mod uapi;
mod wire;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

pub use self::object::{
    Destination, Forward, Info, Key, ObservedDestination, Op, Persistence, Scheduling, Service,
    Timeouts,
};
use super::netlink::attributes::find;
use super::netlink::{Client, NetlinkError, Refusal};
use sluice_core::net::Protocol;

/// Where it is tried whether the kernel has a scheduler: addresses for documentation (RFC 5737).
const NOWHERE: Key = Key::Address {
    ip: IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 0)),
    protocol: Protocol::Tcp,
    port: 20_000,
};

/// IPVS of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Ipvs {
    client: Client,
    /// The number that the kernel gave the family.
    id: u16,
    /// A socket for the options of IPv4, where there is IPv4.
    options: Option<OwnedFd>,
}

/// IPVS could not be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum IpvsError {
    /// The kernel has no IPVS.
    #[error("this kernel has no IPVS: the module ip_vs is missing (modprobe ip_vs)")]
    Unsupported,
    /// The process may not use IPVS.
    #[error(
        "IPVS is not permitted: run with the capability CAP_NET_ADMIN in the user namespace that owns this network namespace"
    )]
    NotPermitted,
    /// The kernel does not have the scheduler.
    #[error(
        "this kernel has no IPVS scheduler {name:?}: the module ip_vs_{name} is missing; set ipvs.scheduler to one that it has, such as rr"
    )]
    NoScheduler { name: String },
    /// A request failed.
    #[error("{what}: {source}")]
    Request { what: &'static str, source: NetlinkError },
}

fn failed(what: &'static str) -> impl FnOnce(NetlinkError) -> IpvsError {
    move |source| match source {
        NetlinkError::Refused(Refusal { errno: libc::EPERM, .. }) => IpvsError::NotPermitted,
        source => IpvsError::Request { what, source },
    }
}

impl Ipvs {
    /// Opens IPVS of the current network namespace. The kernel loads its module if it can.
    ///
    /// # Errors
    /// [`IpvsError::Unsupported`] if there is none.
    pub fn open() -> Result<Ipvs, IpvsError> {
        let what = "look for IPVS";
        let mut client =
            Client::open(NETLINK_GENERIC).map_err(NetlinkError::from).map_err(failed(what))?;
        let question = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(uapi::NAME.to_owned())],
        });
        const FAMILY_ID: u16 = 1; // CTRL_ATTR_FAMILY_ID
        let mut id = None;
        let asked = client.ask(question, |content| {
            let number = find(content.get(4..).unwrap_or_default(), FAMILY_ID);
            id = number.and_then(|bytes| bytes.first_chunk()).map(|b| u16::from_ne_bytes(*b));
        });
        match (asked, id) {
            (Ok(()), Some(id)) => {
                let flags = SockFlag::SOCK_CLOEXEC;
                let options = socket(AddressFamily::Inet, SockType::Datagram, flags, None).ok();
                Ok(Ipvs { client, id, options })
            }
            (Ok(()), None) => Err(IpvsError::Unsupported),
            (Err(NetlinkError::Refused(Refusal { errno: libc::ENOENT, .. })), _) => {
                Err(IpvsError::Unsupported)
            }
            (Err(error), _) => Err(failed(what)(error)),
        }
    }

    /// The kernel's IPVS version and table size.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn info(&mut self) -> Result<Info, IpvsError> {
        let mut info = None;
        let question = wire::message(self.id, wire::plain(uapi::command::GET_INFO));
        let asked = self.client.ask(question, |content| info = wire::read_info(content));
        asked.map_err(failed("read IPVS's version"))?;
        Ok(info.unwrap_or(Info { version: (0, 0, 0), connection_table: 0 }))
    }

    /// Reads all virtual services.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn services(&mut self) -> Result<Vec<Service>, IpvsError> {
        let question = wire::message(self.id, wire::plain(uapi::command::GET_SERVICE));
        let listed = self.client.list(question, wire::read_service);
        listed.map_err(failed("list virtual services"))
    }

    /// Reads one virtual service; none if it is not there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn service(&mut self, key: &Key) -> Result<Option<Service>, IpvsError> {
        let question = wire::message(self.id, wire::service_of(key));
        let mut found = None;
        let asked = self.client.ask(question, |content| found = wire::read_service(content));
        match asked {
            Ok(()) => Ok(found),
            Err(NetlinkError::Refused(Refusal { errno: libc::ESRCH, .. })) => Ok(None),
            Err(error) => Err(failed("read a virtual service")(error)),
        }
    }

    /// Reads the destinations of a virtual service; none if it is not there.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn destinations(&mut self, key: &Key) -> Result<Vec<ObservedDestination>, IpvsError> {
        match self.options.as_ref().map(|socket| socket_option::destinations(socket, key)) {
            Some(Ok(found)) => return Ok(found),
            Some(Err(Errno::ESRCH)) => return Ok(Vec::new()),
            // IPv6, or another layout than the kernel's.
            Some(Err(_)) | None => {}
        }
        let question = wire::message(self.id, wire::destinations_of(key));
        let family = key.family();
        let read = |content: &[u8]| wire::read_destination(family, content);
        match self.client.list(question, read) {
            Err(NetlinkError::Refused(Refusal { errno: libc::ESRCH, .. })) => Ok(Vec::new()),
            listed => listed.map_err(failed("list destinations")),
        }
    }

    /// The timeouts of idle connections.
    ///
    /// # Errors
    /// If it cannot be read.
    #[cfg(any(test, feature = "fixtures"))]
    pub fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        let mut timeouts = None;
        let question = wire::message(self.id, wire::plain(uapi::command::GET_CONFIG));
        let asked = self.client.ask(question, |content| {
            timeouts = wire::read_timeouts(content);
        });
        asked.map_err(failed("read IPVS's timeouts"))?;
        Ok(timeouts.unwrap_or_default())
    }

    /// Sets the timeouts of idle connections; zero keeps the current value.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), IpvsError> {
        let change = wire::message(self.id, wire::set_timeouts(timeouts));
        let answers = self.client.change([(change, 0)]);
        let set = answers.and_then(|answers| {
            answers.into_iter().collect::<Result<(), Refusal>>().map_err(NetlinkError::from)
        });
        set.map_err(failed("set IPVS's timeouts"))
    }

    /// Applies changes in order, and returns the result of each: a refused one does not prevent the others.
    ///
    /// # Errors
    /// If the kernel could not be talked to; then it is not known which changes were done.
    pub fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), Refusal>>, IpvsError> {
        let id = self.id;
        let changes = ops.iter().map(|op| (wire::message(id, wire::change(op)), 0));
        self.client.change(changes).map_err(failed("change IPVS"))
    }

    /// Finds out whether the kernel has a scheduler, by making and deleting a virtual service with it:
    /// there is no list. The kernel loads its module if it can.
    ///
    /// # Errors
    /// [`IpvsError::NoScheduler`] if it has not.
    pub fn check_scheduler(&mut self, name: &Arc<str>) -> Result<(), IpvsError> {
        // IP_VS_SCHEDNAME_MAXLEN has room for the final zero.
        let absent = || IpvsError::NoScheduler { name: name.to_string() };
        if name.is_empty() || name.len() > 15 {
            return Err(absent());
        }
        let answers =
            self.apply(&[Op::AddService(Service::new(NOWHERE, name)), Op::DeleteService(NOWHERE)])?;
        match answers.into_iter().next() {
            Some(Err(Refusal { errno: libc::ENOENT, .. })) => Err(absent()),
            Some(Err(refusal)) if refusal.errno != libc::EEXIST => {
                Err(failed("try an IPVS scheduler")(refusal.into()))
            }
            _ => Ok(()),
        }
    }
}
