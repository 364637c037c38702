//! The pure core: no I/O, no clock, no errors. Bad input becomes a value with a list of warnings.
//!
//! - [`net`]: IP families, protocols, addresses as text
//! - [`model`]: the cleaned state of the Kubernetes API
//! - [`plan`]: what this node must do with a packet to a Service

#![forbid(unsafe_code)]

pub mod model;
pub mod net;
pub mod plan;
