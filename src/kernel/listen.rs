//! Listening TCP sockets, with a say in which families they serve.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait in the kernel (its own limit is `net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// Whom an unspecified address serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Its own family.
    OneFamily,
    /// Both, as in Go: `0.0.0.0` also listens on `::`.
    BothFamilies,
}

/// Listens on a TCP address. Must be called within a Tokio runtime.
///
/// # Errors
/// What the kernel says: the address is taken, or not one of this node.
pub fn listen(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    if reach == Reach::OneFamily || !address.ip().is_unspecified() {
        return bind(address, Reach::OneFamily);
    }
    let everywhere = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match bind(everywhere, Reach::BothFamilies) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(address, Reach::OneFamily)
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(reach == Reach::OneFamily)?;
    }
    // Connections of a predecessor that are still closing are no reason to fail.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
