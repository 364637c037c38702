//! The lab: a small cluster network in which a node is a network namespace.
//!
//! ```text
//!                      fabric  172.18.0.0/24, fd00:172:18::/64   (bridge "wire", gateway .1)
//!        ┌───────────────┬──────┴────────┬───────────────┐
//!     client .2       node-a .11      node-b .12        ...
//!                    10.244.1.0/24   10.244.2.0/24
//!                    ├─ pod web-1     ├─ pod web-2
//!                    └─ pod web-3     └─ ...
//! ```
//!
//! [`Lab::new`] builds it, [`Lab::add_pod`] starts a pod whose responders answer with its name and the client's
//! address ([`pod`]), and [`Host::probe`], [`Host::spread`], [`Host::connect`] and [`Host::load`]
//! send traffic from any pod, node or the client and return the outcome ([`traffic`], [`load`]).
//! [`Host::serve`] adds responders anywhere, and [`Host::command`] runs programs.
//! A program that uses the lab calls [`prepare`] first thing in `main`:
//!
//! ```no_run
//! use crate::{Answer, Isolation, Lab, LabSpec, Probe, prepare};
//! use sluice_core::net::{Family, Protocol};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! prepare(Isolation::Shared)?;
//! let lab = Lab::new(LabSpec { nodes: 2 })?;
//! let web = lab.add_pod("web-1", &lab.node("node-b")?, &[(Protocol::Tcp, 80)])?;
//! let answer = lab.client().probe(&Probe::tcp(web.socket_addr(Family::V4, 80)))?;
//! assert!(matches!(answer, Answer::Answered { by, .. } if by == "web-1"));
//! # Ok(())
//! # }
//! ```
//!
//! Every namespace has a name for `ip netns exec` ([`Namespace::enter_command`] prints the command),
//! and all of it is gone when the [`Lab`] is dropped; what a killed run left behind is removed by the
//! next one. The network namespace that the program was started in is never changed.

pub mod address;
pub mod api;
pub mod claim;
pub mod cluster;
mod endpoints;
pub mod host;
mod link;
pub mod load;
pub mod netns;
pub mod pod;
pub mod privilege;
pub mod proxy;
pub mod sandbox;
pub mod sctp;
mod sctp_socket;
mod sysctl;
pub mod topology;
mod topology_error;
pub mod traffic;
mod wiring;

pub use cluster::{Cluster, ClusterSpec};
pub use host::{Host, Node, Pod};
pub use load::{Connection, Load, LoadKind, LoadSpec};
pub use netns::Namespace;
pub use privilege::{Isolation, Privilege, prepare};
pub use proxy::Proxy;
pub use sandbox::Sandbox;
pub use topology::{Error, Lab, LabSpec};
pub use traffic::{Answer, Probe, Tally};
