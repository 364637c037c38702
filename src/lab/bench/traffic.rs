//! Traffic through rules that stand: first packets, connections, bulk, and questions with answers.
//!
//! Ways take turns in windows of less than a second. The way without a proxy is on a node of its
//! own, which tracks no connections: it is what the network itself costs.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::plan::Direct;
use super::results::{Program, Quantity, Subject};
use super::server::{ECHO, SINK, WHO};
use super::session::{Failure, Session};
use super::world::{Error, Stage, State, World};
use sluice_cluster::Pod;
use sluice_core::net::Protocol;

/// What is sent at once in bulk.
const CHUNK: usize = 256 * 1024;

/// Streams that are many.
const STREAMS: usize = 64;

/// New flows in a window.
const FLOWS: usize = 500;

/// Questions in a window.
const QUESTIONS: usize = 500;

/// The length of a question, and of its answer.
const QUESTION: usize = 64;

/// Services that traffic goes to.
const SPREAD: usize = 1000;

/// Windows that may fail before a way is given up.
const FAILURES: usize = 3;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Source ports of first packets: below those that the kernel chooses itself.
const FLOW_PORTS: std::ops::Range<u16> = 10_000..30_000;

/// What traffic shows.
const QUANTITIES: [Quantity; 5] = [
    Quantity::FirstPacket,
    Quantity::ConnectionRate,
    Quantity::BulkOneStream,
    Quantity::BulkManyStreams,
    Quantity::RoundTrip,
];

/// A way to the endpoints.
struct Way {
    subject: Subject,
    client: Pod,
    swallowed: Arc<AtomicU64>,
    /// Where it leads to, by TCP and by UDP.
    streams: Vec<SocketAddrV4>,
    datagrams: Vec<SocketAddrV4>,
    /// How many flows there have been.
    flows: usize,
    failures: usize,
}

impl Way {
    fn new(
        subject: Subject,
        stage: &Stage,
        streams: Vec<SocketAddrV4>,
        udp: Vec<SocketAddrV4>,
    ) -> Way {
        Way {
            subject,
            client: stage.client.clone(),
            swallowed: Arc::clone(&stage.swallowed),
            streams,
            datagrams: udp,
            flows: 0,
            failures: 0,
        }
    }

    fn first(&self) -> io::Result<SocketAddrV4> {
        self.streams.first().copied().ok_or_else(|| io::Error::other("there is no Service of TCP"))
    }
}

/// Measures all ways in turn.
pub(super) fn measure(session: &mut Session<'_>, world: &World, until: Instant) {
    let quantities: Vec<Quantity> =
        QUANTITIES.into_iter().filter(|quantity| session.plan.wants(*quantity)).collect();
    let mut ways = ways(session, world);
    let rounds = session.plan.repeat;
    for round in 0..rounds {
        for &quantity in &quantities {
            for way in ways.iter_mut().filter(|way| way.failures < FAILURES) {
                if Instant::now() >= until {
                    continue;
                }
                session.say(quantity.title(), &way.subject, round + 1, rounds);
                match window(way, quantity, session.plan.window) {
                    Ok(samples) => session.add(&way.subject, quantity, world.scale, samples),
                    Err(failure) => {
                        way.failures += 1;
                        let (subject, services) = (&way.subject, Some(world.scale.services));
                        let reason = format!("in window {} of {rounds}: {failure}", round + 1);
                        session.record.leave_out(subject, Some(quantity), services, reason);
                    }
                }
            }
        }
    }
    for way in ways.iter().filter(|way| way.failures == 0) {
        for &quantity in &quantities {
            session.check_count(&way.subject, quantity, world.scale, rounds);
        }
    }
}

fn ways(session: &Session<'_>, world: &World) -> Vec<Way> {
    let scale = world.scale;
    let mut ways = Vec::new();
    if session.plan.direct == Direct::Measured {
        let guest = session.plan.guest.clone();
        let subject = Subject { program: Program::Direct, mode: String::new(), guest };
        let to = scale.direct(SPREAD);
        ways.push(Way::new(subject, &world.direct, to.clone(), to));
    }
    for arena in world.arenas.iter().filter(|arena| arena.state == State::In) {
        let Some(stage) = &arena.stage else { continue };
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|p| scale.spread(p, SPREAD));
        ways.push(Way::new(arena.contestant.subject.clone(), stage, tcp, udp));
    }
    ways
}

