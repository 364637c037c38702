//! The thread that finds and deletes stale flows.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frontends::Frontends;
use crate::log::ROUTINE;
use sluice_core::net::Family;
use sluice_kernel::conntrack::{self, ConntrackError, Flow, Removal};
use sluice_telemetry::metrics::Metrics;

/// After a read, it rests this many times as long as the read took, so that a large table that changes
/// constantly takes at most a quarter of a core.
const REST: u32 = 3;

/// How long it rests after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The same on a kernel that does not offer its connections; a module may be loaded later.
const RETRY_UNSUPPORTED: Duration = Duration::from_secs(60);

/// Between two groups of deletions, a waiting sync gets its turn.
const TURN: Duration = Duration::from_micros(50);

/// What the loop and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) frontends: Frontends,
    closing: bool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be flows to check.
    pub(super) fn tell(&self) {
        self.news.notify_one();
    }

    /// The thread must end; the next daemon checks everything when it starts.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.tell();
    }

    /// Waits until flows must be checked, but at least until `rested`; returns whether they must.
    fn wait(&self, rested: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let due = state.frontends.due().map(|due| due.max(rested));
            state = match due {
                _ if state.closing => return false,
                Some(due) if due <= now => return true,
                Some(due) => {
                    let waited = self.news.wait_timeout(state, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Looks at all suspects.
    fn look(&self, family: Family) -> Result<Removal, ConntrackError> {
        let (begun, wanted) = (Instant::now(), self.lock().frontends.wanted());
        let suspected = |flow: &Flow| self.lock().frontends.is_stale(flow);
        let judge = || {
            std::thread::sleep(TURN);
            let state = self.lock();
            move |flow: &Flow| state.frontends.is_stale(flow)
        };
        let done = conntrack::remove_judged(family, &wanted, suspected, judge)?;
        self.lock().frontends.settle(begun);
        Ok(done)
    }
}

/// Starts the thread of a family. It ends with [`Shared::close`].
pub(super) fn start(family: Family, frontends: Frontends, metrics: Metrics) -> Arc<Shared> {
    let look = move |shared: &Shared| shared.look(family);
    start_with(family, frontends, metrics, look)
}

fn start_with(
    family: Family,
    frontends: Frontends,
    metrics: Metrics,
    look: impl FnMut(&Shared) -> Result<Removal, ConntrackError> + Send + 'static,
) -> Arc<Shared> {
    let state = Mutex::new(State { frontends, closing: false });
    let shared = Arc::new(Shared { state, news: Condvar::new() });
    let of_thread = Arc::clone(&shared);
    let started = std::thread::Builder::new()
        .name(format!("conntrack-{family}").to_lowercase())
        .spawn(move || run(&of_thread, family, &metrics, look));
    if let Err(error) = started {
        tracing::error!(%family, %error, "cannot start a thread; stale flows are not deleted");
    }
    shared
}

/// Why flows are not removed at present.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// This failed; it was logged once and is retried.
    Passing(String),
    /// The kernel does not offer its connections, or not to this process.
    Unsupported,
}

fn run(
    shared: &Shared,
    family: Family,
    metrics: &Metrics,
    mut look: impl FnMut(&Shared) -> Result<Removal, ConntrackError>,
) {
    let mut trouble = Trouble::None;
    let mut rested = Instant::now();
    while shared.wait(rested) {
        let started = Instant::now();
        let result = look(shared);
        let elapsed = started.elapsed();
        let (now, rest) = match result {
            Ok(done) => {
                metrics.reconciled(family, elapsed, done.removed);
                say(family, done, elapsed);
                (Trouble::None, elapsed * REST)
            }
            Err(error @ (ConntrackError::Unsupported | ConntrackError::NotPermitted)) => {
                if trouble != Trouble::Unsupported {
                    tracing::warn!(%family, "{error}; until then, stale flows are not deleted");
                }
                shared.lock().frontends.give_up(Instant::now());
                (Trouble::Unsupported, RETRY_UNSUPPORTED)
            }
            Err(error) => {
                let now = Trouble::Passing(error.to_string());
                if trouble != now {
                    tracing::warn!(%family, "{error}; trying again every {} s", RETRY.as_secs());
                }
                shared.lock().frontends.give_up_if_many(Instant::now());
                (now, RETRY)
            }
        };
        trouble = now;
        rested = Instant::now() + rest;
    }
}

fn say(family: Family, Removal { seen, removed }: Removal, elapsed: Duration) {
    if removed > 0 {
        tracing::info!(target: ROUTINE, %family, flows = seen, removed, ?elapsed, "removed stale flows");
    } else {
        tracing::debug!(%family, flows = seen, ?elapsed, "found no stale flows");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::RemovedTcp;
    use super::*;
    use sluice_config::Mode;

    /// While a large table is read, rules are written and their frontends recorded; these are checked next.
    #[test]
    fn a_reading_that_takes_long_holds_no_change_up() {
        let (begun, begins) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let look = move |shared: &Shared| {
            let since = Instant::now();
            let _ = begun.send(());
            // Until the test signals it, or ends.
            let _ = goes_on.recv();
            shared.lock().frontends.settle(since);
            Ok(Removal::default())
        };
        let frontends = Frontends::new(Family::V4, RemovedTcp::Keep);
        let shared = start_with(Family::V4, frontends, Metrics::new(Mode::Nftables), look);
        let change = || {
            shared.lock().frontends.suspect_all(Instant::now());
            shared.tell();
        };
        change();
        let patience = Duration::from_secs(60);
        begins.recv_timeout(patience).expect("it is looked at");
        // The thread is in the midst of it now, and does not come back by itself.
        change();
        change();
        go_on.send(()).expect("it waits");
        begins.recv_timeout(patience).expect("the later changes are looked at");
        shared.close();
    }
}
