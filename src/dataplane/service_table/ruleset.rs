//! A whole table as values, for who wants to see it: without a kernel, and without anything applied before.

use std::collections::{BTreeMap, BTreeSet};

use super::data_path::DataPath;
use super::desired::Desired;
use super::sets::SetId;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_kernel::nft::{Chain, Counting, Element, Rule, Set};

/// The table that a mode writes into an empty kernel.
#[derive(Debug, Clone)]
pub struct Ruleset {
    /// The family.
    pub family: Family,
    /// Sets with their elements, sorted by name.
    pub sets: Vec<(Set, Vec<Element>)>,
    /// Chains with their rules, sorted by name.
    pub chains: Vec<(Chain, Vec<Rule>)>,
}

/// What a mode with this data path writes.
pub(crate) fn ruleset(table: &ForwardingTable, path: &dyn DataPath) -> Ruleset {
    let instead = BTreeMap::new();
    let desired = Desired { table, path, counting: Counting::Off, instead };
    let mut elements: BTreeMap<SetId, BTreeSet<Element>> = BTreeMap::new();
    for (name, plan) in &table.services {
        let own = desired.own_elements(name, plan).into_iter();
        for (set, element) in own.chain(desired.shared_elements(plan)) {
            elements.entry(set).or_default().insert(element);
        }
    }
    for (set, key) in desired.host_elements() {
        elements.entry(set).or_default().insert(Element::new(key));
    }
    let on_demand = elements.keys().copied().filter(|set| set.is_on_demand()).collect();
    let schema = desired.schema(on_demand);
    let mut by_name: BTreeMap<_, _> =
        elements.into_iter().map(|(set, elements)| (set.name(), elements)).collect();
    let sets = schema.sets.into_iter().map(|(name, set)| {
        let elements = by_name.remove(&name).unwrap_or_default();
        (set, elements.into_iter().collect())
    });
    Ruleset {
        family: table.family,
        sets: sets.collect(),
        chains: schema.chains.into_values().collect(),
    }
}
