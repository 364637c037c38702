//! The service table: the nf_tables table of every mode except iptables, with Services as elements of sets
//! and a constant number of rules.
//!
//! The modes nftables, ipvs and userspace differ only in the last step, from a frontend to an endpoint. That
//! step is a [`DataPath`], of which `nftables/`, `ipvs/` and `userspace/` have one each. Everything else is
//! here, once.
//!
//! # What is, what should be, and the difference
//!
//! All modes use these words, each for one thing:
//!
//! | word | what | here |
//! |---|---|---|
//! | **desired** | what the forwarding table asks for, in the words of the kernel; a pure function of it | [`desired`] |
//! | **observed** | what a reading of the kernel shows | [`observed`] |
//! | **applied** | what the kernel has as far as this process wrote or read it; kept so that a change costs no reading | [`applied`] |
//! | **diff** | the operations from observed or applied to desired, with the Service that owns each | [`diff`] |
//!
//! A sync compares desired with applied for the Services that changed; at the start, every hour and after a foreign
//! change it compares desired with observed, for all. Once the diff is in the kernel, its outcome is applied.
//!
//! # Reading order
//!
//! [`frontends`] and [`sets`] name the objects, [`elements`] and [`endpoints`] say a Service's plan in
//! elements, [`rules`] has the rules, [`slots`] keeps endpoints where they are, [`affinity`] forgets endpoints that
//! left. [`compare`] finds what a change costs. [`connection`] is the kernel. [`counters`] reads what
//! frontends count. `docs/modes/nftables.md` explains the shape.

mod affinity;
mod applied;
mod compare;
mod connection;
mod counters;
mod data_path;
mod desired;
mod diff;
mod elements;
mod endpoints;
mod frontends;
mod inspect;
mod observed;
mod operations;
mod packet_path;
mod rules;
mod ruleset;
mod schema;
mod sets;
mod slots;
#[cfg(test)]
pub(crate) mod strict_kernel;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use self::affinity::AffinityChange;
use self::applied::Applied;
use self::compare::{from_applied, from_observed};
pub use self::connection::{Connection, KernelTable, LiveTable};
pub use self::counters::ServiceCounters;
pub(crate) use self::data_path::DataPath;
use self::desired::Desired;
use self::diff::Diff;
pub(crate) use self::elements::Elements;
pub(crate) use self::endpoints::slot_elements;
pub(crate) use self::frontends::{FrontendClass, frontend_key, lookups, pools_of};
pub(crate) use self::inspect::inspect;
pub(crate) use self::observed::endpoint_of;
use self::observed::{ObservedTable, Repair};
pub(crate) use self::operations::operations;
pub(crate) use self::packet_path::packet_path;
pub(crate) use self::rules::{Conditions, DSTNAT, Hooks, MANGLE, Rules, all};
pub use self::ruleset::Ruleset;
pub(crate) use self::ruleset::ruleset;
pub(crate) use self::sets::{OwnSet, SetId, TABLE};
use crate::{Backend, Count, Observation, RefusedService, Report, Scope, SyncError};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{Address, ForwardingTable, ServicePlan};
use sluice_kernel::nft::{ApplyError, Counting, Listening, NftError, Op, Operations, Ops, Refused};
use sluice_telemetry::trace;

/// How often a batch is sent again without the Services whose objects were refused.
const ROUNDS: usize = 8;

/// A table that is new is built in transactions of at most so many elements.
const PART: usize = 4096;

/// How often a sync starts over because the kernel's state is not as expected. The last time, the table is
/// replaced, whatever it contains.
const ATTEMPTS: usize = 4;

/// The service table of one IP family, kept as a forwarding table asks for.
///
/// | goal | how it is met |
/// |---|---|
/// | A change costs work for the Services that changed, whatever the cluster | Only their elements are computed and compared with what was applied for them. Rules depend on host facts, and on which sizes of pools are in use, not on Services: [`Applied`] keeps what they follow from |
/// | Traffic never meets half a change | One sync is one transaction of nf_tables, in which sets come before what refers to them. A table that is new has no rules until all its elements are there: it is built in parts, so that neither this process nor the kernel holds all of it twice |
/// | A restart writes nothing that is there already | Everything that elements and rules say follows from the forwarding table, but for the slots of endpoints: these are read back |
/// | One Service that the kernel refuses harms no other | Each operation has an owner; what a refusal names is left out as before, and the rest is sent again, [`ROUNDS`] times at the most |
/// | What somebody else changes is repaired | A listener tells of foreign changes, and the generation of the rule set closes the gap before it listened; so does a refusal that contradicts what was applied ([`Refused::contradicts_state`]) |
/// | Nothing stands in the way of that for ever | After [`ATTEMPTS`] the table is built anew, whatever is in it |
#[derive(Debug)]
pub struct ServiceTable<T = LiveTable> {
    kernel: T,
    /// The proxy mode's part.
    path: Box<dyn DataPath>,
    counting: Counting,
    /// `None` makes the next sync observe.
    applied: Option<Applied>,
}

