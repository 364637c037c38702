//! The answers, as JSON has them. Fields are added, never changed or removed within a version.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) version: String,
    pub(crate) node: String,
    pub(crate) mode: String,
    /// RFC 3339, as all times.
    pub(crate) started: String,
    pub(crate) now: String,
    /// Resources of which no changes arrive.
    pub(crate) lost: Vec<Lost>,
    pub(crate) families: Vec<FamilyStatus>,
    /// Services that the kernel does not have as planned.
    pub(crate) unsettled: Vec<ServiceStatus>,
}

/// A resource of the API of which no changes arrive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lost {
    pub(crate) resource: String,
    pub(crate) since: String,
}

/// One IP family.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FamilyStatus {
    pub(crate) family: String,
    pub(crate) services: usize,
    pub(crate) pending: usize,
    pub(crate) refused: usize,
    /// The last sync that succeeded.
    pub(crate) synced: Option<String>,
    pub(crate) failing: Option<Failing>,
}

/// Why syncs fail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failing {
    pub(crate) reason: String,
    pub(crate) since: String,
}

/// `/v1/services`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Services {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) services: Vec<ServiceStatus>,
}

/// One Service in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    pub(crate) service: String,
    pub(crate) family: String,
    pub(crate) state: State,
    pub(crate) since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) ports: Vec<PortStatus>,
}

/// Whether the kernel has what is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has.
    Programmed,
    /// Not yet.
    Pending,
    /// It does not take it.
    Refused,
    /// No family serves it: it has no address here, or another Service has it.
    Unserved,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortStatus {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
    /// Endpoints for policy Cluster.
    pub(crate) cluster: Vec<SocketAddr>,
    /// Endpoints for policy Local.
    pub(crate) local: Vec<SocketAddr>,
}

/// `/v1/table/v4` and `/v1/table/v6`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Table {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) family: String,
    /// The settings that hold for all Services.
    pub(crate) host: String,
    pub(crate) service_cidrs: Vec<String>,
    pub(crate) frontends: Vec<Frontend>,
}

/// What happens at an address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Frontend {
    pub(crate) address: String,
    pub(crate) service: String,
    pub(crate) port: String,
    pub(crate) kind: String,
    /// Sources that may use it; everybody if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admitted: Option<Vec<String>>,
    pub(crate) routes: Vec<Route>,
}

/// What happens to traffic from some sources; the first match counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) from: String,
    pub(crate) verdict: String,
    pub(crate) masquerade: bool,
    pub(crate) endpoints: Vec<SocketAddr>,
}

/// `/v1/changes`, and each event of `/v1/changes?follow`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changes {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) changes: Vec<Change>,
}

/// A sync that had something to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) number: u64,
    pub(crate) at: String,
    pub(crate) family: String,
    /// The first of them.
    pub(crate) services: Vec<String>,
    pub(crate) count: usize,
    pub(crate) operations: usize,
    pub(crate) microseconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// `/v1/relays`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Relays {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Whether this mode has relays.
    pub(crate) relays: bool,
    pub(crate) counters: std::collections::BTreeMap<String, u64>,
}

/// Every answer that is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What is wrong, and the way out.
    pub(crate) error: String,
}
