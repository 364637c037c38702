//! What the kernel has, and the operations that bring it to what a forwarding table wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::affinity::Sticky;
use super::elements::{counter_elements, own_elements, shared_elements};
use super::layout::{Carrier, SetId};
use super::observed::Seen;
use super::rules::{Schema, schema};
use super::slots::{Slots, arrange};
use crate::kernel::nft::{Counting, Element, Key, Op};
use crate::model::ServiceName;
use crate::plan::{ForwardingTable, NodePortAddresses, PoolKind, PortPlan, ServicePlan};

/// What the kernel has, as far as we wrote or read it.
#[derive(Debug, Clone, Default)]
pub(super) struct Programmed {
    schema: Schema,
    /// Host-wide elements.
    host: BTreeSet<(SetId, Key)>,
    /// Plans whose pools are in slot order.
    services: FxHashMap<ServiceName, ServicePlan>,
    /// How many Services need a shared element.
    shared: FxHashMap<(SetId, Key), u32>,
    /// How many frontends are in a set that is only there while it is needed.
    varying: BTreeMap<SetId, u32>,
    /// How many elements there are in all sets.
    elements: i64,
}

/// What the kernel is to have: the forwarding table, but for Services that the kernel refuses.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) table: &'a ForwardingTable,
    /// Who its endpoints are.
    pub(super) carrier: Carrier,
    /// Whether new connections are counted.
    pub(super) counting: Counting,
    /// What is to be there for some Services instead of their plans.
    pub(super) instead: BTreeMap<ServiceName, Option<ServicePlan>>,
}

impl Wanted<'_> {
    fn plan(&self, name: &ServiceName) -> Option<&ServicePlan> {
        match self.instead.get(name) {
            Some(instead) => instead.as_ref(),
            None => self.table.services.get(name),
        }
    }

    /// Every Service that may have a plan.
    fn names(&self) -> impl Iterator<Item = &ServiceName> {
        let known = |name: &&ServiceName| !self.table.services.contains_key(*name);
        self.table.services.keys().chain(self.instead.keys().filter(known))
    }
}

/// An operation on an element, with the index of the Service that asks for it.
#[derive(Debug)]
struct ElementChange {
    set: SetId,
    element: Element,
    owner: Option<u32>,
}

/// Operations of one transaction, and what is true once they are applied.
#[derive(Debug, Default)]
pub(super) struct Step {
    carrier: Carrier,
    counting: Counting,
    /// Make room: a table to build on, new sets and chains.
    prepare: Vec<Op>,
    deletes: Vec<ElementChange>,
    adds: Vec<ElementChange>,
    /// Rules, then chains and sets that nothing needs any more.
    finish: Vec<Op>,
    owners: Vec<ServiceName>,
    /// Who asked for each operation that was given away, as an index of `owners`.
    askers: Vec<Option<u32>>,
    outcome: Outcome,
}

/// What is true after a step.
#[derive(Debug, Default)]
struct Outcome {
    /// Replaces everything that was known, or adds to it.
    fresh: bool,
    schema: Option<Schema>,
    host: BTreeSet<(SetId, Key)>,
    services: Vec<(ServiceName, Option<ServicePlan>)>,
    shared: FxHashMap<(SetId, Key), Delta>,
    varying: BTreeMap<SetId, i64>,
    /// How many elements more there are.
    elements: i64,
    sticky: Sticky,
}

#[derive(Debug, Clone, Copy, Default)]
struct Delta {
    count: i64,
    owner: u32,
}

