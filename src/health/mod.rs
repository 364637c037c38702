//! Who asks, and what they are told: is this proxy healthy, should this node get traffic, and has
//! it pods of this Service?
//!
//! The loop reports to a [`Health`]; [`start`] answers from it on sockets of its own. See
//! `docs/health.md`.

mod answer;
mod checks;
mod http;
mod proxy;
mod state;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::checks::{FamilyChecks, Wanted};
use self::state::{Moment, Report, State};
use crate::kernel::listen::{Reach, listen};
use crate::model::Node;
use crate::net::Family;
use crate::plan::ForwardingTable;

/// How long to wait before an address that could not be bound is tried again (upstream:
/// `cmd/kube-proxy/app/server.go`, serveHealthz).
pub const RETRY: Duration = Duration::from_secs(5);

/// What the loop knows of the proxy's health. Clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    checks: watch::Sender<Wanted>,
}

impl Health {
    /// Nothing is known yet. A change that waits for `timeout` makes the proxy unhealthy.
    pub fn new(timeout: Duration) -> Health {
        Health {
            state: Arc::new(Mutex::new(State::new(timeout))),
            checks: watch::Sender::new(Wanted::new()),
        }
    }

    /// From now on, a change that waits for `timeout` makes the proxy unhealthy.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state().set_timeout(timeout);
    }

    /// A change waits for being carried out in a family.
    pub fn queued(&self, family: Family) {
        self.state().queued(family, Moment::now());
    }

    /// All changes are in force in a family.
    pub fn updated(&self, family: Family) {
        self.state().updated(family, Moment::now());
    }

    /// The own Node as it is now, if there is one.
    pub fn node(&self, node: Option<&Node>) {
        self.state().node(node);
    }

    /// Takes the health checks of a family, and where they are asked for, from its table. Listeners
    /// follow; those that stay are not touched.
    pub fn checks(&self, table: &ForwardingTable) {
        let checks = FamilyChecks::of(table);
        self.checks.send_if_modified(|wanted| {
            let changed = wanted.get(&table.family) != Some(&checks);
            wanted.insert(table.family, checks);
            changed
        });
    }

    fn report(&self) -> Report {
        self.state().report(Moment::now())
    }

    fn wanted(&self) -> watch::Receiver<Wanted> {
        self.checks.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do when `/healthz` cannot be served (`bindAddressHardFail`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindFailure {
    /// Go on without it, and try again.
    Retry,
    /// Give up.
    Fatal,
}

/// Health cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address of `/healthz` is taken, or not one of this node.
    #[error(
        "serve /healthz on {address}: {source}; free the address, choose another \
         healthzBindAddress, or set `bindAddressHardFail: false` to start without it"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Starts to answer: `/healthz` and `/livez` on `address`, if there is one, and the health check node ports of all
/// Services. Must be called within a Tokio runtime; everything is closed when `stop` is cancelled.
///
/// # Errors
/// With [`BindFailure::Fatal`], if `address` cannot be bound.
pub fn start(
    health: &Health,
    address: Option<SocketAddr>,
    failure: BindFailure,
    stop: &CancellationToken,
) -> Result<(), HealthError> {
    if let Some(address) = address {
        let listener = match (listen(address, Reach::BothFamilies), failure) {
            (Err(source), BindFailure::Fatal) => return Err(HealthError::Bind { address, source }),
            (attempt, _) => attempt,
        };
        tokio::spawn(proxy::run(health.clone(), address, listener, stop.clone()));
    }
    tokio::spawn(checks::run(health.clone(), stop.clone()));
    Ok(())
}
