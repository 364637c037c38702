//! What Kubernetes says about this node's Services, cleaned.
//!
//! Values only: strings of the API have become addresses, ports and enums, what Sluice does not use
//! is gone, and nonsense has been turned into [`Warning`]s. `watch` fills this model, `plan` reads it.

mod endpoint;
mod node;
mod service;
mod snapshot;

pub use endpoint::{Condition, Endpoint, EndpointPort, EndpointSlice, Hints, SliceName};
pub use node::{Kept, Node};
pub use service::{Service, ServiceName, ServicePort, ServiceType, SourceRanges, TrafficPolicy};
pub use snapshot::{Change, Snapshot};

use std::fmt;

/// Something in an API object that Sluice cannot use. Everything else of the object is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The object: `Service default/web`.
    pub object: String,
    /// The field, as in the API's JSON: `spec.ports[0].port`.
    pub field: String,
    /// What is wrong with it and what is done about it.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.problem)
    }
}
