//! What this node must do with a packet to a service address. Pure: no clock, no I/O, no errors;
//! what cannot be used comes back as a [`Warning`].
//!
//! [`build`] makes the whole [`ForwardingTable`] of one IP family; [`Planner`] keeps one up to date,
//! Service by Service, with the same result. [`decide()`] answers for one packet from the table alone:
//! every backend's rules, and real packets, must agree with it.

mod claims;
mod decide;
mod endpoints;
mod numbers;
mod planner;
mod policy;
mod table;

#[cfg(any(test, feature = "fixtures"))]
#[allow(missing_docs)] // tests read them
pub mod fixtures;
#[cfg(test)]
mod tests;

pub use claims::Claims;
pub use decide::{Decision, Packet, Source as PacketSource, decide};
pub use endpoints::{Categories, Here, categorize, local_ready};
pub use planner::{Effect, Planner, build};
pub use table::{
    Address, Admit, Affinity, ClusterIpGuard, ForwardingTable, Frontend, FrontendKind, HealthCheck,
    Host, Masquerade, NodePortAddresses, PodDetector, PoolEndpoint, PoolKind, PortPlan, Route,
    Routes, ServicePlan, SourceClass, Verdict,
};

pub use crate::model::Warning;
