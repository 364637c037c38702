//! The chains of a dispatch, kept up to date at the cost of what changes.
//!
//! What a chain of a prefix holds follows from the entries in that prefix alone. So a change lays out the chains on
//! the way to it again, and others only if they were not there before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};

use super::dispatch::{Dispatch, Entry, Key, LONGEST, Rank, Shape};
use super::line::{Chains, Line};
use super::names::ChainId;

/// Bits of the address per level: at most 16 rules.
const STEP: u32 = 4;

/// A dispatch: its entries, and the chains that they are laid out in.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    dispatch: Dispatch,
    shape: Shape,
    /// In the order of their rules.
    entries: BTreeMap<Key, Vec<(Rank, Line)>>,
    /// Keys whose entries are not laid out as they are now.
    dirty: BTreeSet<Key>,
    root: Branch,
    branches: BTreeMap<ChainId, Branch>,
}

/// A chain, and those that its rules lead to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Branch {
    lines: Vec<Line>,
    children: Vec<ChainId>,
}

/// The keys that begin with the same bits.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    first: Key,
    bits: u32,
}

impl Prefix {
    fn of(key: Key, bits: u32) -> Prefix {
        Prefix { first: key.first(bits), bits }
    }

    fn keys(self) -> RangeInclusive<Key> {
        self.first..=self.first.last(self.bits)
    }
}

impl Tree {
    pub(super) fn new(dispatch: Dispatch, shape: Shape) -> Tree {
        Tree {
            dispatch,
            shape,
            entries: BTreeMap::new(),
            dirty: BTreeSet::new(),
            root: Branch::default(),
            branches: BTreeMap::new(),
        }
    }

    pub(super) fn insert(&mut self, entry: &Entry) {
        let here = self.entries.entry(entry.key).or_default();
        let rule = (entry.rank, entry.line.clone());
        if let Err(at) = here.binary_search(&rule) {
            here.insert(at, rule);
            self.dirty.insert(entry.key);
        }
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        let Some(here) = self.entries.get_mut(&entry.key) else { return };
        here.retain(|(rank, line)| (*rank, line) != (entry.rank, &entry.line));
        if here.is_empty() {
            self.entries.remove(&entry.key);
        }
        self.dirty.insert(entry.key);
    }

    /// The rules of the root that are for Services.
    pub(super) fn root(&self) -> &[Line] {
        &self.root.lines
    }

