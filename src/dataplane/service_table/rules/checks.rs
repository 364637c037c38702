//! Rules that reject or drop.

use super::writer::{REJECT, Rules, all};
use crate::service_table::frontends::FrontendClass;
use crate::service_table::sets::SetId;
use sluice_core::net::Protocol;
use sluice_kernel::nft::statement;
use sluice_kernel::nft::{Chain, Field};

impl Rules<'_> {
    pub(in crate::service_table) fn checks(&mut self) {
        self.reject_chain();
        let class = FrontendClass::Vip;
        let restricted = self.frontend_in(SetId::Restricted, class);
        let strangers =
            statement::is_not_in(&class.source_key(self.family()), &SetId::Sources.name());
        self.rule("sources-check", [restricted, strangers, statement::drop()]);

        let without = self.frontend_in(SetId::Reject(class), class);
        self.rule("service-check", [without, Rules::refuse()]);
        let elsewhere = self.frontend_in(SetId::Drop(class), class);
        self.rule("service-check", [elsewhere, statement::drop()]);

        let class = FrontendClass::NodePort;
        let at = |set| all([self.to_node_port_address(), self.frontend_in(set, class)]);
        let (without, elsewhere) = (at(SetId::Reject(class)), at(SetId::Drop(class)));
        self.rule("nodeport-check", [without, Rules::refuse()]);
        self.rule("nodeport-check", [elsewhere, statement::drop()]);
        self.cluster_ips_check();
    }

    /// Cluster IPs at ports that no Service has, and addresses for cluster IPs that none has.
    fn cluster_ips_check(&mut self) {
        let guard = self.table.host.cluster_ip_guard;
        // Hooks jump to it, whether or not there is anything to check.
        self.chain(Chain::regular("cluster-ips-check"));
        let other_ports = match self.conditions.other_ports {
            Some(chain) => Some(statement::goto(&chain.into())),
            None => guard.refuses_ports().then(Rules::refuse),
        };
        if let Some(other_ports) = other_ports {
            self.rule("cluster-ips-check", [self.to_cluster_ip(), other_ports]);
        }
        let daddr = Field::Daddr(self.family());
        for cidr in self.table.service_cidrs.iter().filter(|_| guard.drops_addresses()) {
            self.rule("cluster-ips-check", [statement::within(daddr, *cidr), statement::drop()]);
        }
    }

    /// The chain that rejects, TCP with a reset: a client whose connection is no longer in conntrack would
    /// ignore an ICMP error.
    fn reject_chain(&mut self) {
        self.rule(REJECT, [statement::protocol(Protocol::Tcp), statement::reject_by_reset()]);
        self.rule(REJECT, [statement::reject(self.family())]);
    }
}
