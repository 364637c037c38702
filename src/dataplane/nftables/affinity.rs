//! Session affinity, the part that no rule can do: when an endpoint leaves, what clients remember of it
//! must go too, or they would be sent to it until the timeout.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::elements::{endpoint_id, remembered};
use super::layout::SetId;
use sluice_core::plan::ServicePlan;
use sluice_kernel::nft::{Element, Key, Op};

/// What clients may be remembered under: numbers of frontends, and identities of their endpoints.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    /// What the changed Services have now.
    present: FxHashSet<u32>,
    /// What they had before, and do not have any more.
    gone: FxHashSet<u32>,
    /// Whether everything is in `present`.
    complete: bool,
}

impl Sticky {
    /// Takes a change of a Service into account.
    pub(super) fn note(&mut self, old: Option<&ServicePlan>, new: Option<&ServicePlan>) {
        let after: FxHashSet<u32> = new.into_iter().flat_map(entries).collect();
        self.gone.extend(old.into_iter().flat_map(entries).filter(|entry| !after.contains(entry)));
        self.present.extend(after);
    }

    /// All Services have been noted: what is filed under anything else is stale too.
    pub(super) fn know_all(&mut self) {
        self.complete = true;
    }

    /// Whether clients may remember endpoints that left.
    pub(super) fn is_stale(&self) -> bool {
        self.complete || !self.gone.is_empty()
    }

    /// Deletes what is stale among the elements of the set that rules write.
    pub(super) fn purge(&self, elements: Vec<Element>) -> Vec<Op> {
        let set = SetId::Affinity.name();
        let stale = |element: &Element| {
            entry_of(&element.key).is_some_and(|entry| {
                let left = self.complete || self.gone.contains(&entry);
                left && !self.present.contains(&entry)
            })
        };
        let stale = elements.into_iter().filter(stale);
        stale.map(|element| Op::DeleteElement { set: Arc::clone(&set), element }).collect()
    }
}

/// Everything that clients of a Service are remembered under.
fn entries(plan: &ServicePlan) -> impl Iterator<Item = u32> {
    plan.ports
        .iter()
        .flat_map(remembered)
        .flat_map(|(number, endpoint)| [number, endpoint_id(number, endpoint.ip, endpoint.port)])
}

/// The last part of the key.
fn entry_of(key: &Key) -> Option<u32> {
    Some(u32::from_ne_bytes(*key.as_bytes().last_chunk()?))
}
