//! What operators ask for at `metricsBindAddress`: metrics, the mode, the configuration, the flags, and
//! the log's verbosity. Answers are the Go kube-proxy's, byte for byte where the content is the same
//! (upstream: `cmd/kube-proxy/app/server.go`, serveMetrics). See `docs/health.md`.

mod answer;
mod debug;
mod negotiate;
mod pages;
mod scrape;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::server::{BindError, BindFailure, Http, Place};
use sluice_config::Mode;
use sluice_telemetry::metrics::Metrics;

use self::scrape::Scrapes;

/// Gives a text that is made anew for every request.
pub type Text = Arc<dyn Fn() -> String + Send + Sync>;

/// Sets the log's verbosity (`-v`).
pub type SetVerbosity = Arc<dyn Fn(u32) + Send + Sync>;

/// Whether profiles and the log's verbosity can be reached (`enableProfiling`).
#[derive(Clone)]
pub enum Debugging {
    /// They cannot.
    Off,
    /// They can.
    On(SetVerbosity),
}

/// What is shown.
#[derive(Clone)]
pub struct Shown {
    /// The proxy mode.
    pub mode: Mode,
    /// The effective configuration: a KubeProxyConfiguration in JSON.
    pub configuration: Text,
    /// All flags with their values.
    pub flags: Arc<BTreeMap<String, String>>,
    /// The log's verbosity, and profiles.
    pub debugging: Debugging,
    /// When the program started.
    pub started: Timestamp,
    /// What is measured.
    pub metrics: Metrics,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// What is served: pages, and scrapes that are shared.
struct Served {
    shown: Shown,
    scrapes: Scrapes,
}

impl Served {
    fn new(shown: Shown) -> Arc<Served> {
        let scrapes = Scrapes::new(shown.metrics.clone());
        Arc::new(Served { shown, scrapes })
    }
}

/// Starts to answer on `address`, until `stop`.
///
/// # Errors
/// With [`BindFailure::Fatal`], if the address cannot be bound.
pub fn start(
    shown: Shown,
    http: &Http,
    address: SocketAddr,
    failure: BindFailure,
    stop: &CancellationToken,
) -> Result<(), BindError> {
    let place = Place { address, what: "/metrics", field: "metricsBindAddress" };
    let first = http.bind(place, failure)?;
    let (stop, here) = (stop.clone(), http.clone());
    http.spawn(async move {
        let served = Served::new(shown);
        let answer = move |request| answer::answer(Arc::clone(&served), request);
        tokio::select! {
            () = stop.cancelled() => {}
            () = here.serve(place, first, answer) => {}
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests;
