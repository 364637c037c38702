//! The state shared by all watches. One log line says that the connection to the API server is lost, and one
//! that it is back, for all watches together; the first watch that gets through wakes the others; and while
//! none is open, all try together.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::Resource;
use super::backoff::{Backoff, jitter};
use super::outage::Outage;

/// The connection as all tasks together see it.
pub(super) struct Reachability {
    url: String,
    state: Mutex<State>,
    /// How often the server has come back.
    returns: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    lost: BTreeSet<Resource>,
    last_said: Option<Said>,
    /// It was logged that the server does not stream lists.
    pages_said: bool,
    /// The server was asked for protobuf and has none. After an outage it is asked again: it may be another
    /// one, or a newer.
    only_json: bool,
    /// How many watches are open. While one is, the failure of another is its own affair.
    open: usize,
    outage: Outage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Connected,
    Lost,
}

impl Reachability {
    pub(super) fn new(url: String) -> Reachability {
        Reachability { url, state: Mutex::default(), returns: watch::Sender::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rouses all tasks that wait in [`Reachability::returned`]: the server is back.
    pub(super) fn wake(&self) {
        self.returns.send_modify(|returns| *returns += 1);
    }

    /// How often the server has come back so far.
    pub(super) fn returns(&self) -> u64 {
        *self.returns.borrow()
    }

    /// Waits until the server has come back more often than this. A task that reads the count before its
    /// request misses no return, however long the request takes.
    pub(super) async fn returned(&self, before: u64) {
        let mut returns = self.returns.subscribe();
        // An error would mean that the sender is gone, and that is here.
        let _ = returns.wait_for(|returns| *returns > before).await;
    }

    /// When to try again after a failure: with all others if no watch is open, else after a pause of its own.
    pub(super) fn try_again_at(&self, own: &mut Backoff) -> Instant {
        let (now, mut state) = (Instant::now(), self.state());
        match state.open {
            0 => state.outage.after(now, jitter),
            _ => now + own.next(),
        }
    }

    /// Counts a watch as open until the answer is dropped.
    pub(super) fn opened(self: &Arc<Reachability>) -> OpenWatch {
        self.state().open += 1;
        OpenWatch(Arc::clone(self))
    }

    /// A watch has lasted: the server is there.
    pub(super) fn settled(&self) {
        self.state().outage.end();
    }

    /// The server gave the list of this resource by pages, having failed to stream it.
    pub(super) fn gives_pages(&self, resource: Resource, reason: &str) {
        let mut state = self.state();
        if std::mem::replace(&mut state.pages_said, true) {
            tracing::debug!(%resource, reason, "the API server does not stream this list either");
            return;
        }
        tracing::info!(
            "the API server at {} does not stream the list of {resource} ({reason}); lists that it \
             does not stream are asked for page by page from now on",
            self.url
        );
    }

    /// Whether only JSON is requested.
    pub(super) fn has_only_json(&self) -> bool {
        self.state().only_json
    }

    /// The server does not have the requested encoding, but JSON.
    pub(super) fn only_json(&self, reason: &str) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.only_json, true) {
            let url = &self.url;
            tracing::info!("the API server at {url} is asked for JSON from now on ({reason})");
        }
    }

    /// The server answered a request for this resource.
    pub(super) fn answered(&self, resource: Resource) {
        let mut state = self.state();
        state.lost.remove(&resource);
        if state.lost.is_empty() && state.last_said != Some(Said::Connected) {
            state.last_said = Some(Said::Connected);
            tracing::info!("connected to the API server at {}", self.url);
        }
    }

    /// The server cannot be reached.
    pub(super) fn unreachable(&self, resource: Resource, reason: &str) {
        let mut state = self.state();
        state.lost.insert(resource);
        state.only_json = false;
        if state.last_said == Some(Said::Lost) {
            tracing::debug!(%resource, reason, "the API server is still out of reach");
            return;
        }
        state.last_said = Some(Said::Lost);
        tracing::warn!(
            "cannot reach the API server at {}: {reason}; keeping the rules in force, retrying",
            self.url
        );
    }

    /// The server answers and refuses. `first` says whether this is news.
    pub(super) fn refused(&self, resource: Resource, reason: &str, first: bool) {
        self.answered(resource);
        if first {
            tracing::warn!(
                "cannot watch {resource} on the API server at {}: {reason}; keeping the rules in \
                 force, retrying",
                self.url
            );
        } else {
            tracing::debug!(%resource, reason, "the API server still refuses");
        }
    }
}

/// A watch that is open.
pub(super) struct OpenWatch(Arc<Reachability>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.state().open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_return_is_not_missed_by_who_waits_later() {
        let reachability = Reachability::new(String::new());
        let before = reachability.returns();
        reachability.wake();
        let long = Duration::from_secs(3600);
        assert!(timeout(long, reachability.returned(before)).await.is_ok());
        assert!(timeout(long, reachability.returned(reachability.returns())).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_waits_for_itself_while_another_is_open() {
        let reachability = Arc::new(Reachability::new(String::new()));
        let (mut own, mut other) = (Backoff::default(), Backoff::default());
        let open = reachability.opened();
        reachability.try_again_at(&mut own);
        assert_eq!(own.failures(), 1);
        drop(open);
        let together = reachability.try_again_at(&mut own);
        assert_eq!(reachability.try_again_at(&mut other), together);
        assert_eq!((own.failures(), other.failures()), (1, 0));
    }
}