impl Programmed {
    /// What is known of a Service.
    pub(super) fn plan(&self, name: &ServiceName) -> Option<&ServicePlan> {
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
    fn new(wanted: &Wanted<'_>) -> Step {
        Step { carrier: wanted.carrier, counting: wanted.counting, ..Step::default() }
    }

    /// The operations for a change of some Services, given what is programmed.
    pub(super) fn from_programmed(
        programmed: &Programmed,
        wanted: &Wanted<'_>,
        scope: &BTreeSet<ServiceName>,
    ) -> Step {
        let mut step = Step::new(wanted);
        for name in scope {
            let old = programmed.services.get(name);
            let new = wanted.plan(name).map(|plan| {
                arranged(plan, |port, kind| {
                    let ports = old.into_iter().flat_map(|plan| &plan.ports);
                    let twin = ports.into_iter().find(|p| same_port(p, port));
                    twin.map(|twin| addresses(twin.pool(kind))).unwrap_or_default()
                })
            });
            if old != new.as_ref() {
                step.service(name, old, new);
            }
        }
        step.shared(programmed);
        step.host(&programmed.host, host_elements(wanted.table));
        step.schema(programmed, wanted.table);
        step.count_elements();
        step
    }

    /// The operations that make a table in the kernel right, whatever it looks like.
    pub(super) fn from_observed(seen: &Seen, wanted: &Wanted<'_>) -> Step {
        let mut step = Step::from_nothing(seen, wanted);
        match seen.usable(step.outcome.schema.as_ref()) {
            Some(existing) => {
                let wanted = step.outcome.schema.clone().unwrap_or_default();
                (step.prepare, step.finish) = migrate(&existing, &wanted);
                step.keep_what_is_right(seen);
            }
            None if seen.exists() => step.prepare.insert(0, Op::DeleteTable),
            None => {}
        }
        step
    }

    /// The operations that build the whole table.
    fn from_nothing(seen: &Seen, wanted: &Wanted<'_>) -> Step {
        let mut step = Step::new(wanted);
        for name in wanted.names() {
            let Some(plan) = wanted.plan(name) else { continue };
            let plan = arranged(plan, |port, kind| seen.slots_of(port, kind));
            step.service(name, None, Some(plan));
        }
        let nothing = Programmed::default();
        step.shared(&nothing);
        step.host(&nothing.host, host_elements(wanted.table));
        step.schema(&nothing, wanted.table);
        let comment = Some("rules for kube-proxy".into());
        step.prepare.insert(0, Op::AddTable { comment });
        step.outcome.fresh = true;
        if step.carrier != Carrier::Ipvs {
            step.outcome.sticky.know_all();
        }
        step.count_elements();
        step
    }

    /// To be called before elements that are there already are taken out.
    fn count_elements(&mut self) {
        let count = |changes: &[ElementChange]| i64::try_from(changes.len()).unwrap_or(i64::MAX);
        self.outcome.elements = count(&self.adds) - count(&self.deletes);
    }

    /// Takes elements that are there as wanted out of the operations, and deletes the others.
    fn keep_what_is_right(&mut self, seen: &Seen) {
        self.adds.sort_unstable_by_key(|add| (add.set, add.element.key));
        let mut wanted = std::mem::take(&mut self.adds).into_iter().peekable();
        for (set, element) in seen.elements() {
            let here = (set, element.key);
            while let Some(add) = wanted.next_if(|add| (add.set, add.element.key) < here) {
                self.adds.push(add);
            }
            let right = |add: &ElementChange| (add.set, &add.element) == (set, element);
            if wanted.next_if(right).is_none() {
                let element = element.clone();
                self.deletes.push(ElementChange { set, element, owner: None });
            }
        }
        self.adds.extend(wanted);
    }

    fn service(&mut self, name: &ServiceName, old: Option<&ServicePlan>, new: Option<ServicePlan>) {
        let owner = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        self.owners.push(name.clone());
        let (carrier, counting) = (self.carrier, self.counting);
        let sorted = |plan: Option<&ServicePlan>| {
            let mut elements = plan.map(|plan| own_elements(plan, carrier)).unwrap_or_default();
            if counting == Counting::On {
                elements.extend(plan.into_iter().flat_map(|plan| counter_elements(name, plan)));
            }
            elements.sort_unstable();
            elements
        };
        let (before, after) = (sorted(old), sorted(new.as_ref()));
        self.count_varying(&before, -1);
        self.count_varying(&after, 1);
        if carrier != Carrier::Ipvs {
            self.outcome.sticky.note(old, new.as_ref());
        }
        let change = |(set, element)| ElementChange { set, element, owner: Some(owner) };
        let (gone, came) = difference(before, after);
        self.deletes.extend(gone.into_iter().map(change));
        self.adds.extend(came.into_iter().map(change));

        let shared = |plan: Option<&ServicePlan>| match plan {
            Some(plan) => shared_elements(plan, carrier),
            None => Vec::new(),
        };
        let (gone, came) = difference(shared(old), shared(new.as_ref()));
        for (list, sign) in [(gone, -1), (came, 1)] {
            for (set, element) in list {
                let delta = self.outcome.shared.entry((set, element.key)).or_default();
                *delta = Delta { count: delta.count + sign, owner };
            }
        }
        self.outcome.services.push((name.clone(), new));
    }

    fn count_varying(&mut self, elements: &[(SetId, Element)], sign: i64) {
        for (set, _) in elements.iter().filter(|(set, _)| set.varies()) {
            *self.outcome.varying.entry(*set).or_default() += sign;
        }
    }

    /// A shared element comes with the first Service that needs it and goes with the last.
    fn shared(&mut self, programmed: &Programmed) {
        for (&(set, key), delta) in &self.outcome.shared {
            let before = i64::from(programmed.shared.get(&(set, key)).copied().unwrap_or(0));
            let after = before + delta.count;
            let change =
                || ElementChange { set, element: Element::new(key), owner: Some(delta.owner) };
            if before == 0 && after > 0 {
                self.adds.push(change());
            } else if before > 0 && after == 0 {
                self.deletes.push(change());
            }
        }
    }

    fn host(&mut self, before: &BTreeSet<(SetId, Key)>, after: BTreeSet<(SetId, Key)>) {
        let change = |&(set, key): &(SetId, Key)| ElementChange {
            set,
            element: Element::new(key),
            owner: None,
        };
        self.deletes.extend(before.difference(&after).map(change));
        self.adds.extend(after.difference(before).map(change));
        self.outcome.host = after;
    }

    /// Chains and rules change with what holds for the whole host, and with the pool sizes in use.
    fn schema(&mut self, programmed: &Programmed, table: &ForwardingTable) {
        let mut varying = programmed.varying.clone();
        add_counts(&mut varying, &self.outcome.varying);
        let wanted = schema(table, varying.into_keys().collect(), self.carrier);
        if wanted != programmed.schema {
            (self.prepare, self.finish) = migrate(&programmed.schema, &wanted);
            self.outcome.schema = Some(wanted);
        }
    }

    /// Gives away all operations, in an order in which each finds what it refers to.
    pub(super) fn operations(&mut self) -> Vec<Op> {
        // Elements of one set side by side travel in one message.
        self.deletes.sort_by_key(|change| change.set);
        self.adds.sort_by_key(|change| change.set);
        let mut names: FxHashMap<SetId, Arc<str>> = FxHashMap::default();
        let mut name = |set: SetId| Arc::clone(names.entry(set).or_insert_with(|| set.name()));
        let mut ops = std::mem::take(&mut self.prepare);
        self.askers = vec![None; ops.len()];
        ops.reserve(self.deletes.len() + self.adds.len() + self.finish.len());
        for ElementChange { set, element, owner } in std::mem::take(&mut self.deletes) {
            ops.push(Op::DeleteElement { set: name(set), element });
            self.askers.push(owner);
        }
        for ElementChange { set, element, owner } in std::mem::take(&mut self.adds) {
            ops.push(Op::AddElement { set: name(set), element });
            self.askers.push(owner);
        }
        ops.append(&mut self.finish);
        ops
    }

    /// The Service that asked for the operation at an index of [`Step::operations`].
    pub(super) fn owner(&self, index: usize) -> Option<&ServiceName> {
        let asker = self.askers.get(index).copied().flatten()?;
        self.owners.get(usize::try_from(asker).ok()?)
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

fn add_counts(counts: &mut BTreeMap<SetId, u32>, deltas: &BTreeMap<SetId, i64>) {
    for (key, delta) in deltas {
        let count = counts.entry(*key).or_default();
        *count = u32::try_from(i64::from(*count) + delta).unwrap_or(0);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What two sorted lists do not have in common: only the first's, only the second's.
fn difference<T: Ord>(before: Vec<T>, after: Vec<T>) -> (Vec<T>, Vec<T>) {
    let (mut gone, mut came) = (Vec::new(), Vec::new());
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    loop {
        match (before.peek(), after.peek()) {
            (Some(old), Some(new)) if old == new => {
                before.next();
                after.next();
            }
            (Some(old), Some(new)) if old < new => gone.extend(before.next()),
            (Some(_), None) => gone.extend(before.next()),
            (_, Some(_)) => came.extend(after.next()),
            (None, None) => return (gone, came),
        }
    }
}

/// Operations between two schemas with compatible definitions: what comes before the elements, and
/// what comes after them.
fn migrate(old: &Schema, new: &Schema) -> (Vec<Op>, Vec<Op>) {
    let new_sets = new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name));
    let new_chains = new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name));
    let mut prepare: Vec<Op> = new_sets.map(|(_, set)| Op::AddSet(set.clone())).collect();
    prepare.extend(new_chains.map(|(_, (chain, _))| Op::AddChain(chain.clone())));

    let differs = |&(name, chain): &(_, _)| old.chains.get(name) != Some(chain);
    let changed: Vec<_> = new.chains.iter().filter(differs).collect();
    let gone: Vec<_> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    let changed_names = changed.iter().map(|(name, _)| *name);
    let flushed = changed_names.filter(|name| old.chains.contains_key(*name)).chain(gone.clone());
    let mut finish: Vec<Op> = flushed.map(|name| Op::FlushChain(Arc::clone(name))).collect();
    for (_, (_, rules)) in changed {
        finish.extend(rules.iter().cloned().map(Op::AddRule));
    }
    // Sets first: an element of a foreign one may go to a chain.
    let gone_sets = old.sets.keys().filter(|name| !new.sets.contains_key(*name));
    finish.extend(gone_sets.map(|name| Op::DeleteSet(Arc::clone(name))));
    finish.extend(gone.into_iter().map(|name| Op::DeleteChain(Arc::clone(name))));
    (prepare, finish)
}

fn host_elements(table: &ForwardingTable) -> BTreeSet<(SetId, Key)> {
    match &table.host.node_ports {
        NodePortAddresses::AnyLocal => BTreeSet::new(),
        NodePortAddresses::Only(ips) => {
            ips.iter().map(|ip| (SetId::NodePortIps, Key::new().address(*ip))).collect()
        }
    }
}

fn addresses(pool: &[crate::plan::PoolEndpoint]) -> Slots {
    pool.iter().map(|endpoint| Some((endpoint.ip, endpoint.port))).collect()
}

fn same_port(a: &PortPlan, b: &PortPlan) -> bool {
    a.name == b.name && a.protocol == b.protocol
}

/// The plan with its pools in slot order, given what was in the slots before.
fn arranged(plan: &ServicePlan, before: impl Fn(&PortPlan, PoolKind) -> Slots) -> ServicePlan {
    let mut plan = plan.clone();
    for port in &mut plan.ports {
        port.cluster = arrange(before(port, PoolKind::Cluster), &port.cluster);
        port.local = arrange(before(port, PoolKind::Local), &port.local);
    }
    plan
}
