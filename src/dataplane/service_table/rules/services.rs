//! From a hook to the pool of a frontend.

use super::writer::Rules;
use crate::service_table::frontends::FrontendClass;
use crate::service_table::sets::SetId;
use sluice_core::plan::PodDetector;
use sluice_kernel::nft::statement;
use sluice_kernel::nft::{Chain, address_type};

impl Rules<'_> {
    /// Finding the frontend counts it. Only the first packet of a connection comes here.
    fn counter(&mut self, chain: &str, class: FrontendClass) {
        if self.on_demand.contains(&SetId::Counters(class)) {
            let found = self.frontend_in(SetId::Counters(class), class);
            self.rule(chain, [found]);
        }
    }

    pub(in crate::service_table) fn services(&mut self) {
        let class = FrontendClass::Vip;
        let host = &self.table.host;
        self.counter("services", class);
        let mark = || statement::set_mark_bits(host.masquerade_mark);
        if host.masquerade_all {
            self.rule("services", [self.to_cluster_ip(), mark()]);
        } else if host.pods != PodDetector::None {
            self.rule("services", [self.to_cluster_ip(), self.not_from_pod(), mark()]);
        }
        if let Some(masqueraded) = self.conditions.masqueraded.clone() {
            self.rule("services", [masqueraded, mark()]);
        }
        let masquerade = self.frontend_in(SetId::Masquerade(class), class);
        self.rule("services", [masquerade, mark()]);
        let split = self.frontend_in(SetId::Split(class), class);
        self.rule("services", [split, statement::goto(&"service-split".into())]);
        self.split("service-split", class);
        self.rule("services", [statement::jump(&Rules::pools(class))]);
        let node_ports = statement::jump(&"nodeports".into());
        self.rule("services", [self.to_node_port_address(), node_ports]);
        if !host.cluster_ip_guard.refuses_ports() {
            // What the Service has no port for passes as it came.
            let bit = host.masquerade_mark;
            let unmark = [statement::mark_has(bit), statement::flip_mark_bits(bit)].concat();
            self.rule("services", [self.to_cluster_ip(), unmark]);
        }
    }

    pub(in crate::service_table) fn node_ports(&mut self) {
        let class = FrontendClass::NodePort;
        self.counter("nodeports", class);
        let masquerade = self.frontend_in(SetId::Masquerade(class), class);
        let mark = statement::set_mark_bits(self.table.host.masquerade_mark);
        self.rule("nodeports", [masquerade, mark]);
        let split = self.frontend_in(SetId::Split(class), class);
        self.rule("nodeports", [split, statement::goto(&"nodeport-split".into())]);
        self.split("nodeport-split", class);
        self.rule("nodeports", [statement::goto(&Rules::pools(class))]);
    }

    /// The chain behind which the mode delivers: there, whether or not it has anything to do.
    pub(in crate::service_table) fn pools_chain(&mut self, class: FrontendClass) {
        self.chain(Chain::regular(Rules::pools(class)));
    }

    /// Policy Local: pods and this node are sent on as if through the load balancer and back.
    fn split(&mut self, chain: &str, class: FrontendClass) {
        for from_pod in self.sent_by_pods() {
            self.rule(chain, [from_pod, statement::goto(&Rules::pools(class))]);
        }
        let from_node = || statement::source_type(address_type::LOCAL);
        self.rule(chain, [from_node(), statement::set_mark_bits(self.table.host.masquerade_mark)]);
        self.rule(chain, [from_node(), statement::goto(&Rules::pools(class))]);
        self.rule(chain, [statement::goto(&Rules::pools(class.local()))]);
    }
}
