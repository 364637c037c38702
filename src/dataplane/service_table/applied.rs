//! The applied objects, and how a transaction changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::affinity::AffinityChange;
use super::schema::Schema;
use super::sets::SetId;
use sluice_core::model::ServiceName;
use sluice_core::plan::{Host, ServicePlan};
use sluice_kernel::nft::Key;

/// The objects that the kernel has, as last written or read.
#[derive(Debug, Clone, Default)]
pub(super) struct Applied {
    pub(super) schema: Schema,
    /// What the schema follows from.
    pub(super) inputs: Option<SchemaInputs>,
    /// Host-wide elements.
    pub(super) host: BTreeSet<(SetId, Key)>,
    /// The plans that were applied last, with pools in slot order, by Service.
    pub(super) services: FxHashMap<ServiceName, Arc<ServicePlan>>,
    /// How many Services need each shared element; never 0.
    pub(super) shared: FxHashMap<(SetId, Key), u32>,
    /// How many frontends are in each set that is only there while it is needed.
    pub(super) on_demand: BTreeMap<SetId, u32>,
    /// How many elements there are in all sets.
    elements: i64,
}

/// The inputs of chains and rules. Most changes, of a few endpoints, do not change them, so chains and rules
/// need not be rendered for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SchemaInputs {
    pub(super) host: Host,
    pub(super) service_cidrs: BTreeSet<IpNet>,
    /// The sets in use of those that are not always there.
    pub(super) on_demand: BTreeSet<SetId>,
}

/// What is true once a [`Diff`](super::diff::Diff) is applied.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Replaces everything that was known, or adds to it.
    pub(super) fresh: bool,
    pub(super) schema: Option<Schema>,
    pub(super) inputs: Option<SchemaInputs>,
    pub(super) host: BTreeSet<(SetId, Key)>,
    pub(super) services: Vec<(ServiceName, Option<Arc<ServicePlan>>)>,
    pub(super) shared: FxHashMap<(SetId, Key), Delta>,
    pub(super) on_demand: BTreeMap<SetId, i64>,
    /// How many elements more there are.
    pub(super) elements: i64,
    pub(super) affinity: AffinityChange,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) count: i64,
    pub(super) owner: u32,
}

impl Applied {
    /// What is known of a Service.
    pub(super) fn plan(&self, name: &ServiceName) -> Option<&Arc<ServicePlan>> {
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

impl Outcome {
    /// Makes it so, and gives what it means for session affinity.
    pub(super) fn commit(self, applied: &mut Option<Applied>) -> AffinityChange {
        if self.fresh {
            *applied = None;
        }
        let known = applied.get_or_insert_default();
        known.host = self.host;
        known.elements += self.elements;
        if let Some(schema) = self.schema {
            known.schema = schema;
        }
        if let Some(inputs) = self.inputs {
            known.inputs = Some(inputs);
        }
        for (name, plan) in self.services {
            match plan {
                Some(plan) => known.services.insert(name, plan),
                None => known.services.remove(&name),
            };
        }
        for (key, delta) in self.shared {
            let count = known.shared.entry(key).or_default();
            *count = u32::try_from(i64::from(*count) + delta.count).unwrap_or(0);
            if *count == 0 {
                known.shared.remove(&key);
            }
        }
        add_counts(&mut known.on_demand, &self.on_demand);
        self.affinity
    }
}

pub(super) fn add_counts(counts: &mut BTreeMap<SetId, u32>, deltas: &BTreeMap<SetId, i64>) {
    for (key, delta) in deltas {
        let count = counts.entry(*key).or_default();
        *count = u32::try_from(i64::from(*count) + delta).unwrap_or(0);
        if *count == 0 {
            counts.remove(key);
        }
    }
}
