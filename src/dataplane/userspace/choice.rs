//! The choice of endpoints: random with equal probability, or with session affinity the client's last one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};

/// The maximum number of affinity entries of a relay; beyond that, new clients have no affinity.
const MOST_CLIENTS: usize = 1 << 18;

/// The number of affinity entries before expired ones are first removed.
const FIRST_SWEEP: usize = 1024;

/// The endpoints of a pool, and who uses which.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pool: Vec<SocketAddr>,
    memory: Option<Memory>,
}

/// Session affinity.
#[derive(Debug)]
struct Memory {
    timeout: Duration,
    clients: FxHashMap<IpAddr, Remembered>,
    /// At this number of clients those that have expired are taken out.
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    endpoint: SocketAddr,
    until: Instant,
}

impl Choice {
    /// Sets another pool, and the affinity timeout in seconds. Affinity entries of removed endpoints are
    /// deleted.
    pub(super) fn update(&mut self, pool: Vec<SocketAddr>, affinity: Option<u32>) {
        let memory = self.memory.take();
        self.memory = affinity.map(|timeout| {
            let timeout = Duration::from_secs(u64::from(timeout));
            let known = memory.map(|memory| memory.clients).unwrap_or_default();
            Memory { timeout, clients: known, sweep_at: FIRST_SWEEP }
        });
        if let Some(memory) = &mut self.memory {
            let stays: FxHashSet<SocketAddr> = pool.iter().copied().collect();
            memory.clients.retain(|_, known| stays.contains(&known.endpoint));
            memory.sweep_at = FIRST_SWEEP.max(2 * memory.clients.len());
        }
        self.pool = pool;
    }

    /// An endpoint for a new connection of a client, none of those that were `tried` for it while
    /// there are others. `draw` gives a random number below its argument.
    pub(super) fn pick(
        &mut self,
        client: IpAddr,
        now: Instant,
        tried: &[SocketAddr],
        draw: impl FnOnce(usize) -> usize,
    ) -> Option<SocketAddr> {
        let known = self.memory.as_ref().and_then(|memory| memory.endpoint_of(client, now));
        let endpoint = match known.filter(|known| !tried.contains(known)) {
            Some(known) => known,
            None => self.any(tried, draw)?,
        };
        if let Some(memory) = &mut self.memory {
            memory.remember(client, endpoint, now);
        }
        Some(endpoint)
    }

    fn any(&self, tried: &[SocketAddr], draw: impl FnOnce(usize) -> usize) -> Option<SocketAddr> {
        if tried.is_empty() {
            return (!self.pool.is_empty()).then(|| self.pool[draw(self.pool.len())]);
        }
        let mut fresh: Vec<SocketAddr> =
            self.pool.iter().filter(|endpoint| !tried.contains(endpoint)).copied().collect();
        if fresh.is_empty() {
            fresh.clone_from(&self.pool);
        }
        (!fresh.is_empty()).then(|| fresh[draw(fresh.len())])
    }
}

impl Memory {
    fn endpoint_of(&self, client: IpAddr, now: Instant) -> Option<SocketAddr> {
        let known = self.clients.get(&client).filter(|known| known.until > now);
        known.map(|known| known.endpoint)
    }

    /// Every connection restarts the timeout.
    fn remember(&mut self, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        if self.clients.len() >= self.sweep_at {
            self.clients.retain(|_, known| known.until > now);
            self.sweep_at = FIRST_SWEEP.max(2 * self.clients.len());
        }
        let until = now + self.timeout;
        if self.clients.len() < MOST_CLIENTS || self.clients.contains_key(&client) {
            self.clients.insert(client, Remembered { endpoint, until });
        }
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
