//! Desired: the forwarding table as objects of one proxy mode.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::data_path::DataPath;
use super::elements::{
    Elements, cluster_ip_element, counter_elements, frontend_elements, shared_elements,
};
use super::frontends::FrontendClass;
use super::rules::Rules;
use super::schema::Schema;
use super::sets::SetId;
use sluice_core::model::ServiceName;
use sluice_core::plan::{ForwardingTable, NodePortAddresses, ServicePlan};
use sluice_kernel::nft::{Counting, Key};

/// Room for the elements of most Services.
const USUAL: usize = 16;

/// What the kernel is to have: the forwarding table, but for Services that the kernel refuses.
#[derive(Debug)]
pub(super) struct Desired<'a> {
    pub(super) table: &'a ForwardingTable,
    /// The proxy mode's part.
    pub(super) path: &'a dyn DataPath,
    /// Whether new connections are counted.
    pub(super) counting: Counting,
    /// What is to be there for some Services instead of their plans.
    pub(super) instead: BTreeMap<ServiceName, Option<Arc<ServicePlan>>>,
}

impl Desired<'_> {
    /// What is to be there for a Service.
    pub(super) fn plan(&self, name: &ServiceName) -> Option<&Arc<ServicePlan>> {
        match self.instead.get(name) {
            Some(instead) => instead.as_ref(),
            None => self.table.services.get(name),
        }
    }

    /// Every Service that may have a plan.
    pub(super) fn names(&self) -> impl Iterator<Item = &ServiceName> {
        let known = |name: &&ServiceName| !self.table.services.contains_key(*name);
        self.table.services.keys().chain(self.instead.keys().filter(known))
    }

    /// Elements that belong to one Service alone, sorted.
    pub(super) fn own_elements(&self, name: &ServiceName, plan: &ServicePlan) -> Elements {
        let mut elements = Elements::with_capacity(USUAL);
        cluster_ip_element(plan, &mut elements);
        for frontend in plan.ports.iter().flat_map(|port| &port.frontends) {
            frontend_elements(frontend, &mut elements);
        }
        self.path.elements(plan, &mut elements);
        if self.counting == Counting::On {
            counter_elements(name, plan, &mut elements);
        }
        elements.sort_unstable();
        elements
    }

    /// Elements that a Service needs, and others may need as well; sorted, each once.
    pub(super) fn shared_elements(&self, plan: &ServicePlan) -> Elements {
        let mut elements = Elements::new();
        self.path.shared_elements(plan, &mut elements);
        shared_elements(plan, &mut elements);
        elements.sort_unstable();
        elements.dedup();
        elements
    }

    /// Elements that no Service needs, but the host as a whole.
    pub(super) fn host_elements(&self) -> BTreeSet<(SetId, Key)> {
        match &self.table.host.node_ports {
            NodePortAddresses::AnyLocal => BTreeSet::new(),
            NodePortAddresses::Only(ips) => {
                ips.iter().map(|ip| (SetId::NodePortIps, Key::new().address(*ip))).collect()
            }
        }
    }

    /// All but the elements, where frontends are in these sets of those that are not always there.
    pub(super) fn schema(&self, on_demand: BTreeSet<SetId>) -> Schema {
        let (table, path) = (self.table, self.path);
        let permanent = SetId::permanent(path.sets());
        let conditions = path.conditions(table.family);
        let mut rules = Rules::new(table, conditions, permanent, on_demand);
        rules.base_chains(path.hooks(&table.host));
        path.rules(&mut rules);
        rules.affinity();
        rules.services();
        rules.node_ports();
        for class in FrontendClass::ALL {
            rules.pools_chain(class);
            path.deliver(&mut rules, class);
        }
        rules.checks();
        rules.masquerading();
        rules.finish()
    }
}
