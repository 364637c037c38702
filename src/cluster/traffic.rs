//! Probes: single connections from any host of the lab, and their outcome.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use nix::errno::Errno;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::host::Host;
use super::netns;
use super::pod::Sighting;
use super::sctp::{Chunk, Cookie, Packet};
use super::sctp_socket::{NEWS, SctpSocket, new_tag, report_icmp_errors};
use sluice_core::net::{Family, Protocol};

/// The default timeout of a probe. On the lab's network an answer takes far less than a millisecond, but on a busy
/// machine programs wait for a processor.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections [`Host::spread`] opens concurrently.
const PARALLEL: usize = 64;

/// How many source ports are tried when one is in use.
const PORT_ATTEMPTS: u8 = 16;

/// Longest datagram that is read.
const LONGEST: usize = 2048;

/// Why a probe could not be sent; failures in the network are an [`Answer`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// The host is gone.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// There is no socket for it.
    #[error("open a {protocol} socket to {destination}: {source}")]
    Open { protocol: Protocol, destination: SocketAddr, source: io::Error },
    /// The source is not available.
    #[error("send from {address}: {source}; is it an address of the host, and the port free?")]
    Bind { address: SocketAddr, source: io::Error },
}

/// One connection attempt: a TCP connection, a UDP datagram or an SCTP association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Where it is sent to; a Service or an endpoint.
    pub destination: SocketAddr,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// The source address; the kernel chooses one if there is none.
    pub source: Option<IpAddr>,
    /// The source port; a fresh one if there is none.
    pub source_port: Option<u16>,
}

impl Probe {
    /// A probe with the default timeout, from any source.
    pub fn new(protocol: Protocol, destination: SocketAddr) -> Probe {
        let timeout = DEFAULT_TIMEOUT;
        Probe { protocol, destination, timeout, source: None, source_port: None }
    }

    /// A TCP connection.
    pub fn tcp(destination: SocketAddr) -> Probe {
        Probe::new(Protocol::Tcp, destination)
    }

    /// A UDP datagram.
    pub fn udp(destination: SocketAddr) -> Probe {
        Probe::new(Protocol::Udp, destination)
    }

    /// An SCTP association.
    pub fn sctp(destination: SocketAddr) -> Probe {
        Probe::new(Protocol::Sctp, destination)
    }

    /// The same with another timeout.
    pub fn timeout(self, timeout: Duration) -> Probe {
        Probe { timeout, ..self }
    }

    /// The same from a certain address of the host.
    pub fn from_ip(self, source: IpAddr) -> Probe {
        Probe { source: Some(source), ..self }
    }

    /// The same from a certain port.
    pub fn from_port(self, port: u16) -> Probe {
        Probe { source_port: Some(port), ..self }
    }
}

/// The outcome of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A pod answered.
    Answered {
        /// The pod.
        by: String,
        /// The source that the pod saw.
        saw: SocketAddr,
        /// The pod's own address that the probe arrived at.
        local: SocketAddr,
    },
    /// Rejected: TCP reset, SCTP abort, or ICMP "port unreachable" or
    /// "protocol unreachable".
    Refused,
    /// Unreachable, according to a router or the host's routes. The error number is the kernel's: for a pod address that
    /// no pod has, `EHOSTUNREACH` in IPv4 and `ENETUNREACH` in IPv6.
    Unreachable(Errno),
    /// No answer before the timeout.
    Silent,
    /// A TCP connection was established, and closed before a pod answered.
    Closed,
    /// The answer is not from a pod of the lab.
    Foreign(String),
}

impl Answer {
    /// The name of the pod that answered, if one did.
    pub fn by(&self) -> Option<&str> {
        match self {
            Answer::Answered { by, .. } => Some(by),
            _ => None,
        }
    }

    /// The address that the pod saw, if one answered.
    pub fn saw(&self) -> Option<SocketAddr> {
        match self {
            Answer::Answered { saw, .. } => Some(*saw),
            _ => None,
        }
    }

    pub(super) fn from_line(line: &str) -> Answer {
        match line.parse() {
            Ok(Sighting { by, saw, local }) => Answer::Answered { by, saw, local },
            Err(_) => Answer::Foreign(line.to_owned()),
        }
    }

    /// The outcome for an error that the network caused, not the probe itself.
    fn from_error(error: &io::Error) -> Answer {
        match error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw) {
            // EPROTO is the error for ICMPv6 "unrecognized next header", the counterpart of
            // ICMP "protocol unreachable" (icmpv6_err_convert in net/ipv6/icmp.c).
            Errno::ECONNREFUSED | Errno::ENOPROTOOPT | Errno::EPROTO => Answer::Refused,
            Errno::ETIMEDOUT => Answer::Silent,
            errno => Answer::Unreachable(errno),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Answered { by, saw, .. } => write!(f, "answered by {by}, which saw {saw}"),
            Answer::Refused => f.write_str("refused"),
            Answer::Unreachable(errno) => write!(f, "unreachable ({})", errno.desc()),
            Answer::Silent => f.write_str("silent"),
            Answer::Closed => f.write_str("closed without an answer"),
            Answer::Foreign(text) => write!(f, "answered by something else: {text:?}"),
        }
    }
}