impl<T: KernelTable> ServiceTable<T> {
    /// The table of a mode; nothing is known of the kernel yet.
    pub(crate) fn new(kernel: T, path: Box<dyn DataPath>) -> ServiceTable<T> {
        ServiceTable { kernel, path, counting: Counting::Off, applied: None }
    }

    /// Counts new connections to each frontend, or does not; without this, it does not.
    #[must_use]
    pub fn counting(self, counting: Counting) -> ServiceTable<T> {
        ServiceTable { counting, ..self }
    }

    /// Subscribes to changes by other programs, and returns whether one may have been missed since the kernel
    /// was read at `generation` and changed by `commits` transactions of ours.
    fn listen(&mut self, generation: u32, commits: u32) -> Result<bool, NftError> {
        match self.kernel.listen()? {
            Listening::Before => Ok(false),
            Listening::Now => Ok(self.kernel.generation()? != generation.wrapping_add(commits)),
        }
    }

    /// Deletes the affinity entries of removed endpoints; returns how many. If the kernel refuses, the next
    /// sync compares everything.
    fn purge(&mut self, family: Family, affinity: &AffinityChange) -> usize {
        if !affinity.leaves_stale_entries() {
            return 0;
        }
        self.try_purge(family, affinity).unwrap_or_else(|error| {
            tracing::warn!(%family, %error, "session affinity may still use removed endpoints; trying again");
            self.applied = None;
            0
        })
    }

