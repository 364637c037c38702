//! Stable ids for Service ports with session affinity.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::table::Affinity;
use crate::model::ServiceName;
use crate::net::{Protocol, fnv1a};

/// A Service port.
type Owner = (ServiceName, Arc<str>, Protocol);

/// The ids in use.
#[derive(Debug, Clone, Default)]
pub(super) struct AffinityIds {
    owners: FxHashMap<u32, Owner>,
    by_service: FxHashMap<ServiceName, Vec<u32>>,
}

impl AffinityIds {
    /// Frees a Service's ids.
    pub(super) fn release(&mut self, service: &ServiceName) {
        for id in self.by_service.remove(service).unwrap_or_default() {
            self.owners.remove(&id);
        }
    }

    /// The id of a port: a hash of its names, so that a restart finds the same one, or in the rare case of a collision
    /// the next free one.
    pub(super) fn assign(
        &mut self,
        service: &ServiceName,
        port: &Arc<str>,
        protocol: Protocol,
    ) -> u32 {
        let owner = (service.clone(), Arc::clone(port), protocol);
        let mut id = preferred(service, port, protocol);
        while self.owners.get(&id).is_some_and(|other| *other != owner) {
            id = (id + 1) % Affinity::IDS;
        }
        if self.owners.insert(id, owner).is_none() {
            self.by_service.entry(service.clone()).or_default().push(id);
        }
        id
    }
}

/// The id of a port unless another port has it: a hash that must be the same in every build, because the kernel keeps
/// affinity entries under it across upgrades. Names of objects contain no slash and no zero byte.
fn preferred(service: &ServiceName, port: &str, protocol: Protocol) -> u32 {
    let hash = fnv1a(service.to_string().as_bytes()).and(&[0]).and(port.as_bytes());
    hash.and(&[0, protocol.number()]).fold(Affinity::IDS.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_in_every_version() {
        let table = [
            ("default", "web", "http", Protocol::Tcp, 373_729_117),
            ("default", "web", "", Protocol::Tcp, 527_373_468),
            ("default", "web", "http", Protocol::Udp, 373_689_396),
            ("kube-system", "dns", "dns", Protocol::Udp, 211_344_010),
            ("a", "b", "http", Protocol::Sctp, 424_093_657),
        ];
        let found = table.map(|(namespace, name, port, protocol, _)| {
            let service = ServiceName::new(namespace, name);
            let id = AffinityIds::default().assign(&service, &port.into(), protocol);
            (namespace, name, port, protocol, id)
        });
        assert_eq!(found, table);
    }

    #[test]
    fn every_port_has_its_own_id_and_gets_it_again() {
        let mut ids = AffinityIds::default();
        let service = |n: u32| ServiceName::new("default", &format!("s{n}"));
        let mut assign = |n: u32| ids.assign(&service(n), &"http".into(), Protocol::Tcp);
        let first: Vec<u32> = (0..50_000).map(&mut assign).collect();
        let again: Vec<u32> = (0..50_000).map(&mut assign).collect();
        assert_eq!(first, again);
        let mut distinct = first.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), first.len());
        assert!(distinct.iter().all(|id| *id < Affinity::IDS));
        for n in 0..50_000 {
            ids.release(&service(n));
        }
        assert!(ids.owners.is_empty() && ids.by_service.is_empty());
    }
}
