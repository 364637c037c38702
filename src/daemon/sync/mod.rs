//! The loop: changes come in, forwarding tables follow, backends make the kernel match.
//!
//! Nothing is written before Services, EndpointSlices, ServiceCIDRs and the own Node have been listed
//! once, because a table built from half of them would take working rules away. After that the last known state
//! stays in force whatever happens to the API server.

mod conntrack;
mod gaps;
pub mod host;
mod own_node;
mod pacer;
mod triggers;
mod unserved;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::conntrack::{Conntrack, World};
use self::gaps::Gaps;
use self::pacer::{Pacer, Reason};
use self::triggers::Triggers;
use self::unserved::{Failure, Need};
use crate::health::Health;
use sluice_config::Config;
use sluice_core::model::{Change, ServiceName, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::{Effect, Planner};
use sluice_dataplane::{Backend, Count, Observation, Report, Scope};
use sluice_kubernetes::watch::{ConnectionState, Resource, Update};
use sluice_telemetry::metrics::{Arriving, Extent, Metrics, Outcome};
use sluice_telemetry::trace::{self, Origin};

pub use self::conntrack::RemovedTcp;

/// How long the first sync waits for the own Node with its addresses, and for the ServiceCIDRs, once all
/// else is known (upstream: `pkg/proxy/node.go`, NewNodeManager).
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long a change may wait until the proxy counts as unhealthy (upstream:
/// `cmd/kube-proxy/app/server.go`, newProxyServer).
pub fn health_timeout(config: &Config) -> Duration {
    config.sync.period.saturating_mul(2)
}

/// The most changes that are taken in before the kernel is brought up to date.
const BATCH: usize = 100_000;

/// Where changes come from.
#[derive(Debug)]
pub struct Sources {
    /// From the Kubernetes API.
    pub updates: mpsc::Receiver<Update>,
    /// The addresses of this node's interfaces.
    pub addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// Changes when somebody else may have changed our objects in the kernel.
    pub foreign: watch::Receiver<()>,
    /// The configuration, with what may change while the loop runs.
    pub config: watch::Receiver<Config>,
}

/// What the loop works with.
pub struct Setup {
    /// The configuration.
    pub config: Config,
    /// The name of the own Node.
    pub node_name: String,
    /// Who makes the kernel match, for each family.
    pub backends: Vec<(Family, Box<dyn Backend>)>,
    /// What becomes of TCP connections to endpoints that are removed.
    pub removed_tcp: RemovedTcp,
    /// Where it is noted how the loop is doing.
    pub health: Health,
    /// Where it is measured.
    pub metrics: Metrics,
    /// Told when the rules of a family are in force for the first time.
    pub in_force: watch::Sender<InForce>,
}

/// The families whose rules are in force, and those that are left out because no Service needs them.
pub type InForce = BTreeSet<Family>;

/// What a plane needs to know beside its table.
struct Around<'a> {
    snapshot: &'a Snapshot,
    local: &'a BTreeSet<IpAddr>,
    on_localhost: bool,
    health: &'a Health,
    metrics: &'a Metrics,
    started: Instant,
}

/// One IP family: its table, and the backend that carries it out.
struct Plane {
    planner: Planner,
    backend: Box<dyn Backend>,
    /// Services that the backend has not been told about, or refused.
    pending: BTreeSet<ServiceName>,
    refused: BTreeMap<ServiceName, String>,
    conntrack: Conntrack,
    gaps: Gaps,
    /// The health checks have not been handed on since they changed.
    checks_changed: bool,
    /// No sync has succeeded yet.
    fresh: bool,
    /// What was said about the syncs that fail, until one succeeds.
    failing: Option<(Need, String)>,
}

/// The loop's state.
struct Loop {
    config: Config,
    snapshot: Snapshot,
    listed: BTreeSet<Resource>,
    /// When all was known but the Node or the ServiceCIDRs.
    waiting_since: Option<Instant>,
    /// What must be known for the first sync is known, or was waited for long enough.
    ready: bool,
    /// It was said that the Node's object lacks something.
    said_waiting: bool,
    dirty: BTreeSet<ServiceName>,
    host_changed: bool,
    planes: Vec<Plane>,
    addresses: BTreeSet<IpAddr>,
    lost: BTreeSet<Resource>,
    health: Health,
    metrics: Metrics,
    triggers: Triggers,
    in_force: watch::Sender<InForce>,
    /// Where the traces of changes began that no sync has carried out.
    origins: Vec<Origin>,
}

/// The most changes whose traces a sync is told by; one of more has no links to the others.
const MOST_ORIGINS: usize = 100;

/// Runs until `stop` is cancelled or every source of changes is gone. The kernel keeps what it has.
pub async fn run(setup: Setup, mut sources: Sources, stop: CancellationToken) {
    let addresses = sources.addresses.borrow_and_update().clone();
    let mut state = Loop::new(setup, addresses);
    let mut pacer = Pacer::new(state.config.sync);
    let mut inbox = Vec::new();
    loop {
        let now = Instant::now();
        let (at, reason) = pacer.next(now);
        if state.ready(now) && (reason == Reason::Change || at <= now) {
            state.queued();
        }
        if state.ready(now) && at <= now {
            let succeeded = tokio::task::block_in_place(|| state.sync(reason));
            pacer.ran(Instant::now(), reason, succeeded);
            continue;
        }
        let wake = if state.ready(now) { at } else { now + Duration::from_secs(1) };
        tokio::select! {
            // Each has its turn, however much comes from another one.
            () = stop.cancelled() => break,
            count = sources.updates.recv_many(&mut inbox, BATCH) => {
                if count == 0 {
                    break;
                }
                if inbox.drain(..).fold(false, |changed, update| state.take(update) | changed) {
                    state.requested();
                    pacer.request();
                }
            }
            Ok(()) = sources.addresses.changed() => {
                state.addresses.clone_from(&sources.addresses.borrow_and_update());
                state.host_changed = true;
                state.requested();
                pacer.request();
            }
            Ok(()) = sources.foreign.changed() => pacer.suspect(),
            Ok(()) = sources.config.changed() => {
                state.configure(sources.config.borrow_and_update().clone());
                pacer.set_periods(state.config.sync);
                pacer.request();
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
    let stop = |plane: &mut Plane| plane.backend.stop();
    tokio::task::block_in_place(|| state.planes.iter_mut().for_each(stop));
}

impl Loop {
    fn new(setup: Setup, addresses: BTreeSet<IpAddr>) -> Loop {
        let Setup { config, node_name, backends, removed_tcp, health, metrics, in_force } = setup;
        // Healthy from the start: what was in force before stays so until all is known.
        backends.iter().for_each(|(family, _)| health.updated(*family));
        let triggers = Triggers::new(now(), backends.iter().map(|(family, _)| *family));
        let plane = |(family, backend)| {
            let host = host::host(family, &config, None, &addresses);
            Plane {
                planner: Planner::new(family, &node_name, host),
                backend,
                pending: BTreeSet::new(),
                refused: BTreeMap::new(),
                conntrack: Conntrack::new(family, removed_tcp, &metrics),
                gaps: Gaps::default(),
                checks_changed: true,
                fresh: true,
                failing: None,
            }
        };
        let planes = backends.into_iter().map(plane).collect();
        Loop {
            config,
            snapshot: Snapshot::default(),
            listed: BTreeSet::new(),
            waiting_since: None,
            ready: false,
            said_waiting: false,
            dirty: BTreeSet::new(),
            host_changed: true,
            planes,
            addresses,
            lost: BTreeSet::new(),
            health,
            metrics,
            triggers,
            in_force,
            origins: Vec::new(),
        }
    }

    /// Takes another configuration over: what it says of this host, and when to sync.
    fn configure(&mut self, config: Config) {
        self.health.set_timeout(health_timeout(&config));
        self.config = config;
        self.host_changed = true;
    }

    /// From now on somebody waits for a sync.
    fn queued(&self) {
        for plane in &self.planes {
            self.health.queued(plane.planner.table().family);
        }
    }

    /// A sync is asked for.
    fn requested(&self) {
        self.planes.iter().for_each(|plane| self.metrics.queued(plane.planner.table().family));
    }

    /// Notes a change before it is taken in.
    fn measure(&mut self, change: &Change) {
        self.triggers.note(change, &self.snapshot);
        match change {
            Change::Service(_) | Change::ServiceGone(_) => self.metrics.changes(1, 0),
            Change::Services(list) => self.metrics.changes(list.len(), 0),
            Change::Slice(_) | Change::SliceGone(_) => self.metrics.changes(0, 1),
            Change::Slices(list) => self.metrics.changes(0, list.len()),
            Change::Node(_) | Change::ServiceCidrs(_) => {}
        }
    }

    /// Takes one update in and says whether it asks for a sync.
    fn take(&mut self, update: Update) -> bool {
        match update {
            Update::Change(change) => {
                match &change {
                    Change::Services(_) => self.listed.insert(Resource::Services),
                    Change::Slices(_) => self.listed.insert(Resource::EndpointSlices),
                    Change::Node(_) => self.listed.insert(Resource::Node),
                    Change::ServiceCidrs(_) => self.listed.insert(Resource::ServiceCidrs),
                    _ => false,
                };
                if let Change::Node(node) = &change {
                    self.health.node(node.as_ref());
                }
                let for_all = matches!(change, Change::Node(_) | Change::ServiceCidrs(_));
                self.host_changed |= for_all;
                self.measure(&change);
                let kept = self.snapshot.kept.clone();
                self.snapshot.apply(change, &mut self.dirty);
                own_node::tell(&kept, &self.snapshot.kept);
                for_all || !self.dirty.is_empty()
            }
            Update::Warnings(warnings) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                false
            }
            Update::Connection { resource, state } => {
                self.connection(resource, state);
                false
            }
            Update::Traced(origin, update) => {
                let _span = origin.step("apply to snapshot");
                if self.origins.len() < MOST_ORIGINS {
                    self.origins.push(origin);
                }
                self.take(*update)
            }
        }
    }

    /// Says once what became of the connection as a whole, not once per resource.
    fn connection(&mut self, resource: Resource, state: ConnectionState) {
        let before = self.lost.is_empty();
        let arriving = match state {
            ConnectionState::Connected => {
                self.lost.remove(&resource);
                Arriving::Yes
            }
            ConnectionState::Lost(_) => {
                self.lost.insert(resource);
                Arriving::No
            }
        };
        self.metrics.connected(&resource.to_string(), arriving);
        if before && !self.lost.is_empty() {
            tracing::debug!(%resource, "no changes arrive; the rules in force stay");
        } else if !before && self.lost.is_empty() {
            tracing::debug!("changes arrive again");
        }
    }

    /// Whether enough is known to sync; what is known once stays known.
    fn ready(&mut self, now: Instant) -> bool {
        self.ready = self.ready || self.knows_enough(now);
        self.ready
    }

    fn knows_enough(&mut self, now: Instant) -> bool {
        let known = |resource| self.listed.contains(&resource);
        if !known(Resource::Services) || !known(Resource::EndpointSlices) {
            return false;
        }
        let node = self.snapshot.node.as_ref();
        let complete = own_node::suffices(&self.config, node);
        if known(Resource::Node) && known(Resource::ServiceCidrs) {
            if complete {
                return true;
            }
            if !std::mem::replace(&mut self.said_waiting, true) {
                own_node::wait_for(LONGEST_WAIT);
            }
        }
        let since = *self.waiting_since.get_or_insert(now);
        now.duration_since(since) >= LONGEST_WAIT
    }

    /// Brings every family up to date; whether all of it worked.
    fn sync(&mut self, reason: Reason) -> bool {
        let origins = std::mem::take(&mut self.origins);
        let _span = trace::sync(&origins);
        let dirty = std::mem::take(&mut self.dirty);
        let host_changed = std::mem::take(&mut self.host_changed);
        let mut ends = Vec::new();
        for plane in &mut self.planes {
            let started = Instant::now();
            let family = plane.planner.table().family;
            let _span = trace::step("sync family");
            trace::note("ip_family", || family.to_string());
            if host_changed {
                let node = self.snapshot.node.as_ref();
                let host = host::host(family, &self.config, node, &self.addresses);
                plane.plan(|planner| planner.set_host(&self.snapshot, host));
            }
            plane.plan(|planner| planner.update(&self.snapshot, &dirty));
            plane.conntrack.touch(&dirty);
            let around = Around {
                snapshot: &self.snapshot,
                local: &self.addresses,
                on_localhost: self.config.can_open_localhost(family),
                health: &self.health,
                metrics: &self.metrics,
                started,
            };
            let end = plane.sync(reason, &around);
            if !matches!(end, End::Failed(_)) {
                for latency in self.triggers.programmed(family, now()) {
                    self.metrics.programmed(family, latency);
                }
            }
            ends.push(end);
        }
        if self.settle(&ends) {
            self.metrics.caught_up();
        } else {
            self.origins = origins;
        }
        ends.iter().all(|end| *end == End::Done)
    }

    /// Draws conclusions from how the syncs of all families ended; whether all is in force that a Service
    /// needs.
    fn settle(&mut self, ends: &[End]) -> bool {
        let works = ends.iter().any(|end| !matches!(end, End::Failed(_)));
        let mut in_force = InForce::new();
        for (plane, end) in self.planes.iter_mut().zip(ends) {
            let table = plane.planner.table();
            let served = match end {
                End::Done | End::Refusing => {
                    unserved::over(&mut plane.failing, table.family);
                    true
                }
                End::Failed(failure) => {
                    let need = unserved::need(table, works);
                    unserved::tell(&mut plane.failing, failure, need, table.family);
                    unserved::note(failure, need, table.family, &self.health, &self.metrics);
                    need == Need::None
                }
            };
            in_force.extend(served.then_some(plane.planner.table().family));
        }
        let all = in_force.len() == self.planes.len();
        self.in_force.send_if_modified(|known| {
            let before = known.len();
            known.append(&mut in_force);
            known.len() != before
        });
        all
    }
}

/// How the sync of a family ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// All is in force.
    Done,
    /// All but Services that the kernel refuses.
    Refusing,
    /// What was in force before stays.
    Failed(Failure),
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Plane {
    /// Changes the forwarding table, and notes what that means.
    fn plan(&mut self, change: impl FnOnce(&mut Planner) -> Effect) {
        let effect = {
            let _span = trace::step("plan");
            change(&mut self.planner)
        };
        let family = self.planner.table().family;
        effect.warnings.iter().for_each(|warning| tracing::warn!(%family, "{warning}"));
        self.conntrack.touch(&effect.services);
        if effect.host {
            self.conntrack.shake();
        }
        self.checks_changed |= effect.health_checks || effect.host;
        self.pending.extend(effect.services);
    }

    fn sync(&mut self, reason: Reason, around: &Around<'_>) -> End {
        let scope =
            Scope { services: std::mem::take(&mut self.pending), full: reason == Reason::Full };
        let table = self.planner.table();
        let (family, metrics) = (table.family, around.metrics);
        let extent = if scope.full { Extent::Full } else { Extent::Partial };
        let handle = self.conntrack.handle();
        let rules = handle.hold();
        match self.backend.sync(table, &scope) {
            Ok(report) => {
                let repaired = report.observed != Observation::None;
                if report.operations > 0 && (repaired || !report.refused.is_empty()) {
                    // Rules of other Services may have been missing for a while.
                    self.conntrack.shake();
                }
                let extent =
                    if report.observed == Observation::None { extent } else { Extent::Full };
                self.report(&scope, report, around);
                let table = self.planner.table();
                let world = World {
                    table,
                    snapshot: around.snapshot,
                    local: around.local,
                    on_localhost: around.on_localhost,
                    backend: &mut *self.backend,
                };
                self.conntrack.reconcile(rules, world, self.refused.keys());
                // A Service that the kernel refuses is no reason to take the node out of service.
                around.health.updated(family);
                metrics.synced(family, extent, Outcome::Done, around.started.elapsed());
                if std::mem::take(&mut self.checks_changed) {
                    around.health.checks(table);
                }
                if self.refused.is_empty() { End::Done } else { End::Refusing }
            }
            Err(error) => {
                // One table may have been written, and another one not.
                self.conntrack.postpone(&rules, self.planner.table());
                self.pending = scope.services;
                let elapsed = around.started.elapsed();
                End::Failed(Failure { reason: error.to_string(), extent, elapsed })
            }
        }
    }

    /// Tells the metrics what a sync did.
    fn measure(&self, report: &Report, metrics: &Metrics) {
        let table = self.planner.table();
        let (family, elements) = (table.family, report.elements);
        metrics.operations(family, elements, report.operations.saturating_sub(elements));
        if report.observed == Observation::Drift && report.operations > 0 {
            metrics.repaired(family, report.operations);
        }
        for Count { kind, count, written } in report.owned.iter().copied() {
            metrics.owns(family, kind, count, written);
        }
        metrics.serves(family, table.services.len(), report.refused.len());
        let gap = self.gaps.total();
        metrics.no_local_endpoints(family, gap.internal, gap.external);
    }

    fn report(&mut self, scope: &Scope, report: Report, around: &Around<'_>) {
        let elapsed = around.started.elapsed();
        for service in &scope.services {
            self.gaps.update(service, self.planner.table().plan(service));
        }
        self.measure(&report, around.metrics);
        let family = self.planner.table().family;
        if report.observed == Observation::Drift && report.operations > 0 {
            tracing::warn!(
                %family,
                operations = report.operations,
                "somebody else changed our table; repaired"
            );
        }
        if std::mem::replace(&mut self.fresh, false) {
            tracing::info!(
                %family,
                services = self.planner.table().services.len(),
                operations = report.operations,
                elements = report.elements,
                ?elapsed,
                "first sync done"
            );
        } else if report.operations > 0 {
            tracing::info!(
                %family,
                services = scope.services.len(),
                operations = report.operations,
                elements = report.elements,
                ?elapsed,
                "synced"
            );
        }
        let refused: BTreeMap<ServiceName, String> =
            report.refused.into_iter().map(|r| (r.service, r.reason)).collect();
        for (service, reason) in &refused {
            if self.refused.get(service) != Some(reason) {
                tracing::error!(%family, %service, "the kernel refuses this Service; all others are served: {reason}");
            }
        }
        self.pending.extend(refused.keys().cloned());
        self.refused = refused;
    }
}

#[cfg(test)]
mod tests;
