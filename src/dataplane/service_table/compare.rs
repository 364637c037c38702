//! From desired, and applied or observed, to the [`Diff`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::applied::{Applied, Delta, SchemaInputs, add_counts};
use super::desired::Desired;
use super::diff::{Diff, UNOWNED};
use super::elements::Elements;
use super::observed::ObservedTable;
use super::schema::Schema;
use super::sets::SetId;
use super::slots::{Slots, arrange};
use sluice_core::model::ServiceName;
use sluice_core::plan::{PoolEndpoint, PoolKind, PortPlan, ServicePlan};
use sluice_kernel::nft::{Element, Key, Op, SortedElements};

/// A comparison in progress.
struct Comparison<'a> {
    desired: &'a Desired<'a>,
    diff: Diff,
    /// Elements that are there already, if they were read and can be kept.
    present: Option<Present<'a>>,
}

/// Elements that were observed, and which of them are desired.
struct Present<'s>(BTreeMap<SetId, (&'s SortedElements, Vec<bool>)>);

impl<'s> Present<'s> {
    fn new(observed: &'s ObservedTable, desired: &Desired<'_>) -> Present<'s> {
        let sets = observed
            .elements(desired.path.sets())
            .into_iter()
            .map(|(set, all)| (set, (all, vec![false; all.len()])));
        Present(sets.collect())
    }

    /// Whether the element is there just so; if it is, it stays.
    fn keep(&mut self, set: SetId, element: &Element) -> bool {
        let Some((all, kept)) = self.0.get_mut(&set) else { return false };
        let Some((index, found)) = all.find(&element.key) else { return false };
        kept[index] = found == *element;
        kept[index]
    }

    /// All that are not desired.
    fn rest(self) -> impl Iterator<Item = (SetId, Element)> {
        self.0.into_iter().flat_map(|(set, (all, kept))| {
            let rest = all.iter().zip(kept).filter(|(_, kept)| !kept);
            rest.map(move |(element, _)| (set, element))
        })
    }
}

/// The operations for a change of some Services, given what was applied.
pub(super) fn from_applied(
    applied: &Applied,
    desired: &Desired<'_>,
    scope: &BTreeSet<ServiceName>,
) -> Diff {
    let mut comparison = Comparison::new(desired, None);
    for name in scope {
        let old = applied.services.get(name);
        let new = desired.plan(name).map(|plan| {
            arranged(plan, desired, |port, kind| {
                let ports = old.into_iter().flat_map(|plan| &plan.ports);
                let twin = ports.into_iter().find(|p| same_port(p, port));
                twin.map(|twin| addresses(twin.pool(kind))).unwrap_or_default()
            })
        });
        if old != new.as_ref() {
            comparison.service(name, old, new);
        }
    }
    comparison.rest(applied);
    comparison.diff
}

/// The operations that make a table in the kernel right, whatever it looks like.
pub(super) fn from_observed(observed: &ObservedTable, desired: &Desired<'_>) -> Diff {
    let present = observed.exists().then(|| Present::new(observed, desired));
    let mut comparison = Comparison::with_nothing(observed, desired, present);
    let schema = comparison.diff.outcome.schema.as_ref();
    match (comparison.present.take(), observed.usable(schema)) {
        (Some(present), Some(existing)) => {
            let schema = schema.cloned().unwrap_or_default();
            (comparison.diff.prepare, comparison.diff.finish) = migrate(&existing, &schema);
            for (set, element) in present.rest() {
                comparison.diff.deletes.push(set, element, UNOWNED);
            }
        }
        (Some(_), None) => {
            comparison = Comparison::with_nothing(observed, desired, None);
            comparison.diff.prepare.insert(0, Op::DeleteTable);
        }
        (None, _) => {}
    }
    comparison.diff
}

impl<'a> Comparison<'a> {
    fn new(desired: &'a Desired<'a>, present: Option<Present<'a>>) -> Comparison<'a> {
        Comparison { desired, diff: Diff::default(), present }
    }

    /// The operations that build the whole table, but for the elements that are there already.
    fn with_nothing(
        observed: &'a ObservedTable,
        desired: &'a Desired<'a>,
        present: Option<Present<'a>>,
    ) -> Comparison<'a> {
        let mut comparison = Comparison::new(desired, present);
        for name in desired.names() {
            let Some(plan) = desired.plan(name) else { continue };
            let plan = arranged(plan, desired, |port, kind| observed.slots_of(port, kind));
            comparison.service(name, None, Some(plan));
        }
        comparison.rest(&Applied::default());
        let comment = Some("rules for kube-proxy".into());
        comparison.diff.prepare.insert(0, Op::AddTable { comment });
        comparison.diff.outcome.fresh = true;
        if desired.path.remembers_clients() {
            comparison.diff.outcome.affinity.note_complete();
        }
        comparison
    }

    fn add(&mut self, set: SetId, element: Element, owner: u32) {
        self.diff.outcome.elements += 1;
        if !self.present.as_mut().is_some_and(|present| present.keep(set, &element)) {
            self.diff.adds.push(set, element, owner);
        }
    }

    fn delete(&mut self, set: SetId, element: Element, owner: u32) {
        self.diff.outcome.elements -= 1;
        self.diff.deletes.push(set, element, owner);
    }

