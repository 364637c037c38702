//! What a packet has found.

use super::decide::{Packet, Source};
use super::table::{ForwardingTable, Frontend, PortPlan, Route, ServicePlan, Verdict};
use crate::model::ServiceName;

/// A frontend that a packet has found.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'a> {
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
    /// What happens to traffic from this source.
    pub route: Route,
    /// The packet.
    pub packet: &'a Packet,
}

impl Hit<'_> {
    /// Whether the packet gets to an endpoint.
    pub fn is_forwarded(&self) -> bool {
        self.admitted && matches!(self.route.verdict, Verdict::Forward(_))
    }

    /// Whether this node sent it.
    pub fn is_from_this_node(&self) -> bool {
        matches!(self.packet.source, Source::ThisNode(_))
    }
}
