//! What the kernel has, and the operations of one transaction that change it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::affinity::Sticky;
use super::layout::SetId;
use super::rules::Schema;
use sluice_core::model::ServiceName;
use sluice_core::plan::{Host, ServicePlan};
use sluice_kernel::nft::{Element, ElementList, ElementOps, Key, Op, Ops, Verb};

/// What the kernel has, as far as we wrote or read it.
#[derive(Debug, Clone, Default)]
pub(super) struct Programmed {
    pub(super) schema: Schema,
    /// What the schema follows from.
    pub(super) basis: Option<Basis>,
    /// Host-wide elements.
    pub(super) host: BTreeSet<(SetId, Key)>,
    /// Plans whose pools are in slot order.
    pub(super) services: FxHashMap<ServiceName, Arc<ServicePlan>>,
    /// How many Services need a shared element.
    pub(super) shared: FxHashMap<(SetId, Key), u32>,
    /// How many frontends are in a set that is only there while it is needed.
    pub(super) varying: BTreeMap<SetId, u32>,
    /// How many elements there are in all sets.
    elements: i64,
}

/// What chains and rules follow from, beside what never changes: a change of a few endpoints, as most
/// are, does not touch it, so that they need not be written down only to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) host: Host,
    pub(super) service_cidrs: BTreeSet<IpNet>,
    /// The sets in use of those that are not always there.
    pub(super) varying: BTreeSet<SetId>,
}

/// Operations of one transaction, and what is true once they are applied.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Make room: a table to build on, new sets and chains.
    pub(super) prepare: Vec<Op>,
    pub(super) deletes: Changes,
    pub(super) adds: Changes,
    /// Rules, then chains and sets that nothing needs any more.
    pub(super) finish: Vec<Op>,
    pub(super) owners: Vec<ServiceName>,
    /// Who asked for each operation that was given away, as an index of `owners`.
    askers: Vec<u32>,
    pub(super) outcome: Outcome,
}

/// Elements that go one way, set by set: elements of one set side by side travel in one message.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<SetId, Owned>);

/// Elements, and the index of the Service that asks for each.
#[derive(Debug, Default)]
struct Owned {
    elements: ElementList,
    owners: Vec<u32>,
}

/// Stands for the index of a Service where the host as a whole asks.
pub(super) const NOBODY: u32 = u32::MAX;

impl Changes {
    /// Appends an element, for the Service with this index.
    pub(super) fn push(&mut self, set: SetId, element: Element, owner: u32) {
        let owned = self.0.entry(set).or_default();
        owned.elements.push(element);
        owned.owners.push(owner);
    }

    /// Appends all as operations, and who asked for them.
    fn give(self, verb: Verb, ops: &mut Vec<ElementOps>, askers: &mut Vec<u32>) {
        for (set, mut owned) in self.0 {
            ops.push(ElementOps { verb, set: set.name(), elements: owned.elements });
            askers.append(&mut owned.owners);
        }
    }
}

/// What is true after a step.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Replaces everything that was known, or adds to it.
    pub(super) fresh: bool,
    pub(super) schema: Option<Schema>,
    pub(super) basis: Option<Basis>,
    pub(super) host: BTreeSet<(SetId, Key)>,
    pub(super) services: Vec<(ServiceName, Option<Arc<ServicePlan>>)>,
    pub(super) shared: FxHashMap<(SetId, Key), Delta>,
    pub(super) varying: BTreeMap<SetId, i64>,
    /// How many elements more there are.
    pub(super) elements: i64,
    pub(super) sticky: Sticky,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) count: i64,
    pub(super) owner: u32,
}

impl Programmed {
    /// What is known of a Service.
    pub(super) fn plan(&self, name: &ServiceName) -> Option<&Arc<ServicePlan>> {
        self.services.get(name)
    }

    /// How many elements there are, without those that the kernel makes itself.
    pub(super) fn elements(&self) -> usize {
        usize::try_from(self.elements).unwrap_or_default()
    }

    /// How many chains, rules and sets there are.
    pub(super) fn objects(&self) -> usize {
        let rules: usize = self.schema.chains.values().map(|(_, rules)| rules.len()).sum();
        self.schema.chains.len() + rules + self.schema.sets.len()
    }
}

impl Step {
    /// Gives away all operations, in an order in which each finds what it refers to.
    pub(super) fn operations(&mut self) -> Ops {
        let before = std::mem::take(&mut self.prepare);
        let after = std::mem::take(&mut self.finish);
        let mut elements = Vec::new();
        self.askers = vec![NOBODY; before.len()];
        std::mem::take(&mut self.deletes).give(Verb::Delete, &mut elements, &mut self.askers);
        std::mem::take(&mut self.adds).give(Verb::Add, &mut elements, &mut self.askers);
        Ops { before, elements, after }
    }

    /// The Service that asked for the operation at an index of [`Step::operations`].
    pub(super) fn owner(&self, index: usize) -> Option<&ServiceName> {
        let asker = usize::try_from(*self.askers.get(index)?).ok()?;
        self.owners.get(asker)
    }

    /// Makes what was applied what is known, and gives what it means for session affinity.
    pub(super) fn commit(self, programmed: &mut Option<Programmed>) -> Sticky {
        if self.outcome.fresh {
            *programmed = None;
        }
        let known = programmed.get_or_insert_default();
        known.host = self.outcome.host;
        known.elements += self.outcome.elements;
        if let Some(schema) = self.outcome.schema {
            known.schema = schema;
        }
        if let Some(basis) = self.outcome.basis {
            known.basis = Some(basis);
        }
        for (name, plan) in self.outcome.services {
            match plan {
                Some(plan) => known.services.insert(name, plan),
                None => known.services.remove(&name),
            };
        }
        for (key, delta) in self.outcome.shared {
            let count = known.shared.entry(key).or_default();
            *count = u32::try_from(i64::from(*count) + delta.count).unwrap_or(0);
            if *count == 0 {
                known.shared.remove(&key);
            }
        }
        add_counts(&mut known.varying, &self.outcome.varying);
        self.outcome.sticky
    }
}

pub(super) fn add_counts(counts: &mut BTreeMap<SetId, u32>, deltas: &BTreeMap<SetId, i64>) {
    for (key, delta) in deltas {
        let count = counts.entry(*key).or_default();
        *count = u32::try_from(i64::from(*count) + delta).unwrap_or(0);
        if *count == 0 {
            counts.remove(key);
        }
    }
}
