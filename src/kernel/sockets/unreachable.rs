//! ICMP "port unreachable" on behalf of an endpoint, for UDP clients.
//!
//! The kernel sends it only for its own closed ports. This one is about a datagram that a relay received;
//! conntrack recognizes the flow from the quoted header, and translates it and the sender to the address that
//! the client used.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use sluice_core::net::Family;

/// Length of a UDP header.
const UDP: usize = 8;
const UDP_NUMBER: u8 = 17;

/// Says "port unreachable" to clients of one family.
#[derive(Debug)]
pub struct Unreachable {
    socket: Socket,
}

/// Clients cannot be notified.
#[derive(Debug, thiserror::Error)]
#[error("open a raw {family} socket (needs CAP_NET_RAW): {source}")]
pub struct UnreachableError {
    /// The family.
    family: Family,
    /// The error.
    source: io::Error,
}

impl Unreachable {
    /// Opens the way to clients of a family.
    ///
    /// # Errors
    /// If this process may not send ICMP itself.
    pub fn open(family: Family) -> Result<Unreachable, UnreachableError> {
        let (domain, protocol) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(domain, kind, Some(protocol)).and_then(|socket| {
            // It only speaks.
            socket.set_recv_buffer_size(0)?;
            Ok(socket)
        });
        Ok(Unreachable { socket: socket.map_err(|source| UnreachableError { family, source })? })
    }

    /// Notifies `client` that its datagram to `listener`, an address of this node, was not accepted.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn tell(&self, client: SocketAddr, listener: SocketAddr) -> io::Result<()> {
        let to = SocketAddr::new(client.ip(), 0);
        self.socket.send_to(&message(client, listener), &to.into()).map(drop)
    }
}

/// The ICMP message, which quotes the headers of the datagram.
fn message(client: SocketAddr, listener: SocketAddr) -> Vec<u8> {
    // Type and code (RFC 792: 3, 3; RFC 4443: 1, 4), checksum, unused.
    let mut bytes = match client {
        SocketAddr::V4(_) => vec![3, 3, 0, 0, 0, 0, 0, 0],
        SocketAddr::V6(_) => vec![1, 4, 0, 0, 0, 0, 0, 0],
    };
    let quoted = bytes.len();
    match (client.ip(), listener.ip()) {
        (IpAddr::V4(client), IpAddr::V4(listener)) => {
            bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP_NUMBER, 0, 0]);
            bytes.extend(client.octets());
            bytes.extend(listener.octets());
            let sum = checksum(&bytes[quoted..]);
            bytes[quoted + 10..quoted + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(client), IpAddr::V6(listener)) => {
            bytes.extend([0x60, 0, 0, 0, 0, 8, UDP_NUMBER, 64]);
            bytes.extend(client.octets());
            bytes.extend(listener.octets());
        }
        _ => {}
    }
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(listener.port().to_be_bytes());
    bytes.extend(u16::try_from(UDP).unwrap_or(8).to_be_bytes());
    bytes.extend([0, 0]);
    if client.is_ipv4() {
        // In IPv6 the kernel fills it in (RFC 3542).
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// The Internet checksum of RFC 1071 over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_checks_and_quotes_the_datagram() {
        let client: SocketAddr = "203.0.113.7:5353".parse().expect("an address");
        let listener: SocketAddr = "192.0.2.1:40001".parse().expect("an address");
        let bytes = message(client, listener);
        assert_eq!(checksum(&bytes), 0, "the whole");
        assert_eq!(checksum(&bytes[8..28]), 0, "the quoted header");
        assert_eq!(bytes[8 + 12..8 + 16], [203, 0, 113, 7], "who sent it");
        assert_eq!(bytes[28..32], [0x14, 0xe9, 0x9c, 0x41], "the ports");
    }

    #[test]
    fn in_ipv6_it_has_the_same_parts() {
        let client: SocketAddr = "[fd00::7]:5353".parse().expect("an address");
        let listener: SocketAddr = "[fd00::1]:40001".parse().expect("an address");
        let bytes = message(client, listener);
        assert_eq!(bytes.len(), 8 + 40 + 8);
        assert_eq!(bytes[..2], [1, 4], "type and code");
        assert_eq!(bytes[48..52], [0x14, 0xe9, 0x9c, 0x41], "the ports");
    }
}