/// How many probes each pod answered, and the outcome of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers by the name of the pod.
    pub answered: BTreeMap<String, u64>,
    /// Failures by outcome, in [`Answer`]'s text form.
    pub failed: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, answer: &Answer) {
        match answer {
            Answer::Answered { by, .. } => *self.answered.entry(by.clone()).or_default() += 1,
            other => self.fail(other.to_string()),
        }
    }

    /// How many were answered.
    pub fn successes(&self) -> u64 {
        self.answered.values().sum()
    }

    /// How many were not.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    pub(super) fn fail(&mut self, how: String) {
        *self.failed.entry(how).or_default() += 1;
    }
}

impl Host {
    /// Sends one probe from this host and waits for its outcome.
    pub fn probe(&self, probe: &Probe) -> Result<Answer, Error> {
        let (host, probe) = (self.clone(), *probe);
        self.namespace().block_on(async move { ask(&host, &probe).await })?
    }

    /// Opens `count` connections, some concurrently, each from another source port, and counts the answers by pod.
    ///
    /// Source ports are reused after 20,000 probes from a host; conntrack may then still have a UDP flow with the old
    /// translation.
    pub fn spread(&self, probe: &Probe, count: usize) -> Result<Tally, Error> {
        let (host, probe) = (self.clone(), *probe);
        self.namespace().block_on(async move {
            let asked = futures::stream::iter(0..count).map(|_| ask(&host, &probe));
            let mut answers = asked.buffer_unordered(PARALLEL);
            let mut tally = Tally::default();
            while let Some(answer) = answers.next().await {
                tally.add(&answer?);
            }
            Ok(tally)
        })?
    }
}

/// Sends a probe, in a task of the host's own thread.
pub(super) async fn ask(host: &Host, probe: &Probe) -> Result<Answer, Error> {
    match probe.protocol {
        Protocol::Tcp => Ok(match dial(host, probe).await? {
            Ok(dialled) => dialled.answer,
            Err(answer) => answer,
        }),
        Protocol::Udp => ask_udp(host, probe).await,
        Protocol::Sctp => ask_sctp(host, probe).await,
    }
}

/// A TCP connection with an answer.
pub(super) struct Dialled {
    pub(super) stream: BufReader<TcpStream>,
    pub(super) answer: Answer,
}

/// Opens a TCP connection and reads the first line; without one, returns the outcome. The connection ends with a
/// reset, so that neither side keeps it in TIME_WAIT.
pub(super) async fn dial(host: &Host, probe: &Probe) -> Result<Result<Dialled, Answer>, Error> {
    let family = Family::of(probe.destination.ip());
    let open = || match family {
        Family::V4 => TcpSocket::new_v4(),
        Family::V6 => TcpSocket::new_v6(),
    };
    let socket = bound(host, probe, |at| {
        let socket = open().map_err(|source| not_open(probe, source))?;
        let ready = report_icmp_errors(&socket, family)
            .and_then(|()| socket.set_zero_linger())
            .and_then(|()| socket.set_reuseaddr(true));
        ready.map_err(|source| not_open(probe, source))?;
        Ok(socket.bind(at).map(|()| socket))
    })?;
    let talk = async {
        let stream = socket.connect(probe.destination).await.map_err(|e| Answer::from_error(&e))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(length) if length > 0 => Ok(Dialled { stream, answer: Answer::from_line(&line) }),
            _ => Err(Answer::Closed),
        }
    };
    Ok(tokio::time::timeout(probe.timeout, talk).await.unwrap_or(Err(Answer::Silent)))
}

async fn ask_udp(host: &Host, probe: &Probe) -> Result<Answer, Error> {
    let family = Family::of(probe.destination.ip());
    let domain = Domain::for_address(probe.destination);
    let socket = bound(host, probe, |at| {
        let socket =
            Socket::new(domain, Type::DGRAM, None).map_err(|source| not_open(probe, source))?;
        Ok(socket.bind(&at.into()).map(|()| socket))
    })?;
    let open = report_icmp_errors(&socket, family).and_then(|()| socket.set_nonblocking(true));
    let open = open.and_then(|()| match socket.connect(&probe.destination.into()) {
        Ok(()) => UdpSocket::from_std(socket.into()).map(Ok),
        Err(error) => Ok(Err(Answer::from_error(&error))),
    });
    let socket = match open.map_err(|source| not_open(probe, source))? {
        Ok(socket) => socket,
        Err(answer) => return Ok(answer),
    };
    let mut bytes = [0; LONGEST];
    let talk = async {
        unless_dropped(socket.send(b"who are you?\n").await.map(drop))?;
        socket.async_io(NEWS, || (&*SockRef::from(&socket)).read(&mut bytes)).await
    };
    Ok(match tokio::time::timeout(probe.timeout, talk).await {
        Ok(Ok(length)) => Answer::from_line(&String::from_utf8_lossy(&bytes[..length])),
        Ok(Err(error)) => Answer::from_error(&error),
        Err(_) => Answer::Silent,
    })
}

