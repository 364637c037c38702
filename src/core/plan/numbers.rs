//! Numbers for ports with session affinity: each has its own, and keeps it as long as it can.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::table::Affinity;
use crate::model::ServiceName;
use crate::net::{Protocol, fnv1a};

/// A port of a Service.
type Owner = (ServiceName, Arc<str>, Protocol);

/// Who has which number.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    owners: FxHashMap<u32, Owner>,
    by_service: FxHashMap<ServiceName, Vec<u32>>,
}

impl Numbers {
    /// Takes a Service's numbers back.
    pub(super) fn release(&mut self, service: &ServiceName) {
        for number in self.by_service.remove(service).unwrap_or_default() {
            self.owners.remove(&number);
        }
    }

    /// The number of a port. It follows from the names, so that a restart finds the same one, but for
    /// the rare case that two ports would have the same: then it is the next free one.
    pub(super) fn assign(
        &mut self,
        service: &ServiceName,
        port: &Arc<str>,
        protocol: Protocol,
    ) -> u32 {
        let owner = (service.clone(), Arc::clone(port), protocol);
        let mut number = preferred(service, port, protocol);
        while self.owners.get(&number).is_some_and(|other| *other != owner) {
            number = (number + 1) % Affinity::NUMBERS;
        }
        if self.owners.insert(number, owner).is_none() {
            self.by_service.entry(service.clone()).or_default().push(number);
        }
        number
    }
}

/// The number that a port has if no other has it. It follows from the names alone and never changes, by
/// whichever compiler this is built: the kernel remembers clients under it while a new version of this
/// program comes in. Names of objects have no slash and no zero byte.
fn preferred(service: &ServiceName, port: &str, protocol: Protocol) -> u32 {
    let hash = fnv1a(service.to_string().as_bytes()).and(&[0]).and(port.as_bytes());
    hash.and(&[0, protocol.number()]).fold(Affinity::NUMBERS.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_in_every_version() {
        let table = [
            ("default", "web", "http", Protocol::Tcp, 373_729_117),
            ("default", "web", "", Protocol::Tcp, 527_373_468),
            ("default", "web", "http", Protocol::Udp, 373_689_396),
            ("kube-system", "dns", "dns", Protocol::Udp, 211_344_010),
            ("a", "b", "http", Protocol::Sctp, 424_093_657),
        ];
        let found = table.map(|(namespace, name, port, protocol, _)| {
            let service = ServiceName::new(namespace, name);
            let number = Numbers::default().assign(&service, &port.into(), protocol);
            (namespace, name, port, protocol, number)
        });
        assert_eq!(found, table);
    }

    #[test]
    fn every_port_has_its_own_number_and_gets_it_again() {
        let mut numbers = Numbers::default();
        let service = |n: u32| ServiceName::new("default", &format!("s{n}"));
        let mut assign = |n: u32| numbers.assign(&service(n), &"http".into(), Protocol::Tcp);
        let first: Vec<u32> = (0..50_000).map(&mut assign).collect();
        let again: Vec<u32> = (0..50_000).map(&mut assign).collect();
        assert_eq!(first, again);
        let mut distinct = first.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), first.len());
        assert!(distinct.iter().all(|number| *number < Affinity::NUMBERS));
        for n in 0..50_000 {
            numbers.release(&service(n));
        }
        assert!(numbers.owners.is_empty() && numbers.by_service.is_empty());
    }
}
