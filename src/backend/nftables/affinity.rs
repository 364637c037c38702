//! Session affinity, the part that no rule can do: when an endpoint leaves, what clients remember of it
//! must go too, or they would be sent to it until the timeout.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::elements::pools_of;
use super::layout::{Place, SetId, frontend_key};
use super::observed::endpoint;
use crate::kernel::nft::{Element, Key, Op};
use crate::net::Family;
use crate::plan::ServicePlan;

/// Which endpoints clients may remember at the frontends that a step touched.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    allowed: FxHashMap<(Place, Key), FxHashSet<(IpAddr, u16)>>,
    /// Whether some endpoint may have left.
    stale: bool,
    /// Whether every frontend is in `allowed`.
    complete: bool,
}

impl Sticky {
    /// Takes a change of a Service into account.
    pub(super) fn note(&mut self, old: Option<&ServicePlan>, new: Option<&ServicePlan>) {
        let mut gone = FxHashSet::default();
        for (plan, is_old) in [(old, true), (new, false)] {
            let ports = plan.into_iter().flat_map(|plan| &plan.ports);
            for port in ports.filter(|port| port.affinity.is_some()) {
                for frontend in &port.frontends {
                    let place = (Place::of(&frontend.at), frontend_key(&frontend.at));
                    let endpoints = pools_of(frontend).flat_map(|(_, kind)| port.pool(kind));
                    let endpoints = endpoints.map(|endpoint| (endpoint.ip, endpoint.port));
                    let allowed = self.allowed.entry(place).or_default();
                    if is_old {
                        gone.extend(endpoints.map(|endpoint| (place, endpoint)));
                    } else {
                        allowed.extend(endpoints);
                        gone.retain(|(at, endpoint)| *at != place || !allowed.contains(endpoint));
                    }
                }
            }
        }
        self.stale |= !gone.is_empty();
    }

    /// Every frontend of the table has been noted: what others remember is stale too.
    pub(super) fn know_all(&mut self) {
        self.complete = true;
        self.stale = true;
    }

    /// The maps that may hold stale elements.
    pub(super) fn maps(&self) -> impl Iterator<Item = SetId> {
        let places = [Place::Service, Place::NodePort].into_iter();
        places.filter(|_| self.stale).map(SetId::Affinity)
    }

    /// Deletes what is stale among the elements of one of those maps.
    pub(super) fn purge(&self, family: Family, map: SetId, elements: Vec<Element>) -> Vec<Op> {
        let SetId::Affinity(place) = map else { return Vec::new() };
        let name = map.name();
        let stale = |element: &Element| {
            let Some(frontend) = frontend_of(family, &element.key) else { return false };
            match (self.allowed.get(&(place, frontend)), endpoint(family, &element.value)) {
                (Some(allowed), Some(endpoint)) => !allowed.contains(&endpoint),
                _ => self.complete,
            }
        };
        let stale = elements.into_iter().filter(stale);
        stale.map(|element| Op::DeleteElement { set: Arc::clone(&name), element }).collect()
    }
}

/// The frontend stands behind the client's address.
fn frontend_of(family: Family, key: &Key) -> Option<Key> {
    Key::from_bytes(key.as_bytes().get(family.address_len()..)?)
}
