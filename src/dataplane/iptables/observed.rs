//! Observed: the tables from the text of `iptables-save`, and their difference from the desired ones.

use std::collections::{BTreeMap, BTreeSet};

use super::base::Hook;
use super::line::{Chains, Diff};
use super::names::{ChainId, is_of_proxy, is_perishable};
use super::script::HookChange;
use sluice_kernel::xtables::{ChainGraph, Table};

/// The placeholder of a rule that cannot be read.
const UNREADABLE: &str = "(unreadable)";

/// Chains with their rules as text, of all programs.
#[derive(Debug, Default)]
pub(super) struct Observed {
    chains: BTreeMap<ChainId, Vec<String>>,
    /// Built-in chains whose rules cannot be read.
    unreadable: BTreeSet<ChainId>,
}

impl Observed {
    /// Adds a table.
    pub(super) fn read(&mut self, table: Table, saved: &str) {
        for line in saved.lines() {
            if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split(' ').next().unwrap_or(rest);
                self.chains.entry(ChainId::new(table, name)).or_default();
            } else if let Some(rest) = line.strip_prefix("-A ") {
                let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
                let rules = self.chains.entry(ChainId::new(table, name)).or_default();
                rules.push(rule.to_owned());
            }
        }
    }

    /// All chains with their rules.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&ChainId, &Vec<String>)> {
        self.chains.iter()
    }

    /// The rules of a chain, if it is there.
    pub(super) fn rules(&self, id: &ChainId) -> Option<&Vec<String>> {
        self.chains.get(id)
    }

    /// Adds a table that cannot be read: all of our chains in it are treated as different.
    pub(super) fn chain_graph(&mut self, table: Table, chain_graph: &ChainGraph) {
        for name in &chain_graph.regular {
            self.chains.insert(ChainId::new(table, name), vec![UNREADABLE.to_owned()]);
        }
        let mut hooked = BTreeSet::new();
        for (name, rules) in &chain_graph.hooked {
            let id = ChainId::new(table, name);
            self.chains.entry(id.clone()).or_default();
            match rules {
                Some(rules) => {
                    self.read(table, rules);
                    hooked.insert(name);
                }
                None => {
                    self.unreadable.insert(id);
                }
            }
        }
        for (from, to) in chain_graph.jumps.iter().filter(|(from, _)| !hooked.contains(from)) {
            let rules = self.chains.entry(ChainId::new(table, from)).or_default();
            rules.push(format!("{UNREADABLE} -j {to}"));
        }
    }

    /// What must change for our chains to be these.
    pub(super) fn difference(&self, desired: &Chains) -> Diff {
        let same = |id: &ChainId, lines: &[super::line::Line]| {
            let found = self.chains.get(id);
            found.is_some_and(|found| {
                found.len() == lines.len() && found.iter().zip(lines).all(|(a, b)| **a == *b.text)
            })
        };
        let mut diff: Diff = desired
            .iter()
            .filter(|(id, lines)| !same(id, lines))
            .map(|(id, lines)| (id.clone(), Some(lines.clone())))
            .collect();
        let used = self.used_by_others(desired);
        let perishable = |id: &&ChainId| {
            is_perishable(&id.name) && !desired.contains_key(*id) && !used.contains(*id)
        };
        diff.extend(self.chains.keys().filter(perishable).map(|id| (id.clone(), None)));
        diff
    }

    /// Chains that others jump to: they cannot be deleted.
    fn used_by_others(&self, desired: &Chains) -> BTreeSet<ChainId> {
        let others = self
            .chains
            .iter()
            .filter(|(id, _)| !is_perishable(&id.name) && !desired.contains_key(*id));
        let targets = others.flat_map(|(id, rules)| {
            rules.iter().filter_map(|rule| Some(ChainId::new(id.table, target(rule)?)))
        });
        targets.collect()
    }

    /// What must change for the built-in chains to have these jumps, each once, and no other to
    /// kube-proxy's chains.
    pub(super) fn hook_changes(&self, desired: &[Hook]) -> Vec<HookChange> {
        let mut places: BTreeMap<&ChainId, Vec<&Hook>> = BTreeMap::new();
        for hook in desired {
            places.entry(&hook.at).or_default().push(hook);
        }
        let mut changes = Vec::new();
        for (at, hooks) in places {
            let ours = |rule: &&String| {
                let target = target(rule);
                target.is_some_and(|target| {
                    is_of_proxy(target) || hooks.iter().any(|hook| *hook.to == *target)
                })
            };
            let found: Vec<&String> =
                self.chains.get(at).into_iter().flatten().filter(ours).collect();
            if found.len() == hooks.len()
                && found.iter().zip(&hooks).all(|(found, hook)| ***found == *hook.line.text)
            {
                continue;
            }
            let mut change = |verb: &str, position: &str, rule: &str| {
                let text = format!("{verb} {}{position} {rule}", at.name);
                changes.push(HookChange { table: at.table, text });
            };
            if self.unreadable.contains(at) {
                // Only how often each jump is there is known: that of ours must be there once.
                let times = |hook: &Hook| {
                    found.iter().filter(|rule| target(rule) == Some(&*hook.to)).count()
                };
                for hook in hooks.iter().rev() {
                    match times(hook) {
                        0 => change("-I", " 1", &hook.line.text),
                        times => (1..times).for_each(|_| change("-D", "", &hook.line.text)),
                    }
                }
                continue;
            }
            found.iter().for_each(|rule| change("-D", "", rule));
            // Before the rules of others, as upstream does.
            hooks.iter().rev().for_each(|hook| change("-I", " 1", &hook.line.text));
        }
        changes
    }
}

/// The rules of one chain, from the text of `iptables -S`.
pub(super) fn rules(listed: &str) -> impl Iterator<Item = &str> {
    let rules = listed.lines().filter_map(|line| line.strip_prefix("-A ")?.split_once(' '));
    rules.map(|(_, rule)| rule)
}

/// Where a rule jumps or goes to.
pub(super) fn target(rule: &str) -> Option<&str> {
    let at = rule.rfind("-j ").or_else(|| rule.rfind("-g "))?;
    rule[at + 3..].split(' ').next()
}
