//! The daemon's HTTP servers for health and metrics, and its Events.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::admin::{self, AdminState, Debugging, Text};
use crate::http::health::{self, Health};
use crate::http::server::{BindError, BindFailure, Http};
use crate::log;
use crate::sync;
use sluice_config::Config;
use sluice_kernel as kernel;
use sluice_kubernetes::events::{Event, Recorder, Regarding, Severity};
use sluice_kubernetes::watch::{self, ApiServer};
use sluice_telemetry::metrics::Metrics;

/// What [`start`] needs to know.
pub(super) struct ServerDeps<'a> {
    /// The own Node's name.
    pub(super) node_name: &'a str,
    /// The effective configuration in JSON, for `/configz`.
    pub(super) configz: Text,
    /// All flags with their values, for `/flagz`.
    pub(super) flags: BTreeMap<String, String>,
    /// The API server for Events.
    pub(super) server: &'a ApiServer,
    /// What is measured.
    pub(super) metrics: Metrics,
    /// Where HTTP servers run.
    pub(super) http: Http,
}

/// What was started.
pub(super) struct Servers {
    /// The health state that the loop updates.
    pub(super) health: Health,
    /// Sends Events until all is stopped.
    sending: JoinHandle<()>,
}

impl Servers {
    /// Waits until the last Events are sent, for a short time; all must have been stopped.
    pub(super) async fn ended(self) {
        let _ = self.sending.await;
    }
}

/// Starts everything that is configured. With `bindAddressHardFail`, a failure is reported as an Event about
/// the Node before this returns.
pub(super) async fn start(
    config: &Config,
    deps: ServerDeps<'_>,
    stop: &CancellationToken,
) -> Result<Servers> {
    let started = Timestamp::now();
    let (recorder, events) = Recorder::new(&deps.metrics);
    let host = kernel::host_name().unwrap_or_default();
    let (server, metrics) = (deps.server.clone(), deps.metrics.clone());
    let stopping = stop.clone();
    let sending = tokio::spawn(async move {
        watch::events::send(&server, &host, events, metrics, stopping).await;
    });
    let node = Regarding::Node(deps.node_name.to_owned());
    let of_node = |severity, reason, note: String| {
        let (action, regarding) = ("StartKubeProxy", node.clone());
        recorder.record(Event { severity, reason, action, regarding, note });
    };
    of_node(Severity::Normal, "Starting", String::new());
    let health = Health::new(sync::health_timeout(config));
    let failed = match serve(config, deps, started, &health, &recorder, stop) {
        Ok(()) => return Ok(Servers { health, sending }),
        Err(failed) => failed,
    };
    let reason = match failed.field {
        "metricsBindAddress" => "FailedToStartMetricServer",
        _ => "FailedToStartProxierHealthcheck",
    };
    of_node(Severity::Warning, reason, failed.to_string());
    stop.cancel();
    Servers { health, sending }.ended().await;
    Err(failed.into())
}

fn serve(
    config: &Config,
    deps: ServerDeps<'_>,
    started: Timestamp,
    health: &Health,
    recorder: &Recorder,
    stop: &CancellationToken,
) -> Result<(), BindError> {
    let failure =
        if config.bind_address_hard_fail { BindFailure::Fatal } else { BindFailure::Retry };
    let address = config.healthz_bind_address;
    let node_name = deps.node_name.to_owned();
    let options = health::Options { address, failure, node_name };
    health::start(health, options, &deps.http, &deps.metrics, recorder, stop)?;
    let debugging = if config.enable_profiling {
        Debugging::On(Arc::new(log::set_verbosity))
    } else {
        Debugging::Off
    };
    let state = AdminState {
        mode: config.mode,
        configuration: deps.configz,
        flags: Arc::new(deps.flags),
        debugging,
        started,
        metrics: deps.metrics,
    };
    match config.metrics_bind_address {
        Some(address) => admin::start(state, &deps.http, address, failure, stop),
        None => Ok(()),
    }
}
