//! The state shared by all watches. One log line says that the connection to the API server is lost, and one
//! that it is back, for all watches together; and the first watch that gets through wakes the others.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::Resource;

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

    /// The server gave the list of this resource by pages, having failed to stream it.
    pub(super) fn gives_pages(&self, resource: Resource, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner).only_json
    }

    /// The server does not have the requested encoding, but JSON.
    pub(super) fn only_json(&self, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut state.only_json, true) {
            let url = &self.url;
            tracing::info!("the API server at {url} is asked for JSON from now on ({reason})");
        }
    }

    /// The server answered a request for this resource.
    pub(super) fn answered(&self, resource: Resource) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lost.remove(&resource);
        if state.lost.is_empty() && state.last_said != Some(Said::Connected) {
            state.last_said = Some(Said::Connected);
            tracing::info!("connected to the API server at {}", self.url);
        }
    }

    /// The server cannot be reached.
    pub(super) fn unreachable(&self, resource: Resource, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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
}
