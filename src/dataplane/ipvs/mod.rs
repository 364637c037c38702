//! The IPVS mode: IPVS chooses endpoints, and the service table does everything else.
//!
//! Reading order: [`virtual_services`] says which ones a Service needs, [`data_path`] has the table that
//! leads to them; [`desired`], [`applied`] and [`diff`] are what
//! [these words](crate::service_table#what-is-what-should-be-and-the-difference) say, [`drain`] lets
//! destinations go, [`kernel`] is the kernel.
//! `docs/modes/ipvs.md` explains the shape.
//!
//! A sync applies changes in an order in which each object exists before it is referred to:
//!
//! 1. virtual services and destinations come,
//! 2. addresses go,
//! 3. the table changes, in one transaction,
//! 4. addresses come,
//! 5. destinations and virtual services go.

mod applied;
mod data_path;
mod desired;
mod diff;
mod drain;
mod inspect;
mod kernel;
mod operations;
#[cfg(test)]
mod strict_kernel;
#[cfg(test)]
mod tests;
mod virtual_services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::applied::Applied;
pub use self::data_path::{path, ruleset, table};
use self::desired::Desired;
pub use self::desired::virtual_services_of;
use self::diff::Diff;
use self::drain::Drains;
pub use self::drain::Leaving;
pub use self::inspect::Inspector;
pub use self::kernel::{Kernel, KernelError, Live, Options, settings};
pub use self::operations::operations;
use crate::{Backend, Count, Observation, RefusedService, Report, Scope, SyncError};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_kernel::Refusal;
use sluice_kernel::dummy::DummyOp;
use sluice_kernel::ipvs::{Key, Op};

/// How often a sync checks for changes by other programs, because IPVS does not notify. Draining destinations
/// are checked then too.
const LOOK_PERIOD: Duration = Duration::from_secs(4);

/// How often all virtual services are listed at a look: that costs time in proportion to the cluster.
const LIST_PERIOD: Duration = Duration::from_secs(60);

/// Of how many virtual services the destinations are compared at a look.
const WINDOW: usize = 64;

/// How often a sync starts over because the kernel's state turned out to be another.
const ATTEMPTS: usize = 4;

/// The IPVS mode for one IP family, with the service table `N`.
#[derive(Debug)]
pub struct Ipvs<N, K = Live> {
    table: N,
    kernel: K,
    scheduler: Arc<str>,
    desired: Desired,
    /// The objects that the kernel has, as last written or read; `None` makes the next sync read them.
    applied: Option<Applied>,
    /// What may differ from the desired objects, and for which Services.
    due: Due,
    drains: Drains,
    looked: Option<Instant>,
    listed: Option<Instant>,
    /// From where on destinations are compared at the next look.
    cursor: Option<Key>,
}

/// What may differ from the desired objects, and for which Services.
#[derive(Debug, Default)]
struct Due {
    keys: BTreeMap<Key, BTreeSet<ServiceName>>,
    addresses: BTreeSet<IpAddr>,
}

/// A sync in progress.
#[derive(Default)]
struct Work {
    report: Report,
    /// How many things of a kind were changed.
    written: BTreeMap<&'static str, usize>,
    refused: BTreeMap<ServiceName, String>,
    /// The kernel's state is not what was believed.
    contradicted: bool,
    /// If it is not now, it will not be.
    last: bool,
}

impl<N: Backend, K: Kernel> Ipvs<N, K> {
    /// Syncs IPVS, and the service table through [`table`](fn@table).
    pub fn new(table: N, kernel: K, scheduler: Arc<str>, leaving: Leaving) -> Ipvs<N, K> {
        Ipvs {
            table,
            kernel,
            scheduler,
            desired: Desired::default(),
            applied: None,
            due: Due::default(),
            drains: Drains::new(leaving),
            looked: None,
            listed: None,
            cursor: None,
        }
    }

