//! The nftables mode: a constant number of rules, and sets and maps for all that varies.
//!
//! Reading order: [`layout`] names the objects, [`rules`] has the rules, [`elements`] says a Service's
//! plan in set elements, [`slots`] keeps endpoints where they are, [`programmed`] finds what a change
//! costs, [`observed`] reads the kernel back. `docs/modes/nftables.md` explains the shape.

mod affinity;
mod elements;
mod layout;
mod observed;
mod programmed;
mod rules;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::affinity::Sticky;
use self::layout::TABLE;
use self::observed::Seen;
use self::programmed::{Programmed, Step};
use super::{Backend, Observation, RefusedService, Report, Scope, SyncError};
use crate::kernel::nft::{
    ApplyError, Element, Nft, NftError, NftEvents, Observed, Op, Refused, Set, TableName,
};
use crate::model::ServiceName;
use crate::net::Family;
use crate::plan::ForwardingTable;

/// How often a batch is sent again without the Services whose objects were refused.
const ROUNDS: usize = 8;

/// How often a sync starts over because the kernel's state turned out to be another.
const ATTEMPTS: usize = 4;

/// What this mode needs of nf_tables: the kernel's, or in tests a model of it that fails on demand.
pub trait Tables: Send {
    /// Applies all operations in one transaction, or none.
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError>;
    /// Reads our table.
    fn dump(&mut self) -> Result<Option<Observed>, NftError>;
    /// Reads the elements of one set; none if it is not there.
    fn elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError>;
    /// The number of transactions so far, of anybody.
    fn generation(&mut self) -> Result<u32, NftError>;
    /// Listens for foreign changes of our table from now on; whether it did so before.
    fn listen(&mut self) -> Result<Listening, NftError>;
    /// Whether somebody else changed our table since the last call, as far as was listened.
    fn drifted(&mut self) -> bool;
}

/// Whether foreign changes were listened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// From now on.
    Now,
    /// Since an earlier call.
    Before,
}

/// The kernel's nf_tables.
#[derive(Debug)]
pub struct Live {
    nft: Nft,
    events: Option<NftEvents>,
    table: TableName,
}

impl Tables for Live {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        match &mut self.events {
            Some(events) => events.apply_unheard(&mut self.nft, &self.table, ops),
            None => self.nft.apply(&self.table, ops),
        }
    }

    fn elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError> {
        self.nft.elements(&self.table, set)
    }

    fn dump(&mut self) -> Result<Option<Observed>, NftError> {
        self.nft.dump(&self.table)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.nft.generation()
    }

    fn listen(&mut self) -> Result<Listening, NftError> {
        if self.events.is_some() {
            return Ok(Listening::Before);
        }
        self.events = Some(NftEvents::open(self.nft.port_id(), vec![self.table.clone()])?);
        Ok(Listening::Now)
    }

    fn drifted(&mut self) -> bool {
        let Some(events) = &mut self.events else { return false };
        let mut drifted = false;
        loop {
            match events.try_next() {
                Ok(None) => return drifted,
                Ok(Some(_)) => drifted = true,
                Err(error) => {
                    tracing::warn!(%error, "cannot hear of foreign changes; listening anew");
                    self.events = None;
                    return true;
                }
            }
        }
    }
}

/// The nftables mode for one IP family.
#[derive(Debug)]
pub struct Nftables<T = Live> {
    tables: T,
    /// What the kernel has, as far as we wrote or read it; `None` makes the next sync look.
    programmed: Option<Programmed>,
}

impl Nftables {
    /// Opens nf_tables of the current network namespace.
    ///
    /// # Errors
    /// If the kernel has no nf_tables, or does not let this process use it.
    pub fn open(family: Family) -> Result<Nftables, NftError> {
        let table = TableName::new(family, TABLE);
        let tables = Live { nft: Nft::open()?, events: None, table };
        Ok(Nftables { tables, programmed: None })
    }
}

impl<T: Tables> Nftables<T> {
    /// Listens for foreign changes from now on, and tells whether one may have slipped in since the
    /// kernel was read at `generation` and changed by `commits` transactions of ours.
    fn listen(&mut self, generation: u32, commits: u32) -> Result<bool, NftError> {
        match self.tables.listen()? {
            Listening::Before => Ok(false),
            Listening::Now => Ok(self.tables.generation()? != generation.wrapping_add(commits)),
        }
    }