    /// All chains but the root.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&ChainId, &Vec<Line>)> {
        self.branches.iter().map(|(id, branch)| (id, &branch.lines))
    }

    /// Lays out what has changed, if anything has; returns the chains but the root that are other ones now, as
    /// they were and as they are.
    pub(super) fn lay_out(&mut self) -> Option<(Chains, Chains)> {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.is_empty() {
            return None;
        }
        let mut laid = BTreeMap::new();
        let root = match self.shape {
            Shape::Linear => Branch {
                lines: self.entries.values().flatten().map(|(_, line)| line.clone()).collect(),
                children: Vec::new(),
            },
            Shape::Tree => self.lay_out_root(&dirty, &mut laid),
        };
        let old = std::mem::replace(&mut self.root, root);
        let now = std::iter::once(&self.root).chain(laid.values());
        let kept: BTreeSet<ChainId> = now.flat_map(|branch| branch.children.clone()).collect();
        let mut gone = Vec::new();
        self.gone(&old.children, &laid, &kept, &mut gone);
        let (mut before, mut after) = (Chains::new(), Chains::new());
        for id in gone {
            before.extend(self.branches.remove(&id).map(|branch| (id, branch.lines)));
        }
        for (id, branch) in laid {
            if self.branches.get(&id).is_none_or(|there| there.lines != branch.lines) {
                after.insert(id.clone(), branch.lines.clone());
            }
            let there = self.branches.insert(id.clone(), branch);
            before.extend(there.filter(|_| after.contains_key(&id)).map(|there| (id, there.lines)));
        }
        Some((before, after))
    }

    /// Ports are told apart by protocol first.
    fn lay_out_root(&self, dirty: &BTreeSet<Key>, laid: &mut BTreeMap<ChainId, Branch>) -> Branch {
        let mut root = Branch::default();
        let mut next = self.entries.keys().next();
        while let Some(key) = next {
            let all = Prefix::of(*key, 0);
            let Branch { lines, children } = self.branch(all, dirty, laid);
            root.lines.extend(lines);
            root.children.extend(children);
            let after = (Bound::Excluded(*all.keys().end()), Bound::Unbounded);
            next = self.entries.range(after).next().map(|(key, _)| key);
        }
        root
    }

    /// The rules that tell the entries of a prefix apart. Chains that these lead to are laid out too, if they are
    /// new or have a changed entry.
    fn branch(
        &self,
        at: Prefix,
        dirty: &BTreeSet<Key>,
        laid: &mut BTreeMap<ChainId, Branch>,
    ) -> Branch {
        let Some(bits) = self.splits_at(at) else {
            return Branch { lines: self.lines(at).cloned().collect(), children: Vec::new() };
        };
        let mut branch = Branch::default();
        for group in self.groups(at, bits) {
            let mut lines = self.lines(group);
            if let (Some(only), None) = (lines.next(), lines.next()) {
                branch.lines.push(only.clone());
                continue;
            }
            let (condition, name) = group.first.branch(bits);
            let name = format!("{}{name}", self.dispatch.prefix());
            branch.lines.push(Line::of(&condition.jump(&name)));
            let id = ChainId::new(self.dispatch.table(), &name);
            let changed = dirty.range(group.keys()).next().is_some();
            if changed || !self.branches.contains_key(&id) {
                let inner = self.branch(group, dirty, laid);
                laid.insert(id.clone(), inner);
            }
            branch.children.push(id);
        }
        branch
    }

    /// The length of the prefixes that tell the entries of this one apart, if they are too many for one chain.
    fn splits_at(&self, at: Prefix) -> Option<u32> {
        self.lines(at).nth(LONGEST)?;
        let mut keys = self.entries.range(at.keys()).map(|(key, _)| *key);
        let first = keys.next()?;
        let last = keys.next_back()?;
        let mut lengths = (1..).map(|level| at.bits + level * STEP);
        let differ = |bits: &u32| *bits > first.width() || first.first(*bits) != last.first(*bits);
        lengths.find(differ).filter(|bits| *bits <= first.width())
    }

    /// The prefixes of a length that the entries of a shorter one have.
    fn groups(&self, within: Prefix, bits: u32) -> Vec<Prefix> {
        let end = *within.keys().end();
        let mut groups = Vec::new();
        let mut next = self.entries.range(within.keys()).next();
        while let Some((key, _)) = next {
            let group = Prefix::of(*key, bits);
            groups.push(group);
            let last = *group.keys().end();
            if last >= end {
                break;
            }
            next = self.entries.range((Bound::Excluded(last), Bound::Included(end))).next();
        }
        groups
    }

    fn lines(&self, at: Prefix) -> impl Iterator<Item = &Line> {
        let here = self.entries.range(at.keys()).flat_map(|(_, rules)| rules);
        here.map(|(_, line)| line)
    }

    /// Chains below these, and these, that nothing leads to any more. One that is kept and was not laid out again is
    /// as it was, with all below it.
    fn gone(
        &self,
        children: &[ChainId],
        laid: &BTreeMap<ChainId, Branch>,
        kept: &BTreeSet<ChainId>,
        gone: &mut Vec<ChainId>,
    ) {
        for id in children {
            let stays = kept.contains(id);
            if stays && !laid.contains_key(id) {
                continue;
            }
            if !stays {
                gone.push(id.clone());
            }
            if let Some(before) = self.branches.get(id) {
                self.gone(&before.children, laid, kept, gone);
            }
        }
    }
}
