//! What the daemon offers beside its work: health and metrics for those who ask, Events for those who
//! watch.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::log;
use crate::health::{self, Health};
use crate::inspect::{self, Debugging, Shown, Text};
use crate::server::{BindError, BindFailure, Http};
use crate::sync;
use sluice_config::Config;
use sluice_core::net::Family;
use sluice_dataplane::leftovers::InUse;
use sluice_dataplane::nftables::ServiceCounters;
use sluice_dataplane::userspace::{Count, Counters};
use sluice_kernel as kernel;
use sluice_kernel::xtables::{CountedRule, Xtables};
use sluice_kubernetes::events::{Event, Recorder, Regarding, Severity};
use sluice_kubernetes::watch::{self, ApiServer};
use sluice_telemetry::metrics::{Kind, Metrics};

/// What [`start`] needs to know.
pub(super) struct Given<'a> {
    /// The own Node's name.
    pub(super) node_name: &'a str,
    /// The effective configuration in JSON, for `/configz`.
    pub(super) configuration: Text,
    /// All flags with their values, for `/flagz`.
    pub(super) flags: BTreeMap<String, String>,
    /// The API server that hears of Events.
    pub(super) server: &'a ApiServer,
    /// What is measured.
    pub(super) metrics: Metrics,
    /// Where HTTP servers run.
    pub(super) http: Http,
}

