//! The limit of the relays' descriptors: the rest of the process needs some, too.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::counters::Counters;

/// Descriptors reserved for the rest of the process: one eighth, within these limits. HTTP servers have one
/// sixteenth, up to 256.
const RESERVE: (u64, u64) = (96, 320);

/// One in so many descriptors is for connections, however many listeners there are.
const CONNECTIONS_SHARE: usize = 4;

/// The minimum interval between log lines about a shortage.
const SILENCE: Duration = Duration::from_secs(10);

/// The descriptors that relays may use.
#[derive(Debug)]
pub(super) struct Descriptors {
    free: Arc<Semaphore>,
    total: usize,
    counters: Arc<Counters>,
    said: Mutex<Option<Instant>>,
}

/// Some of them, given back when this is dropped.
pub(super) type Taken = OwnedSemaphorePermit;

impl Descriptors {
    /// Those of a process that may open `limit` files.
    pub(super) fn of(limit: u64, counters: Arc<Counters>) -> Descriptors {
        let most = u64::try_from(Semaphore::MAX_PERMITS).unwrap_or(u64::MAX);
        let (least, most_left) = RESERVE;
        let left = (limit / 8).clamp(least, most_left).min(limit / 2);
        let usable = limit.saturating_sub(left).min(most).min(1 << 24);
        let total = usize::try_from(usable).unwrap_or(Semaphore::MAX_PERMITS);
        let (free, said) = (Arc::new(Semaphore::new(total)), Mutex::new(None));
        Descriptors { free, total, counters, said }
    }

    /// How many there are at all.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Takes some, if there are enough.
    pub(super) fn try_take(&self, count: u32) -> Option<Taken> {
        Arc::clone(&self.free).try_acquire_many_owned(count).ok()
    }

    /// Takes some for a listener if enough remain for connections: a listener without them would be useless.
    pub(super) fn try_take_for_listener(&self, count: u32) -> Option<Taken> {
        let enough = self.free.available_permits() > self.total / CONNECTIONS_SHARE;
        enough.then(|| self.try_take(count)).flatten()
    }

    /// Takes some, and waits for them if necessary. The caller accepts nothing meanwhile.
    pub(super) async fn take(&self, count: u32) -> Option<Taken> {
        if let Some(taken) = self.try_take(count) {
            return Some(taken);
        }
        self.used_up();
        Arc::clone(&self.free).acquire_many_owned(count).await.ok()
    }

    /// Counts a shortage, and logs it from time to time.
    pub(super) fn used_up(&self) {
        self.counters.shortages.increment();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if said.is_none_or(|last| now.duration_since(last) >= SILENCE) {
            *said = Some(now);
            tracing::warn!(
                descriptors = self.total,
                connections = self.counters.active_connections.get(),
                udp_clients = self.counters.active_clients.get(),
                "descriptors are used up: new connections wait until others end; raise the limit of \
                 open files (LimitNOFILE, ulimit -n)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_leave_descriptors_for_connections() {
        let descriptors = Descriptors::of(1000 + 142, Arc::default());
        let listeners: Vec<Taken> =
            std::iter::from_fn(|| descriptors.try_take_for_listener(1)).collect();
        assert_eq!(listeners.len(), 750);
        let connection = descriptors.try_take(2).expect("there is room for a connection");
        drop((listeners, connection));
        assert!(descriptors.try_take(1000).is_some(), "all are given back");
    }
}
