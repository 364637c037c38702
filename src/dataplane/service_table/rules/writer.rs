//! The writer of chains and rules, and the matches that many of them share.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::service_table::frontends::FrontendClass;
use crate::service_table::schema::Schema;
use crate::service_table::sets::SetId;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_kernel::nft::statement::{self, Statement};
use sluice_kernel::nft::{Chain, Field, Rule, ct_status};

/// The chain that refuses.
pub(super) const REJECT: &str = "reject-chain";

/// What rules of the table match, where that depends on the mode.
#[derive(Debug)]
pub(crate) struct Conditions {
    /// Traffic to Services that is masqueraded whatever the policies say.
    pub(crate) masqueraded: Option<Statement>,
    /// Connections that came through a Service, once their destination has been translated.
    pub(crate) through_a_service: Statement,
    /// Of this node's addresses, those that accept node ports if no addresses are configured.
    pub(crate) node_port_addresses: Statement,
    /// The chain that decides about ports of cluster IPs that no Service has; without one, the
    /// [guard](sluice_core::plan::ClusterIpGuard) does.
    pub(crate) other_ports: Option<&'static str>,
}

impl Conditions {
    /// Those of a mode in which the table translates to endpoints on other hosts.
    pub(crate) fn new(family: Family) -> Conditions {
        let loopback = match family {
            Family::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)),
            Family::V6 => IpNet::from(std::net::IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])),
        };
        Conditions {
            masqueraded: None,
            through_a_service: statement::ct_status(ct_status::DNAT),
            // What is sent from a loopback address does not leave this host.
            node_port_addresses: statement::outside(Field::Daddr(family), loopback),
            other_ports: None,
        }
    }
}

/// Chains and rules that are being written.
pub(crate) struct Rules<'a> {
    pub(crate) table: &'a ForwardingTable,
    pub(super) conditions: Conditions,
    /// The sets in use of those that are not always there.
    pub(super) on_demand: BTreeSet<SetId>,
    schema: Schema,
}

impl<'a> Rules<'a> {
    /// For a table that has these sets and no chains yet.
    pub(in crate::service_table) fn new(
        table: &'a ForwardingTable,
        conditions: Conditions,
        permanent: impl Iterator<Item = SetId>,
        on_demand: BTreeSet<SetId>,
    ) -> Rules<'a> {
        let mut schema = Schema::default();
        let remembers = on_demand.iter().any(|set| matches!(set, SetId::Remembered(_)));
        let memory = remembers.then_some(SetId::Affinity);
        for set in permanent.chain(on_demand.iter().copied()).chain(memory) {
            schema.sets.insert(set.name(), set.definition(table.family));
        }
        Rules { table, conditions, on_demand, schema }
    }

    pub(in crate::service_table) fn finish(self) -> Schema {
        self.schema
    }

    pub(crate) fn family(&self) -> Family {
        self.table.family
    }

    /// An empty chain.
    pub(crate) fn chain(&mut self, chain: Chain) {
        self.schema.chains.insert(Arc::clone(&chain.name), (chain, Vec::new()));
    }

    /// Appends a rule to a chain, which need not be there yet.
    pub(crate) fn rule(&mut self, chain: &str, statements: impl IntoIterator<Item = Statement>) {
        let (chain, rules) = self
            .schema
            .chains
            .entry(chain.into())
            .or_insert_with(|| (Chain::regular(chain), Vec::new()));
        rules.push(Rule::new(Arc::clone(&chain.name), all(statements)));
    }

    /// `FRONTEND @set` of the packet.
    pub(super) fn frontend_in(&self, set: SetId, class: FrontendClass) -> Statement {
        statement::is_in(&class.key(self.family()), &set.name())
    }

    /// `ip daddr @cluster-ips`
    pub(crate) fn to_cluster_ip(&self) -> Statement {
        statement::is_in(&[Field::Daddr(self.family())], &SetId::ClusterIps.name())
    }

    /// Refuses, by a reset for TCP.
    pub(crate) fn refuse() -> Statement {
        statement::goto(&REJECT.into())
    }

    /// The chain in which traffic arrives that may use a pool of its frontend.
    pub(crate) fn pools(class: FrontendClass) -> Arc<str> {
        format!("{class}-pools").into()
    }
}

/// Several statements as one.
pub(crate) fn all(statements: impl IntoIterator<Item = Statement>) -> Statement {
    statements.into_iter().flatten().collect()
}
