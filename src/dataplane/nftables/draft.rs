//! What is to be done: from what a forwarding table wants and what is there to a [`Step`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::elements::{counter_elements, own_elements, shared_elements};
use super::layout::{Carrier, SetId};
use super::observed::Seen;
use super::programmed::{Basis, Delta, NOBODY, Programmed, Step, add_counts};
use super::rules::{Schema, schema};
use super::slots::{Slots, arrange};
use sluice_core::model::ServiceName;
use sluice_core::plan::{
    ForwardingTable, NodePortAddresses, PoolEndpoint, PoolKind, PortPlan, ServicePlan,
};
use sluice_kernel::nft::{Counting, Element, Key, Op, SortedElements};

/// What the kernel is to have: the forwarding table, but for Services that the kernel refuses.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) table: &'a ForwardingTable,
    /// Who its endpoints are.
    pub(super) carrier: Carrier,
    /// Whether new connections are counted.
    pub(super) counting: Counting,
    /// What is to be there for some Services instead of their plans.
    pub(super) instead: BTreeMap<ServiceName, Option<Arc<ServicePlan>>>,
}

impl Wanted<'_> {
    fn plan(&self, name: &ServiceName) -> Option<&Arc<ServicePlan>> {
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

/// A step that is being made.
struct Draft<'s> {
    carrier: Carrier,
    counting: Counting,
    step: Step,
    /// What is there already, if it was read and can be kept.
    present: Option<Present<'s>>,
}

/// Elements that were found, and which of them are wanted.
struct Present<'s>(BTreeMap<SetId, (&'s SortedElements, Vec<bool>)>);

impl<'s> Present<'s> {
    fn new(seen: &'s Seen) -> Present<'s> {
        let sets = seen.elements().map(|(set, all)| (set, (all, vec![false; all.len()])));
        Present(sets.collect())
    }

    /// Whether the element is there just so; if it is, it stays.
    fn keep(&mut self, set: SetId, element: &Element) -> bool {
        let Some((all, kept)) = self.0.get_mut(&set) else { return false };
        let Some((index, found)) = all.find(&element.key) else { return false };
        kept[index] = found == *element;
        kept[index]
    }

    /// All that nobody wanted.
    fn rest(self) -> impl Iterator<Item = (SetId, Element)> {
        self.0.into_iter().flat_map(|(set, (all, kept))| {
            let rest = all.iter().zip(kept).filter(|(_, kept)| !kept);
            rest.map(move |(element, _)| (set, element))
        })
    }
}

/// The operations for a change of some Services, given what is programmed.
pub(super) fn from_programmed(
    programmed: &Programmed,
    wanted: &Wanted<'_>,
    scope: &BTreeSet<ServiceName>,
) -> Step {
    let mut draft = Draft::new(wanted, None);
    for name in scope {
        let old = programmed.services.get(name);
        let new = wanted.plan(name).map(|plan| {
            arranged(plan, wanted.carrier, |port, kind| {
                let ports = old.into_iter().flat_map(|plan| &plan.ports);
                let twin = ports.into_iter().find(|p| same_port(p, port));
                twin.map(|twin| addresses(twin.pool(kind))).unwrap_or_default()
            })
        });
        if old != new.as_ref() {
            draft.service(name, old, new);
        }
    }
    draft.rest(programmed, wanted.table);
    draft.step
}

/// The operations that make a table in the kernel right, whatever it looks like.
pub(super) fn from_observed(seen: &Seen, wanted: &Wanted<'_>) -> Step {
    let present = seen.exists().then(|| Present::new(seen));
    let mut draft = Draft::from_nothing(seen, wanted, present);
    let schema = draft.step.outcome.schema.as_ref();
    match (draft.present.take(), seen.usable(schema)) {
        (Some(present), Some(existing)) => {
            let wanted = schema.cloned().unwrap_or_default();
            (draft.step.prepare, draft.step.finish) = migrate(&existing, &wanted);
            for (set, element) in present.rest() {
                draft.step.deletes.push(set, element, NOBODY);
            }
        }
        (Some(_), None) => {
            draft = Draft::from_nothing(seen, wanted, None);
            draft.step.prepare.insert(0, Op::DeleteTable);
        }
        (None, _) => {}
    }
    draft.step
}

impl<'s> Draft<'s> {
    fn new(wanted: &Wanted<'_>, present: Option<Present<'s>>) -> Draft<'s> {
        let (carrier, counting) = (wanted.carrier, wanted.counting);
        Draft { carrier, counting, step: Step::default(), present }
    }

