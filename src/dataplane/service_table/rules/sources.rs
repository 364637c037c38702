//! Matches by source class, and by the addresses of this node.

use super::writer::{Rules, all};
use crate::service_table::sets::SetId;
use sluice_core::plan::{NodePortAddresses, PodDetector};
use sluice_kernel::nft::statement::{self, Statement};
use sluice_kernel::nft::{Field, address_type};

impl Rules<'_> {
    /// Traffic to an address of this node that accepts node ports.
    pub(super) fn to_node_port_address(&self) -> Statement {
        match self.table.host.node_ports {
            NodePortAddresses::Only(_) => {
                statement::is_in(&[Field::Daddr(self.family())], &SetId::NodePortIps.name())
            }
            NodePortAddresses::AnyLocal => all([
                statement::destination_type(address_type::LOCAL),
                self.conditions.node_port_addresses.clone(),
            ]),
        }
    }

    /// Traffic that no pod sent.
    pub(super) fn not_from_pod(&self) -> Statement {
        match &self.table.host.pods {
            PodDetector::None => Statement::new(),
            PodDetector::Cidrs(nets) => {
                let saddr = Field::Saddr(self.family());
                all(nets.iter().map(|net| statement::outside(saddr, *net)))
            }
            PodDetector::BridgeInterface(name) => statement::not_input_interface(name),
            PodDetector::InterfacePrefix(prefix) => {
                statement::not_input_interface(&format!("{prefix}*"))
            }
        }
    }

    /// Each of these matches traffic that some pods sent.
    pub(super) fn sent_by_pods(&self) -> Vec<Statement> {
        match &self.table.host.pods {
            PodDetector::None => Vec::new(),
            PodDetector::Cidrs(nets) => {
                let saddr = Field::Saddr(self.family());
                nets.iter().map(|net| statement::within(saddr, *net)).collect()
            }
            PodDetector::BridgeInterface(name) => vec![statement::input_interface(name)],
            PodDetector::InterfacePrefix(prefix) => {
                vec![statement::input_interface(&format!("{prefix}*"))]
            }
        }
    }
}
