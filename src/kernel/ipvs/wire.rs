//! IPVS messages as bytes. Numbers are in host byte order, except ports and IPv4 netmasks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netlink_packet_core::{DecodeError, DefaultNla, Emitable, NLA_F_NESTED, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::object::{
    Destination, Forward, Info, Key, ObservedDestination, Op, Persistence, Scheduling, Service,
    Timeouts,
};
use super::uapi::{self, attribute, command, destination, flag, info, service};
use crate::netlink::attributes::find;
use sluice_core::net::{Family, Protocol};

/// `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;

/// A command with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Payload {
    fn family_name() -> &'static str {
        uapi::NAME
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        uapi::VERSION
    }
}

impl Emitable for Payload {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

/// Only what is sent has this type; answers are read by [`read_service`] and the like.
impl ParseableParametrized<[u8], GenlHeader> for Payload {
    fn parse_with_param(_: &[u8], header: GenlHeader) -> Result<Payload, DecodeError> {
        Ok(Payload { command: header.cmd, attributes: Vec::new() })
    }
}

/// A message of the family `id`.
pub(super) fn message(id: u16, payload: Payload) -> GenlMessage<Payload> {
    let mut message = GenlMessage::from_payload(payload);
    message.set_resolved_family_id(id);
    message
}

/// A command without attributes.
pub(super) fn plain(command: u8) -> Payload {
    Payload { command, attributes: Vec::new() }
}

/// One change.
pub(super) fn change(op: &Op) -> Payload {
    let (command, attributes) = match op {
        Op::AddService(service) => (command::NEW_SERVICE, vec![whole_service(service)]),
        Op::SetService(service) => (command::SET_SERVICE, vec![whole_service(service)]),
        Op::DeleteService(key) => (command::DEL_SERVICE, vec![named_service(key)]),
        Op::AddDestination(key, to) => {
            (command::NEW_DEST, vec![named_service(key), whole_destination(to)])
        }
        Op::SetDestination(key, to) => {
            (command::SET_DEST, vec![named_service(key), whole_destination(to)])
        }
        Op::DeleteDestination(key, ip, port) => {
            let to = nest(attribute::DEST, named_destination(*ip, *port));
            (command::DEL_DEST, vec![named_service(key), to])
        }
    };
    Payload { command, attributes }
}

/// The question for the destinations of a virtual service.
pub(super) fn destinations_of(key: &Key) -> Payload {
    Payload { command: command::GET_DEST, attributes: vec![named_service(key)] }
}

/// The request for one virtual service.
pub(super) fn service_of(key: &Key) -> Payload {
    Payload { command: command::GET_SERVICE, attributes: vec![named_service(key)] }
}

/// The request for other timeouts.
pub(super) fn set_timeouts(timeouts: Timeouts) -> Payload {
    let attributes = [
        (attribute::TIMEOUT_TCP, timeouts.tcp),
        (attribute::TIMEOUT_TCP_FIN, timeouts.tcp_fin),
        (attribute::TIMEOUT_UDP, timeouts.udp),
    ];
    let attributes = attributes.map(|(kind, seconds)| number(kind, seconds)).to_vec();
    Payload { command: command::SET_CONFIG, attributes }
}

fn nla(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
    DefaultNla::new(kind, value.into())
}

fn number(kind: u16, value: u32) -> DefaultNla {
    nla(kind, value.to_ne_bytes())
}

fn short(kind: u16, value: u16) -> DefaultNla {
    nla(kind, value.to_ne_bytes())
}

fn name(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    nla(kind, bytes)
}

fn nest(kind: u16, inner: Vec<DefaultNla>) -> DefaultNla {
    let mut bytes = vec![0; inner.as_slice().buffer_len()];
    inner.as_slice().emit(&mut bytes);
    nla(kind | NLA_F_NESTED, bytes)
}

/// `AF_INET` or `AF_INET6`.
fn family_number(family: Family) -> u16 {
    let number = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    u16::try_from(number).unwrap_or(0)
}

/// `union nf_inet_addr`: an IPv4 address is followed by zeros.
fn address(kind: u16, ip: IpAddr) -> DefaultNla {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes = ip.octets(),
    }
    nla(kind, bytes)
}

fn key_attributes(key: &Key) -> Vec<DefaultNla> {
    let mut all = vec![short(service::AF, family_number(key.family()))];
    match *key {
        Key::Address { ip, protocol, port } => {
            all.push(short(service::PROTOCOL, u16::from(protocol.number())));
            all.push(address(service::ADDR, ip));
            all.push(nla(service::PORT, port.to_be_bytes()));
        }
        Key::Mark { mark, .. } => all.push(number(service::FWMARK, mark)),
    }
    all
}

fn named_service(key: &Key) -> DefaultNla {
    nest(attribute::SERVICE, key_attributes(key))
}

fn whole_service(wanted: &Service) -> DefaultNla {
    let family = wanted.key.family();
    let mut all = key_attributes(&wanted.key);
    all.push(name(service::SCHED_NAME, &wanted.scheduler));
    if let Some(engine) = &wanted.engine {
        all.push(name(service::PE_NAME, engine));
    }
    let mut flags = wanted.scheduler_flags;
    if wanted.persistence.is_some() {
        flags |= flag::PERSISTENT;
    }
    if wanted.packets == Scheduling::Packets {
        flags |= flag::ONE_PACKET;
    }
    // `struct ip_vs_flags`: the flags, and which of them are meant.
    all.push(nla(service::FLAGS, [flags.to_ne_bytes(), (!0_u32).to_ne_bytes()].concat()));
    let host = u8::try_from(family.address_len() * 8).unwrap_or(0);
    let Persistence { timeout, prefix } =
        wanted.persistence.unwrap_or(Persistence { timeout: 0, prefix: host });
    all.push(number(service::TIMEOUT, timeout));
    all.push(match family {
        Family::V4 => nla(service::NETMASK, netmask(prefix).to_be_bytes()),
        Family::V6 => number(service::NETMASK, u32::from(prefix)),
    });
    nest(attribute::SERVICE, all)
}

