//! Who holds an address that several Services claim.
//!
//! The winner is the same whatever the order in which the claims arrived: a field that the API
//! server allocates (cluster IP, node port) beats one that users write (external IP, load balancer
//! IP), then the older Service wins, then the name decides.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::table::{Address, FrontendKind};
use crate::model::ServiceName;

/// A Service's claim to an address; the smallest one wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    written_by_users: bool,
    created: i64,
    service: ServiceName,
}

/// All claims to frontend addresses.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    holders: FxHashMap<Address, Claim>,
    /// Claims that lost; almost always empty.
    waiting: BTreeMap<Address, BTreeSet<Claim>>,
    by_service: FxHashMap<ServiceName, Box<[Address]>>,
}

impl Claims {
    /// Replaces what `service` (created at `created`) claims and returns the other Services that won
    /// or lost an address by it.
    pub fn replace(
        &mut self,
        service: &ServiceName,
        created: i64,
        wanted: &[(Address, FrontendKind)],
    ) -> BTreeSet<ServiceName> {
        let mut affected = BTreeSet::new();
        for address in self.by_service.remove(service).unwrap_or_default() {
            self.release(address, service, &mut affected);
        }
        for &(address, kind) in wanted {
            let written_by_users = match kind {
                FrontendKind::ClusterIp | FrontendKind::NodePort => false,
                FrontendKind::ExternalIp | FrontendKind::LoadBalancer => true,
            };
            let claim = Claim { written_by_users, created, service: service.clone() };
            self.claim(address, claim, &mut affected);
        }
        if !wanted.is_empty() {
            let addresses = wanted.iter().map(|(address, _)| *address).collect();
            self.by_service.insert(service.clone(), addresses);
        }
        affected.remove(service);
        affected
    }

    /// The Service that holds an address.
    pub fn holder(&self, address: &Address) -> Option<&ServiceName> {
        self.holders.get(address).map(|claim| &claim.service)
    }

    fn claim(&mut self, address: Address, claim: Claim, affected: &mut BTreeSet<ServiceName>) {
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

    fn release(
        &mut self,
        address: Address,
        service: &ServiceName,
        affected: &mut BTreeSet<ServiceName>,
    ) {
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