    fn try_sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, Failed> {
        let mut observation = match self.applied {
            Some(_) if !scope.full => self.look()?,
            _ => Observation::Asked,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let observe = observation != Observation::None;
            if observe {
                self.observe(table)?;
            } else {
                self.note(table, &scope.services);
            }
            let scope =
                Scope { services: scope.services.clone(), full: scope.full && attempt == 1 };
            let mut work = Work { last: attempt == ATTEMPTS, ..Work::default() };
            self.carry_out(table, &scope, &mut work)?;
            if work.contradicted {
                observation = Observation::Drift;
                continue;
            }
            work.report.observed = strongest(observation, work.report.observed);
            let refused = work.refused.into_iter();
            let refused = refused.map(|(service, reason)| RefusedService { service, reason });
            work.report.refused.extend(refused);
            let counts = self.applied.iter().flat_map(Applied::counts);
            let written = |kind| work.written.get(kind).copied().unwrap_or_default();
            let count = |(kind, count)| Count { kind, count, written: written(kind) };
            work.report.owned.extend(counts.map(count));
            return Ok(work.report);
        }
    }

    /// Updates the desired objects of some Services.
    fn note(&mut self, table: &ForwardingTable, services: &BTreeSet<ServiceName>) {
        for name in services {
            let plan = table.plan(name);
            let touched = self.desired.replace(name, plan, &self.scheduler);
            // Without its address, nothing is left to drain: a Service that lost its endpoints before.
            for ip in touched.addresses.iter().filter(|ip| !self.desired.needs(ip)) {
                for key in self.drains.at(*ip) {
                    self.due.keys.entry(*key).or_default().insert(name.clone());
                }
            }
            self.due.addresses.extend(touched.addresses);
            for key in touched.keys {
                self.due.keys.entry(key).or_default().insert(name.clone());
            }
        }
    }

    /// Reads the kernel; everything in it and everything desired is due.
    fn observe(&mut self, table: &ForwardingTable) -> Result<(), Failed> {
        let applied = Applied::read(&mut self.kernel)?;
        self.desired = Desired::of(table, &self.scheduler);
        self.due = Due::default();
        for key in applied.services.keys().chain(self.desired.keys()) {
            self.due.keys.entry(*key).or_default();
        }
        self.due.addresses.extend(applied.addresses.iter().chain(self.desired.addresses()));
        self.drains.watch_all(&applied);
        self.looked = Some(self.kernel.now());
        self.listed = self.looked;
        self.applied = Some(applied);
        Ok(())
    }

    /// Checks cheaply, from time to time, for changes by other programs.
    fn look(&mut self) -> Result<Observation, Failed> {
        let now = self.kernel.now();
        let within = |period, at: Option<Instant>| at.is_some_and(|at| now - at < period);
        let Some(applied) = &self.applied else { return Ok(Observation::Asked) };
        if within(LOOK_PERIOD, self.looked) {
            return Ok(Observation::None);
        }
        self.looked = Some(now);
        let mut same = applied.has_addresses(&mut self.kernel)?
            && applied.has_destinations(&mut self.kernel, &mut self.cursor, WINDOW)?;
        if same && !within(LIST_PERIOD, self.listed) {
            self.listed = Some(now);
            same = applied.has_services(&mut self.kernel)?;
        }
        Ok(if same { Observation::None } else { Observation::Drift })
    }

    /// Applies what is due, in order, and what the table has to do.
    fn carry_out(
        &mut self,
        table: &ForwardingTable,
        scope: &Scope,
        work: &mut Work,
    ) -> Result<(), Failed> {
        let diff = self.diff();
        let family = table.family;
        self.services(&diff.arrivals, work)?;
        self.addresses(&diff.addresses_gone, work)?;
        let beside = self.table.sync(table, scope).map_err(Failed::Table)?;
        let withheld: BTreeSet<ServiceName> =
            beside.refused.iter().map(|refused| refused.service.clone()).collect();
        self.addresses(&diff.addresses_new, work)?;
        let kept =
            |key: &Key| self.due.keys.get(key).is_some_and(|owners| !owners.is_disjoint(&withheld));
        let departures: Vec<Op> =
            diff.departures.into_iter().filter(|op| !kept(&op.key())).collect();
        let unsettled: BTreeSet<Key> =
            self.due.keys.keys().filter(|key| kept(key)).copied().collect();
        self.services(&departures, work)?;
        self.drain(family, work)?;
        work.report.operations += beside.operations;
        work.report.elements = beside.elements;
        work.report.observed = beside.observed;
        work.report.owned = beside.owned;
        work.report.refused.extend(beside.refused);
        self.due.keys.retain(|key, owners| {
            unsettled.contains(key) || owners.iter().any(|name| work.refused.contains_key(name))
        });
        self.due.addresses.clear();
        Ok(())
    }

