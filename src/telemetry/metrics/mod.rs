//! Metrics: kube-proxy's under their own names, so that dashboards and alerts keep working, and additional ones named
//! `sluice_`. See `docs/metrics.md`.
//!
//! Registry and atomics are the `prometheus` crate's; [`exposition`] writes the text as Go's client does. An update
//! costs a few atomic operations at any cluster size.

mod client;
mod elsewhere;
mod exposition;
mod families;
mod own;
mod process;
mod proxy;
mod version;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::Registry;

use self::client::Client;
pub use self::elsewhere::{IptablesPackets, RelayCount};
use self::families::{Families, Stability};
use self::own::Own;
use self::proxy::{Common, OfMode};
use sluice_config::Mode;
use sluice_core::net::Family;

/// All metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Measured>);

struct Measured {
    registry: Registry,
    common: Common,
    of_mode: OfMode,
    client: Client,
    own: Own,
    /// Requests to `/healthz` of the metrics address (`kubernetes_healthchecks_total`).
    pings: AtomicU64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// The extent of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything was compared with the kernel.
    Full,
    /// Changes only.
    Partial,
}

/// The outcome of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was applied, except Services that the kernel refuses.
    Done,
    /// Nothing could be applied.
    Failed,
}

/// A path for health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz` of the health address.
    Healthz,
    /// `/livez`.
    Livez,
}

/// A completed request to the API server.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// GET, POST, PATCH.
    pub method: &'a str,
    /// The server's `host:port`.
    pub host: &'a str,
    /// The status, if there was an answer.
    pub code: Option<u16>,
    /// The latency; meaningless for a watch.
    pub elapsed: Option<Duration>,
    /// Bytes of the request's body.
    pub sent: Option<u64>,
    /// Bytes of the response body, if known.
    pub answered: Option<u64>,
}

impl Metrics {
    /// Metrics without values. As upstream, some families exist in some modes only.
    pub fn new(mode: Mode) -> Metrics {
        let registry = Registry::new();
        let make = Families { registry: &registry, stability: Stability::Alpha };
        let (common, of_mode) = (Common::new(&make), OfMode::new(&make, mode));
        let (client, own) = (Client::new(&registry), Own::new(&registry));
        version::register(&registry, mode);
        registry.register(Box::new(process::Process::new())).expect("every name is used once");
        Metrics(Arc::new(Measured {
            registry,
            common,
            of_mode,
            client,
            own,
            pings: AtomicU64::new(0),
        }))
    }

    /// The text of `/metrics`. What others keep is read now, which may take seconds: not for tasks.
    pub fn text(&self) -> String {
        exposition::text(&self.0.registry.gather())
    }

    /// The text of `/metrics/slis` (upstream: `component-base/metrics/prometheus/slis`).
    pub fn slis(&self) -> String {
        let registry = Registry::new();
        let make = Families { registry: &registry, stability: Stability::Stable };
        let pings = self.0.pings.load(Ordering::Relaxed);
        if pings > 0 {
            let gauge = make.gauges(
                "kubernetes_healthcheck",
                "This metric records the result of a single healthcheck.",
                &["name", "type"],
            );
            gauge.with_label_values(&["ping", "healthz"]).set(1);
            let total = make.counters(
                "kubernetes_healthchecks_total",
                "This metric records the results of all healthcheck.",
                &["name", "status", "type"],
            );
            total.with_label_values(&["ping", "success", "healthz"]).inc_by(pings);
        }
        let mut families = registry.gather();
        families.extend(process::start_time());
        exposition::text(&families)
    }

    /// Resets the counters of `/metrics/slis`.
    pub fn reset_slis(&self) {
        self.0.pings.store(0, Ordering::Relaxed);
    }

    /// `/healthz` of the metrics address was requested; the answer is always 200.
    pub fn pinged(&self) {
        self.0.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// A health check was answered with this status.
    pub fn probed(&self, probe: Probe, code: u16) {
        let family = match probe {
            Probe::Healthz => &self.0.common.healthz,
            Probe::Livez => &self.0.common.livez,
        };
        family.with_label_values(&[code.to_string()]).inc();
    }
}

/// Metrics of the sync loop.
impl Metrics {
    /// Changes of Services and EndpointSlices arrived.
    pub fn changes(&self, services: usize, slices: usize) {
        let common = &self.0.common;
        common.service_changes.inc_by(count(services));
        common.service_changes_pending.add(level(services));
        common.endpoint_changes.inc_by(count(slices));
        common.endpoint_changes_pending.add(level(slices));
    }

    /// No change waits for a sync.
    pub fn caught_up(&self) {
        self.0.common.service_changes_pending.set(0);
        self.0.common.endpoint_changes_pending.set(0);
    }

    /// A sync of a family was requested.
    pub fn queued(&self, family: Family) {
        self.0.common.last_queued.with_label_values(&[family.to_string()]).set(now());
    }

    /// A sync of a family ended.
    pub fn synced(&self, family: Family, extent: Extent, outcome: Outcome, elapsed: Duration) {
        let (of_mode, own) = (&self.0.of_mode, &self.0.own);
        let label = [family.to_string()];
        let seconds = elapsed.as_secs_f64();
        self.0.common.sync.with_label_values(&label).observe(seconds);
        if let Some([full, partial]) = &of_mode.extents {
            let family = if extent == Extent::Full { full } else { partial };
            family.with_label_values(&label).observe(seconds);
        }
        if outcome == Outcome::Done {
            self.0.common.last.with_label_values(&label).set(now());
            return;
        }
        own.sync_failures.with_label_values(&label).inc();
        if let Some(failures) = &of_mode.failures {
            failures.with_label_values(&label).inc();
        }
        if let Some(failures) = of_mode.partial_failures.as_ref().filter(|_| extent != Extent::Full)
        {
            failures.with_label_values(&label).inc();
        }
    }

