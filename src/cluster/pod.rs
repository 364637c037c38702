//! The programs in a pod: responders that answer with the pod's name and the client's address.
//!
//! | protocol | what happens |
//! |---|---|
//! | TCP | on accept the pod sends the line below, then echoes what it receives until the end |
//! | UDP | each datagram is answered with the line |
//! | SCTP | the association is set up; the state cookie of the INIT ACK holds the line |
//!
//! ```text
//! web-1 saw 172.18.0.11:10007 local 10.244.1.2:80
//! ```
//!
//! A closed TCP or UDP port is refused by the kernel. A pod with an SCTP responder refuses its other
//! SCTP ports by ABORT; one without leaves that to the kernel, which answers by ICMP.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::address::DualStack;
use super::host::Host;
use super::netns;
use super::sctp::{Chunk, Cookie, Packet};
use super::sctp_socket::{SctpSocket, new_tag};
use sluice_core::net::{Family, Protocol};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;

/// Why a pod cannot answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// The pod has no namespace any more.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// A port could not be opened.
    #[error("listen on {protocol} {at}: {source}")]
    Listen { protocol: Protocol, at: SocketAddr, source: io::Error },
}

/// A pod's answer: one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The name of the pod.
    pub by: String,
    /// The client's address as the pod sees it.
    pub saw: SocketAddr,
    /// Where the connection arrived: the pod's own address.
    pub local: SocketAddr,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} saw {} local {}", self.by, self.saw, self.local)
    }
}

impl FromStr for Sighting {
    type Err = NotASighting;

    fn from_str(line: &str) -> Result<Sighting, NotASighting> {
        let parse = || {
            let mut words = line.split_whitespace();
            let by = words.next()?.to_owned();
            let saw = words.next().filter(|word| *word == "saw").and_then(|_| words.next())?;
            let local = words.next().filter(|word| *word == "local").and_then(|_| words.next())?;
            let sighting = Sighting { by, saw: saw.parse().ok()?, local: local.parse().ok()? };
            words.next().is_none().then_some(sighting)
        };
        parse().ok_or(NotASighting)
    }
}

/// A text is not the answer of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not the answer of a pod of the lab")]
pub struct NotASighting;

impl Host {
    /// Starts responders on the host's own addresses, in both families, that answer under a name.
    /// They end with the host. Pods have theirs from the start; this adds ports, or lets a pod "run"
    /// in a node's own network, or a server outside the cluster on the client.
    ///
    /// Only one call for a host may name SCTP ports: each such responder refuses all ports that are
    /// not its own.
    pub fn serve(&self, name: &str, ports: &[(Protocol, u16)]) -> Result<(), Error> {
        let (name, addresses, ports) = (name.into(), self.addresses(), ports.to_vec());
        self.namespace().block_on(async move { start(&name, addresses, &ports).await })?
    }
}

async fn start(
    name: &Arc<str>,
    addresses: DualStack,
    ports: &[(Protocol, u16)],
) -> Result<(), Error> {
    let sctp = ports.iter().filter(|(protocol, _)| *protocol == Protocol::Sctp);
    let sctp: Vec<u16> = sctp.map(|&(_, port)| port).collect();
    for family in Family::BOTH {
        for &(protocol, port) in ports {
            let at = addresses.socket_addr(family, port);
            let started = match protocol {
                Protocol::Tcp => start_tcp(name, at),
                Protocol::Udp => start_udp(name, at).await,
                // One socket receives on all ports: the first port creates it.
                Protocol::Sctp if sctp.first() == Some(&port) => {
                    start_sctp(name, at.ip(), sctp.clone())
                }
                Protocol::Sctp => Ok(()),
            };
            started.map_err(|source| Error::Listen { protocol, at, source })?;
        }
    }
    Ok(())
}

fn start_tcp(name: &Arc<str>, at: SocketAddr) -> io::Result<()> {
    let socket = match Family::of(at.ip()) {
        Family::V4 => TcpSocket::new_v4()?,
        Family::V6 => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    tokio::spawn(accept(Arc::clone(name), socket.listen(BACKLOG)?));
    Ok(())
}

async fn accept(name: Arc<str>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, saw)) => {
                tokio::spawn(answer_tcp(Arc::clone(&name), stream, saw));
            }
            // No file descriptor is free: some will be when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves a connection until it ends; that it may end by an error is the peer's business.
async fn answer_tcp(name: Arc<str>, mut stream: TcpStream, saw: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    stream
        .write_all(format!("{}\n", Sighting { by: name.to_string(), saw, local }).as_bytes())
        .await?;
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            length => stream.write_all(&bytes[..length]).await?,
        }
    }
}

