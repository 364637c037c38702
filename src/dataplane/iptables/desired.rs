//! Desired: the content of the tables, updated Service by Service, and the changes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::dispatch::{Dispatch, Shape};
use super::form::{Form, Layout};
use super::line::{Chains, Diff, Line};
use super::names::ChainId;
use super::service::{Common, Rendered, render};
use super::tree::Tree;
use super::{base, names};
use sluice_core::model::ServiceName;
use sluice_core::net::fnv1a;
use sluice_core::plan::{ForwardingTable, Host};
use sluice_kernel::xtables::Table;

/// All of our chains for one forwarding table.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    form: Form,
    host: Host,
    service_cidrs: BTreeSet<IpNet>,
    health_checks: Vec<(ServiceName, u16)>,
    services: BTreeMap<ServiceName, Rendered>,
    trees: BTreeMap<Dispatch, Tree>,
    /// The chains that are always there; of those that dispatches begin with, only the last rules.
    base: Chains,
    /// The same chains as they are written.
    shared: Chains,
    /// What all chains come to.
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

impl Desired {
    pub(super) fn new(table: &ForwardingTable, form: Form) -> Desired {
        let shape = match form.layout {
            Layout::Compact => Shape::Tree,
            Layout::Classic => Shape::Linear,
        };
        let mut desired = Desired {
            form,
            host: table.host.clone(),
            service_cidrs: BTreeSet::new(),
            health_checks: Vec::new(),
            services: BTreeMap::new(),
            trees: Dispatch::ALL.map(|dispatch| (dispatch, Tree::new(dispatch, shape))).into(),
            base: Chains::new(),
            shared: Chains::new(),
            tallies: BTreeMap::new(),
            canaries: Chains::new(),
        };
        for name in table.services.keys() {
            desired.replace(table, name);
        }
        desired.lay_out();
        desired.put_base(table);
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
        let all = self.shared.iter().chain(self.trees.values().flat_map(Tree::chains));
        let all = all.chain(own).chain(&self.canaries);
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
        for name in scope {
            changed.extend(self.replace(table, name));
        }
        changed.extend(self.lay_out());
        if !self.has_base_of(table) {
            changed.extend(self.put_base(table));
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

    /// Writes a Service down as the table has it now.
    fn replace(&mut self, table: &ForwardingTable, name: &ServiceName) -> Diff {
        let common = Common { family: table.family, host: &table.host, form: self.form };
        let new = table.plan(name).map(|plan| render(common, name, plan)).unwrap_or_default();
        let old = self.services.remove(name).unwrap_or_default();
        if old.entries != new.entries {
            for (dispatch, entry) in &old.entries {
                self.trees.entry(*dispatch).and_modify(|tree| tree.remove(entry));
            }
            for (dispatch, entry) in &new.entries {
                self.trees.entry(*dispatch).and_modify(|tree| tree.insert(entry));
            }
        }
        let changed = self.exchange(&old.chains, &new.chains);
        if new != Rendered::default() {
            self.services.insert(name.clone(), new);
        }
        changed
    }

    /// Lays out the dispatches that have changed.
    fn lay_out(&mut self) -> Diff {
        let mut changed = Diff::new();
        for dispatch in Dispatch::ALL {
            let laid = self.trees.get_mut(&dispatch).and_then(Tree::lay_out);
            let Some((before, after)) = laid else { continue };
            changed.extend(self.exchange(&before, &after));
            let root = Chains::from([self.root(dispatch)]);
            let before = root.keys().filter_map(|id| self.shared.remove_entry(id)).collect();
            changed.extend(self.exchange(&before, &root));
            self.shared.extend(root);
        }
        changed
    }

    /// The chain that a dispatch begins with.
    fn root(&self, dispatch: Dispatch) -> (ChainId, Vec<Line>) {
        let id = dispatch.root();
        let services = self.trees.get(&dispatch).into_iter().flat_map(Tree::root);
        let last = self.base.get(&id).into_iter().flatten();
        let rest = services.chain(last).cloned();
        let lines = base::before_services(dispatch).into_iter().chain(rest).collect();
        (id, lines)
    }

    /// Whether what is always there is as this table needs it.
    fn has_base_of(&self, table: &ForwardingTable) -> bool {
        let ports = table.health_checks.iter().map(|(name, check)| (name, check.port));
        let there = self.health_checks.iter().map(|(name, port)| (name, *port));
        self.service_cidrs == table.service_cidrs && there.eq(ports)
    }

    /// Writes down what is always there.
    fn put_base(&mut self, table: &ForwardingTable) -> Diff {
        self.service_cidrs.clone_from(&table.service_cidrs);
        let checks = table.health_checks.iter();
        self.health_checks = checks.map(|(name, check)| (name.clone(), check.port)).collect();
        self.base = base::chains(table, self.form);
        let mut shared = self.base.clone();
        shared.extend(Dispatch::ALL.map(|dispatch| self.root(dispatch)));
        let before = std::mem::take(&mut self.shared);
        let changed = self.exchange(&before, &shared);
        self.shared = shared;
        changed
    }

    /// Counts chains as exchanged for others, and returns which of them differ.
    fn exchange(&mut self, before: &Chains, after: &Chains) -> Diff {
        let changed = diff(before, after);
        if !changed.is_empty() {
            take(&mut self.tallies, before);
            add(&mut self.tallies, after);
        }
        changed
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
