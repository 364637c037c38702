//! EndpointSlices, reduced to what a proxy needs.

use std::fmt;
use std::sync::Arc;

use super::{Endpoints, ServiceName};
use crate::net::{Family, Protocol};

/// Namespace and name of an EndpointSlice, in one string `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceName(Arc<str>);

impl SliceName {
    /// The name of the EndpointSlice `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> SliceName {
        SliceName(format!("{namespace}/{name}").into())
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One entry of `ports`, which applies to every endpoint of its slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointPort {
    /// The port's name, empty for the only port of a Service.
    pub name: Arc<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port on the pod; never 0.
    pub port: u16,
}

/// An EndpointSlice of one IP family that belongs to a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: SliceName,
    /// The Service of label `kubernetes.io/service-name`.
    pub service: ServiceName,
    /// `addressType`.
    pub family: Family,
    /// The ports that every endpoint of the slice serves. Most slices of a cluster share a few lists.
    pub ports: Arc<[EndpointPort]>,
    /// The endpoints, in the API's order.
    pub endpoints: Endpoints,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, in milliseconds since 1970.
    pub trigger_time: Option<i64>,
}