    /// The operations of a sync.
    pub fn operations(&self, family: Family, elements: usize, objects: usize) {
        let family = family.to_string();
        for (kind, number) in [("element", elements), ("object", objects)] {
            self.0.own.operations.with_label_values(&[kind, &family]).inc_by(count(number));
        }
    }

    /// A sync repaired changes by another program, with this number of operations.
    pub fn repaired(&self, family: Family, operations: usize) {
        let label = [family.to_string()];
        self.0.own.drift.with_label_values(&label).inc();
        self.0.own.drift_operations.with_label_values(&label).inc_by(count(operations));
    }

    /// The number of Services served, and of Services that the kernel refuses.
    pub fn serves(&self, family: Family, services: usize, refused: usize) {
        let label = [family.to_string()];
        self.0.own.services.with_label_values(&label).set(level(services));
        self.0.own.refused.with_label_values(&label).set(level(refused));
    }

    /// The number of objects of a kind in the kernel, and how many of them the last sync wrote. In the iptables mode, the
    /// kind is the table of the rules.
    pub fn owns(&self, family: Family, kind: &str, count: usize, written: usize) {
        let labels = [kind, &family.to_string()];
        self.0.own.objects.with_label_values(&labels).set(level(count));
        if let Some([total, last]) = &self.0.of_mode.rules {
            total.with_label_values(&labels).set(level(count));
            last.with_label_values(&labels).set(level(written));
        }
    }

    /// The number of Service ports with a Local policy whose endpoints are all on other nodes.
    pub fn no_local_endpoints(&self, family: Family, internal: usize, external: usize) {
        let gauge = &self.0.common.no_local_endpoints;
        let family = family.to_string();
        gauge.with_label_values(&["internal", &family]).set(level(internal));
        gauge.with_label_values(&["external", &family]).set(level(external));
    }

    /// The time from a change of endpoints to its rules.
    pub fn programmed(&self, family: Family, latency: Duration) {
        let seconds = latency.as_secs_f64();
        self.0.common.programming.with_label_values(&[family.to_string()]).observe(seconds);
    }

    /// A change came into force so long after it had arrived here.
    pub fn in_force(&self, latency: Duration) {
        self.0.own.change_duration.observe(latency.as_secs_f64());
    }

    /// A sync of all families took so much processor time.
    pub fn sync_cost(&self, cost: Duration) {
        self.0.own.sync_cpu.inc_by(cost.as_secs_f64());
    }

    /// Conntrack was checked, and this number of flows deleted.
    pub fn reconciled(&self, family: Family, elapsed: Duration, removed: usize) {
        if let Some((times, deleted)) = &self.0.of_mode.conntrack {
            let label = [family.to_string()];
            times.with_label_values(&label).observe(elapsed.as_secs_f64());
            deleted.with_label_values(&label).inc_by(count(removed));
        }
    }

    /// Whether the watch of a resource is connected.
    pub fn connected(&self, resource: &str, state: Arriving) {
        let value = i64::from(state == Arriving::Yes);
        self.0.own.connected.with_label_values(&[resource]).set(value);
    }
}

/// Whether the watch of a resource is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arriving {
    /// Changes arrive.
    Yes,
    /// The connection is lost.
    No,
}

/// Metrics of the API client.
impl Metrics {
    /// A request ended.
    pub fn requested(&self, request: Request<'_>) {
        let client = &self.0.client;
        let code = request.code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        client.requests.with_label_values(&[code.as_str(), request.method, request.host]).inc();
        let labels = [request.method, request.host];
        if let Some(elapsed) = request.elapsed {
            client.duration.with_label_values(&labels).observe(elapsed.as_secs_f64());
        }
        let sizes =
            [(request.sent, &client.request_size), (request.answered, &client.response_size)];
        for (size, family) in sizes {
            if let Some(size) = size {
                family.with_label_values(&labels).observe(size as f64);
            }
        }
    }

    /// Bytes were received from the API server.
    pub fn received(&self, bytes: usize) {
        let own = &self.0.own;
        own.received.inc_by(count(bytes));
        own.contact.with_label_values::<&str>(&[]).set(now());
    }

    /// A watch of a resource was opened.
    pub fn watching(&self, resource: &str) {
        self.0.own.watches.with_label_values(&[resource]).inc();
    }

    /// The outcome of an Event.
    pub fn event(&self, outcome: EventOutcome) {
        let label = match outcome {
            EventOutcome::Sent => "sent",
            EventOutcome::Merged => "merged",
            EventOutcome::Dropped => "dropped",
            EventOutcome::Failed => "failed",
        };
        self.0.own.events.with_label_values(&[label]).inc();
    }
}

/// The outcome of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// The API server has it.
    Sent,
    /// It is counted in the series of an earlier Event.
    Merged,
    /// The queue was full.
    Dropped,
    /// The API server rejected it, or was unreachable for too long.
    Failed,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn level(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
