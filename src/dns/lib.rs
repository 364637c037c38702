//! Cluster DNS: the names of Services and pods (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).
//!
//! - [`zone`]: the answers, as pure code
//! - [`name`]: names of the zone as questions
//! - [`server`]: the zone on UDP and TCP, by hickory

#![forbid(unsafe_code)]

pub mod name;
pub mod server;
pub mod zone;

pub use server::serve;
pub use zone::Zone;
