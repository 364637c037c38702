//! Sockets of relays: listeners at an address of this node, connections to endpoints, the pipe between two of
//! them, and the limit on their number.

mod pipe;
mod transparent;
mod unreachable;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

pub use pipe::Pipe;
pub use transparent::{ephemeral_ports, tcp_from, try_transparent, udp_from};
pub use unreachable::{Unreachable, UnreachableError};

use sluice_core::net::Family;

/// Connections that may wait in the kernel (its own limit is `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// The receive buffer of a listening UDP socket. There are many clients, and each wake-up reads everything
/// that has arrived.
const DATAGRAMS: usize = 4 << 20;

/// TCP keep-alive: idle time, number of probes, and interval; a vanished peer is noticed after four minutes.
const SILENCE: Duration = Duration::from_secs(120);
const QUESTIONS: u32 = 4;
const INTERVAL: Duration = Duration::from_secs(30);

/// Raises this process's limit of open files to the hard limit, and returns it.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Lets connections that are opened here take ports over from such that ended a second ago
/// (`net.ipv4.tcp_tw_reuse`, of this network namespace and for both families; TCP timestamps keep the
/// two apart, RFC 6191). Otherwise a port cannot be used for a minute towards the same endpoint, so that
/// each endpoint gets some 470 connections a second in the long run.
///
/// # Errors
/// If the setting cannot be written, as in a container where `/proc/sys` is read-only.
pub fn reuse_ports() -> io::Result<()> {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
    if std::fs::read_to_string(SETTING)?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(SETTING, "1")
}

/// Whether this node has an address.
pub fn is_local(ip: IpAddr) -> bool {
    StdUdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// An address of this node that traffic from elsewhere can be sent on to: not loopback, not of a
/// single link; the lowest one, so that it does not depend on the order of interfaces.
pub fn any_address(family: Family) -> Option<IpAddr> {
    let usable = |ip: &IpAddr| {
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        Family::of(*ip) == family && !ip.is_loopback() && !link_local
    };
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    interfaces.filter_map(address).filter(usable).min()
}

/// Listens for TCP connections at an address of this node; port 0 is a free one. Must be called
/// within a Tokio runtime.
///
/// # Errors
/// The kernel's error: no descriptor or no port is left.
pub fn listen_tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(at, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Receives datagrams at an address of this node; port 0 is a free one. Must be called within a Tokio
/// runtime.
///
/// # Errors
/// The kernel's error: no descriptor or no port is left.
pub fn listen_udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bound(at, Type::DGRAM)?;
    // Needs CAP_NET_ADMIN; without it, the usual buffer must do.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &DATAGRAMS);
    UdpSocket::from_std(socket.into())
}

fn bound(at: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind.nonblocking().cloexec(), None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
        // An address may still be tentative (duplicate address detection).
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket)
}

/// A socket that is about to connect to an endpoint; its packets have these mark bits (`SO_MARK`).
///
/// # Errors
/// The kernel's error: no descriptor is left, the mark is not permitted.
pub fn tcp_to(endpoint: SocketAddr, mark: u32) -> io::Result<TcpSocket> {
    let socket = outgoing(endpoint, Type::STREAM, mark)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// A socket that sends datagrams to one endpoint and receives only its replies, and errors; its packets have
/// these mark bits. Must be called within a Tokio runtime.
///
/// # Errors
/// The kernel's error: no descriptor is left, there is no route.
pub fn udp_to(endpoint: SocketAddr, mark: u32) -> io::Result<UdpSocket> {
    let socket = outgoing(endpoint, Type::DGRAM, mark)?;
    socket.connect(&endpoint.into())?;
    UdpSocket::from_std(socket.into())
}

/// Sends a datagram to the connected peer without waiting. (Tokio's `try_send` fails until a new socket has
/// been polled.)
///
/// # Errors
/// `WouldBlock` if the queue is full; `ConnectionRefused` if an earlier datagram was rejected, in which case
/// this one was not sent.
pub fn send_now(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    SockRef::from(socket).send(datagram).map(drop)
}

fn outgoing(endpoint: SocketAddr, kind: Type, mark: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(endpoint), kind.nonblocking().cloexec(), None)?;
    socket.set_mark(mark)?;
    Ok(socket)
}

/// Makes one of two connections that are joined send at once what comes from the other, and notice
/// when its peer has vanished.
///
/// # Errors
/// If the connection is gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let questions = TcpKeepalive::new().with_time(SILENCE).with_interval(INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&questions.with_retries(QUESTIONS))
}

/// Whether an error means that this process or the host has no descriptor or memory left, and not
/// that a peer is at fault.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Whether an error means that a port is another socket's, or that connections from it are.
pub fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// Closes one direction of a connection: its peer reads the end, and may continue to send.
///
/// # Errors
/// `NotConnected` if the connection is gone already.
pub fn finish(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(std::net::Shutdown::Write)
}
