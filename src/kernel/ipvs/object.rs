//! Virtual services and their destinations.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sluice_core::net::{Family, Protocol};

/// What makes a packet belong to a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Its destination.
    Address {
        /// The address.
        ip: IpAddr,
        /// The transport protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// Its mark (`fwmark`).
    Mark {
        /// The IP family.
        family: Family,
        /// The whole mark.
        mark: u32,
    },
}

impl Key {
    /// The IP family of its packets.
    pub fn family(&self) -> Family {
        match *self {
            Key::Address { ip, .. } => Family::of(ip),
            Key::Mark { family, .. } => family,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Key::Address { ip, protocol, port } => {
                write!(f, "{}/{protocol}", SocketAddr::new(ip, port))
            }
            Key::Mark { family, mark } => write!(f, "fwmark {mark} ({family})"),
        }
    }
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Which packets belong to it.
    pub key: Key,
    /// How a destination is chosen: the scheduler's name in the kernel, at most 15 bytes.
    pub scheduler: Arc<str>,
    /// Whether clients come back to the destination of their last connection.
    pub persistence: Option<Persistence>,
    /// Whether each datagram is scheduled on its own (`--ops`).
    pub packets: Scheduling,
    /// Other flags (`IP_VS_SVC_F_SCHED1` to `3`): what they mean depends on the scheduler.
    pub scheduler_flags: u32,
    /// The persistence engine's name, if there is one.
    pub engine: Option<Arc<str>>,
}

impl Service {
    /// One without persistence.
    pub fn new(key: Key, scheduler: &Arc<str>) -> Service {
        Service {
            key,
            scheduler: Arc::clone(scheduler),
            persistence: None,
            packets: Scheduling::Connections,
            scheduler_flags: 0,
            engine: None,
        }
    }
}

/// Clients come back to the destination of their last connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Persistence {
    /// For how long after their last connection, in seconds.
    pub timeout: u32,
    /// How many leading bits of the client's address tell clients apart.
    pub prefix: u8,
}

/// What is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheduling {
    /// Connections and flows.
    Connections,
    /// Every packet (`IP_VS_SVC_F_ONEPACKET`).
    Packets,
}

/// Where packets of a virtual service may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets get there.
    pub forward: Forward,
    /// Its share; 0 gets no new connections.
    pub weight: u32,
    /// Above so many connections it gets no new ones; 0 for no limit.
    pub upper_threshold: u32,
    /// Below so many it gets new ones again; 0 for three quarters of the upper one.
    pub lower_threshold: u32,
}

impl Destination {
    /// One that packets reach by address translation.
    pub fn new(ip: IpAddr, port: u16, weight: u32) -> Destination {
        let forward = Forward::Translated;
        Destination { ip, port, forward, weight, upper_threshold: 0, lower_threshold: 0 }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", SocketAddr::new(self.ip, self.port))
    }
}

/// How packets get to a destination (`IP_VS_CONN_F_*` within `IP_VS_CONN_F_FWD_MASK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Forward {
    /// By address translation, `MASQ`.
    Translated,
    /// It is this node, `LOCALNODE`.
    LocalNode,
    /// In a tunnel.
    Tunnel,
    /// By the link address alone, `DROUTE`.
    Direct,
    /// Past the load balancer.
    Bypass,
}

impl Forward {
    const ALL: [Forward; 5] = [
        Forward::Translated,
        Forward::LocalNode,
        Forward::Tunnel,
        Forward::Direct,
        Forward::Bypass,
    ];

    pub(super) fn number(self) -> u32 {
        match self {
            Forward::Translated => 0,
            Forward::LocalNode => 1,
            Forward::Tunnel => 2,
            Forward::Direct => 3,
            Forward::Bypass => 4,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Forward> {
        let number = number & super::uapi::FORWARD_MASK;
        Forward::ALL.into_iter().find(|forward| forward.number() == number)
    }
}

/// A destination as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedDestination {
    /// The request.
    pub destination: Destination,
    /// Connections in use.
    pub active: u32,
    /// Connections that have ended, or not begun.
    pub inactive: u32,
    /// Memories of clients (persistence templates).
    pub persistent: u32,
}

/// Timeouts of idle connections, in seconds; in a request, 0 keeps the current value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// TCP.
    pub tcp: u32,
    /// TCP after FIN.
    pub tcp_fin: u32,
    /// UDP.
    pub udp: u32,
}

/// The kernel's IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Major, minor and patch number.
    pub version: (u8, u8, u8),
    /// Buckets of the connection table.
    pub connection_table: u32,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A virtual service comes; one with its key is an error.
    AddService(Service),
    /// A virtual service changes its properties; its destinations stay.
    SetService(Service),
    /// A virtual service goes, with its destinations.
    DeleteService(Key),
    /// A destination comes.
    AddDestination(Key, Destination),
    /// A destination changes its properties.
    SetDestination(Key, Destination),
    /// A destination goes.
    DeleteDestination(Key, IpAddr, u16),
}

impl Op {
    /// The virtual service that it is about.
    pub fn key(&self) -> Key {
        match self {
            Op::AddService(service) | Op::SetService(service) => service.key,
            Op::DeleteService(key)
            | Op::AddDestination(key, _)
            | Op::SetDestination(key, _)
            | Op::DeleteDestination(key, ..) => *key,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::AddService(service) => {
                write!(f, "add virtual service {} ({})", service.key, service.scheduler)
            }
            Op::SetService(service) => write!(f, "change virtual service {}", service.key),
            Op::DeleteService(key) => write!(f, "delete virtual service {key}"),
            Op::AddDestination(key, to) => write!(f, "add destination {to} to {key}"),
            Op::SetDestination(key, to) => {
                write!(f, "give destination {to} of {key} the weight {}", to.weight)
            }
            Op::DeleteDestination(key, ip, port) => {
                write!(f, "delete destination {} of {key}", SocketAddr::new(*ip, *port))
            }
        }
    }
}