async fn start_udp(name: &Arc<str>, local: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(local).await?;
    let name = Arc::clone(name);
    tokio::spawn(async move {
        let mut bytes = [0; 2048];
        loop {
            let Ok((_, saw)) = socket.recv_from(&mut bytes).await else { continue };
            let line = format!("{}\n", Sighting { by: name.to_string(), saw, local });
            // Who cannot be answered is not answered: that is UDP.
            let _ = socket.send_to(line.as_bytes(), saw).await;
        }
    });
    Ok(())
}

fn start_sctp(name: &Arc<str>, local: IpAddr, ports: Vec<u16>) -> io::Result<()> {
    let socket = SctpSocket::bind(local)?;
    let name = Arc::clone(name);
    tokio::spawn(async move {
        loop {
            let Ok((from, packet)) = socket.receive().await else { continue };
            let local = SocketAddr::new(local, packet.destination);
            let open = ports.contains(&packet.destination);
            if let Some(reply) = answer_sctp(&name, open, from, local, &packet) {
                // A lost packet is the peer's to repeat.
                let _ = socket.send_to(&reply, from).await;
            }
        }
    });
    Ok(())
}

/// What a pod answers to a packet, if anything. The pod keeps no state: what it needs to know later
/// is in the cookie.
fn answer_sctp(
    name: &str,
    open: bool,
    from: IpAddr,
    local: SocketAddr,
    packet: &Packet,
) -> Option<Packet> {
    let (tag, chunk) = match &packet.chunk {
        // RFC 9260, section 8.4: to an INIT out of the blue, ABORT with the tag of the INIT.
        Chunk::Init { tag } if !open => (*tag, Chunk::Abort),
        Chunk::Init { tag: peer_tag } => {
            let saw = SocketAddr::new(from, packet.source);
            let text = Sighting { by: name.to_owned(), saw, local }.to_string();
            let cookie = Cookie { tag: new_tag(), peer_tag: *peer_tag, text };
            (*peer_tag, Chunk::InitAck { tag: cookie.tag, cookie: cookie.encode() })
        }
        Chunk::CookieEcho(cookie) => {
            let cookie = Cookie::parse(cookie)?;
            (cookie.tag == packet.tag).then_some((cookie.peer_tag, Chunk::CookieAck))?
        }
        // Replies to probes that are sent from this pod, and farewells.
        Chunk::InitAck { .. } | Chunk::CookieAck | Chunk::Abort => return None,
    };
    Some(Packet { source: packet.destination, destination: packet.source, tag, chunk })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sighting_is_read_back_from_its_line() {
        for peer in ["172.18.0.11:10007", "[fd00:10:244:1::2]:80"] {
            let saw: SocketAddr = peer.parse().expect("a socket address");
            let sighting = Sighting { by: "web-1".to_owned(), saw, local: saw };
            assert_eq!(format!("{sighting}\n").parse(), Ok(sighting));
        }
        for other in
            ["", "web-1", "web-1 saw x local y", "HTTP/1.1 200 OK", "a saw 1.1.1.1:1 local"]
        {
            assert_eq!(other.parse::<Sighting>(), Err(NotASighting), "{other:?}");
        }
    }

    #[test]
    fn a_pod_sets_up_associations_on_open_ports_only() {
        let local: SocketAddr = "10.244.1.2:80".parse().expect("a socket address");
        let peer: SocketAddr = "172.18.0.2:10000".parse().expect("a socket address");
        let ask = |open, tag, chunk| {
            let packet = Packet { source: peer.port(), destination: 80, tag, chunk };
            answer_sctp("web-1", open, peer.ip(), local, &packet)
        };
        let refused = ask(false, 0, Chunk::Init { tag: 5 }).expect("an answer");
        assert_eq!((refused.tag, refused.chunk), (5, Chunk::Abort));
        let agreed = ask(true, 0, Chunk::Init { tag: 5 }).expect("an answer");
        assert_eq!((agreed.source, agreed.destination, agreed.tag), (80, peer.port(), 5));
        let Chunk::InitAck { tag, cookie } = agreed.chunk else { panic!("not an INIT ACK") };
        let text = Cookie::parse(&cookie).expect("our cookie").text;
        assert_eq!(text, "web-1 saw 172.18.0.2:10000 local 10.244.1.2:80");
        let wrong_tag = ask(true, tag ^ 1, Chunk::CookieEcho(cookie.clone()));
        assert_eq!(wrong_tag, None, "somebody else's tag is not accepted");
        let done = ask(true, tag, Chunk::CookieEcho(cookie)).expect("an answer");
        assert_eq!((done.tag, done.chunk), (5, Chunk::CookieAck));
    }
}
