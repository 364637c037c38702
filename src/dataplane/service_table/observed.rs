//! Observed: the kernel's table as read, in terms of [`super::sets`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::frontends::{FrontendClass, frontend_key, pools_of};
use super::schema::Schema;
use super::sets::SetId;
use super::slots::Slots;
use sluice_core::net::Family;
use sluice_core::plan::{PoolKind, PortPlan};
use sluice_kernel::nft::{Data, Key, Observed, ObservedSet, SetFlags, SortedElements, Value};

/// A table as it was found.
#[derive(Debug)]
pub(super) struct ObservedTable {
    family: Family,
    table: Option<Observed>,
    /// Endpoints by frontend and slot.
    slots: FxHashMap<(FrontendClass, Key), Slots>,
    repair: Repair,
}

/// What to do with a table that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    /// Change what differs, if that can be.
    Migrate,
    /// Replace it: something in it prevents every change.
    Rebuild,
}

/// The highest slot that is believed: more endpoints than any Service has.
const MOST_SLOTS: usize = 1 << 20;

impl ObservedTable {
    pub(super) fn new(family: Family, table: Option<Observed>, repair: Repair) -> ObservedTable {
        let mut observed = ObservedTable { family, table, slots: FxHashMap::default(), repair };
        observed.read_slots();
        observed
    }

    /// The table as it was read.
    pub(super) fn table(&self) -> Option<&Observed> {
        self.table.as_ref()
    }

    /// Whether there is a table at all.
    pub(super) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// The existing schema, if the desired one can be reached from it without replacing the table: objects in
    /// both must be equal.
    pub(super) fn usable(&self, desired: Option<&Schema>) -> Option<Schema> {
        let (table, desired) = (self.table.as_ref()?, desired?);
        if !table.foreign.is_empty() || self.repair == Repair::Rebuild {
            return None;
        }
        // An anonymous set comes and goes with its rule.
        let named = |(_, found): &(_, &ObservedSet)| !found.set.flags.contains(SetFlags::ANONYMOUS);
        let sets = table.sets.iter().filter(named);
        let sets = sets.map(|(name, found)| (Arc::clone(name), found.set.clone())).collect();
        let chains = table.chains.iter().map(|(name, found)| {
            let rules = found.rules.iter().map(|rule| rule.rule.clone()).collect();
            (Arc::clone(name), (found.chain.clone(), rules))
        });
        let existing = Schema { sets, chains: chains.collect() };
        let set_differs = |name: &Arc<str>| {
            existing.sets.get(name).is_some_and(|set| !set.works_as(&desired.sets[name]))
        };
        let chain_differs = |name: &Arc<str>| {
            existing.chains.get(name).is_some_and(|(chain, _)| chain != &desired.chains[name].0)
        };
        let differs =
            desired.sets.keys().any(set_differs) || desired.chains.keys().any(chain_differs);
        (!differs).then_some(existing)
    }

    /// The elements of each of our sets, except those that rules write. `of_mode` are the sets that only this
    /// mode always has; another mode's are deleted as a whole.
    pub(super) fn elements(&self, of_mode: Vec<SetId>) -> Vec<(SetId, &SortedElements)> {
        let permanent: Vec<_> = SetId::permanent(of_mode).map(|id| (id, id.name())).collect();
        let sets = self.table.iter().flat_map(|table| &table.sets);
        let ours =
            |name: &str| SetId::from_name(name, &permanent).filter(|id| !id.written_by_rules());
        sets.filter_map(|(name, set)| Some((ours(name)?, &set.elements))).collect()
    }

    /// What is in the slots of a pool: of the first of its frontends that has any.
    pub(super) fn slots_of(&self, port: &PortPlan, kind: PoolKind) -> Slots {
        let frontends = port.frontends.iter().flat_map(|frontend| {
            let key = frontend_key(&frontend.at);
            pools_of(frontend).filter(|(_, k)| *k == kind).map(move |(class, _)| (class, key))
        });
        frontends.filter_map(|found| self.slots.get(&found)).next().cloned().unwrap_or_default()
    }

    fn read_slots(&mut self) {
        let Some(table) = &self.table else { return };
        for class in FrontendClass::ALL {
            let Some(set) = table.sets.get(&SetId::Endpoints(class).name()) else { continue };
            for element in set.elements.iter() {
                let Some((key, slot)) = split_slot(&element.key) else { continue };
                let Some(endpoint) = endpoint_of(self.family, &element.value) else { continue };
                let slots = self.slots.entry((class, key)).or_default();
                if slot >= slots.len() && slot < MOST_SLOTS {
                    slots.resize(slot + 1, None);
                }
                if let Some(slot) = slots.get_mut(slot) {
                    *slot = Some(endpoint);
                }
            }
        }
    }
}

/// The slot is the last part of the key.
fn split_slot(key: &Key) -> Option<(Key, usize)> {
    let (frontend, slot) = key.as_bytes().split_last_chunk::<4>()?;
    Some((Key::from_bytes(frontend)?, usize::try_from(u32::from_ne_bytes(*slot)).ok()?))
}

/// The address and port that an element of a map leads to.
pub(crate) fn endpoint_of(family: Family, value: &Value) -> Option<(IpAddr, u16)> {
    let Value::Data(data) = value else { return None };
    let data: &Data = data;
    let (ip, rest) = data.as_bytes().split_at_checked(family.address_len())?;
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
    };
    let port = rest.first_chunk::<2>()?;
    Some((ip, u16::from_be_bytes(*port)))
}
