//! The event loop: receives changes, and decides when to sync each family.
//!
//! - Changes that come during a sync are taken together by the next one.
//! - Each source has its turn, however much comes from another one.
//! - The first sync waits until enough is known ([`EventLoop::knows_enough`]).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pacer::{Pacer, Reason};
use super::plane::{Plane, SyncContext, SyncResult};
use super::programming_latency::ProgrammingLatency;
use super::{InForce, Setup, Sources, View, health_timeout, host, own_node};
use crate::http::health::Health;
use sluice_config::Config;
use sluice_core::model::{Change, ServiceName};
use sluice_core::plan::Planner;
use sluice_kernel::process::processor_time;
use sluice_kubernetes::watch::{ConnectionState, Message, Resource, Update};
use sluice_telemetry::metrics::{Arriving, Metrics};
use sluice_telemetry::trace::{self, Origin};

/// How long the first sync waits for the own Node with its addresses, and for the ServiceCIDRs, once all
/// else is known (upstream: `pkg/proxy/node.go`, NewNodeManager).
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The maximum number of changes that are applied to the snapshot before a sync.
const BATCH: usize = 100_000;

/// What the loop knows.
struct EventLoop {
    config: Config,
    /// The snapshot, and what else is shown to others.
    view: View,
    listed: BTreeSet<Resource>,
    /// When all was known but the Node or the ServiceCIDRs.
    waiting_since: Option<Instant>,
    /// What must be known for the first sync is known, or was waited for long enough.
    ready: bool,
    /// An incomplete Node object was logged.
    said_waiting: bool,
    dirty: BTreeSet<ServiceName>,
    host_changed: bool,
    planes: Vec<Plane>,
    addresses: BTreeSet<IpAddr>,
    lost: BTreeSet<Resource>,
    health: Health,
    metrics: Metrics,
    latency: ProgrammingLatency,
    in_force: watch::Sender<InForce>,
    /// Trace origins of changes that are not applied yet.
    origins: Vec<Origin>,
    /// When these changes arrived.
    arrivals: Vec<Instant>,
}

/// At most this many changes are linked to the trace of a sync; further ones are not.
const MOST_ORIGINS: usize = 100;

/// At most this many changes of a sync are measured; more of them at a time say nothing new.
const MOST_ARRIVALS: usize = 1000;

