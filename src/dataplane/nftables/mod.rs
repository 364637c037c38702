//! The nftables mode: a constant number of rules, and sets and maps for all that varies.
//!
//! Reading order: [`layout`] names the objects, [`rules`] has the rules, [`affinity_rules`] those of
//! session affinity, [`elements`] says a Service's plan in set elements, [`slots`] keeps endpoints where
//! they are, [`draft`] finds what a change costs, [`programmed`] remembers it, [`observed`] reads the
//! kernel back, [`tables`] is the kernel.
//! [`counters`] reads what frontends count. [`virtuals`] is what the IPVS mode has instead of endpoints.
//! `docs/modes/nftables.md` explains the shape.

mod affinity;
mod affinity_rules;
mod counters;
mod draft;
mod elements;
mod layout;
mod observed;
mod programmed;
mod rules;
mod slots;
#[cfg(test)]
pub(super) mod strict_kernel;
mod tables;
#[cfg(test)]
mod tests;
pub(super) mod virtuals;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use self::affinity::Sticky;
pub use self::counters::{ServiceCount, ServiceCounters};
use self::draft::{Wanted, from_observed, from_programmed};
use self::layout::SetId;
pub(super) use self::layout::TABLE;
pub use self::layout::{Carrier, Sight, is_relayed};
#[cfg(test)]
pub(super) use self::layout::{KEPT, MASQUERADED};
use self::observed::{Repair, Seen};
use self::programmed::{Programmed, Step};
pub(super) use self::rules::delivery_mark;
pub use self::tables::{Connection, Live, Tables};
use super::{Backend, Count, Observation, RefusedService, Report, Scope, SyncError};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{Address, ForwardingTable, ServicePlan};
use sluice_kernel::nft::{ApplyError, Counting, Listening, NftError, Operations, Ops, Refused};
use sluice_telemetry::trace;

/// How often a batch is sent again without the Services whose objects were refused.
const ROUNDS: usize = 8;

/// How often a sync starts over because the kernel's state turned out to be another. The last time,
/// the table is built anew, whatever is in it.
const ATTEMPTS: usize = 4;

/// The nftables mode for one IP family.
#[derive(Debug)]
pub struct Nftables<T = Live> {
    tables: T,
    carrier: Carrier,
    counting: Counting,
    /// What the kernel has, as far as we wrote or read it; `None` makes the next sync look.
    programmed: Option<Programmed>,
}

impl<T: Tables> Nftables<T> {
    /// The mode on these tables, of which it knows nothing yet.
    pub fn new(tables: T, carrier: Carrier) -> Nftables<T> {
        Nftables { tables, carrier, counting: Counting::Off, programmed: None }
    }

    /// Counts new connections to each frontend, or does not; without this, it does not.
    #[must_use]
    pub fn counting(self, counting: Counting) -> Nftables<T> {
        Nftables { counting, ..self }
    }

    /// Listens for foreign changes from now on, and tells whether one may have slipped in since the
    /// kernel was read at `generation` and changed by `commits` transactions of ours.
    fn listen(&mut self, generation: u32, commits: u32) -> Result<bool, NftError> {
        match self.tables.listen()? {
            Listening::Before => Ok(false),
            Listening::Now => Ok(self.tables.generation()? != generation.wrapping_add(commits)),
        }
    }

    /// Makes the kernel forget clients' affinity to endpoints that left; how many elements it was. If
    /// it does not, the next sync compares everything.
    fn purge(&mut self, family: Family, sticky: &Sticky) -> usize {
        if !sticky.is_stale() {
            return 0;
        }
        self.try_purge(family, sticky).unwrap_or_else(|error| {
            tracing::warn!(%family, %error, "clients may still be sent to endpoints that left; trying again");
            self.programmed = None;
            0
        })
    }

    fn try_purge(&mut self, family: Family, sticky: &Sticky) -> Result<usize, ApplyError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let elements = self.tables.elements(&SetId::Affinity.definition(family))?;
            let ops = Ops::from(sticky.purge(elements));
            if ops.is_empty() {
                return Ok(0);
            }
            match self.tables.apply(&ops) {
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
        let observe = observation != Observation::None || self.programmed.is_none();
        let (generation, seen) = if observe {
            let generation = self.tables.generation()?;
            (generation, Some(Seen::new(table.family, self.tables.dump()?, repair)))
        } else {
            (0, None)
        };
        let mut work = Work {
            step: Step::default(),
            seen,
            generation,
            refused: BTreeMap::new(),
            report: Report { observed: observation, ..Report::default() },
        };
        work.step = self.step(table, scope, &work);
        Ok(work)
    }

