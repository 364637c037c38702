//! The server at every endpoint: one pod that has the whole block of addresses, and answers with the contacted
//! address.
//!
//! | protocol | what happens |
//! |---|---|
//! | TCP, first byte [`WHO`] | the four bytes of the address that was connected to, then the end |
//! | TCP, first byte [`ECHO`] | what follows comes back |
//! | TCP, first byte [`SINK`] | what follows is read and counted |
//! | UDP | each datagram is answered by the four bytes of the address that it was sent to |

use std::io::{self, IoSliceMut, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::sys::socket::sockopt::Ipv4PacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::objects::ENDPOINT_PORT;
use sluice_cluster::{Host, netns};

/// Asks who answers.
pub(super) const WHO: u8 = b'w';
/// Asks for an echo.
pub(super) const ECHO: u8 = b'e';
/// Asks to swallow everything.
pub(super) const SINK: u8 = b's';

/// How much is read from a stream at once.
const CHUNK: usize = 256 * 1024;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;

/// The pod could not start to answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is gone.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// A port could not be opened.
    #[error("listen on port {ENDPOINT_PORT} of the endpoints: {0}")]
    Listen(#[source] io::Error),
}

/// Starts to answer on all addresses that a host has, until the host ends. Gives the number of bytes
/// that it has swallowed.
pub(super) fn start(host: &Host) -> Result<Arc<AtomicU64>, Error> {
    let swallowed = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&swallowed);
    let listen = async move {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), ENDPOINT_PORT);
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(any)?;
        let listener = socket.listen(BACKLOG)?;
        let datagrams = UdpSocket::bind(any).await?;
        setsockopt(&datagrams, Ipv4PacketInfo, &true)?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let swallowed = Arc::clone(&counted);
                tokio::spawn(async move { serve(stream, swallowed).await });
            }
        });
        tokio::spawn(async move { while answer(&datagrams).await.is_ok() {} });
        Ok(())
    };
    host.namespace().block_on(listen)?.map_err(Error::Listen)?;
    Ok(swallowed)
}

/// Serves one connection. Clients may leave as they like.
async fn serve(mut stream: TcpStream, swallowed: Arc<AtomicU64>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        WHO => {
            let IpAddr::V4(ip) = stream.local_addr()?.ip() else { return Ok(()) };
            stream.write_all(&ip.octets()).await?;
            stream.shutdown().await
        }
        ECHO => {
            let (mut input, mut output) = stream.split();
            tokio::io::copy(&mut input, &mut output).await.map(drop)
        }
        _ => {
            // On its own thread, so that others do not wait.
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            std::thread::spawn(move || swallow(stream, &swallowed));
            Ok(())
        }
    }
}

fn swallow(mut stream: std::net::TcpStream, swallowed: &AtomicU64) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        swallowed.fetch_add(count as u64, Relaxed);
    }
}

/// Answers one datagram from the address that it was sent to.
async fn answer(socket: &UdpSocket) -> io::Result<()> {
    let (from, to) = socket.async_io(Interest::READABLE, || receive(socket)).await?;
    let source = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(to.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let text = to.octets();
    let parts = [io::IoSlice::new(&text)];
    let with = [ControlMessage::Ipv4PacketInfo(&source)];
    // A client that has gone is no reason to end.
    let _ = sendmsg(socket.as_raw_fd(), &parts, &with, MsgFlags::MSG_DONTWAIT, Some(&from));
    Ok(())
}

/// Receives a datagram, and says from where and to which address.
fn receive(socket: &UdpSocket) -> io::Result<(SockaddrIn, Ipv4Addr)> {
    let mut buffer = [0; 64];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()))
        }
        _ => None,
    });
    let known = message.address.zip(to);
    known.ok_or_else(|| io::Error::other("a datagram without the address that it was sent to"))
}
