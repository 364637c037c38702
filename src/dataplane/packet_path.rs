//! The path of one packet through the objects of a proxy mode, in the words of `nft list`, `iptables-save` and
//! `ipvsadm`: for people. Pure, from the forwarding table; each mode computes it in its own folder.

use sluice_core::model::ServiceName;
use sluice_core::plan::{ForwardingTable, Frontend, PortPlan, Route, ServicePlan, Verdict};

/// A packet that has found a frontend.
#[derive(Debug, Clone, Copy)]
pub struct PacketAt<'a> {
    /// The table that the frontend is in.
    pub table: &'a ForwardingTable,
    /// Its Service.
    pub service: &'a ServiceName,
    /// The plan of the Service.
    pub plan: &'a ServicePlan,
    /// The port.
    pub port: &'a PortPlan,
    /// The frontend.
    pub frontend: &'a Frontend,
    /// Whether the source may use it.
    pub admitted: bool,
    /// What happens to it.
    pub route: Route,
    /// Whether this node sent it.
    pub from_this_node: bool,
    /// Whether its destination is an address of this node.
    pub to_this_node: bool,
}

impl PacketAt<'_> {
    /// Whether it gets to an endpoint.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.admitted && matches!(self.route.verdict, Verdict::Forward(_))
    }
}

/// The objects on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PacketPath {
    /// Chains, in order, and what happens at the end.
    pub steps: Vec<String>,
    /// The objects of this frontend: what they are in, and their text.
    pub objects: Vec<(String, String)>,
}