    /// What there is to change.
    fn diff(&self) -> Diff {
        let mut diff = Diff::default();
        let Some(applied) = &self.applied else { return diff };
        for key in self.due.keys.keys() {
            let desired = self.desired.service(key).map(|(_, desired)| desired);
            let drains = self.drains.allows(key) && self.desired.has_address(key);
            diff.compare(key, applied.services.get(key), desired, drains);
        }
        if !applied.device {
            diff.addresses_new.push(DummyOp::Create);
        }
        for ip in &self.due.addresses {
            match (applied.addresses.contains(ip), self.desired.needs(ip)) {
                (false, true) => diff.addresses_new.push(DummyOp::Add(*ip)),
                (true, false) => diff.addresses_gone.push(DummyOp::Remove(*ip)),
                _ => {}
            }
        }
        diff
    }

    /// Changes virtual services and their destinations.
    fn services(&mut self, ops: &[Op], work: &mut Work) -> Result<(), Failed> {
        let answers = self.kernel.change_services(ops)?;
        for (op, answer) in ops.iter().zip(answers) {
            match answer {
                Ok(()) => {
                    work.report.operations += 1;
                    *work.written.entry(kind(op)).or_default() += 1;
                    self.applied.get_or_insert_default().record(op);
                    self.drains.record(op);
                }
                Err(refusal) if refusal.contradicts_state() && !work.last => {
                    work.contradicted = true
                }
                Err(refusal) => {
                    let reason = format!("{op}: {refusal}");
                    tracing::debug!("{reason}");
                    if let Some((name, _)) = self.desired.service(&op.key()) {
                        work.refused.entry(name.clone()).or_insert(reason);
                    }
                }
            }
        }
        Ok(())
    }

    /// Changes addresses of this node.
    fn addresses(&mut self, ops: &[DummyOp], work: &mut Work) -> Result<(), Failed> {
        if ops.is_empty() {
            return Ok(());
        }
        let answers = self.kernel.change_addresses(ops)?;
        for (op, answer) in ops.iter().zip(answers) {
            match answer {
                Ok(()) => {
                    work.report.operations += 1;
                    *work.written.entry("address").or_default() += 1;
                    self.applied.get_or_insert_default().record_address(op);
                }
                Err(refusal) if refusal.contradicts_state() && !work.last => {
                    work.contradicted = true
                }
                Err(refusal) => match op {
                    // Without the device nothing can be served.
                    DummyOp::Create => return Err(Failed::Device { refusal }),
                    DummyOp::Add(ip) | DummyOp::Remove(ip) => {
                        let reason = format!("address {ip}: {refusal}");
                        for name in self.desired.users(ip) {
                            work.refused.entry(name.clone()).or_insert_with(|| reason.clone());
                        }
                    }
                },
            }
        }
        Ok(())
    }

    /// Deletes drained destinations.
    fn drain(&mut self, family: Family, work: &mut Work) -> Result<(), Failed> {
        let Some(applied) = &self.applied else { return Ok(()) };
        let now = self.kernel.now();
        let ops = self.drains.finished(&mut self.kernel, applied, &self.desired, now)?;
        if !ops.is_empty() {
            tracing::debug!(%family, operations = ops.len(), "deleting destinations without connections");
        }
        self.services(&ops, work)
    }
}

/// What keeps a sync from doing anything.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{}", .0.reason)]
    Table(SyncError),
    #[error("create the device {name}: {refusal}; the module dummy may be missing", name = kernel::DEVICE)]
    Device { refusal: Refusal },
}

/// What an operation is about, in the words of [`Applied::counts`].
fn kind(op: &Op) -> &'static str {
    match op {
        Op::AddService(_) | Op::SetService(_) | Op::DeleteService(_) => "virtual-service",
        Op::AddDestination(..) | Op::SetDestination(..) | Op::DeleteDestination(..) => {
            "destination"
        }
    }
}

fn strongest(a: Observation, b: Observation) -> Observation {
    match (a, b) {
        (Observation::Drift, _) | (_, Observation::Drift) => Observation::Drift,
        (Observation::Asked, _) | (_, Observation::Asked) => Observation::Asked,
        _ => Observation::None,
    }
}

impl<N: Backend, K: Kernel> Backend for Ipvs<N, K> {
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError> {
        self.try_sync(table, scope).map_err(|failed| {
            // What was due stays so: whatever was not done is found by looking.
            self.applied = None;
            SyncError { backend: "ipvs", family: table.family, reason: failed.to_string() }
        })
    }
}
