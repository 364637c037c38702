//! Counters of the relays, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the start; those of current connections and clients also decrease.
#[derive(Debug, Default)]
pub struct Counters {
    /// TCP connections that are joined, or for which an endpoint is being sought.
    pub active_connections: Count,
    /// TCP connections that were accepted.
    pub connections: Count,
    /// Bytes of TCP from clients to endpoints.
    pub bytes_to_endpoints: Count,
    /// Bytes of TCP from endpoints to clients.
    pub bytes_to_clients: Count,
    /// Attempts to reach an endpoint that failed.
    pub dial_failures: Count,
    /// TCP connections that were reset because no endpoint could be reached.
    pub unserved: Count,
    /// UDP clients with a socket of their own.
    pub active_clients: Count,
    /// Datagrams from clients to endpoints.
    pub datagrams_to_endpoints: Count,
    /// Datagrams from endpoints to clients.
    pub datagrams_to_clients: Count,
    /// Datagrams that were lost because a queue was full, or because there was no endpoint.
    pub lost_datagrams: Count,
    /// UDP clients that were evicted for others.
    pub evictions: Count,
    /// How often a connection had to wait because descriptors were used up.
    pub shortages: Count,
}

impl Counters {
    /// All of them, by name.
    pub fn all(&self) -> [(&'static str, u64); 12] {
        [
            ("activeConnections", &self.active_connections),
            ("connections", &self.connections),
            ("bytesToEndpoints", &self.bytes_to_endpoints),
            ("bytesToClients", &self.bytes_to_clients),
            ("dialFailures", &self.dial_failures),
            ("unserved", &self.unserved),
            ("activeUdpClients", &self.active_clients),
            ("datagramsToEndpoints", &self.datagrams_to_endpoints),
            ("datagramsToClients", &self.datagrams_to_clients),
            ("lostDatagrams", &self.lost_datagrams),
            ("evictions", &self.evictions),
            ("shortages", &self.shortages),
        ]
        .map(|(name, count)| (name, count.get()))
    }
}

/// A number that many threads count.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn increment(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }

    fn decrement(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// Counts something until the guard is dropped.
    pub(super) fn one<T: AsRef<Counters>>(of: T, which: fn(&Counters) -> &Count) -> UnderWay<T> {
        which(of.as_ref()).increment();
        UnderWay { of, which }
    }
}

/// Counts one until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<T: AsRef<Counters>> {
    of: T,
    which: fn(&Counters) -> &Count,
}

impl<T: AsRef<Counters>> Drop for UnderWay<T> {
    fn drop(&mut self) {
        (self.which)(self.of.as_ref()).decrement();
    }
}

impl AsRef<Counters> for Counters {
    fn as_ref(&self) -> &Counters {
        self
    }
}