    fn try_purge(
        &mut self,
        family: Family,
        affinity: &AffinityChange,
    ) -> Result<usize, ApplyError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let elements = self.kernel.elements(&SetId::Affinity.definition(family))?;
            let ops = Ops::from(affinity.purge(elements));
            if ops.is_empty() {
                return Ok(0);
            }
            match self.kernel.apply(&ops) {
                Ok(()) => return Ok(ops.len()),
                // One of them has expired meanwhile.
                Err(ApplyError::Refused(refused))
                    if attempt < ATTEMPTS && refused.iter().all(Refused::contradicts_state) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Finds out what there is to do.
    fn prepare(
        &mut self,
        table: &ForwardingTable,
        scope: &Scope,
        (observation, repair): (Observation, Repair),
    ) -> Result<Work, NftError> {
        let _span = trace::step("diff");
        let observe = observation != Observation::None || self.applied.is_none();
        let (generation, observed) = if observe {
            let generation = self.kernel.generation()?;
            (generation, Some(ObservedTable::new(table.family, self.kernel.dump()?, repair)))
        } else {
            (0, None)
        };
        let mut work = Work {
            diff: Diff::default(),
            observed,
            generation,
            refused: BTreeMap::new(),
            commits: 0,
            report: Report { observed: observation, ..Report::default() },
        };
        work.diff = self.diff(table, scope, &work);
        Ok(work)
    }

    /// The operations that bring the kernel to what the table wants, with what it had before for
    /// Services that were refused.
    fn diff(&self, table: &ForwardingTable, scope: &Scope, work: &Work) -> Diff {
        let instead = self.instead(table, scope, work);
        let desired = Desired { table, path: &*self.path, counting: self.counting, instead };
        match (&work.observed, &self.applied) {
            (Some(observed), _) => from_observed(observed, &desired),
            (None, Some(applied)) => from_applied(applied, &desired, &scope.services),
            (None, None) => Diff::default(),
        }
    }

    /// What is to be there for refused Services: what was there before, unless one of its addresses
    /// has gone to another Service by now.
    fn instead(
        &self,
        table: &ForwardingTable,
        scope: &Scope,
        work: &Work,
    ) -> BTreeMap<ServiceName, Option<Arc<ServicePlan>>> {
        let refused = |name: &&ServiceName| work.refused.contains_key(*name);
        let changed = scope.services.iter().filter(|name| !refused(name));
        let changed = changed.filter_map(|name| table.services.get(name));
        let taken: FxHashSet<Claimed> = changed.flat_map(|plan| claimed_by(plan)).collect();
        let before = |name: &ServiceName| {
            let plan = self.applied.as_ref()?.plan(name)?;
            (!claimed_by(plan).any(|it| taken.contains(&it))).then(|| Arc::clone(plan))
        };
        work.refused.keys().map(|name| (name.clone(), before(name))).collect()
    }

    /// Applies what differs; what is refused is taken out, service by service.
    fn apply(
        &mut self,
        table: &ForwardingTable,
        scope: &Scope,
        work: &mut Work,
    ) -> Result<(), ApplyError> {
        for round in 1.. {
            let ops = work.diff.take_operations();
            if ops.is_empty() {
                break;
            }
            let (operations, elements) = (ops.len(), ops.count_elements());
            let in_parts = round == 1 && work.is_new() && elements > PART;
            let most = if in_parts { PART } else { usize::MAX };
            let refused = match self.transact(ops, most, &mut work.commits) {
                Ok(()) => {
                    work.report.operations = operations;
                    work.report.elements = elements;
                    break;
                }
                Err(ApplyError::Refused(_)) if in_parts => {
                    // As a whole it shows which Services are at fault, and nothing of them stays.
                    let none = vec![Op::AddTable { comment: None }, Op::DeleteTable];
                    self.transact(none.into(), usize::MAX, &mut work.commits)?;
                    work.diff = self.diff(table, scope, work);
                    continue;
                }
                Err(ApplyError::Refused(refused)) => refused,
                Err(error) => return Err(error),
            };
            let blamed = blame(&work.diff, &refused);
            let drift = refused.iter().any(Refused::contradicts_state);
            if blamed.is_empty() || drift || round == ROUNDS {
                return Err(ApplyError::Refused(refused));
            }
            work.refused.extend(blamed);
            work.diff = self.diff(table, scope, work);
        }
        Ok(())
    }

    /// One transaction, or several if there are more elements than `most`, until the kernel has answered.
    fn transact(&mut self, ops: Ops, most: usize, commits: &mut u32) -> Result<(), ApplyError> {
        let _span = trace::step("kernel transaction");
        trace::note("operations", || ops.len().to_string());
        let mut apply = |ops: &Ops| {
            self.kernel.apply(ops)?;
            *commits += 1;
            Ok(())
        };
        let result: Result<(), ApplyError> = if ops.count_elements() > most {
            ops.in_parts(most).try_for_each(|part| apply(&part))
        } else {
            apply(&ops)
        };
        trace::note("answer", || match &result {
            Ok(()) => "acknowledged".to_owned(),
            Err(error) => error.to_string(),
        });
        result
    }

    /// Syncs; after an error, what is believed of the kernel may be wrong.
    fn try_sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, ApplyError> {
        let mut observation = match &self.applied {
            _ if self.kernel.drifted() => Observation::Drift,
            Some(_) if !scope.full => Observation::None,
            _ => Observation::Asked,
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last = attempt == ATTEMPTS;
            let repair = if last { Repair::Rebuild } else { Repair::Migrate };
            let mut work = self.prepare(table, scope, (observation, repair))?;
            match self.apply(table, scope, &mut work) {
                Ok(()) => {}
                // What we believe of the kernel's state is wrong, or was read while it settled.
                Err(ApplyError::Refused(refused))
                    if !last && refused.iter().any(Refused::contradicts_state) =>
                {
                    observation = Observation::Drift;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let interfered = self.listen(work.generation, work.commits);
            let affinity = work.diff.outcome.commit(&mut self.applied);
            work.report.operations += self.purge(table.family, &affinity);
            if work.observed.is_some() && interfered? && !last {
                observation = Observation::Drift;
                continue;
            }
            let refused = work.refused.into_iter();
            let refused = refused.map(|(service, reason)| RefusedService { service, reason });
            let owned = self.applied.as_ref().map(|applied| owned(applied, &work.report));
            let owned = owned.into_iter().flatten().collect();
            return Ok(Report { refused: refused.collect(), owned, ..work.report });
        }
    }
}

/// A sync in progress.
struct Work {
    diff: Diff,
    /// The kernel's state, if it was read, with the generation of its rule set.
    observed: Option<ObservedTable>,
    generation: u32,
    refused: BTreeMap<ServiceName, String>,
    /// How many transactions the kernel took.
    commits: u32,
    report: Report,
}

impl Work {
    /// Whether there was no table when the kernel was read.
    fn is_new(&self) -> bool {
        self.observed.as_ref().is_some_and(|observed| !observed.exists())
    }
}

/// What one Service has alone.
#[derive(PartialEq, Eq, Hash)]
enum Claimed {
    ClusterIp(IpAddr),
    Frontend(Address),
}

fn claimed_by(plan: &ServicePlan) -> impl Iterator<Item = Claimed> {
    let frontends = plan.ports.iter().flat_map(|port| &port.frontends);
    let frontends = frontends.map(|frontend| Claimed::Frontend(frontend.at));
    plan.cluster_ip.map(Claimed::ClusterIp).into_iter().chain(frontends)
}

/// What is in the kernel after a sync.
fn owned(applied: &Applied, report: &Report) -> [Count; 2] {
    let objects = report.operations.saturating_sub(report.elements);
    [
        Count { kind: "element", count: applied.elements(), written: report.elements },
        Count { kind: "object", count: applied.objects(), written: objects },
    ]
}

/// The Services that own the refused operations; none if the table as a whole is at fault.
/// Where so much was refused that it is not known which of many operations it was, all are blamed:
/// they are tried again with the next sync.
fn blame(diff: &Diff, refused: &[Refused]) -> BTreeMap<ServiceName, String> {
    let mut blamed = BTreeMap::new();
    for refusal in refused {
        let before = blamed.len();
        let operations = refusal.op..refusal.op + refusal.count;
        for owner in operations.filter_map(|index| diff.owner(index)) {
            blamed.entry(owner.clone()).or_insert_with(|| refusal.to_string());
        }
        if diff.owner(refusal.op).is_none() && blamed.len() == before {
            return BTreeMap::new();
        }
    }
    blamed
}

impl<T: KernelTable> Backend for ServiceTable<T> {
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError> {
        self.try_sync(table, scope).map_err(|error| {
            self.applied = None;
            SyncError { backend: "nftables", family: table.family, reason: error.to_string() }
        })
    }
}
