//! Applied: the objects that the kernel has, as last written or read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use super::kernel::{Kernel, KernelError};
use sluice_kernel::dummy::DummyOp;
use sluice_kernel::ipvs::{Destination, Key, Op, Service};

/// Our objects in the kernel, as last written or read.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Applied {
    pub(super) services: BTreeMap<Key, AppliedService>,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether the device of the addresses exists.
    pub(super) device: bool,
    /// The number of destinations.
    destinations: usize,
}

/// A virtual service in the kernel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AppliedService {
    pub(super) service: Service,
    pub(super) destinations: BTreeMap<(IpAddr, u16), Destination>,
}

impl Applied {
    /// Reads everything.
    pub(super) fn read(kernel: &mut impl Kernel) -> Result<Applied, KernelError> {
        let mut services = BTreeMap::new();
        for service in kernel.services()? {
            let destinations = destinations(kernel, &service.key)?;
            services.insert(service.key, AppliedService { service, destinations });
        }
        let addresses = kernel.addresses()?;
        let device = addresses.is_some();
        let destinations =
            services.values().map(|found: &AppliedService| found.destinations.len()).sum();
        Ok(Applied { services, addresses: addresses.unwrap_or_default(), device, destinations })
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

    /// An operation was applied.
    pub(super) fn record(&mut self, op: &Op) {
        let at = |to: &Destination| (to.ip, to.port);
        match op {
            Op::AddService(service) => {
                let found =
                    AppliedService { service: service.clone(), destinations: BTreeMap::new() };
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
                    let before = found.destinations.insert(at(to), *to);
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

    /// An operation on addresses was applied.
    pub(super) fn record_address(&mut self, op: &DummyOp) {
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
