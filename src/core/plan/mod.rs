//! What this node must do with a packet to a Service. Pure: no clock, no I/O, no errors; invalid input is returned as
//! [`Warning`]s.
//!
//! [`build`] computes the whole [`ForwardingTable`] of one IP family; [`Planner`] updates one, Service by Service, with
//! the same result. [`decide()`] computes the outcome for one packet from the table alone: the rules of every backend,
//! and real packets, must agree with it.

mod affinity_ids;
mod claims;
mod decide;
mod endpoints;
mod hit;
mod planner;
mod policy;
mod reasons;
mod table;

#[cfg(any(test, feature = "fixtures"))]
#[allow(missing_docs)] // tests read them
pub mod fixtures;
#[cfg(test)]
mod tests;

pub use decide::{
    Decision, Packet, Source as PacketSource, admits, decide, find_frontend, is_pod, route_for,
};
pub use endpoints::{Categories, Here, Topology, categorize, local_ready};
pub use hit::Hit;
pub use planner::{Effect, Planner, build};
pub use reasons::{Judged, Standing, judge};
pub use table::{
    Address, Admit, Affinity, ClusterIpGuard, ForwardingTable, Frontend, FrontendKind, HealthCheck,
    Host, Masquerade, NodePortAddresses, PodDetector, PoolEndpoint, PoolKind, PortPlan, Route,
    Routes, ServicePlan, SourceClass, Verdict,
};

pub use crate::model::Warning;
