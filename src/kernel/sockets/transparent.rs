//! Sockets to endpoints that are bound to a client's address (`IP_TRANSPARENT`).
//!
//! Answers to them reach this host only if something delivers them here (see [`crate::policy_routing`]).

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};

use super::outgoing;
use sluice_core::net::Family;

/// Tries whether this process may have such sockets.
///
/// # Errors
/// Without CAP_NET_ADMIN and CAP_NET_RAW.
pub fn try_transparent(family: Family) -> io::Result<()> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    make_transparent(&Socket::new(domain, Type::DGRAM.cloexec(), None)?, family)
}

/// The ephemeral ports of this network namespace (`net.ipv4.ip_local_port_range`, for both families). No
/// other program relies on one of them being free.
pub fn ephemeral_ports() -> RangeInclusive<u16> {
    const DEFAULT: RangeInclusive<u16> = 32768..=60999;
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let read = |text: &str| {
        let (first, last) = text.trim().split_once(char::is_whitespace)?;
        Some(first.parse().ok()?..=last.trim().parse().ok()?)
    };
    text.ok().and_then(|text| read(&text)).unwrap_or(DEFAULT)
}

/// As [`super::tcp_to`], with a foreign address and port as the source.
///
/// # Errors
/// The kernel's error: `AddrInUse` if another socket has the port.
pub fn tcp_from(source: SocketAddr, endpoint: SocketAddr, mark: u32) -> io::Result<TcpSocket> {
    let socket = outgoing(endpoint, Type::STREAM, mark)?;
    make_transparent(&socket, Family::of(source.ip()))?;
    // Other connections from there do not count, only such to the same endpoint.
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// As [`super::udp_to`], with a foreign address and port as the source. Must be called within a Tokio
/// runtime.
///
/// # Errors
/// The kernel's error: `AddrInUse` if another socket has the port.
pub fn udp_from(source: SocketAddr, endpoint: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let socket = outgoing(endpoint, Type::DGRAM, mark)?;
    make_transparent(&socket, Family::of(source.ip()))?;
    socket.bind(&source.into())?;
    socket.connect(&endpoint.into())?;
    // What others sent to the client while the socket was not connected is no answer.
    while socket.recv(&mut []).is_ok() {}
    UdpSocket::from_std(socket.into())
}

fn make_transparent(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => socket.set_ip_transparent_v4(true),
        Family::V6 => socket.set_ip_transparent_v6(true),
    }
}