fn netmask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn named_destination(ip: IpAddr, port: u16) -> Vec<DefaultNla> {
    vec![
        address(destination::ADDR, ip),
        nla(destination::PORT, port.to_be_bytes()),
        short(destination::ADDR_FAMILY, family_number(Family::of(ip))),
    ]
}

fn whole_destination(to: &Destination) -> DefaultNla {
    let mut all = named_destination(to.ip, to.port);
    all.extend(
        [
            (destination::FWD_METHOD, to.forward.number()),
            (destination::WEIGHT, to.weight),
            (destination::U_THRESH, to.upper_threshold),
            (destination::L_THRESH, to.lower_threshold),
        ]
        .map(|(kind, value)| number(kind, value)),
    );
    nest(attribute::DEST, all)
}

fn read_number(attributes: &[u8], kind: u16) -> Option<u32> {
    find(attributes, kind)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn read_short(attributes: &[u8], kind: u16) -> Option<u16> {
    find(attributes, kind)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn read_port(attributes: &[u8], kind: u16) -> Option<u16> {
    find(attributes, kind)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn read_name(attributes: &[u8], kind: u16) -> Option<Arc<str>> {
    let bytes = find(attributes, kind)?.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(bytes).ok().filter(|name| !name.is_empty()).map(Arc::from)
}

fn read_family(number: u16) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| family_number(*family) == number)
}

fn read_address(attributes: &[u8], kind: u16, family: Family) -> Option<IpAddr> {
    let bytes = find(attributes, kind)?;
    Some(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
    })
}

/// What follows the header of a generic message.
fn body(content: &[u8]) -> &[u8] {
    content.get(GENERIC_HEADER..).unwrap_or_default()
}

/// A virtual service in an answer; none if it is of a kind that this module does not know.
pub(super) fn read_service(content: &[u8]) -> Option<Service> {
    let all = find(body(content), attribute::SERVICE)?;
    let family = read_family(read_short(all, service::AF)?)?;
    let key = match read_number(all, service::FWMARK) {
        Some(mark) if mark != 0 => Key::Mark { family, mark },
        _ => Key::Address {
            ip: read_address(all, service::ADDR, family)?,
            protocol: u8::try_from(read_short(all, service::PROTOCOL)?)
                .ok()
                .and_then(Protocol::from_number)?,
            port: read_port(all, service::PORT)?,
        },
    };
    let flags = read_number(all, service::FLAGS)?;
    let mask = find(all, service::NETMASK)?.first_chunk::<4>()?;
    let prefix = match family {
        Family::V4 => u32::from_be_bytes(*mask).leading_ones(),
        Family::V6 => u32::from_ne_bytes(*mask),
    };
    let persistence = Persistence {
        timeout: read_number(all, service::TIMEOUT)?,
        prefix: u8::try_from(prefix).unwrap_or(u8::MAX),
    };
    let packets = match flags & flag::ONE_PACKET {
        0 => Scheduling::Connections,
        _ => Scheduling::Packets,
    };
    Some(Service {
        key,
        scheduler: read_name(all, service::SCHED_NAME).unwrap_or_else(|| Arc::from("none")),
        persistence: (flags & flag::PERSISTENT != 0).then_some(persistence),
        packets,
        scheduler_flags: flags & !(flag::PERSISTENT | flag::HASHED | flag::ONE_PACKET),
        engine: read_name(all, service::PE_NAME),
    })
}

/// A destination of a virtual service of `family` in an answer.
pub(super) fn read_destination(family: Family, content: &[u8]) -> Option<ObservedDestination> {
    let all = find(body(content), attribute::DEST)?;
    let own = read_short(all, destination::ADDR_FAMILY).and_then(read_family).unwrap_or(family);
    let number = |kind| read_number(all, kind).unwrap_or(0);
    Some(ObservedDestination {
        destination: Destination {
            ip: read_address(all, destination::ADDR, own)?,
            port: read_port(all, destination::PORT)?,
            forward: Forward::from_number(number(destination::FWD_METHOD))?,
            weight: number(destination::WEIGHT),
            upper_threshold: number(destination::U_THRESH),
            lower_threshold: number(destination::L_THRESH),
        },
        active: number(destination::ACTIVE_CONNS),
        inactive: number(destination::INACT_CONNS),
        persistent: number(destination::PERSIST_CONNS),
    })
}

/// The timeouts in an answer.
#[cfg(any(test, feature = "fixtures"))]
pub(super) fn read_timeouts(content: &[u8]) -> Option<Timeouts> {
    let number = |kind| read_number(body(content), kind);
    Some(Timeouts {
        tcp: number(attribute::TIMEOUT_TCP)?,
        tcp_fin: number(attribute::TIMEOUT_TCP_FIN)?,
        udp: number(attribute::TIMEOUT_UDP)?,
    })
}

/// The kernel's IPVS version and table size.
pub(super) fn read_info(content: &[u8]) -> Option<Info> {
    let [_, major, minor, patch] = read_number(body(content), info::VERSION)?.to_be_bytes();
    let connection_table = read_number(body(content), info::CONN_TAB_SIZE)?;
    Some(Info { version: (major, minor, patch), connection_table })
}