/// Runs until `stop` is cancelled or every source of changes is gone. The kernel keeps what it has. Blocks its thread
/// while it programs the kernel, so it must have one of its own.
pub(crate) async fn run(setup: Setup, mut sources: Sources, stop: CancellationToken) {
    let addresses = sources.addresses.borrow_and_update().clone();
    let mut pacer = Pacer::new(setup.config.sync, setup.share);
    let mut state = EventLoop::new(setup, addresses);
    let mut inbox = Vec::new();
    loop {
        let now = Instant::now();
        let (at, reason) = pacer.next(now);
        if state.ready(now) && (reason == Reason::Change || at <= now) {
            state.note_queued();
        }
        if state.ready(now) && at <= now {
            let (succeeded, cost) = state.measured_sync(reason);
            pacer.ran(Instant::now(), reason, cost, succeeded);
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
                if inbox.drain(..).fold(false, |changed, message| state.on_message(message) | changed) {
                    state.note_requested();
                    pacer.request();
                }
            }
            Ok(()) = sources.addresses.changed() => {
                state.addresses.clone_from(&sources.addresses.borrow_and_update());
                state.host_changed = true;
                let addresses = &state.addresses;
                state.view.note(|facts| facts.addresses.clone_from(addresses));
                state.note_requested();
                pacer.request();
            }
            Ok(()) = sources.foreign.changed() => pacer.suspect(),
            Ok(()) = sources.config.changed() => {
                state.on_config(sources.config.borrow_and_update().clone());
                pacer.set_periods(state.config.sync);
                pacer.request();
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
    state.planes.iter_mut().for_each(Plane::stop);
}

impl EventLoop {
    fn new(setup: Setup, addresses: BTreeSet<IpAddr>) -> EventLoop {
        let Setup {
            config, node_name, backends, removed_tcp, health, metrics, view, in_force, ..
        } = setup;
        // Healthy from the start: the previous rules stay until everything is listed.
        backends.iter().for_each(|(family, _)| health.updated(*family));
        let latency = ProgrammingLatency::new(now(), backends.iter().map(|(family, _)| *family));
        let plane = |(family, backend)| {
            let host = host::host(family, &config, None, &addresses);
            let planner = Planner::new(family, &node_name, host);
            Plane::new(planner, backend, removed_tcp, &metrics, &view)
        };
        let planes = backends.into_iter().map(plane).collect();
        view.note(|facts| {
            facts.config = Some(config.clone());
            facts.addresses.clone_from(&addresses);
        });
        EventLoop {
            config,
            view,
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
            latency,
            in_force,
            origins: Vec::new(),
            arrivals: Vec::new(),
        }
    }

    /// Applies a changed configuration: host settings and sync periods.
    fn on_config(&mut self, config: Config) {
        self.health.set_timeout(health_timeout(&config));
        self.view.note(|facts| facts.config = Some(config.clone()));
        self.config = config;
        self.host_changed = true;
    }

    /// From now on a change waits for a sync.
    fn note_queued(&self) {
        for plane in &self.planes {
            self.health.queued(plane.family());
        }
    }

    /// Requests a sync.
    fn note_requested(&self) {
        self.planes.iter().for_each(|plane| self.metrics.queued(plane.family()));
    }

    /// Records a change before it is applied.
    fn count(&mut self, change: &Change) {
        self.latency.note(change, &self.view.snapshot());
        match change {
            Change::Service(_) | Change::ServiceGone(_) => self.metrics.changes(1, 0),
            Change::Services(list) => self.metrics.changes(list.len(), 0),
            Change::Slice(_) | Change::SliceGone(_) => self.metrics.changes(0, 1),
            Change::Slices(list) => self.metrics.changes(0, list.len()),
            Change::Node(_) | Change::ServiceCidrs(_) => {}
        }
    }

    /// Applies a message and returns whether it needs a sync.
    fn on_message(&mut self, Message { update, origin, arrived }: Message) -> bool {
        let _span = origin.as_ref().map(|origin| origin.step("apply to snapshot"));
        if self.origins.len() < MOST_ORIGINS {
            self.origins.extend(origin);
        }
        let changed = self.on_update(update);
        // Before the first sync, a change waits for the others.
        if changed && self.ready && self.arrivals.len() < MOST_ARRIVALS {
            self.arrivals.push(arrived);
        }
        changed
    }

    fn on_update(&mut self, update: Update) -> bool {
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
                self.count(&change);
                let mut snapshot = self.view.change_snapshot();
                let kept = snapshot.kept.clone();
                snapshot.apply(change, &mut self.dirty);
                own_node::tell(&kept, &snapshot.kept);
                drop(snapshot);
                for_all || !self.dirty.is_empty()
            }
            Update::Warnings(warnings) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                false
            }
            Update::Connection { resource, state } => {
                self.on_connection(resource, state);
                false
            }
        }
    }

    /// Logs the state of the connection once, not once per resource.
    fn on_connection(&mut self, resource: Resource, state: ConnectionState) {
        let before = self.lost.is_empty();
        let arriving = match state {
            ConnectionState::Connected => {
                self.lost.remove(&resource);
                self.view.note(|facts| facts.lost.retain(|lost, _| *lost != resource.to_string()));
                Arriving::Yes
            }
            ConnectionState::Lost(_) => {
                self.lost.insert(resource);
                let name = resource.to_string();
                self.view.note(|facts| {
                    facts.lost.entry(name).or_insert_with(Timestamp::now);
                });
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
        let complete = own_node::suffices(&self.config, self.view.snapshot().node.as_ref());
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

    /// A sync, and the processor time that it took: on this thread, and in the programs that it ran.
    fn measured_sync(&mut self, reason: Reason) -> (bool, Duration) {
        let before = processor_time();
        let succeeded = self.sync(reason);
        let cost = processor_time().saturating_sub(before);
        self.metrics.sync_cost(cost);
        (succeeded, cost)
    }

    /// Brings every family up to date; whether all of it worked.
    fn sync(&mut self, reason: Reason) -> bool {
        let origins = std::mem::take(&mut self.origins);
        let _span = trace::sync(&origins);
        let dirty = std::mem::take(&mut self.dirty);
        let host_changed = std::mem::take(&mut self.host_changed);
        let mut results = Vec::new();
        // Only this thread changes it.
        let snapshot = self.view.snapshot();
        for plane in &mut self.planes {
            let started = Instant::now();
            let family = plane.family();
            let _span = trace::step("sync family");
            trace::note("ip_family", || family.to_string());
            if host_changed {
                let node = snapshot.node.as_ref();
                let host = host::host(family, &self.config, node, &self.addresses);
                plane.set_host(&snapshot, host);
            }
            plane.update(&snapshot, &dirty);
            let context = SyncContext {
                snapshot: &snapshot,
                local: &self.addresses,
                on_localhost: self.config.can_open_localhost(family),
                health: &self.health,
                metrics: &self.metrics,
                started,
            };
            let result = plane.sync(reason, &context);
            if !matches!(result, SyncResult::Failed(_)) {
                for latency in self.latency.programmed(family, now()) {
                    self.metrics.programmed(family, latency);
                }
            }
            results.push(result);
        }
        drop(snapshot);
        if self.settle(&results) {
            self.metrics.caught_up();
            for arrived in self.arrivals.drain(..) {
                self.metrics.in_force(arrived.elapsed());
            }
        } else {
            self.origins = origins;
        }
        results.iter().all(|result| *result == SyncResult::Done)
    }

    /// Evaluates the outcomes of all families' syncs; returns whether everything that a Service needs is
    /// applied.
    fn settle(&mut self, results: &[SyncResult]) -> bool {
        let works = results.iter().any(|result| !matches!(result, SyncResult::Failed(_)));
        let mut in_force = InForce::new();
        for (plane, result) in self.planes.iter_mut().zip(results) {
            let served = plane.settle(result, works, &self.health, &self.metrics);
            in_force.extend(served.then_some(plane.family()));
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

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
