//! Which Service has an address (a cluster IP or a frontend) that several Services claim.
//!
//! The winner does not depend on the order of arrival: a field that the API server allocates (cluster IP, node port)
//! wins over one that users write (external IP, load balancer IP), then the older Service wins, then the first by name.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use rustc_hash::FxHashMap;

use super::table::{Address, FrontendKind};
use crate::model::ServiceName;

/// Who wrote the claimed field into the Service, the stronger one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The API server, which allocates it to one Service only.
    Allocated,
    /// A user, who may write any address.
    Written,
}

impl From<FrontendKind> for Origin {
    fn from(kind: FrontendKind) -> Origin {
        match kind {
            FrontendKind::ClusterIp | FrontendKind::NodePort => Origin::Allocated,
            FrontendKind::ExternalIp | FrontendKind::LoadBalancer => Origin::Written,
        }
    }
}

/// A Service's claim to an address; the smallest wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    origin: Origin,
    created: i64,
    service: ServiceName,
}

/// All claims to addresses of one kind: frontends or cluster IPs.
#[derive(Debug, Clone)]
pub(super) struct Claims<A = Address> {
    holders: FxHashMap<A, Claim>,
    /// The losing claims; almost always empty.
    waiting: BTreeMap<A, BTreeSet<Claim>>,
    by_service: FxHashMap<ServiceName, Box<[A]>>,
}

impl<A> Default for Claims<A> {
    fn default() -> Claims<A> {
        Claims {
            holders: FxHashMap::default(),
            waiting: BTreeMap::new(),
            by_service: FxHashMap::default(),
        }
    }
}

impl<A: Copy + Hash + Ord> Claims<A> {
    /// Replaces the claims of `service` (created at `created`) and returns the other Services that won or lost an
    /// address.
    pub(super) fn replace(
        &mut self,
        service: &ServiceName,
        created: i64,
        wanted: &[(A, Origin)],
    ) -> BTreeSet<ServiceName> {
        let mut affected = BTreeSet::new();
        for address in self.by_service.remove(service).unwrap_or_default() {
            self.release(address, service, &mut affected);
        }
        for &(address, origin) in wanted {
            let claim = Claim { origin, created, service: service.clone() };
            self.claim(address, claim, &mut affected);
        }
        if !wanted.is_empty() {
            let addresses = wanted.iter().map(|(address, _)| *address).collect();
            self.by_service.insert(service.clone(), addresses);
        }
        affected.remove(service);
        affected
    }

    /// The Service that has an address.
    pub(super) fn holder(&self, address: &A) -> Option<&ServiceName> {
        self.holders.get(address).map(|claim| &claim.service)
    }

    fn claim(&mut self, address: A, claim: Claim, affected: &mut BTreeSet<ServiceName>) {
        let loser = match self.holders.get_mut(&address) {
            None => {
                self.holders.insert(address, claim);
                return;
            }
            Some(holder) if claim < *holder => {
                affected.insert(holder.service.clone());
                std::mem::replace(holder, claim)
            }
            Some(_) => claim,
        };
        self.waiting.entry(address).or_default().insert(loser);
    }

    fn release(&mut self, address: A, service: &ServiceName, affected: &mut BTreeSet<ServiceName>) {
        let mut next = None;
        if let Some(queue) = self.waiting.get_mut(&address) {
            queue.retain(|claim| claim.service != *service);
            if self.holders.get(&address).is_some_and(|holder| holder.service == *service) {
                next = queue.pop_first();
            }
            if queue.is_empty() {
                self.waiting.remove(&address);
            }
        }
        match next {
            Some(claim) => {
                affected.insert(claim.service.clone());
                self.holders.insert(address, claim);
            }
            None if self.holder(&address) == Some(service) => {
                self.holders.remove(&address);
            }
            None => {}
        }
    }
}
