//! Health checks: is this proxy healthy, should this node get traffic, and does it have pods of a Service?
//!
//! The loop reports to a [`Health`]; [`start`] answers from it on sockets of its own. See
//! `docs/health.md`.

mod bodies;
mod checks;
mod routes;
mod state;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::checks::{DesiredChecks, FamilyChecks};
use self::state::{Moment, Report, State};
use crate::http::server::{BindError, BindFailure, Http, ListenAddress};
use sluice_core::model::Node;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_kubernetes::events::Recorder;
use sluice_telemetry::metrics::Metrics;

/// What the loop knows of the proxy's health. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    state: Arc<Mutex<State>>,
    checks: watch::Sender<DesiredChecks>,
}

impl Health {
    /// Nothing is known yet. A change that waits for `timeout` makes the proxy unhealthy.
    pub(crate) fn new(timeout: Duration) -> Health {
        Health {
            state: Arc::new(Mutex::new(State::new(timeout))),
            checks: watch::Sender::new(DesiredChecks::new()),
        }
    }

    /// From now on, a change that waits for `timeout` makes the proxy unhealthy.
    pub(crate) fn set_timeout(&self, timeout: Duration) {
        self.state().set_timeout(timeout);
    }

    /// A change waits for its sync in a family.
    pub(crate) fn queued(&self, family: Family) {
        self.state().queued(family, Moment::now());
    }

    /// All changes of a family are applied.
    pub(crate) fn updated(&self, family: Family) {
        self.state().updated(family, Moment::now());
    }

    /// A family cannot be served, and no Service needs it: it does not count.
    pub(crate) fn left_out(&self, family: Family) {
        self.state().left_out(family);
    }

    /// A family counts that may have been left out before.
    pub(crate) fn needed(&self, family: Family) {
        self.state().needed(family);
    }

    /// The own Node as it is now, if there is one.
    pub(crate) fn node(&self, node: Option<&Node>) {
        self.state().node(node);
    }

    /// Updates the health checks of a family and their addresses from its table, and the listeners; unchanged
    /// ones are not touched.
    pub(crate) fn checks(&self, table: &ForwardingTable) {
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

    fn wanted(&self) -> watch::Receiver<DesiredChecks> {
        self.checks.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address of health checks, and the Node's name.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where `/healthz` and `/livez` are served; without it, only Services' checks are answered.
    pub(crate) address: Option<SocketAddr>,
    /// What to do when that cannot be bound.
    pub(crate) failure: BindFailure,
    /// The own Node's name, for Events.
    pub(crate) node_name: String,
}

/// Starts to answer: `/healthz` and `/livez`, and the health check node ports of all Services. Everything
/// is closed when `stop` is cancelled.
///
/// # Errors
/// With [`BindFailure::Fatal`], if the address cannot be bound.
pub(crate) fn start(
    health: &Health,
    options: Options,
    http: &Http,
    metrics: &Metrics,
    events: &Recorder,
    stop: &CancellationToken,
) -> Result<(), BindError> {
    if let Some(address) = options.address {
        let (what, field) = ("/healthz and /livez", "healthzBindAddress");
        let on = ListenAddress { address, what, field };
        let first = http.bind(on, options.failure)?;
        let (health, metrics) = (health.clone(), metrics.clone());
        let (here, stop) = (http.clone(), stop.clone());
        http.spawn(async move {
            let answer =
                move |request| std::future::ready(routes::answer(&health, &metrics, &request));
            tokio::select! {
                () = stop.cancelled() => {}
                () = here.serve(on, first, answer) => {}
            }
        });
    }
    let events = checks::NodeEvents { recorder: events.clone(), node_name: options.node_name };
    http.spawn(checks::run(health.clone(), http.clone(), events, stop.clone()));
    Ok(())
}
