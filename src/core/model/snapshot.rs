//! The input of the plan, and the changes that update it.

use std::collections::BTreeSet;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::{EndpointSlice, Kept, Node, Service, ServiceName, SliceName};

/// One converted change of the API's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A Service was added or changed.
    Service(Service),
    /// A Service was deleted, or is no longer handled by this proxy.
    ServiceGone(ServiceName),
    /// An EndpointSlice was added or changed.
    Slice(EndpointSlice),
    /// An EndpointSlice was deleted, or no longer belongs to a Service.
    SliceGone(SliceName),
    /// A complete list of Services: all others are removed.
    Services(Vec<Service>),
    /// A complete list of EndpointSlices: all others are removed.
    Slices(Vec<EndpointSlice>),
    /// This node's Node was added, changed, or deleted.
    Node(Option<Node>),
    /// All ServiceCIDRs.
    ServiceCidrs(BTreeSet<IpNet>),
}

/// The last known state of the API, as far as this node needs it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every Service with virtual IPs. (In boxes, because a map has room for twice as many values as it holds.)
    pub services: FxHashMap<ServiceName, Box<Service>>,
    /// EndpointSlices by Service, sorted by name. A Service may have none; a slice may arrive before its Service.
    /// (Lists, because a map allocates room for eleven slices and most Services have one.)
    pub slices: FxHashMap<ServiceName, Vec<EndpointSlice>>,
    /// The Service of each slice; a changed label moves the slice.
    owners: FxHashMap<SliceName, ServiceName>,
    /// This node's Node, once there was one, completed with values that have disappeared from it.
    pub node: Option<Node>,
    /// The values of `node` that have disappeared from the object.
    pub kept: Vec<Kept>,
    /// ServiceCIDRs of both families.
    pub service_cidrs: BTreeSet<IpNet>,
}

impl Snapshot {
    /// Applies a change and adds to `dirty` the Services whose plan it may affect. Changes of the node or of the
    /// ServiceCIDRs add none; the caller compares those fields.
    pub fn apply(&mut self, change: Change, dirty: &mut BTreeSet<ServiceName>) {
        match change {
            Change::Service(service) => self.put_service(service, dirty),
            Change::ServiceGone(name) => {
                if self.services.remove(&name).is_some() {
                    dirty.insert(name);
                }
            }
            Change::Slice(slice) => self.put_slice(slice, dirty),
            Change::SliceGone(name) => self.remove_slice(&name, dirty),
            Change::Services(list) => {
                let named: BTreeSet<_> = list.iter().map(|s| s.name.clone()).collect();
                self.services.retain(|name, _| {
                    let keep = named.contains(name);
                    if !keep {
                        dirty.insert(name.clone());
                    }
                    keep
                });
                list.into_iter().for_each(|service| self.put_service(service, dirty));
            }
            Change::Slices(list) => {
                let named: BTreeSet<_> = list.iter().map(|s| s.name.clone()).collect();
                let gone: Vec<_> =
                    self.owners.keys().filter(|name| !named.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_slice(name, dirty));
                list.into_iter().for_each(|slice| self.put_slice(slice, dirty));
            }
            Change::Node(object) => {
                (self.node, self.kept) = Node::completed(object, self.node.take(), &self.kept);
            }
            Change::ServiceCidrs(cidrs) => self.service_cidrs = cidrs,
        }
    }

    /// The Service that a slice belongs to.
    pub fn owner(&self, slice: &SliceName) -> Option<&ServiceName> {
        self.owners.get(slice)
    }

    fn put_service(&mut self, mut service: Service, dirty: &mut BTreeSet<ServiceName>) {
        if self.services.get(&service.name).is_some_and(|known| **known == service) {
            return;
        }
        service.name = self.known(service.name);
        dirty.insert(service.name.clone());
        self.services.insert(service.name.clone(), Box::new(service));
    }

    /// The same name in the memory of the Service or of its slices: both have it, and neither twice.
    fn known(&self, name: ServiceName) -> ServiceName {
        let of_service = self.services.get_key_value(&name).map(|(known, _)| known);
        let of_slices = || self.slices.get_key_value(&name).map(|(known, _)| known);
        of_service.or_else(of_slices).cloned().unwrap_or(name)
    }

    fn put_slice(&mut self, mut slice: EndpointSlice, dirty: &mut BTreeSet<ServiceName>) {
        slice.service = self.known(slice.service);
        if self.owners.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            self.remove_slice(&slice.name, dirty);
        }
        let siblings = self.slices.entry(slice.service.clone()).or_default();
        match siblings.binary_search_by(|sibling| sibling.name.cmp(&slice.name)) {
            Ok(index) if siblings[index] == slice => {}
            Ok(index) => {
                dirty.insert(slice.service.clone());
                siblings[index] = slice;
            }
            Err(index) => {
                dirty.insert(slice.service.clone());
                self.owners.insert(slice.name.clone(), slice.service.clone());
                siblings.reserve_exact(1);
                siblings.insert(index, slice);
            }
        }
    }

    fn remove_slice(&mut self, name: &SliceName, dirty: &mut BTreeSet<ServiceName>) {
        let Some(owner) = self.owners.remove(name) else { return };
        if let Some(siblings) = self.slices.get_mut(&owner) {
            siblings.retain(|sibling| sibling.name != *name);
            if siblings.is_empty() {
                self.slices.remove(&owner);
            }
        }
        dirty.insert(owner);
    }
}
