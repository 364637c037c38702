//! Desired: the content of the tables, updated Service by Service, and the changes.

use std::collections::{BTreeMap, BTreeSet};

use super::dispatch::{self, Dispatch, Entry, Shape};
use super::form::{Form, Layout};
use super::line::{Chains, Line};
use super::names::ChainId;
use super::service::{Common, Rendered, render};
use super::{base, names};
use sluice_core::model::ServiceName;
use sluice_core::net::fnv1a;
use sluice_core::plan::{ForwardingTable, Host, ServicePlan};
use sluice_kernel::xtables::Table;

/// All of our chains for one forwarding table.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    form: Form,
    host: Host,
    services: BTreeMap<ServiceName, Rendered>,
    entries: BTreeMap<Dispatch, BTreeSet<Entry>>,
    /// The chains that are always there, and those of dispatches.
    shared: Chains,
    /// The first of these as they were last written, to see whether they change.
    base: Chains,
    /// What all of these chains come to.
    tallies: BTreeMap<Table, Tally>,
    /// A chain in each table that says so.
    canaries: Chains,
}

/// What the chains of a table come to, kept up to date chain by chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    /// How many rules they have.
    rules: usize,
    /// The sum of their digests: the same for the same rules, whatever came before.
    digest: u64,
}

/// Chains that change: what is to be in them, or nothing if they are to go.
pub(super) type Diff = BTreeMap<ChainId, Option<Vec<Line>>>;

impl Desired {
    pub(super) fn new(table: &ForwardingTable, form: Form) -> Desired {
        let mut desired = Desired {
            form,
            host: table.host.clone(),
            services: BTreeMap::new(),
            entries: BTreeMap::new(),
            shared: Chains::new(),
            base: base::chains(table, form),
            tallies: BTreeMap::new(),
            canaries: Chains::new(),
        };
        for (name, plan) in &table.services {
            desired.put(table, name, Some(plan));
        }
        desired.shared = desired.lay_out();
        add(&mut desired.tallies, &desired.shared);
        desired.canaries = desired.canaries();
        desired
    }

    /// How many rules there are in a table.
    pub(super) fn rules(&self, table: Table) -> usize {
        let canary = self.canary(table).map_or(0, Vec::len);
        self.tallies.get(&table).map_or(0, |tally| tally.rules) + canary
    }

    /// Every chain.
    pub(super) fn chains(&self) -> Chains {
        let own = self.services.values().flat_map(|rendered| &rendered.chains);
        let all = self.shared.iter().chain(own).chain(&self.canaries);
        all.map(|(id, lines)| (id.clone(), lines.clone())).collect()
    }

    /// Computes the Services of `scope` again; the cost is theirs, unless a setting for all Services has
    /// changed.
    pub(super) fn update(
        &mut self,
        table: &ForwardingTable,
        scope: &BTreeSet<ServiceName>,
    ) -> Diff {
        if self.host != table.host {
            let before = self.chains();
            *self = Desired::new(table, self.form);
            return diff(&before, &self.chains());
        }
        let mut changed = Diff::new();
        let mut moved = false;
        for name in scope {
            let old = self.remove(name);
            self.put(table, name, table.plan(name));
            let new = self.services.get(name);
            let (old, new) = (old.unwrap_or_default(), new.cloned().unwrap_or_default());
            moved |= old.entries != new.entries;
            changed.extend(diff(&old.chains, &new.chains));
        }
        let base = base::chains(table, self.form);
        if moved || base != self.base {
            self.base = base;
            let shared = self.lay_out();
            changed.extend(diff(&self.shared, &shared));
            take(&mut self.tallies, &self.shared);
            add(&mut self.tallies, &shared);
            self.shared = shared;
        }
        let canaries = self.canaries();
        changed.extend(diff(&self.canaries, &canaries));
        self.canaries = canaries;
        changed
    }

    /// What the canary of a table holds.
    pub(super) fn canary(&self, table: Table) -> Option<&Vec<Line>> {
        self.canaries.get(&ChainId::new(table, names::CANARY))
    }

    /// The canaries of what the chains come to now.
    fn canaries(&self) -> Chains {
        let canary = |table| {
            let digest = self.tallies.get(&table).map_or(0, |tally| tally.digest);
            (ChainId::new(table, names::CANARY), base::canary(table, digest, self.form))
        };
        Table::ALL.map(canary).into()
    }

    fn remove(&mut self, name: &ServiceName) -> Option<Rendered> {
        let old = self.services.remove(name)?;
        take(&mut self.tallies, &old.chains);
        for (dispatch, entry) in &old.entries {
            if let Some(entries) = self.entries.get_mut(dispatch) {
                entries.remove(entry);
            }
        }
        Some(old)
    }

    fn put(&mut self, table: &ForwardingTable, name: &ServiceName, plan: Option<&ServicePlan>) {
        let Some(plan) = plan else { return };
        let common = Common { family: table.family, host: &table.host, form: self.form };
        let rendered = render(common, name, plan);
        for (dispatch, entry) in &rendered.entries {
            self.entries.entry(*dispatch).or_default().insert(entry.clone());
        }
        add(&mut self.tallies, &rendered.chains);
        self.services.insert(name.clone(), rendered);
    }

    fn lay_out(&self) -> Chains {
        let mut chains = self.base.clone();
        let shape = match self.form.layout {
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

/// Adds chains to what they come to.
fn add(tallies: &mut BTreeMap<Table, Tally>, chains: &Chains) {
    for (id, lines) in chains {
        let tally = tallies.entry(id.table).or_default();
        tally.rules += lines.len();
        tally.digest = tally.digest.wrapping_add(digest(id, lines));
    }
}

/// Takes them off.
fn take(tallies: &mut BTreeMap<Table, Tally>, chains: &Chains) {
    for (id, lines) in chains {
        let tally = tallies.entry(id.table).or_default();
        tally.rules = tally.rules.saturating_sub(lines.len());
        tally.digest = tally.digest.wrapping_sub(digest(id, lines));
    }
}

/// A number for a chain with its rules, the same in every version of this program.
fn digest(id: &ChainId, lines: &[Line]) -> u64 {
    let start = fnv1a(id.name.as_bytes()).and(b"\n");
    lines.iter().fold(start, |hash, line| hash.and(line.text.as_bytes()).and(b"\n")).whole()
}

fn diff(old: &Chains, new: &Chains) -> Diff {
    let gone = old.keys().filter(|id| !new.contains_key(*id)).map(|id| (id.clone(), None));
    let other = new.iter().filter(|(id, lines)| old.get(*id) != Some(*lines));
    gone.chain(other.map(|(id, lines)| (id.clone(), Some(lines.clone())))).collect()
}
