//! What the tasks that watch have in common. One line of the log says that the connection to the API
//! server is lost, one that it is back, however many tasks notice; and the first to get through
//! rouses the others from their waiting.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::Resource;

/// The connection as all tasks together see it.
pub(super) struct Link {
    url: String,
    state: Mutex<State>,
    reached: Notify,
}

#[derive(Default)]
struct State {
    lost: BTreeSet<Resource>,
    last_said: Option<Said>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Connected,
    Lost,
}

impl Link {
    pub(super) fn new(url: String) -> Link {
        Link { url, state: Mutex::default(), reached: Notify::new() }
    }

    /// Rouses all tasks that wait in [`Link::reached`]: the server is back.
    pub(super) fn wake(&self) {
        self.reached.notify_waiters();
    }

    /// Waits until a task gets through to the server.
    pub(super) async fn reached(&self) {
        self.reached.notified().await;
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
