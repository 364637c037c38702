//! UDP: each client has its own socket to its endpoint, as long as either of them sends.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustc_hash::FxHashMap;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::client_lru::{Client, Clients};
use super::counters::Count;
use super::descriptors::Taken;
use super::path_probe::{MOST_TRIES, Question};
use super::relay::{Shared, Target};
use sluice_core::net::Protocol;
use sluice_kernel::listen::SocketErrors;
use sluice_kernel::sockets;

/// The longest datagram, and more.
const LONGEST: usize = 64 * 1024;

/// After so many datagrams without a wait, others get their turn.
const BURST: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST]);
}

/// How many bytes may wait on one relay for the kernel to say where to send them from.
const MOST_WAITING: usize = 1 << 20;

/// The memory overhead of a queued datagram, rounded up.
const WAITING: usize = 64;

/// Datagrams of new clients, whose sockets are not there yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: FxHashMap<SocketAddr, Vec<Box<[u8]>>>,
    bytes: usize,
}

impl Waiting {
    /// Keeps a datagram, if there is room.
    fn push(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let bytes = self.bytes + datagram.len() + WAITING;
        let fits = bytes <= MOST_WAITING;
        if fits {
            self.bytes = bytes;
            self.queues.entry(from).or_default().push(datagram.into());
        }
        fits
    }

    fn take(&mut self, from: SocketAddr) -> Vec<Box<[u8]>> {
        let queue = self.queues.remove(&from).unwrap_or_default();
        self.bytes -= queue.iter().map(|datagram| datagram.len() + WAITING).sum::<usize>();
        queue
    }
}

/// The outcome for a datagram of a new client.
enum Admitted {
    /// It can be sent on.
    As(Arc<Client>),
    /// It waits, and is sent on later.
    Later,
    /// It is lost.
    No,
}

/// A socket that clients send to.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) listener: UdpSocket,
    pub(super) at: SocketAddr,
    pub(super) clients: Clients,
    pub(super) waiting: Mutex<Waiting>,
    pub(super) target: Arc<Target>,
    pub(super) shared: Arc<Shared>,
}

/// A socket that is reported readable but is not this many times in a row is broken.
const FALSE_ALARMS: u32 = 16;

