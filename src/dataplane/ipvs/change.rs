//! What the kernel has, and the operations that bring a virtual service to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use super::kernel::{Kernel, KernelError};
use super::wanted::Wanted;
use sluice_kernel::dummy::DummyOp;
use sluice_kernel::ipvs::{Destination, Key, Op, Service};

/// The weight of every destination that takes new connections.
const WEIGHT: u32 = 1;

/// What the kernel has of ours, as far as we wrote or read it.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) services: BTreeMap<Key, Found>,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether the device of the addresses exists.
    pub(super) device: bool,
    /// How many destinations there are, so that nobody has to count them.
    destinations: usize,
}

/// A virtual service in the kernel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) service: Service,
    pub(super) destinations: BTreeMap<(IpAddr, u16), Destination>,
}

impl Seen {
    /// Reads everything.
    pub(super) fn read(kernel: &mut impl Kernel) -> Result<Seen, KernelError> {
        let mut services = BTreeMap::new();
        for service in kernel.services()? {
            let destinations = destinations(kernel, &service.key)?;
            services.insert(service.key, Found { service, destinations });
        }
        let addresses = kernel.addresses()?;
        let device = addresses.is_some();
        let destinations = services.values().map(|found: &Found| found.destinations.len()).sum();
        Ok(Seen { services, addresses: addresses.unwrap_or_default(), device, destinations })
    }

    /// How many virtual services, destinations and addresses there are.
    pub(super) fn counts(&self) -> [(&'static str, usize); 3] {
        [
            ("virtual-service", self.services.len()),
            ("destination", self.destinations),
            ("address", self.addresses.len()),
        ]
    }

    /// Whether the kernel still has these addresses and no others.
    pub(super) fn has_addresses(&self, kernel: &mut impl Kernel) -> Result<bool, KernelError> {
        let addresses = kernel.addresses()?;
        Ok(addresses.is_some() == self.device && addresses.unwrap_or_default() == self.addresses)
    }

    /// Whether the kernel still has these virtual services and no others.
    pub(super) fn has_services(&self, kernel: &mut impl Kernel) -> Result<bool, KernelError> {
        let services = kernel.services()?;
        let known = |service: &Service| {
            self.services.get(&service.key).is_some_and(|found| found.service == *service)
        };
        Ok(services.len() == self.services.len() && services.iter().all(known))
    }

    /// Whether the kernel still has the destinations of `window` virtual services from `cursor` on;
    /// moves it on.
    pub(super) fn has_destinations(
        &self,
        kernel: &mut impl Kernel,
        cursor: &mut Option<Key>,
        window: usize,
    ) -> Result<bool, KernelError> {
        let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let mut compared = 0;
        let mut last = None;
        for (key, found) in self.services.range((from, Bound::Unbounded)).take(window) {
            if destinations(kernel, key)? != found.destinations {
                return Ok(false);
            }
            compared += 1;
            last = Some(*key);
        }
        // After the last one comes the first one.
        *cursor = last.filter(|_| compared == window);
        Ok(true)
    }

    /// An operation was carried out.
    pub(super) fn note(&mut self, op: &Op) {
        let place = |to: &Destination| (to.ip, to.port);
        match op {
            Op::AddService(service) => {
                let found = Found { service: service.clone(), destinations: BTreeMap::new() };
                self.services.insert(service.key, found);
            }
            Op::SetService(service) => {
                if let Some(found) = self.services.get_mut(&service.key) {
                    found.service = service.clone();
                }
            }
            Op::DeleteService(key) => {
                let gone = self.services.remove(key).map_or(0, |found| found.destinations.len());
                self.destinations = self.destinations.saturating_sub(gone);
            }
            Op::AddDestination(key, to) | Op::SetDestination(key, to) => {
                if let Some(found) = self.services.get_mut(key) {
                    let before = found.destinations.insert(place(to), *to);
                    self.destinations += usize::from(before.is_none());
                }
            }
            Op::DeleteDestination(key, ip, port) => {
                if let Some(found) = self.services.get_mut(key) {
                    let gone = found.destinations.remove(&(*ip, *port));
                    self.destinations =
                        self.destinations.saturating_sub(usize::from(gone.is_some()));
                }
            }
        }
    }

    /// An operation on addresses was carried out.
    pub(super) fn note_address(&mut self, op: &DummyOp) {
        match op {
            DummyOp::Create => self.device = true,
            DummyOp::Add(ip) => {
                self.addresses.insert(*ip);
            }
            DummyOp::Remove(ip) => {
                self.addresses.remove(ip);
            }
        }
    }
}

fn destinations(
    kernel: &mut impl Kernel,
    key: &Key,
) -> Result<BTreeMap<(IpAddr, u16), Destination>, KernelError> {
    let all = kernel.destinations(key)?.into_iter().map(|seen| seen.destination);
    Ok(all.map(|to| ((to.ip, to.port), to)).collect())
}

/// Operations of a sync, by when they are due.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Before the table refers to them.
    pub(super) arrivals: Vec<Op>,
    pub(super) addresses_gone: Vec<DummyOp>,
    pub(super) addresses_new: Vec<DummyOp>,
    /// When the table no longer refers to them.
    pub(super) departures: Vec<Op>,
}

impl Change {
    /// Compares a virtual service with what is wanted. What is not wanted any more gets no new
    /// connections if it may drain, and goes otherwise.
    pub(super) fn compare(
        &mut self,
        key: &Key,
        found: Option<&Found>,
        wanted: Option<&Wanted>,
        drains: bool,
    ) {
        match (found, wanted) {
            (None, None) => {}
            (None, Some(wanted)) => {
                self.arrivals.push(Op::AddService(wanted.service.clone()));
                self.arrive(key, None, wanted);
            }
            (Some(found), Some(wanted)) => {
                if found.service != wanted.service {
                    self.arrivals.push(Op::SetService(wanted.service.clone()));
                }
                self.arrive(key, Some(found), wanted);
                self.leave(key, found, &wanted.destinations, drains);
            }
            (Some(found), None) if drains && !found.destinations.is_empty() => {
                self.leave(key, found, &BTreeSet::new(), drains);
            }
            (Some(_), None) => self.departures.push(Op::DeleteService(*key)),
        }
    }

    fn arrive(&mut self, key: &Key, found: Option<&Found>, wanted: &Wanted) {
        for place @ (ip, port) in &wanted.destinations {
            let to = Destination::new(*ip, *port, WEIGHT);
            match found.and_then(|found| found.destinations.get(place)) {
                None => self.arrivals.push(Op::AddDestination(*key, to)),
                Some(there) if *there == to => {}
                Some(_) => self.arrivals.push(Op::SetDestination(*key, to)),
            }
        }
    }

    fn leave(&mut self, key: &Key, found: &Found, wanted: &BTreeSet<(IpAddr, u16)>, drains: bool) {
        let unwanted = found.destinations.iter().filter(|(place, _)| !wanted.contains(place));
        for ((ip, port), to) in unwanted {
            if !drains {
                self.departures.push(Op::DeleteDestination(*key, *ip, *port));
            } else if to.weight > 0 {
                let idle = Destination { weight: 0, ..*to };
                self.departures.push(Op::SetDestination(*key, idle));
            }
        }
    }
}