    /// The operations that bring the kernel to what the table wants, with what it had before for
    /// Services that were refused.
    fn step(&self, table: &ForwardingTable, scope: &Scope, work: &Work) -> Step {
        let instead = self.instead(table, scope, work);
        let (carrier, counting) = (self.carrier, self.counting);
        let wanted = Wanted { table, carrier, counting, instead };
        match (&work.seen, &self.programmed) {
            (Some(seen), _) => from_observed(seen, &wanted),
            (None, Some(programmed)) => from_programmed(programmed, &wanted, &scope.services),
            (None, None) => Step::default(),
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
        let taken: FxHashSet<Address> = changed.flat_map(|plan| frontends(plan)).collect();
        let before = |name: &ServiceName| {
            let plan = self.programmed.as_ref()?.plan(name)?;
            (!frontends(plan).any(|at| taken.contains(&at))).then(|| Arc::clone(plan))
        };
        work.refused.keys().map(|name| (name.clone(), before(name))).collect()
    }

    /// Applies a step; what is refused is taken out, service by service.
    fn apply(
        &mut self,
        table: &ForwardingTable,
        scope: &Scope,
        work: &mut Work,
    ) -> Result<(), ApplyError> {
        for round in 1.. {
            let ops = work.step.operations();
            if ops.is_empty() {
                break;
            }
            let refused = match self.transact(&ops) {
                Ok(()) => {
                    work.report.operations = ops.len();
                    work.report.elements = ops.count_elements();
                    break;
                }
                Err(ApplyError::Refused(refused)) => refused,
                Err(error) => return Err(error),
            };
            let blamed = blame(&work.step, &refused);
            let drift = refused.iter().any(Refused::contradicts_state);
            if blamed.is_empty() || drift || round == ROUNDS {
                return Err(ApplyError::Refused(refused));
            }
            work.refused.extend(blamed);
            work.step = self.step(table, scope, work);
        }
        Ok(())
    }

    /// One transaction, until the kernel has answered.
    fn transact(&mut self, ops: &Ops) -> Result<(), ApplyError> {
        let _span = trace::step("kernel transaction");
        trace::note("operations", || ops.len().to_string());
        let result = self.tables.apply(ops);
        trace::note("answer", || match &result {
            Ok(()) => "acknowledged".to_owned(),
            Err(error) => error.to_string(),
        });
        result
    }

    /// Syncs; after an error, what is believed of the kernel may be wrong.
    fn try_sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, ApplyError> {
        let mut observation = match &self.programmed {
            _ if self.tables.drifted() => Observation::Drift,
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
            let commits = u32::from(work.report.operations > 0);
            let interfered = self.listen(work.generation, commits);
            let sticky = work.step.commit(&mut self.programmed);
            work.report.operations += self.purge(table.family, &sticky);
            if work.seen.is_some() && interfered? && !last {
                observation = Observation::Drift;
                continue;
            }
            let refused = work.refused.into_iter();
            let refused = refused.map(|(service, reason)| RefusedService { service, reason });
            let owned = self.programmed.as_ref().map(|known| owned(known, &work.report));
            let owned = owned.into_iter().flatten().collect();
            return Ok(Report { refused: refused.collect(), owned, ..work.report });
        }
    }
}

/// A sync under way.
struct Work {
    step: Step,
    /// The kernel's state, if it was read, with the generation of its rule set.
    seen: Option<Seen>,
    generation: u32,
    refused: BTreeMap<ServiceName, String>,
    report: Report,
}

fn frontends(plan: &ServicePlan) -> impl Iterator<Item = Address> {
    plan.ports.iter().flat_map(|port| &port.frontends).map(|frontend| frontend.at)
}

/// What is in the kernel after a sync.
fn owned(known: &Programmed, report: &Report) -> [Count; 2] {
    let objects = report.operations.saturating_sub(report.elements);
    [
        Count { kind: "element", count: known.elements(), written: report.elements },
        Count { kind: "object", count: known.objects(), written: objects },
    ]
}

/// The Services that asked for the refused operations; none if the table as a whole is at fault.
/// Where so much was refused that it is not known which of many operations it was, all are blamed:
/// they are tried again with the next sync.
fn blame(step: &Step, refused: &[Refused]) -> BTreeMap<ServiceName, String> {
    let mut blamed = BTreeMap::new();
    for refusal in refused {
        let before = blamed.len();
        let operations = refusal.op..refusal.op + refusal.count;
        for owner in operations.filter_map(|index| step.owner(index)) {
            blamed.entry(owner.clone()).or_insert_with(|| refusal.to_string());
        }
        if step.owner(refusal.op).is_none() && blamed.len() == before {
            return BTreeMap::new();
        }
    }
    blamed
}

impl<T: Tables> Backend for Nftables<T> {
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError> {
        self.try_sync(table, scope).map_err(|error| {
            self.programmed = None;
            SyncError { backend: "nftables", family: table.family, reason: error.to_string() }
        })
    }
}
