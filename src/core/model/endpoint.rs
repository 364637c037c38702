//! Endpoints, reduced to what a proxy needs.

use std::net::IpAddr;
use std::sync::Arc;

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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
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
    pub hints: Option<Arc<Hints>>,
}
