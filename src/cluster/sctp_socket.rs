//! SCTP packets over a raw IP socket, in async code.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvfrom, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::sctp::{self, Packet};
use sluice_core::net::{Family, Protocol};

/// A raw socket receives an error condition through `epoll` as an error, not as data.
pub(super) const NEWS: Interest = Interest::READABLE.add(Interest::ERROR);

/// Longest packet that is read; ours are much shorter.
const LONGEST: usize = 2048;

/// A raw socket for SCTP.
#[derive(Debug)]
pub(super) struct SctpSocket {
    /// Raw sockets have the system calls of UDP sockets, and tokio has no type of its own for them.
    fd: UdpSocket,
    family: Family,
}

impl SctpSocket {
    /// A socket that receives every SCTP packet to a local address.
    pub(super) fn bind(local: IpAddr) -> io::Result<SctpSocket> {
        let socket = open(Family::of(local))?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
        SctpSocket::new(socket, Family::of(local))
    }

    /// A socket that receives the SCTP packets from one peer to one port, and all ICMP errors about
    /// packets to that peer.
    pub(super) fn connect(
        local: Option<IpAddr>,
        port: u16,
        remote: IpAddr,
    ) -> io::Result<SctpSocket> {
        let family = Family::of(remote);
        let socket = open(family)?;
        socket.attach_filter(&only_to_port(family, port))?;
        if let Some(local) = local {
            socket.bind(&SocketAddr::new(local, 0).into())?;
        }
        report_icmp_errors(&socket, family)?;
        socket.connect(&SocketAddr::new(remote, 0).into())?;
        SctpSocket::new(socket, family)
    }

    fn new(socket: Socket, family: Family) -> io::Result<SctpSocket> {
        socket.set_nonblocking(true)?;
        Ok(SctpSocket { fd: UdpSocket::from_std(socket.into())?, family })
    }

    /// Sends a packet to the connected peer.
    pub(super) async fn send(&self, packet: &Packet) -> io::Result<()> {
        self.fd.send(&packet.encode()).await.map(drop)
    }

    /// Sends a packet to any peer.
    pub(super) async fn send_to(&self, packet: &Packet, to: IpAddr) -> io::Result<()> {
        self.fd.send_to(&packet.encode(), SocketAddr::new(to, 0)).await.map(drop)
    }

    /// The next packet of a handshake, and its sender. Other packets, and those with a wrong checksum, are ignored, as
    /// in a real stack.
    pub(super) async fn receive(&self) -> io::Result<(IpAddr, Packet)> {
        loop {
            let mut bytes = [0; LONGEST];
            let read = self.fd.async_io(NEWS, || {
                Ok(recvfrom::<SockaddrStorage>(self.fd.as_raw_fd(), &mut bytes)?)
            });
            let (length, from) = read.await?;
            let Some(from) = from.as_ref().and_then(ip_of) else { continue };
            // An IPv4 raw socket includes the IP header, an IPv6 one does not (raw(7)).
            let start = match self.family {
                Family::V4 => usize::from(bytes[0] & 0xf) * 4,
                Family::V6 => 0,
            };
            if let Some(Ok(packet)) = bytes.get(start..length).map(Packet::parse) {
                return Ok((from, packet));
            }
        }
    }

    /// The next ICMP error that the kernel has kept: the error number, and source and destination
    /// port of the packet that it is about. `None` when there is none.
    pub(super) fn next_icmp_error(&self) -> Option<(i32, (u16, u16))> {
        let mut bytes = [0; LONGEST];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let received = recvmsg::<SockaddrStorage>(
            self.fd.as_raw_fd(),
            &mut buffers,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )
        .ok()?;
        let error = received.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, _) => Some(error),
            ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
            _ => None,
        })?;
        let length = received.bytes;
        let ports = sctp::ports(&bytes[..length])?;
        Some((i32::try_from(error.ee_errno).ok()?, ports))
    }
}

/// Makes a socket report all ICMP errors, including those that the kernel considers temporary
/// (`IP_RECVERR`, ip(7)).
///
/// TCP needs it, too: on the lab's network an ICMP error is back before connect(2) has released the
/// socket, and the kernel then keeps it to itself until the SYN is repeated a second later
/// (`LockDroppedIcmps` in `nstat`). Other programs in the lab meet that delay when they are rejected.
pub(super) fn report_icmp_errors(socket: &impl AsFd, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// A verification tag: any number but zero.
pub(super) fn new_tag() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().hash_one(()).to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d]) | 1
}

fn open(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    Socket::new(domain, Type::RAW, Some(i32::from(Protocol::Sctp.number()).into()))
}

/// A filter for one destination port, in the instructions of `linux/filter.h`. Without it every
/// probe would be woken by, and would have to read, the answers to all others.
fn only_to_port(family: Family, port: u16) -> Vec<SockFilter> {
    // A raw socket's filter sees what the socket will: in IPv4 from the IP header on, in IPv6 from
    // the SCTP header on. The destination port is the second half-word of the SCTP header.
    let load = match family {
        Family::V4 => vec![
            SockFilter::new(0xb1, 0, 0, 0), // ldxb 4 * ([0] & 0xf): x = length of the IP header
            SockFilter::new(0x48, 0, 0, 2), // ldh [x + 2]
        ],
        Family::V6 => vec![SockFilter::new(0x28, 0, 0, 2)], // ldh [2]
    };
    let decide = [
        SockFilter::new(0x15, 0, 1, u32::from(port)), // jeq #port, else skip one
        SockFilter::new(0x06, 0, 0, u32::MAX),        // ret: all of it
        SockFilter::new(0x06, 0, 0, 0),               // ret: nothing
    ];
    load.into_iter().chain(decide).collect()
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}