    /// Makes the kernel forget clients' affinity to endpoints that left; how many elements it was.
    fn purge(&mut self, family: Family, sticky: &Sticky) -> Result<usize, ApplyError> {
        let mut count = 0;
        for map in sticky.maps() {
            for _ in 0..ATTEMPTS {
                let elements = self.tables.elements(&map.definition(family))?;
                let ops = sticky.purge(family, map, elements);
                if ops.is_empty() {
                    break;
                }
                match self.tables.apply(&ops) {
                    Ok(()) => count += ops.len(),
                    // One of them has expired meanwhile.
                    Err(ApplyError::Refused(refused))
                        if refused.iter().all(Refused::contradicts_state) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(count)
    }

    /// Finds out what there is to do.
    fn prepare(
        &mut self,
        table: &ForwardingTable,
        scope: &Scope,
        observation: Observation,
    ) -> Result<Work, NftError> {
        let (seen, generation, step) = match (&self.programmed, observation) {
            (Some(programmed), Observation::None) => {
                (None, 0, Step::from_programmed(programmed, table, &scope.services))
            }
            _ => {
                let generation = self.tables.generation()?;
                let seen = Seen::new(table.family, self.tables.dump()?);
                let step = Step::from_observed(&seen, table);
                (Some(seen), generation, step)
            }
        };
        Ok(Work {
            step,
            seen,
            generation,
            scope: scope.services.clone(),
            refused: BTreeMap::new(),
            report: Report { observed: observation, ..Report::default() },
        })
    }

    /// Applies a step; what is refused is taken out, service by service.
    fn apply(&mut self, table: &ForwardingTable, work: &mut Work) -> Result<(), ApplyError> {
        for _ in 0..ROUNDS {
            let ops = work.step.operations();
            if ops.is_empty() {
                return Ok(());
            }
            match self.tables.apply(&ops) {
                Ok(()) => {
                    work.report.operations = ops.len();
                    work.report.elements = ops.iter().filter(|op| is_element(op)).count();
                    return Ok(());
                }
                Err(ApplyError::Refused(refused)) => {
                    let blamed = blame(&work.step, &refused);
                    let drift = refused.iter().any(Refused::contradicts_state);
                    if blamed.is_empty() || drift {
                        return Err(ApplyError::Refused(refused));
                    }
                    work.refused.extend(blamed);
                    let out = work.refused.keys().cloned().collect();
                    work.step = match &work.seen {
                        Some(seen) => Step::from_observed(seen, &without(table, &out)),
                        None => {
                            let Some(programmed) = &self.programmed else { break };
                            let scope = work.scope.difference(&out).cloned().collect();
                            Step::from_programmed(programmed, table, &scope)
                        }
                    };
                }
                Err(error) => return Err(error),
            }
        }
        Err(ApplyError::Refused(Vec::new()))
    }
}

/// A sync under way.
struct Work {
    step: Step,
    /// The kernel's state, if it was read, with the generation of its rule set.
    seen: Option<Seen>,
    generation: u32,
    scope: BTreeSet<ServiceName>,
    refused: BTreeMap<ServiceName, String>,
    report: Report,
}

fn is_element(op: &Op) -> bool {
    matches!(op, Op::AddElement { .. } | Op::DeleteElement { .. })
}

/// The Services that asked for the refused operations; none if the table as a whole is at fault.
fn blame(step: &Step, refused: &[Refused]) -> BTreeMap<ServiceName, String> {
    let mut blamed = BTreeMap::new();
    for refusal in refused {
        match step.owner(refusal.op) {
            Some(owner) => {
                blamed.entry(owner.clone()).or_insert_with(|| refusal.to_string());
            }
            None => return BTreeMap::new(),
        }
    }
    blamed
}

fn without(table: &ForwardingTable, out: &BTreeSet<ServiceName>) -> ForwardingTable {
    let mut table = table.clone();
    table.services.retain(|name, _| !out.contains(name));
    table
}

impl<T: Tables> Backend for Nftables<T> {
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError> {
        let family = table.family;
        let failed = |reason: String| SyncError { backend: "nftables", family, reason };
        let drifted = self.tables.drifted();
        let mut observation = match &self.programmed {
            _ if drifted => Observation::Drift,
            Some(_) if !scope.full => Observation::None,
            _ => Observation::Asked,
        };
        for _ in 0..ATTEMPTS {
            let prepared = self.prepare(table, scope, observation);
            let mut work = prepared.map_err(|error| failed(error.to_string()))?;
            match self.apply(table, &mut work) {
                Ok(()) => {}
                // What we believe of the kernel's state is wrong, or was read while it settled.
                Err(ApplyError::Refused(refused))
                    if refused.iter().any(Refused::contradicts_state) =>
                {
                    observation = Observation::Drift;
                    continue;
                }
                Err(error) => {
                    self.programmed = None;
                    return Err(failed(error.to_string()));
                }
            }
            let commits = u32::from(work.report.operations > 0);
            let interfered = self.listen(work.generation, commits);
            let sticky = work.step.commit(&mut self.programmed);
            match self.purge(family, &sticky) {
                Ok(count) => work.report.operations += count,
                Err(error) => tracing::warn!(
                    %family, %error, "clients may still be sent to endpoints that left, until their affinity ends"
                ),
            }
            if work.seen.is_some() && interfered.map_err(|error| failed(error.to_string()))? {
                observation = Observation::Drift;
                continue;
            }
            let refused = work.refused.into_iter();
            let refused = refused.map(|(service, reason)| RefusedService { service, reason });
            return Ok(Report { refused: refused.collect(), ..work.report });
        }
        self.programmed = None;
        Err(failed("somebody else keeps changing the table while it is written".to_owned()))
    }
}
