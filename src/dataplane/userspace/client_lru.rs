//! UDP clients: their timeouts, and which is evicted when there are too many.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::counters::Counters;
use super::descriptors::Taken;

/// How many UDP clients there may be at a time, on all relays together, if descriptors suffice.
const MOST_CLIENTS: usize = 16 * 1024;

/// Clients use up at most one in so many descriptors.
const SHARE: usize = 4;

/// A UDP client, and its socket to an endpoint.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) endpoint: SocketAddr,
    pub(super) upstream: UdpSocket,
    /// Signals the end.
    pub(super) leave: Notify,
    answered: AtomicBool,
    /// The time of its last datagram, in milliseconds after `since`.
    used: AtomicU64,
    since: Instant,
    _taken: Taken,
}

impl Client {
    pub(super) fn new(
        address: SocketAddr,
        endpoint: SocketAddr,
        upstream: UdpSocket,
        taken: Taken,
    ) -> Arc<Client> {
        Arc::new(Client {
            address,
            endpoint,
            upstream,
            leave: Notify::new(),
            answered: AtomicBool::new(false),
            used: AtomicU64::new(0),
            since: Instant::now(),
            _taken: taken,
        })
    }

    /// There was a datagram.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(now, Relaxed);
    }

    /// The endpoint has answered.
    pub(super) fn answer(&self) {
        self.answered.store(true, Relaxed);
        self.touch();
    }

    /// Whether it was ever answered.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// The time of its last datagram.
    pub(super) fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.used.load(Relaxed))
    }
}

/// The clients of one relay.
#[derive(Debug, Default)]
pub(super) struct Clients {
    map: Mutex<FxHashMap<SocketAddr, Arc<Client>>>,
    /// Who comes now must go at once.
    dismissed: AtomicBool,
}

impl Clients {
    fn map(&self) -> MutexGuard<'_, FxHashMap<SocketAddr, Arc<Client>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, address: SocketAddr) -> Option<Arc<Client>> {
        self.map().get(&address).cloned()
    }

    pub(super) fn add(&self, client: &Arc<Client>) {
        let mut map = self.map();
        map.insert(client.address, Arc::clone(client));
        if self.dismissed.load(Relaxed) {
            client.leave.notify_one();
        }
    }

    /// Forgets a client, unless another one has its address by now.
    pub(super) fn remove(&self, client: &Arc<Client>) {
        let mut map = self.map();
        if map.get(&client.address).is_some_and(|known| Arc::ptr_eq(known, client)) {
            map.remove(&client.address);
            // After a flood, memory goes back.
            if map.len() < map.capacity() / 8 {
                map.shrink_to_fit();
            }
        }
    }

    /// Tells all of them to end, and those that are still to come.
    pub(super) fn dismiss(&self) {
        let map = self.map();
        self.dismissed.store(true, Relaxed);
        map.values().for_each(|client| client.leave.notify_one());
    }
}

/// The clients of all relays in the order of arrival. Approximately the client that has been silent longest
/// is evicted for a new one (second-chance page replacement).
#[derive(Debug)]
pub(super) struct ClientLru {
    most: usize,
    queue: Mutex<VecDeque<(Weak<Client>, Instant)>>,
    said: Once,
}

impl ClientLru {
    /// For a process with so many descriptors.
    pub(super) fn new(descriptors: usize) -> ClientLru {
        let most = MOST_CLIENTS.min(descriptors / SHARE).max(1);
        ClientLru { most, queue: Mutex::default(), said: Once::new() }
    }

    /// A client came; another one may have to go.
    pub(super) fn admit(&self, client: &Arc<Client>, counters: &Counters) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back((Arc::downgrade(client), client.last()));
        if counters.active_clients.get() > u64::try_from(self.most).unwrap_or(u64::MAX) {
            dismiss_one(&mut queue);
            counters.evictions.increment();
            self.said.call_once(|| {
                tracing::warn!(
                    clients = self.most,
                    "as many UDP clients as there may be: from now on those that are silent longest \
                     make room for new ones"
                );
            });
        }
        if queue.len() > 2 * self.most {
            queue.retain(|(client, _)| client.strong_count() > 0);
        }
    }

    /// Evicts a client because descriptors are short; returns whether there was one.
    pub(super) fn shrink(&self, counters: &Counters) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let found = dismiss_one(&mut queue);
        if found {
            counters.evictions.increment();
        }
        found
    }
}

fn dismiss_one(queue: &mut VecDeque<(Weak<Client>, Instant)>) -> bool {
    // Each client has at most one second chance.
    for _ in 0..2 * queue.len() {
        let Some((client, seen)) = queue.pop_front() else { return false };
        let Some(alive) = client.upgrade() else { continue };
        let last = alive.last();
        if last > seen {
            queue.push_back((client, last));
        } else {
            alive.leave.notify_one();
            return true;
        }
    }
    false
}
