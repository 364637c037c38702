//! What is known: the state of the API as the plan sees it, and what only some sources tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use sluice_config::Mode;
use sluice_core::model::Snapshot;
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, Hit, PoolEndpoint};

/// What is known when a question is asked.
#[derive(Clone, Copy)]
pub struct Truth<'a> {
    /// The node that decides.
    pub node: &'a str,
    /// Its proxy mode.
    pub mode: Mode,
    /// The state of the API.
    pub snapshot: &'a Snapshot,
    /// What this node does with traffic: the forwarding table of each family that it serves.
    pub tables: &'a [&'a ForwardingTable],
    /// The addresses of this node's interfaces.
    pub local: &'a BTreeSet<IpAddr>,
    /// What the plan does not need and people ask for.
    pub known: &'a Known,
    /// Where all of this comes from.
    pub origin: &'a Origin,
    /// Who can tell what the kernel has.
    pub kernel: &'a dyn KernelView,
}

impl Truth<'_> {
    /// The forwarding table of a family.
    pub fn table(&self, family: Family) -> Option<&ForwardingTable> {
        self.tables.iter().copied().find(|table| table.family == family)
    }
}

/// Where a truth comes from. The first line of an explanation says it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Origin {
    /// `daemon`, `files`, `api` or `dump`.
    pub source: String,
    /// In words: `daemon on node-a`, `2 files`.
    pub text: String,
    /// When it was true, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// For how many seconds nothing has been heard of the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_seconds: Option<u64>,
    /// Seconds for which the oldest change has waited to be written to the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_seconds: Option<u64>,
    /// Whether the rules are those of another kube-proxy (`--as kube-proxy`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other_proxy: bool,
}

/// Something that was looked at, or why it was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Looked<T> {
    /// It was.
    At(T),
    /// It was not, for this reason.
    Not(String),
}

impl<T> Looked<T> {
    /// What was seen.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Looked::At(seen) => Some(seen),
            Looked::Not(_) => None,
        }
    }
}

impl<T> Default for Looked<T> {
    fn default() -> Looked<T> {
        Looked::Not("nobody was asked".to_owned())
    }
}

/// What the plan does not need, and a person wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Known {
    /// Pods of all namespaces.
    pub pods: Looked<Vec<Pod>>,
    /// Nodes with their addresses.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Services, those without a virtual IP too, by `namespace/name`.
    pub services: BTreeMap<String, ServiceFacts>,
    /// Which pod an endpoint is, and on which node.
    pub endpoints: Vec<EndpointFacts>,
    /// Whether EndpointSlices were among what was read.
    pub without_slices: bool,
    /// Whether ServiceCIDRs were among what was read.
    pub without_service_cidrs: bool,
    /// Whether this is what a proxy is sent: no Service without a virtual IP, and no other node.
    pub served_only: bool,
}

/// What is known of a Service besides the model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceFacts {
    /// Why it is not served, if it has no virtual IP or is another proxy's.
    pub unserved: Option<Unserved>,
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<PortFacts>,
    /// `spec.publishNotReadyAddresses`.
    pub publishes_not_ready: bool,
}

/// Why a Service has no frontends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unserved {
    /// `clusterIP: None`.
    Headless,
    /// It stands for another name.
    ExternalName(String),
    /// Its label names another proxy.
    OtherProxy(String),
    /// It has not been given an address yet.
    NoAddress,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortFacts {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// `targetPort`, a number or the name of a container port.
    pub target: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The node that it is on.
    pub node: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Whether it uses the network of its node.
    pub host_network: bool,
    /// Whether it is ready; if not, why.
    pub not_ready: Option<String>,
    /// Since when it is not ready, RFC 3339.
    pub since: Option<String>,
    /// Names of its container ports.
    pub port_names: Vec<String>,
}

/// An endpoint, as its EndpointSlice names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointFacts {
    /// `namespace/name` of the Service.
    pub service: String,
    /// Its address.
    pub ip: IpAddr,
    /// The pod that it is.
    #[serde(default)]
    pub pod: Option<String>,
    /// The node that it is on.
    #[serde(default)]
    pub node: Option<String>,
}

/// The way of a packet through the objects of a proxy mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Path {
    /// Chains, virtual services, relays, in order, named as `nft list`, `iptables-save` and `ipvsadm` print them.
    pub steps: Vec<String>,
    /// The objects of this frontend that decide.
    pub objects: Vec<Object>,
}

/// An object in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Object {
    /// What it is in: a set, a chain, a virtual service.
    pub set: String,
    /// The element or rule.
    pub element: String,
    /// `desired`, `present`, `missing` or `extra`.
    pub state: String,
}

/// What the kernel has for a frontend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Objects that are as desired.
    pub present: Vec<Object>,
    /// Desired objects that are not there.
    pub missing: Vec<Object>,
    /// Objects of this frontend that should not be there.
    pub extra: Vec<Object>,
}

/// How the kernel routes packets to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Way {
    /// How endpoints are reached: `10.244.1.2 dev veth-web-1`.
    pub routes: Vec<String>,
    /// What is wrong on the way, each once.
    pub problems: Vec<Problem>,
    /// Whether nothing reaches any endpoint.
    pub blocked: bool,
}

/// Something on the way that stops packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// No route leads to an address.
    NoRoute(String),
    /// This node does not forward packets of this family.
    ForwardingOff(String),
    /// Replies would leave through another interface.
    ReversePath(String),
}

/// Who can tell what the kernel has. All but [`KernelView::path`] may not have looked.
pub trait KernelView {
    /// The chains, sets or virtual services on the way of a packet: pure, from the forwarding table.
    fn path(&self, hit: &Hit<'_>) -> Path;

    /// What the kernel has for this frontend, compared with what is desired.
    fn observed(&self, hit: &Hit<'_>) -> Looked<Observed>;

    /// How packets get to endpoints, and their answers back.
    fn way(&self, hit: &Hit<'_>, endpoints: &[PoolEndpoint]) -> Looked<Way>;

    /// Base chains of other programs on the way, in words.
    fn others(&self, hit: &Hit<'_>) -> Looked<Vec<String>>;
}