    /// The operations that build the whole table, but for the elements that are there already.
    fn from_nothing(seen: &Seen, wanted: &Wanted<'_>, present: Option<Present<'s>>) -> Draft<'s> {
        let mut draft = Draft::new(wanted, present);
        for name in wanted.names() {
            let Some(plan) = wanted.plan(name) else { continue };
            let plan = arranged(plan, wanted.carrier, |port, kind| seen.slots_of(port, kind));
            draft.service(name, None, Some(plan));
        }
        draft.rest(&Programmed::default(), wanted.table);
        let comment = Some("rules for kube-proxy".into());
        draft.step.prepare.insert(0, Op::AddTable { comment });
        draft.step.outcome.fresh = true;
        if draft.carrier != Carrier::Ipvs {
            draft.step.outcome.sticky.know_all();
        }
        draft
    }

    fn add(&mut self, set: SetId, element: Element, owner: u32) {
        self.step.outcome.elements += 1;
        if !self.present.as_mut().is_some_and(|present| present.keep(set, &element)) {
            self.step.adds.push(set, element, owner);
        }
    }

    fn delete(&mut self, set: SetId, element: Element, owner: u32) {
        self.step.outcome.elements -= 1;
        self.step.deletes.push(set, element, owner);
    }

    /// What follows from the Services that have changed, and from the host.
    fn rest(&mut self, programmed: &Programmed, table: &ForwardingTable) {
        self.shared(programmed);
        self.host(&programmed.host, host_elements(table));
        self.schema(programmed, table);
    }

    fn service(
        &mut self,
        name: &ServiceName,
        old: Option<&Arc<ServicePlan>>,
        new: Option<Arc<ServicePlan>>,
    ) {
        let owner = u32::try_from(self.step.owners.len()).unwrap_or(u32::MAX);
        self.step.owners.push(name.clone());
        let (carrier, counting) = (self.carrier, self.counting);
        let sorted = |plan: Option<&Arc<ServicePlan>>| {
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
            self.step.outcome.sticky.note(old.map(|plan| &**plan), new.as_deref());
        }
        let (gone, came) = difference(before, after);
        gone.into_iter().for_each(|(set, element)| self.delete(set, element, owner));
        came.into_iter().for_each(|(set, element)| self.add(set, element, owner));

        let shared = |plan: Option<&Arc<ServicePlan>>| match plan {
            Some(plan) => shared_elements(plan, carrier),
            None => Vec::new(),
        };
        let (gone, came) = difference(shared(old), shared(new.as_ref()));
        for (list, sign) in [(gone, -1), (came, 1)] {
            for (set, element) in list {
                let delta = self.step.outcome.shared.entry((set, element.key)).or_default();
                *delta = Delta { count: delta.count + sign, owner };
            }
        }
        self.step.outcome.services.push((name.clone(), new));
    }

    fn count_varying(&mut self, elements: &[(SetId, Element)], sign: i64) {
        for (set, _) in elements.iter().filter(|(set, _)| set.varies()) {
            *self.step.outcome.varying.entry(*set).or_default() += sign;
        }
    }

    /// A shared element comes with the first Service that needs it and goes with the last.
    fn shared(&mut self, programmed: &Programmed) {
        let deltas = std::mem::take(&mut self.step.outcome.shared);
        for (&(set, key), delta) in &deltas {
            let before = i64::from(programmed.shared.get(&(set, key)).copied().unwrap_or(0));
            let after = before + delta.count;
            if before == 0 && after > 0 {
                self.add(set, Element::new(key), delta.owner);
            } else if before > 0 && after == 0 {
                self.delete(set, Element::new(key), delta.owner);
            }
        }
        self.step.outcome.shared = deltas;
    }

    fn host(&mut self, before: &BTreeSet<(SetId, Key)>, after: BTreeSet<(SetId, Key)>) {
        for (set, key) in before.difference(&after) {
            self.delete(*set, Element::new(*key), NOBODY);
        }
        for (set, key) in after.difference(before) {
            self.add(*set, Element::new(*key), NOBODY);
        }
        self.step.outcome.host = after;
    }

    /// Chains and rules change with what holds for the whole host, and with the pool sizes in use.
    fn schema(&mut self, programmed: &Programmed, table: &ForwardingTable) {
        let mut varying = programmed.varying.clone();
        add_counts(&mut varying, &self.step.outcome.varying);
        let varying: BTreeSet<SetId> = varying.into_keys().collect();
        let same = |basis: &Basis| {
            basis.varying == varying
                && basis.host == table.host
                && basis.service_cidrs == table.service_cidrs
        };
        if programmed.basis.as_ref().is_some_and(same) {
            return;
        }
        let wanted = schema(table, varying.clone(), self.carrier);
        if wanted != programmed.schema {
            (self.step.prepare, self.step.finish) = migrate(&programmed.schema, &wanted);
            self.step.outcome.schema = Some(wanted);
        }
        let (host, service_cidrs) = (table.host.clone(), table.service_cidrs.clone());
        self.step.outcome.basis = Some(Basis { host, service_cidrs, varying });
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

fn addresses(pool: &[PoolEndpoint]) -> Slots {
    pool.iter().map(|endpoint| Some((endpoint.ip, endpoint.port))).collect()
}

fn same_port(a: &PortPlan, b: &PortPlan) -> bool {
    a.name == b.name && a.protocol == b.protocol
}

/// The plan with its pools in slot order, given what was in the slots before: the same plan, where it
/// is in that order already. Of relays, each has its slot.
fn arranged(
    plan: &Arc<ServicePlan>,
    carrier: Carrier,
    before: impl Fn(&PortPlan, PoolKind) -> Slots,
) -> Arc<ServicePlan> {
    let mut plan = Arc::clone(plan);
    for index in 0..plan.ports.len() {
        if carrier.relays(plan.ports[index].protocol) {
            continue;
        }
        for kind in [PoolKind::Cluster, PoolKind::Local] {
            let port = &plan.ports[index];
            let pool = arrange(before(port, kind), port.pool(kind));
            if pool != port.pool(kind) {
                let port = &mut Arc::make_mut(&mut plan).ports[index];
                match kind {
                    PoolKind::Cluster => port.cluster = pool,
                    PoolKind::Local => port.local = pool,
                }
            }
        }
    }
    plan
}
