//! The admin endpoints at `metricsBindAddress`: metrics, the mode, the configuration, the flags, and the
//! log's verbosity. Answers are the Go kube-proxy's, byte for byte where the content is the same (upstream:
//! `cmd/kube-proxy/app/server.go`, serveMetrics). See `docs/health.md`.

mod debug;
mod negotiate;
mod pages;
mod routes;
mod scrape;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::http::server::{BindError, BindFailure, Http, ListenAddress};
use sluice_config::Mode;
use sluice_telemetry::metrics::Metrics;

use self::scrape::Scrapes;

/// Returns a text that is computed for every request.
pub(crate) type Text = Arc<dyn Fn() -> String + Send + Sync>;

/// Sets the log's verbosity (`-v`).
pub(crate) type SetVerbosity = Arc<dyn Fn(u32) + Send + Sync>;

/// Whether profiles and the log's verbosity can be reached (`enableProfiling`).
#[derive(Clone)]
pub(crate) enum Debugging {
    /// They cannot.
    Off,
    /// They can.
    On(SetVerbosity),
}

/// What operators may ask for.
#[derive(Clone)]
pub(crate) struct AdminState {
    /// The proxy mode.
    pub(crate) mode: Mode,
    /// The effective configuration: a KubeProxyConfiguration in JSON.
    pub(crate) configuration: Text,
    /// All flags with their values.
    pub(crate) flags: Arc<BTreeMap<String, String>>,
    /// The log's verbosity, and profiles.
    pub(crate) debugging: Debugging,
    /// When the program started.
    pub(crate) started: Timestamp,
    /// What is measured.
    pub(crate) metrics: Metrics,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What requests are answered from: the state, and scrapes that are shared.
struct Admin {
    state: AdminState,
    scrapes: Scrapes,
}

impl Admin {
    fn new(state: AdminState) -> Arc<Admin> {
        let scrapes = Scrapes::new(state.metrics.clone());
        Arc::new(Admin { state, scrapes })
    }
}

/// Starts to answer on `address`, until `stop`.
///
/// # Errors
/// With [`BindFailure::Fatal`], if the address cannot be bound.
pub(crate) fn start(
    state: AdminState,
    http: &Http,
    address: SocketAddr,
    failure: BindFailure,
    stop: &CancellationToken,
) -> Result<(), BindError> {
    let on = ListenAddress { address, what: "/metrics", field: "metricsBindAddress" };
    let first = http.bind(on, failure)?;
    let (stop, here) = (stop.clone(), http.clone());
    http.spawn(async move {
        let admin = Admin::new(state);
        let answer = move |request| routes::answer(Arc::clone(&admin), request);
        tokio::select! {
            () = stop.cancelled() => {}
            () = here.serve(on, first, answer) => {}
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests;
