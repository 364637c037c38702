//! Session affinity, the part that no rule can do: when an endpoint leaves, what clients remember of it
//! must go too, or they would be sent to it until the timeout.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::elements::{memory, pools_of};
use super::layout::SetId;
use super::observed::endpoint;
use crate::kernel::nft::{Element, Key, Op};
use crate::net::Family;
use crate::plan::ServicePlan;

/// Which endpoints clients may remember under the numbers that a step touched.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    allowed: FxHashMap<u32, FxHashSet<(IpAddr, u16)>>,
    /// Whether some endpoint may have left.
    stale: bool,
    /// Whether every number is in `allowed`.
    complete: bool,
}

impl Sticky {
    /// Takes a change of a Service into account.
    pub(super) fn note(&mut self, old: Option<&ServicePlan>, new: Option<&ServicePlan>) {
        let before: FxHashSet<(u32, (IpAddr, u16))> =
            old.into_iter().flat_map(remembered).collect();
        before.iter().for_each(|(number, _)| {
            self.allowed.entry(*number).or_default();
        });
        for (number, endpoint) in new.into_iter().flat_map(remembered) {
            self.allowed.entry(number).or_default().insert(endpoint);
        }
        let left = |(number, endpoint): &(u32, _)| !self.allowed[number].contains(endpoint);
        self.stale |= before.iter().any(left);
    }

    /// Every number of the table has been noted: what is filed under others is stale too.
    pub(super) fn know_all(&mut self) {
        self.complete = true;
        self.stale = true;
    }

    /// Whether clients may remember endpoints that left.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Deletes what is stale among the elements of the map that rules write.
    pub(super) fn purge(&self, family: Family, elements: Vec<Element>) -> Vec<Op> {
        let set = SetId::Affinity.name();
        let stale = |element: &Element| match number_of(&element.key) {
            Some(number) => match (self.allowed.get(&number), endpoint(family, &element.value)) {
                (Some(allowed), Some(endpoint)) => !allowed.contains(&endpoint),
                _ => self.complete,
            },
            None => false,
        };
        let stale = elements.into_iter().filter(stale);
        stale.map(|element| Op::DeleteElement { set: Arc::clone(&set), element }).collect()
    }
}

/// Every number of a Service, with each endpoint that may be remembered under it.
fn remembered(plan: &ServicePlan) -> impl Iterator<Item = (u32, (IpAddr, u16))> {
    plan.ports.iter().flat_map(|port| {
        let frontends = port.frontends.iter();
        frontends.filter_map(|frontend| Some((memory(port, frontend)?, frontend))).flat_map(
            |(number, frontend)| {
                let endpoints = pools_of(frontend).flat_map(|(_, kind)| port.pool(kind));
                endpoints.map(move |endpoint| (number, (endpoint.ip, endpoint.port)))
            },
        )
    })
}

/// The number is the last part of the key.
fn number_of(key: &Key) -> Option<u32> {
    Some(u32::from_ne_bytes(*key.as_bytes().last_chunk()?))
}
