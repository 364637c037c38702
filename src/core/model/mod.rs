//! The cleaned state of the Kubernetes API, as far as a node proxy needs it.
//!
//! Values only: strings of the API have become addresses, ports and enums, unused fields are gone, and invalid
//! fields have become [`Warning`]s. `watch` fills this model, `plan` reads it.

mod connections;
mod endpoint;
mod endpoint_list;
mod node;
mod service;
mod slice;
mod snapshot;

pub use connections::ServiceConnections;
pub use endpoint::{Condition, Endpoint, Hints};
pub use endpoint_list::Endpoints;
pub use node::{Kept, Node};
pub use service::{Service, ServiceName, ServicePort, ServiceType, SourceRanges, TrafficPolicy};
pub use slice::{EndpointPort, EndpointSlice, SliceName};
pub use snapshot::{Change, Snapshot};

use std::fmt;

/// An invalid field of an API object. The rest of the object is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The object: `Service default/web`.
    pub object: String,
    /// The field, as in the API's JSON: `spec.ports[0].port`.
    pub field: String,
    /// What is wrong, and the consequence.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.problem)
    }
}
