//! Desired: the virtual services and addresses that Services need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::virtual_services::virtual_services;
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, ServicePlan};
use sluice_kernel::ipvs::{Key, Persistence, Service};

/// What a virtual service is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DesiredService {
    pub(super) service: Service,
    pub(super) destinations: BTreeSet<(IpAddr, u16)>,
}

/// The virtual services of one plan.
pub(super) fn services_of(plan: &ServicePlan, scheduler: &Arc<str>) -> Vec<DesiredService> {
    let services = virtual_services(plan).into_iter().map(|it| {
        let key = Key::Address { ip: it.ip, protocol: it.protocol, port: it.at };
        let whole = u8::try_from(Family::of(it.ip).address_len() * 8).unwrap_or(u8::MAX);
        let persistence = it
            .port
            .affinity
            .map(|affinity| Persistence { timeout: affinity.timeout, prefix: whole });
        let service = Service { persistence, ..Service::new(key, scheduler) };
        let pool = it.port.pool(it.pool).iter();
        DesiredService { service, destinations: pool.map(|to| (to.ip, to.port)).collect() }
    });
    services.collect()
}

/// The virtual services of a plan, with the addresses of their destinations.
pub fn virtual_services_of(
    plan: &ServicePlan,
    scheduler: &Arc<str>,
) -> Vec<(Service, BTreeSet<(IpAddr, u16)>)> {
    let all = services_of(plan, scheduler).into_iter();
    all.map(|desired| (desired.service, desired.destinations)).collect()
}

/// What all Services need, by Service and by object.
#[derive(Debug, Default)]
pub(super) struct Desired {
    /// No two Services of a table have the same cluster IP. But while changes of several are applied, one may
    /// get an address that the other still has.
    services: FxHashMap<Key, BTreeMap<ServiceName, DesiredService>>,
    addresses: FxHashMap<IpAddr, BTreeSet<ServiceName>>,
    owned: FxHashMap<ServiceName, (Option<IpAddr>, Vec<Key>)>,
}

/// What a change of one Service concerns.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) keys: BTreeSet<Key>,
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Desired {
    /// What a whole table needs.
    pub(super) fn of(table: &ForwardingTable, scheduler: &Arc<str>) -> Desired {
        let mut desired = Desired::default();
        for (name, plan) in &table.services {
            desired.replace(name, Some(plan), scheduler);
        }
        desired
    }

    /// Updates the objects of one Service.
    pub(super) fn replace(
        &mut self,
        name: &ServiceName,
        plan: Option<&ServicePlan>,
        scheduler: &Arc<str>,
    ) -> Touched {
        let mut touched = Touched::default();
        let (ip, keys) = self.owned.remove(name).unwrap_or_default();
        for key in keys {
            remove_owner(&mut self.services, key, |owners| owners.remove(name), BTreeMap::is_empty);
            touched.keys.insert(key);
        }
        if let Some(ip) = ip {
            remove_owner(&mut self.addresses, ip, |owners| owners.remove(name), BTreeSet::is_empty);
            touched.addresses.insert(ip);
        }
        let Some(plan) = plan else { return touched };
        let mut keys = Vec::new();
        for desired in services_of(plan, scheduler) {
            let key = desired.service.key;
            self.services.entry(key).or_default().insert(name.clone(), desired);
            touched.keys.insert(key);
            keys.push(key);
        }
        if let Some(ip) = plan.cluster_ip {
            self.addresses.entry(ip).or_default().insert(name.clone());
            touched.addresses.insert(ip);
        }
        self.owned.insert(name.clone(), (plan.cluster_ip, keys));
        touched
    }

    /// What is to be at an address, and whose it is.
    pub(super) fn service(&self, key: &Key) -> Option<(&ServiceName, &DesiredService)> {
        self.services.get(key)?.first_key_value()
    }

    /// Every virtual service.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// Every address.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.addresses.keys()
    }

    /// Whether this node must have an address.
    pub(super) fn needs(&self, ip: &IpAddr) -> bool {
        self.addresses.contains_key(ip)
    }

    /// Whether packets for a virtual service can arrive here.
    pub(super) fn has_address(&self, key: &Key) -> bool {
        matches!(key, Key::Address { ip, .. } if self.needs(ip))
    }

    /// The Services that need an address.
    pub(super) fn users(&self, ip: &IpAddr) -> impl Iterator<Item = &ServiceName> {
        self.addresses.get(ip).into_iter().flatten()
    }
}

/// Removes an owner from an object's list, and the list from the map if it was the last.
fn remove_owner<K: std::hash::Hash + Eq, L, R>(
    lists: &mut FxHashMap<K, L>,
    thing: K,
    remove: impl FnOnce(&mut L) -> R,
    is_empty: impl FnOnce(&L) -> bool,
) {
    if let Some(list) = lists.get_mut(&thing) {
        remove(list);
        if is_empty(list) {
            lists.remove(&thing);
        }
    }
}