async fn ask_sctp(host: &Host, probe: &Probe) -> Result<Answer, Error> {
    let port = probe.source_port.unwrap_or_else(|| host.next_port());
    let socket = match SctpSocket::connect(probe.source, port, probe.destination.ip()) {
        Ok(socket) => socket,
        Err(source) if matches!(source.raw_os_error(), Some(libc::EADDRNOTAVAIL)) => {
            let address =
                SocketAddr::new(probe.source.unwrap_or_else(|| probe.destination.ip()), port);
            return Err(Error::Bind { address, source });
        }
        Err(source) if matches!(source.raw_os_error(), Some(libc::EPERM | libc::EMFILE)) => {
            return Err(not_open(probe, source));
        }
        Err(error) => return Ok(Answer::from_error(&error)),
    };
    let talk = set_up_association(&socket, port, probe.destination.port());
    Ok(tokio::time::timeout(probe.timeout, talk).await.unwrap_or(Answer::Silent))
}

/// Goes through the handshake, and ends the association once it is set up.
async fn set_up_association(socket: &SctpSocket, source: u16, destination: u16) -> Answer {
    let tag = new_tag();
    let packet = |tag, chunk| Packet { source, destination, tag, chunk };
    if let Err(error) = unless_dropped(socket.send(&packet(0, Chunk::Init { tag })).await) {
        return Answer::from_error(&error);
    }
    let mut agreed = None;
    loop {
        let reply = match socket.receive().await {
            Ok((_, reply)) => reply,
            Err(_) => match icmp_error_about(socket, source, destination) {
                Some(error) => return Answer::from_error(&error),
                None => continue,
            },
        };
        // A late answer to an earlier probe from this port has that one's tag.
        if (reply.source, reply.tag) != (destination, tag) {
            continue;
        }
        let next = match (reply.chunk, &agreed) {
            (Chunk::Abort, _) => return Answer::Refused,
            (Chunk::InitAck { tag: peer_tag, cookie }, None) => {
                let Some(text) = Cookie::parse(&cookie).map(|cookie| cookie.text) else {
                    return Answer::Foreign(String::from_utf8_lossy(&cookie).into_owned());
                };
                agreed = Some((peer_tag, text));
                packet(peer_tag, Chunk::CookieEcho(cookie))
            }
            (Chunk::CookieAck, Some((peer_tag, text))) => {
                // For a short timeout in conntrack; it need not arrive.
                let _ = socket.send(&packet(*peer_tag, Chunk::Abort)).await;
                return Answer::from_line(text);
            }
            _ => continue,
        };
        if let Err(error) = unless_dropped(socket.send(&next).await) {
            return Answer::from_error(&error);
        }
    }
}

/// Ignores the error that the kernel returns when a rule of this host drops a sent packet: a rule that rejects
/// returns it, too, and is followed by an answer.
fn unless_dropped(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => other,
    }
}

/// The ICMP error about a packet between two ports, if any: the socket receives the errors of all probes to the
/// same peer.
fn icmp_error_about(socket: &SctpSocket, source: u16, destination: u16) -> Option<io::Error> {
    let errors = std::iter::from_fn(|| socket.next_icmp_error());
    let mut ours = errors.filter(|(_, ports)| *ports == (source, destination));
    ours.next().map(|(errno, _)| io::Error::from_raw_os_error(errno))
}

/// A socket bound to the probe's source: with the wanted port, or else with the next free one.
fn bound<S>(
    host: &Host,
    probe: &Probe,
    open_at: impl Fn(SocketAddr) -> Result<io::Result<S>, Error>,
) -> Result<S, Error> {
    let any = Family::of(probe.destination.ip()).unspecified();
    let ip = probe.source.unwrap_or(any);
    let mut attempts = PORT_ATTEMPTS;
    loop {
        let port = probe.source_port.unwrap_or_else(|| host.next_port());
        let address = SocketAddr::new(ip, port);
        attempts -= 1;
        match open_at(address)? {
            Ok(socket) => return Ok(socket),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && probe.source_port.is_none()
                    && attempts > 0 => {}
            Err(source) => return Err(Error::Bind { address, source }),
        }
    }
}

fn not_open(probe: &Probe, source: io::Error) -> Error {
    Error::Open { protocol: probe.protocol, destination: probe.destination, source }
}
