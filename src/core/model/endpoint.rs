//! EndpointSlices, reduced to what a proxy needs.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::ServiceName;
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

/// What the three conditions of an endpoint mean for traffic.
///
/// Absent conditions default to ready, serving, not terminating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Takes traffic.
    Ready,
    /// Terminating and serving: takes traffic only when no endpoint is ready (KEP-1669).
    Terminating,
    /// Takes no traffic.
    Unusable,
}

impl Condition {
    /// Combines `conditions.ready`, `.serving` and `.terminating`.
    pub fn new(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Condition {
        if ready.unwrap_or(true) {
            Condition::Ready
        } else if serving.unwrap_or(true) && terminating.unwrap_or(false) {
            Condition::Terminating
        } else {
            Condition::Unusable
        }
    }
}

/// `endpoints[].hints`: which zones and nodes an endpoint is meant for (KEP-2433, KEP-3015).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes[].name`.
    pub nodes: Vec<Arc<str>>,
}

/// One entry of `endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`; further addresses have no meaning for a proxy.
    pub address: IpAddr,
    /// Whether it takes traffic.
    pub condition: Condition,
    /// Whether `nodeName` is this node.
    pub local: bool,
    /// Topology hints; usually `None`.
    pub hints: Option<Box<Hints>>,
}

/// One entry of `ports`, which applies to every endpoint of its slice.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The ports that every endpoint of the slice serves.
    pub ports: Vec<EndpointPort>,
    /// The endpoints, in the API's order.
    pub endpoints: Vec<Endpoint>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, in milliseconds since 1970.
    pub trigger_time: Option<i64>,
}