fn window(way: &mut Way, quantity: Quantity, length: Duration) -> Result<Vec<f64>, Failure> {
    let client = way.client.clone();
    let measure = || match quantity {
        Quantity::FirstPacket => first_packets(way),
        Quantity::ConnectionRate => connections(way, length).map(|rate| vec![rate]),
        Quantity::BulkOneStream => bulk(way, 1, length).map(|rate| vec![rate]),
        Quantity::BulkManyStreams => bulk(way, STREAMS, length).map(|rate| vec![rate]),
        _ => questions(way),
    };
    let measured = client.namespace().run(measure).map_err(Error::from)?;
    Ok(measured.map_err(Error::Traffic)?)
}

/// The time from the first datagram of each flow to its answer. Each has a source port whose last flow
/// connection tracking has forgotten.
fn first_packets(way: &mut Way) -> io::Result<Vec<f64>> {
    let ports = usize::from(FLOW_PORTS.end - FLOW_PORTS.start);
    let mut times = Vec::with_capacity(FLOWS);
    if way.datagrams.is_empty() {
        return Err(io::Error::other("there is no Service of UDP"));
    }
    for _ in 0..FLOWS {
        let offset = u16::try_from(way.flows % ports).unwrap_or(0);
        let to = way.datagrams[way.flows % way.datagrams.len()];
        way.flows += 1;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, FLOW_PORTS.start + offset))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        let (begun, mut answer) = (Instant::now(), [0; 8]);
        socket.send(&[1])?;
        socket.recv(&mut answer).map_err(|error| at(to, &error))?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Connections one after the other, each to another Service: opened, one byte there, four bytes back,
/// closed by the server first. So what a closed connection leaves is at the server, and the client's
/// ports are free at once.
fn connections(way: &Way, length: Duration) -> io::Result<f64> {
    let (begun, mut count) = (Instant::now(), 0_u32);
    for &to in way.streams.iter().cycle() {
        if begun.elapsed() >= length {
            break;
        }
        let mut connection = connect(to, WHO)?;
        let mut answer = [0; 8];
        let mut read = 0;
        while let n @ 1.. = connection.read(&mut answer[read..]).map_err(|e| at(to, &e))? {
            read += n;
        }
        if read != 4 {
            return Err(at(to, &io::ErrorKind::UnexpectedEof.into()));
        }
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// Bits per second that arrive, after a quarter of the window for the streams to get going.
fn bulk(way: &Way, streams: usize, length: Duration) -> io::Result<f64> {
    let to = way.first()?;
    let connections =
        (0..streams).map(|_| connect(to, SINK)).collect::<io::Result<Vec<TcpStream>>>()?;
    let stop = AtomicBool::new(false);
    let send = |mut connection: TcpStream| {
        let chunk = vec![7; CHUNK];
        while !stop.load(Relaxed) {
            if connection.write_all(&chunk).is_err() {
                return;
            }
        }
        // What is still on its way arrives before the next window begins; the server closes at its end.
        let _ = connection.shutdown(Shutdown::Write);
        let _ = connection.read(&mut [0]);
    };
    std::thread::scope(|scope| {
        for connection in connections {
            scope.spawn(|| send(connection));
        }
        std::thread::sleep(length / 4);
        let (before, begun) = (way.swallowed.load(Relaxed), Instant::now());
        std::thread::sleep(length);
        let bytes = way.swallowed.load(Relaxed) - before;
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        Ok(8.0 * bytes as f64 / seconds)
    })
}

/// Questions of 64 bytes on one connection, each after the answer to the one before.
fn questions(way: &Way) -> io::Result<Vec<f64>> {
    let to = way.first()?;
    let mut connection = connect(to, ECHO)?;
    let mut times = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        let (begun, mut answer) = (Instant::now(), [0; QUESTION]);
        connection.write_all(&[1; QUESTION])?;
        connection.read_exact(&mut answer).map_err(|error| at(to, &error))?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(times)
}

fn connect(to: SocketAddrV4, command: u8) -> io::Result<TcpStream> {
    let connected = TcpStream::connect_timeout(&to.into(), PATIENCE);
    let mut connection = connected.map_err(|error| at(to, &error))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(&[command]).map_err(|error| at(to, &error))?;
    Ok(connection)
}

fn at(to: SocketAddrV4, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{to}: {error}"))
}
