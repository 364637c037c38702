//! From changes to forwarding tables to the kernel.
//!
//! - [`event_loop`] takes changes in and decides when to sync
//! - [`plane`] brings one IP family up to date
//! - [`report`] says what a sync did
//! - [`view`] shows what the loop knows to others
//!
//! Nothing is written before Services, EndpointSlices, ServiceCIDRs and the Node have been listed once,
//! because an incomplete table would remove working rules. After that, the last known state stays, whatever
//! happens to the API server.

mod conntrack;
mod event_loop;
pub mod host;
mod no_local_endpoints;
mod own_node;
pub mod pacer;
mod plane;
mod programming_latency;
mod report;
mod unserved;
mod view;

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
pub(crate) use self::view::{Facts, Looking, Stage, Synced, View};

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
    /// Changes when another program may have changed our objects in the kernel.
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
    /// What happens to TCP connections to removed endpoints.
    pub(crate) removed_tcp: RemovedTcp,
    /// How much of a core syncs may take before a change has to wait.
    pub(crate) share: Share,
    /// Where it is noted how the loop is doing.
    pub(crate) health: Health,
    /// Where it is measured.
    pub(crate) metrics: Metrics,
    /// What the loop knows, for those who only look.
    pub(crate) view: View,
    /// Notified when the rules of a family are applied for the first time.
    pub(crate) in_force: watch::Sender<InForce>,
}

/// The families whose rules are applied, and those that are left out because no Service needs them.
pub(crate) type InForce = BTreeSet<Family>;

#[cfg(test)]
mod tests;
