//! Changes come in, forwarding tables follow, backends make the kernel match.
//!
//! - [`event_loop`] takes changes in and decides when to sync
//! - [`plane`] brings one IP family up to date
//! - [`report`] says what a sync did
//!
//! Nothing is written before Services, EndpointSlices, ServiceCIDRs and the own Node have been listed
//! once, because a table built from half of them would take working rules away. After that the last known state
//! stays in force whatever happens to the API server.

mod conntrack;
mod event_loop;
pub mod host;
mod no_local_endpoints;
mod own_node;
mod pacer;
mod plane;
mod programming_latency;
mod report;
mod unserved;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::http::health::Health;
use sluice_config::Config;
use sluice_core::net::Family;
use sluice_dataplane::Backend;
use sluice_kubernetes::watch::Message;
use sluice_telemetry::metrics::Metrics;

pub(crate) use self::conntrack::RemovedTcp;
pub(crate) use self::event_loop::run;
pub(crate) use self::pacer::Share;

/// How long a change may wait until the proxy counts as unhealthy (upstream:
/// `cmd/kube-proxy/app/server.go`, newProxyServer).
pub(crate) fn health_timeout(config: &Config) -> Duration {
    config.sync.period.saturating_mul(2)
}

/// Where changes come from.
#[derive(Debug)]
pub(crate) struct Sources {
    /// From the Kubernetes API.
    pub(crate) updates: mpsc::Receiver<Message>,
    /// The addresses of this node's interfaces.
    pub(crate) addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// Changes when somebody else may have changed our objects in the kernel.
    pub(crate) foreign: watch::Receiver<()>,
    /// The configuration, with what may change while the loop runs.
    pub(crate) config: watch::Receiver<Config>,
}

/// What the loop works with.
pub(crate) struct Setup {
    /// The configuration.
    pub(crate) config: Config,
    /// The name of the own Node.
    pub(crate) node_name: String,
    /// Who makes the kernel match, for each family.
    pub(crate) backends: Vec<(Family, Box<dyn Backend>)>,
    /// What becomes of TCP connections to endpoints that are removed.
    pub(crate) removed_tcp: RemovedTcp,
    /// How much of a core syncs may take before a change has to wait.
    pub(crate) share: Share,
    /// Where it is noted how the loop is doing.
    pub(crate) health: Health,
    /// Where it is measured.
    pub(crate) metrics: Metrics,
    /// Told when the rules of a family are in force for the first time.
    pub(crate) in_force: watch::Sender<InForce>,
}

/// The families whose rules are in force, and those that are left out because no Service needs them.
pub(crate) type InForce = BTreeSet<Family>;

#[cfg(test)]
mod tests;
