//! What a change of the forwarding table would have a mode write, computed without a kernel: for people who ask before
//! they change something. Each mode counts what its own diff comes to.

use std::collections::{BTreeMap, BTreeSet};

use sluice_core::model::ServiceName;
use sluice_core::plan::ForwardingTable;

/// How many things of each kind are written and removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operations(BTreeMap<&'static str, Counted>);

/// Things of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// How many are written.
    pub written: usize,
    /// How many are removed.
    pub removed: usize,
}

impl Operations {
    pub(crate) fn write(&mut self, kind: &'static str, count: usize) {
        if count > 0 {
            self.0.entry(kind).or_default().written += count;
        }
    }

    pub(crate) fn remove(&mut self, kind: &'static str, count: usize) {
        if count > 0 {
            self.0.entry(kind).or_default().removed += count;
        }
    }

    /// By kind.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Counted)> {
        self.0.iter().map(|(kind, counted)| (*kind, *counted))
    }
}

/// The Services whose plans differ.
pub(crate) fn differing(
    before: &ForwardingTable,
    after: &ForwardingTable,
) -> BTreeSet<ServiceName> {
    let all = before.services.keys().chain(after.services.keys());
    all.filter(|name| before.plan(name) != after.plan(name)).cloned().collect()
}
