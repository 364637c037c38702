//! When does a Service answer? Connections that are begun at short intervals until one is answered as
//! it should.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};

use super::server::WHO;

/// How long a connection is waited for. A lost SYN comes again after a second at the earliest: by
/// then the next connections are there.
const ATTEMPT: Duration = Duration::from_millis(250);

/// So many connections are on their way at most.
const AT_ONCE: usize = 256;

/// Source ports.
const PORTS: Range<u16> = 2_000..30_000;

/// The interval between connections is this fraction of the time that has passed: the figure is exact to
/// 1 %, and probing does not slow down a slow proxy.
const GRAIN: u32 = 100;

/// Asks at intervals of `grain` (or 1 % of the time since `since`, if that is more) until an endpoint
/// answers that `accept` wants, and says when that was; nothing if `until` has passed. To be
/// called in the client's network namespace.
pub(super) fn until_answer(
    to: SocketAddrV4,
    since: Instant,
    until: Instant,
    grain: Duration,
    accept: impl Fn(Ipv4Addr) -> bool,
) -> io::Result<Option<Instant>> {
    let mut attempts: VecDeque<Attempt> = VecDeque::new();
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        if now >= until {
            return Ok(None);
        }
        attempts.retain(|attempt| now - attempt.begun < ATTEMPT);
        if now >= next && attempts.len() < AT_ONCE {
            attempts.push_back(Attempt::begin(to, now)?);
            next = now + grain.max(now.saturating_duration_since(since) / GRAIN);
        }
        let pause = next.saturating_duration_since(Instant::now());
        wait(&attempts, pause.max(Duration::from_micros(20)))?;
        let mut answered = false;
        attempts.retain_mut(|attempt| match attempt.proceed() {
            Progress::Waits => true,
            Progress::Answered(by) => {
                answered |= accept(by);
                false
            }
            Progress::Failed => false,
        });
        if answered {
            return Ok(Some(Instant::now()));
        }
    }
}

/// Waits until something happens on one of the connections, but not longer than `pause`.
fn wait(attempts: &VecDeque<Attempt>, pause: Duration) -> io::Result<()> {
    let mut sockets: Vec<PollFd<'_>> = attempts
        .iter()
        .map(|attempt| {
            let what = if attempt.asked { PollFlags::POLLIN } else { PollFlags::POLLOUT };
            PollFd::new(attempt.socket.as_fd(), what)
        })
        .collect();
    match ppoll(&mut sockets, Some(TimeSpec::from_duration(pause)), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// One connection.
struct Attempt {
    socket: Socket,
    begun: Instant,
    asked: bool,
}

/// The state of a connection.
enum Progress {
    Waits,
    Answered(Ipv4Addr),
    Failed,
}

impl Attempt {
    fn begin(to: SocketAddrV4, begun: Instant) -> io::Result<Attempt> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port())).into())?;
        // Closed with a reset, so that thousands of connections leave no TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&SocketAddr::V4(to).into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
                // Refused at once: the attempt fails at the next poll.
            }
            _ => {}
        }
        Ok(Attempt { socket, begun, asked: false })
    }

    fn proceed(&mut self) -> Progress {
        if !self.asked {
            match (self.socket.take_error(), (&self.socket).write(&[WHO])) {
                (Ok(None), Ok(_)) => self.asked = true,
                (Ok(None), Err(error)) if is_early(&error) => return Progress::Waits,
                _ => return Progress::Failed,
            }
        }
        let mut answer = [0; 4];
        match (&self.socket).read(&mut answer) {
            Ok(4) => Progress::Answered(Ipv4Addr::from(answer)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Progress::Waits,
            _ => Progress::Failed,
        }
    }
}

/// A source port. Where connection tracking sees a connection before there are rules, it remembers for
/// two minutes that nothing is translated for that port: traffic that comes later must not have the
/// same one, so these are not those that the kernel chooses itself.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    PORTS.start + NEXT.fetch_add(1, Relaxed) % (PORTS.end - PORTS.start)
}

/// Whether a connection is in progress: a non-blocking connect returns either error.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