/// Relays until the task is ended; clients are dismissed by who ends it.
pub(super) async fn listen(relay: Arc<Relay>) {
    let mut errors = SocketErrors::new(format!("receive datagrams at {}", relay.at));
    let mut alarms = 0;
    loop {
        tokio::select! {
            ready = relay.listener.readable() => if ready.is_err() { return },
            () = relay.shared.closing.cancelled() => return,
        }
        alarms += 1;
        for _ in 0..BURST {
            match relay.take_one() {
                Ok(()) => {
                    alarms = 0;
                    errors.succeeded();
                }
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && alarms < FALSE_ALARMS =>
                {
                    break;
                }
                Err(error) => {
                    errors.failed(&error).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Relay {
    /// Receives one datagram and forwards it.
    fn take_one(self: &Arc<Relay>) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|buffer| {
            let (length, from) = self.listener.try_recv_from(buffer)?;
            if !self.pass_on(from, &buffer[..length]) {
                self.shared.counters.lost_datagrams.increment();
            }
            Ok(())
        })
    }

    /// Sends a datagram on; whether that went well.
    fn pass_on(self: &Arc<Relay>, from: SocketAddr, datagram: &[u8]) -> bool {
        let mut tried = Vec::new();
        let mut client = self.clients.get(from);
        for _ in 0..2 {
            let known = client.take().map(Admitted::As);
            let current = match known.unwrap_or_else(|| self.admit(from, &tried, datagram)) {
                Admitted::As(client) => client,
                Admitted::Later => return true,
                Admitted::No => return false,
            };
            current.touch();
            match sockets::send_now(&current.upstream, datagram) {
                Ok(()) => {
                    self.shared.counters.datagrams_to_endpoints.increment();
                    return true;
                }
                // The previous endpoint did not accept: try another.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.shared.counters.dial_failures.increment();
                    self.clients.remove(&current);
                    current.leave.notify_one();
                    tried.push(current.endpoint);
                }
                Err(_) => return false,
            }
        }
        false
    }

    /// A new client.
    fn admit(
        self: &Arc<Relay>,
        from: SocketAddr,
        tried: &[SocketAddr],
        datagram: &[u8],
    ) -> Admitted {
        let mut waiting = self.waiting();
        if waiting.queues.contains_key(&from) {
            return if waiting.push(from, datagram) { Admitted::Later } else { Admitted::No };
        }
        // It may have been added since the look-up.
        if let Some(client) = self.clients.get(from) {
            return Admitted::As(client);
        }
        let shared = &self.shared;
        let Some(endpoint) = self.target.pick(from.ip(), tried) else { return Admitted::No };
        let Some(taken) = shared.descriptors.try_take(1) else {
            // The next datagram finds room.
            shared.descriptors.used_up();
            shared.lru.shrink(&shared.counters);
            return Admitted::No;
        };
        if self.target.probe(from.ip(), endpoint, shared).is_some() {
            if !waiting.push(from, datagram) {
                return Admitted::No;
            }
            tokio::spawn(Arc::clone(self).admit_later(from, endpoint, taken));
            return Admitted::Later;
        }
        drop(waiting);
        match sockets::udp_to(endpoint, self.target.mark) {
            Ok(upstream) => {
                let client = Client::new(from, endpoint, upstream, taken);
                self.enter(&client);
                Admitted::As(client)
            }
            Err(error) => {
                self.failed(endpoint, &error);
                Admitted::No
            }
        }
    }

    /// A new client in whose name the relay stands before the endpoint, once it is known how.
    async fn admit_later(self: Arc<Relay>, from: SocketAddr, endpoint: SocketAddr, taken: Taken) {
        let opened = self.open(from, endpoint).await;
        // Kept until the client is known: what it sends meanwhile waits for this.
        let mut waiting = self.waiting();
        let queue = waiting.take(from);
        let lost = match opened {
            Ok(upstream) => {
                let client = Client::new(from, endpoint, upstream, taken);
                client.touch();
                let send = |datagram: &[u8]| sockets::send_now(&client.upstream, datagram).is_ok();
                let sent = queue.iter().filter(|datagram| send(datagram)).count();
                self.shared.counters.datagrams_to_endpoints.add(sent);
                self.enter(&client);
                queue.len() - sent
            }
            Err(error) => {
                self.failed(endpoint, &error);
                queue.len()
            }
        };
        self.shared.counters.lost_datagrams.add(lost);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, a client is known.
    fn enter(self: &Arc<Relay>, client: &Arc<Client>) {
        self.clients.add(client);
        self.shared.lru.admit(client, &self.shared.counters);
        tokio::spawn(answers(Arc::clone(self), Arc::clone(client)));
    }

    fn failed(&self, endpoint: SocketAddr, error: &io::Error) {
        if sockets::is_shortage(error) {
            self.shared.descriptors.used_up();
        }
        tracing::debug!(%endpoint, %error, "cannot send to an endpoint");
    }

    /// A client's socket to an endpoint, with the client's address if possible.
    async fn open(&self, client: SocketAddr, endpoint: SocketAddr) -> io::Result<UdpSocket> {
        let mark = self.target.mark;
        let question = Question { protocol: Protocol::Udp, client, endpoint };
        let mut tried = Vec::new();
        while tried.len() < MOST_TRIES {
            let source = match &self.shared.probe {
                Some(probe) => probe.source(question, &tried).await,
                None => None,
            };
            let Some(source) = source else { return sockets::udp_to(endpoint, mark) };
            match sockets::udp_from(source, endpoint, mark) {
                Err(error) if sockets::is_taken(&error) => tried.push(source),
                opened => return opened,
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

/// Forwards replies to a client until it is evicted or times out.
async fn answers(relay: Arc<Relay>, client: Arc<Client>) {
    let options = relay.shared.options;
    let counters = Arc::as_ref(&relay.shared.counters);
    let _active = Count::one(counters, |counters| &counters.active_clients);
    let idle = |client: &Client| {
        let patience =
            if client.is_answered() { options.udp_answered_timeout } else { options.udp_timeout };
        client.last() + patience
    };
    let mut gone = std::pin::pin!(relay.target.outlived(client.endpoint));
    let mut alarm = std::pin::pin!(tokio::time::sleep_until(idle(&client).into()));
    loop {
        tokio::select! {
            heard = heard(&client.upstream) => {
                let carried = match heard {
                    Ok(()) => relay.answer_all(&client).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = carried {
                    relay.tell(&client, &error);
                    break;
                }
            }
            () = &mut alarm => {
                let at = idle(&client);
                if at <= Instant::now() {
                    break;
                }
                alarm.as_mut().reset(at.into());
            }
            () = client.leave.notified() => break,
            () = &mut gone => break,
        }
    }
    relay.clients.remove(&client);
}

/// Waits for datagrams from an endpoint, or for the error that one to it has met: that alone does not
/// make a socket readable.
async fn heard(upstream: &UdpSocket) -> io::Result<()> {
    loop {
        let ready = upstream.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            if let Some(error) = upstream.take_error()? {
                return Err(error);
            }
            let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = upstream.try_io(Interest::ERROR, seen);
        }
        if ready.is_readable() {
            return Ok(());
        }
    }
}

impl Relay {
    /// Passes an error on to a client.
    fn tell(&self, client: &Client, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.shared.counters.dial_failures.increment();
            self.shared.tell_unreachable(client.address, self.at);
        }
    }

    /// Carries what has arrived for a client.
    async fn answer_all(&self, client: &Client) -> io::Result<()> {
        for _ in 0..BURST {
            match self.answer_one(client) {
                Ok(None) => client.answer(),
                Ok(Some(waiting)) => {
                    client.answer();
                    self.listener
                        .send_to(&waiting, client.address)
                        .await
                        .map(drop)
                        .or_else(passing)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            self.shared.counters.datagrams_to_clients.increment();
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Carries one datagram to a client, or gives it back if it has to wait.
    fn answer_one(&self, client: &Client) -> io::Result<Option<Vec<u8>>> {
        SCRATCH.with_borrow_mut(|buffer| {
            let length = client.upstream.try_recv(buffer)?;
            match self.listener.try_send_to(&buffer[..length], client.address) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Ok(Some(buffer[..length].to_vec()))
                }
                Err(error) => passing(error).map(|()| None),
                Ok(_) => Ok(None),
            }
        })
    }
}

/// An error of one datagram to a client does not concern the next one: errors of the shared socket may be
/// another client's.
fn passing(error: io::Error) -> io::Result<()> {
    tracing::debug!(%error, "an answer was lost");
    Ok(())
}
