//! What the tables should hold, kept up to date Service by Service, and what of it changes.

use std::collections::{BTreeMap, BTreeSet};

use super::dispatch::{self, Dispatch, Entry, Shape};
use super::line::{Chains, Line};
use super::names::ChainId;
use super::service::{Common, Rendered, render};
use super::{Layout, Options, base};
use crate::kernel::xtables::Table;
use crate::model::ServiceName;
use crate::plan::{ForwardingTable, Host, ServicePlan};

/// All of our chains for one forwarding table.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    options: Options,
    host: Host,
    services: BTreeMap<ServiceName, Rendered>,
    entries: BTreeMap<Dispatch, BTreeSet<Entry>>,
    /// The chains that are always there, and those of dispatches.
    shared: Chains,
    /// The first of these as they were last written, to see whether they change.
    base: Chains,
    /// How many rules there are in all of these chains.
    rules: BTreeMap<Table, usize>,
}

/// Chains that change: what is to be in them, or nothing if they are to go.
pub(super) type Delta = BTreeMap<ChainId, Option<Vec<Line>>>;

impl Desired {
    pub(super) fn new(table: &ForwardingTable, options: Options) -> Desired {
        let mut desired = Desired {
            options,
            host: table.host.clone(),
            services: BTreeMap::new(),
            entries: BTreeMap::new(),
            shared: Chains::new(),
            base: base::chains(table, options),
            rules: BTreeMap::new(),
        };
        for (name, plan) in &table.services {
            desired.put(table, name, Some(plan));
        }
        desired.shared = desired.lay_out();
        count(&mut desired.rules, &desired.shared, usize::saturating_add);
        desired
    }

    /// How many rules there are in a table.
    pub(super) fn rules(&self, table: Table) -> usize {
        self.rules.get(&table).copied().unwrap_or_default()
    }

    /// Every chain.
    pub(super) fn chains(&self) -> Chains {
        let own = self.services.values().flat_map(|rendered| &rendered.chains);
        let all = self.shared.iter().chain(own);
        all.map(|(id, lines)| (id.clone(), lines.clone())).collect()
    }

    /// Takes the Services of `scope` in anew; the work is for them, unless what holds for all Services
    /// has changed.
    pub(super) fn update(
        &mut self,
        table: &ForwardingTable,
        scope: &BTreeSet<ServiceName>,
    ) -> Delta {
        if self.host != table.host {
            let before = self.chains();
            *self = Desired::new(table, self.options);
            return delta(&before, &self.chains());
        }
        let mut changed = Delta::new();
        let mut moved = false;
        for name in scope {
            let old = self.remove(name);
            self.put(table, name, table.plan(name));
            let new = self.services.get(name);
            let (old, new) = (old.unwrap_or_default(), new.cloned().unwrap_or_default());
            moved |= old.entries != new.entries;
            changed.extend(delta(&old.chains, &new.chains));
        }
        let base = base::chains(table, self.options);
        if moved || base != self.base {
            self.base = base;
            let shared = self.lay_out();
            changed.extend(delta(&self.shared, &shared));
            count(&mut self.rules, &self.shared, usize::saturating_sub);
            count(&mut self.rules, &shared, usize::saturating_add);
            self.shared = shared;
        }
        changed
    }

    fn remove(&mut self, name: &ServiceName) -> Option<Rendered> {
        let old = self.services.remove(name)?;
        count(&mut self.rules, &old.chains, usize::saturating_sub);
        for (dispatch, entry) in &old.entries {
            if let Some(entries) = self.entries.get_mut(dispatch) {
                entries.remove(entry);
            }
        }
        Some(old)
    }

    fn put(&mut self, table: &ForwardingTable, name: &ServiceName, plan: Option<&ServicePlan>) {
        let Some(plan) = plan else { return };
        let common =
            Common { family: table.family, host: &table.host, layout: self.options.layout };
        let rendered = render(common, name, plan);
        for (dispatch, entry) in &rendered.entries {
            self.entries.entry(*dispatch).or_default().insert(entry.clone());
        }
        count(&mut self.rules, &rendered.chains, usize::saturating_add);
        self.services.insert(name.clone(), rendered);
    }

    fn lay_out(&self) -> Chains {
        let mut chains = self.base.clone();
        let shape = match self.options.layout {
            Layout::Compact => Shape::Tree,
            Layout::Classic => Shape::Linear,
        };
        let none = BTreeSet::new();
        for dispatch in Dispatch::ALL {
            let entries = self.entries.get(&dispatch).unwrap_or(&none);
            let root = dispatch.root();
            for (id, lines) in dispatch::chains(dispatch, shape, entries) {
                let first = base::before_services(dispatch).filter(|_| id == root);
                let last = chains.remove(&id).unwrap_or_default();
                let lines = first.into_iter().chain(lines).chain(last).collect();
                chains.insert(id, lines);
            }
        }
        chains
    }
}

/// Adds the rules of chains to a count, or takes them off.
fn count(rules: &mut BTreeMap<Table, usize>, chains: &Chains, with: fn(usize, usize) -> usize) {
    for (id, lines) in chains {
        let count = rules.entry(id.table).or_default();
        *count = with(*count, lines.len());
    }
}

fn delta(old: &Chains, new: &Chains) -> Delta {
    let gone = old.keys().filter(|id| !new.contains_key(*id)).map(|id| (id.clone(), None));
    let other = new.iter().filter(|(id, lines)| old.get(*id) != Some(*lines));
    gone.chain(other.map(|(id, lines)| (id.clone(), Some(lines.clone())))).collect()
}
