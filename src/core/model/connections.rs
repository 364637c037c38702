//! What was counted of a Service.

use super::ServiceName;
use crate::net::{Family, Protocol};

/// New connections to one address of a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConnections {
    /// The family of the address.
    pub family: Family,
    /// The Service.
    pub service: ServiceName,
    /// The port's name, which may be empty.
    pub port: String,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The address and port that clients use; of a node port `:` and the number.
    pub address: String,
    /// How many there were since the address was first served.
    pub connections: u64,
}