    /// What follows from the Services that have changed, and from the host.
    fn rest(&mut self, applied: &Applied) {
        self.shared(applied);
        self.host(&applied.host);
        self.schema(applied);
    }

    fn service(
        &mut self,
        name: &ServiceName,
        old: Option<&Arc<ServicePlan>>,
        new: Option<Arc<ServicePlan>>,
    ) {
        let owner = u32::try_from(self.diff.services.len()).unwrap_or(u32::MAX);
        self.diff.services.push(name.clone());
        let desired = self.desired;
        let own = |plan: Option<&Arc<ServicePlan>>| {
            plan.map(|plan| desired.own_elements(name, plan)).unwrap_or_default()
        };
        let (before, after) = (own(old), own(new.as_ref()));
        self.count_on_demand(&before, -1);
        self.count_on_demand(&after, 1);
        if desired.path.remembers_clients() {
            self.diff.outcome.affinity.note(old.map(|plan| &**plan), new.as_deref());
        }
        let (gone, came) = difference(before, after);
        gone.into_iter().for_each(|(set, element)| self.delete(set, element, owner));
        came.into_iter().for_each(|(set, element)| self.add(set, element, owner));

        let shared = |plan: Option<&Arc<ServicePlan>>| {
            plan.map(|plan| desired.shared_elements(plan)).unwrap_or_default()
        };
        let (gone, came) = difference(shared(old), shared(new.as_ref()));
        for (list, sign) in [(gone, -1), (came, 1)] {
            for (set, element) in list {
                let delta = self.diff.outcome.shared.entry((set, element.key)).or_default();
                *delta = Delta { count: delta.count + sign, owner };
            }
        }
        self.diff.outcome.services.push((name.clone(), new));
    }

    fn count_on_demand(&mut self, elements: &Elements, sign: i64) {
        for (set, _) in elements.iter().filter(|(set, _)| set.is_on_demand()) {
            *self.diff.outcome.on_demand.entry(*set).or_default() += sign;
        }
    }

    /// A shared element comes with the first Service that needs it and goes with the last.
    fn shared(&mut self, applied: &Applied) {
        let deltas = std::mem::take(&mut self.diff.outcome.shared);
        for (&(set, key), delta) in &deltas {
            let before = i64::from(applied.shared.get(&(set, key)).copied().unwrap_or(0));
            let after = before + delta.count;
            if before == 0 && after > 0 {
                self.add(set, Element::new(key), delta.owner);
            } else if before > 0 && after == 0 {
                self.delete(set, Element::new(key), delta.owner);
            }
        }
        self.diff.outcome.shared = deltas;
    }

    fn host(&mut self, before: &BTreeSet<(SetId, Key)>) {
        let after = self.desired.host_elements();
        for (set, key) in before.difference(&after) {
            self.delete(*set, Element::new(*key), UNOWNED);
        }
        for (set, key) in after.difference(before) {
            self.add(*set, Element::new(*key), UNOWNED);
        }
        self.diff.outcome.host = after;
    }

    /// Chains and rules change with what holds for the whole host, and with the pool sizes in use.
    fn schema(&mut self, applied: &Applied) {
        let mut on_demand = applied.on_demand.clone();
        add_counts(&mut on_demand, &self.diff.outcome.on_demand);
        let on_demand: BTreeSet<SetId> = on_demand.into_keys().collect();
        let table = self.desired.table;
        let same = |inputs: &SchemaInputs| {
            inputs.on_demand == on_demand
                && inputs.host == table.host
                && inputs.service_cidrs == table.service_cidrs
        };
        if applied.inputs.as_ref().is_some_and(same) {
            return;
        }
        let schema = self.desired.schema(on_demand.clone());
        if schema != applied.schema {
            (self.diff.prepare, self.diff.finish) = migrate(&applied.schema, &schema);
            self.diff.outcome.schema = Some(schema);
        }
        let (host, service_cidrs) = (table.host.clone(), table.service_cidrs.clone());
        self.diff.outcome.inputs = Some(SchemaInputs { host, service_cidrs, on_demand });
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

fn addresses(pool: &[PoolEndpoint]) -> Slots {
    pool.iter().map(|endpoint| Some((endpoint.ip, endpoint.port))).collect()
}

fn same_port(a: &PortPlan, b: &PortPlan) -> bool {
    a.name == b.name && a.protocol == b.protocol
}

/// The plan with its pools in slot order, given what was in the slots before: the same plan, where it
/// is in that order already, or where its endpoints have no slots.
pub(super) fn arranged(
    plan: &Arc<ServicePlan>,
    desired: &Desired<'_>,
    before: impl Fn(&PortPlan, PoolKind) -> Slots,
) -> Arc<ServicePlan> {
    let mut plan = Arc::clone(plan);
    for index in 0..plan.ports.len() {
        if !desired.path.balances(plan.ports[index].protocol) {
            continue;
        }
        for kind in [PoolKind::Cluster, PoolKind::Local] {
            let port = &plan.ports[index];
            let pool = arrange(before(port, kind), port.pool(kind));
            if *pool != *port.pool(kind) {
                let port = &mut Arc::make_mut(&mut plan).ports[index];
                match kind {
                    PoolKind::Cluster => port.cluster = pool.into(),
                    PoolKind::Local => port.local = pool.into(),
                }
            }
        }
    }
    plan
}