/// What was started.
pub(super) struct Servers {
    /// Where the loop says how it is doing.
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

/// Starts everything, as the configuration says. What fails with `bindAddressHardFail` is told the
/// Node's owners before this returns.
pub(super) async fn start(
    config: &Config,
    given: Given<'_>,
    stop: &CancellationToken,
) -> Result<Servers> {
    let started = Timestamp::now();
    let (recorder, events) = Recorder::new(&given.metrics);
    let host = kernel::host_name().unwrap_or_default();
    let (server, metrics) = (given.server.clone(), given.metrics.clone());
    let stopping = stop.clone();
    let sending = tokio::spawn(async move {
        watch::events::send(&server, &host, events, metrics, stopping).await;
    });
    let node = Regarding::Node(given.node_name.to_owned());
    let of_node = |severity, reason, note: String| {
        let (action, regarding) = ("StartKubeProxy", node.clone());
        recorder.record(Event { severity, reason, action, regarding, note });
    };
    of_node(Severity::Normal, "Starting", String::new());
    let health = Health::new(sync::health_timeout(config));
    let failed = match serve(config, given, started, &health, &recorder, stop) {
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

/// Adds how much of the log was lost to the metrics.
pub(super) fn show_log(metrics: &Metrics) {
    let name = "sluice_log_lost_lines_total";
    let help = "Lines of the log that were lost because nobody read standard error";
    metrics.add(Kind::Counter, name, help, || Some(log::lost()));
}

/// A number of the userspace mode: how it behaves, its name, what it means, and where it is.
type Relayed = (Kind, &'static str, &'static str, fn(&Counters) -> &Count);

/// What the relays of the userspace mode count.
#[rustfmt::skip] // a line each
const RELAYS: [Relayed; 12] = [
    (Kind::Gauge, "sluice_userspace_connections", "TCP connections that are joined or being joined", |c| &c.active_connections),
    (Kind::Counter, "sluice_userspace_connections_total", "TCP connections that were accepted", |c| &c.connections),
    (Kind::Counter, "sluice_userspace_bytes_to_endpoints_total", "Bytes of TCP from clients to endpoints", |c| &c.bytes_to_endpoints),
    (Kind::Counter, "sluice_userspace_bytes_to_clients_total", "Bytes of TCP from endpoints to clients", |c| &c.bytes_to_clients),
    (Kind::Counter, "sluice_userspace_dial_failures_total", "Attempts to reach an endpoint that failed", |c| &c.dial_failures),
    (Kind::Counter, "sluice_userspace_unserved_total", "TCP connections that were reset because no endpoint could be reached", |c| &c.unserved),
    (Kind::Gauge, "sluice_userspace_udp_clients", "UDP clients with a socket of their own", |c| &c.active_clients),
    (Kind::Counter, "sluice_userspace_datagrams_to_endpoints_total", "Datagrams from clients to endpoints", |c| &c.datagrams_to_endpoints),
    (Kind::Counter, "sluice_userspace_datagrams_to_clients_total", "Datagrams from endpoints to clients", |c| &c.datagrams_to_clients),
    (Kind::Counter, "sluice_userspace_lost_datagrams_total", "Datagrams that were lost because a queue was full or there was no endpoint", |c| &c.lost_datagrams),
    (Kind::Counter, "sluice_userspace_evictions_total", "UDP clients that were forgotten early to make room", |c| &c.evictions),
    (Kind::Counter, "sluice_userspace_shortages_total", "How often a connection had to wait for lack of descriptors", |c| &c.shortages),
];

/// Adds what the userspace mode counts to the metrics.
pub(super) fn show_relays(metrics: &Metrics, relays: Option<Arc<Counters>>) {
    let Some(counters) = relays else { return };
    for (kind, name, help, which) in RELAYS {
        let counters = Arc::clone(&counters);
        metrics.add(kind, name, help, move || Some(which(&counters).get()));
    }
}

/// Adds what the nftables mode counts by Service; it is read whenever metrics are.
pub(super) fn show_services(metrics: &Metrics, counters: Option<ServiceCounters>) {
    let Some(counters) = counters else { return };
    let name = "sluice_service_connections_total";
    let help =
        "New connections to an address of a Service port, whether or not there was an endpoint";
    let labels = &["address", "ip_family", "namespace", "port", "protocol", "service"];
    metrics.add_labelled(name, help, labels, move || {
        let mut all = Vec::new();
        for family in Family::BOTH {
            let counts = counters.read(family).unwrap_or_else(|error| {
                tracing::warn!(%family, %error, "cannot read the counters of Services; they are left out");
                Vec::new()
            });
            all.extend(counts.into_iter().map(|it| {
                let protocol = it.protocol.to_string().to_uppercase();
                let family = family.to_string();
                let labels = vec![it.address, family, it.namespace, it.port, protocol, it.service];
                (labels, it.connections)
            }));
        }
        all
    });
}

/// Rules whose packets are counted, by upstream's names.
const PACKETS: [(&str, &str, CountedRule); 2] = [
    (
        "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
        "[ALPHA] packets dropped by iptables to work around conntrack problems",
        CountedRule::INVALID_DROPPED,
    ),
    (
        "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
        "[ALPHA] Number of packets accepted on nodeports of loopback interface",
        CountedRule::LOCALHOST_NODE_PORTS,
    ),
];

/// Adds what rules of the iptables mode count to the metrics; it is read whenever they are.
pub(super) fn show_packets(metrics: &Metrics, in_use: InUse) {
    let InUse::Iptables(variant) = in_use else { return };
    let tables = Family::BOTH.map(|family| Xtables::new(family, variant));
    for (name, help, counted) in PACKETS {
        let packets = move |tables: &Xtables| tables.packets(counted).ok().flatten();
        metrics.add(Kind::Counter, name, help, move || {
            tables.iter().filter_map(packets).reduce(u64::saturating_add)
        });
    }
}

fn serve(
    config: &Config,
    given: Given<'_>,
    started: Timestamp,
    health: &Health,
    recorder: &Recorder,
    stop: &CancellationToken,
) -> Result<(), BindError> {
    let failure =
        if config.bind_address_hard_fail { BindFailure::Fatal } else { BindFailure::Retry };
    let address = config.healthz_bind_address;
    let node_name = given.node_name.to_owned();
    let options = health::Options { address, failure, node_name };
    health::start(health, options, &given.http, &given.metrics, recorder, stop)?;
    let debugging = if config.enable_profiling {
        Debugging::On(Arc::new(log::set_verbosity))
    } else {
        Debugging::Off
    };
    let shown = Shown {
        mode: config.mode,
        configuration: given.configuration,
        flags: Arc::new(given.flags),
        debugging,
        started,
        metrics: given.metrics,
    };
    match config.metrics_bind_address {
        Some(address) => inspect::start(shown, &given.http, address, failure, stop),
        None => Ok(()),
    }
}
