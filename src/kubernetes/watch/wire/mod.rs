//! The few fields of API objects that Sluice reads, as the API spells them; [`fields`] has their numbers in
//! protobuf.
//!
//! Everything else is skipped while parsing. Names and meanings: `k8s.io/api/{core,discovery,
//! networking}/v1/types.go`. No field is required and none has to be of the right type ([`Lenient`]).

mod fields;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::lenient::{First, Lenient, Text};

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// The same in protobuf.
#[derive(Default)]
pub(super) struct WatchEvent<'a> {
    pub(super) kind: Lenient<Text<'a>>,
    pub(super) object: Lenient<RawObject<'a>>,
}

/// `runtime.RawExtension`: an object in its envelope.
#[derive(Default)]
pub(super) struct RawObject<'a> {
    pub(super) raw: &'a [u8],
}

/// A time: text in JSON, seconds in protobuf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Time<'a> {
    /// RFC 3339.
    Text(Text<'a>),
    /// Seconds since 1970.
    Unix(i64),
}

impl<'de: 'a, 'a> Deserialize<'de> for Time<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer).map(Time::Text)
    }
}

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(borrow, default)]
    pub(super) metadata: PageMeta<'a>,
    #[serde(borrow, default)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMeta<'a> {
    #[serde(borrow)]
    pub(super) resource_version: Lenient<Text<'a>>,
    #[serde(borrow, rename = "continue")]
    pub(super) next: Lenient<Text<'a>>,
}

/// The object of an ERROR event, and the body of a failed request.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Status<'a> {
    pub(super) code: Lenient<i64>,
    #[serde(borrow)]
    pub(super) reason: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) message: Lenient<Text<'a>>,
    pub(super) details: Lenient<StatusDetails>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StatusDetails {
    pub(super) retry_after_seconds: Lenient<i64>,
}

/// What a watch needs of any object: the resource version, and whether a bookmark ends the initial list.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Versioned<'a> {
    #[serde(borrow)]
    pub(super) metadata: Lenient<VersionedMeta<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VersionedMeta<'a> {
    #[serde(borrow)]
    pub(super) resource_version: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) annotations: Lenient<VersionedAnnotations<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct VersionedAnnotations<'a> {
    #[serde(borrow, rename = "k8s.io/initial-events-end")]
    pub(super) initial_events_end: Lenient<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta<'a> {
    #[serde(borrow)]
    pub(super) namespace: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) name: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) uid: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) creation_timestamp: Lenient<Time<'a>>,
    #[serde(borrow)]
    pub(super) deletion_timestamp: Lenient<Time<'a>>,
    #[serde(borrow)]
    pub(super) labels: Lenient<Labels<'a>>,
    #[serde(borrow)]
    pub(super) annotations: Lenient<Annotations<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Labels<'a> {
    #[serde(borrow, rename = "kubernetes.io/service-name")]
    pub(super) service_name: Lenient<Text<'a>>,
    #[serde(borrow, rename = "service.kubernetes.io/service-proxy-name")]
    pub(super) service_proxy_name: Lenient<Text<'a>>,
    #[serde(borrow, rename = "service.kubernetes.io/headless")]
    pub(super) headless: Lenient<Text<'a>>,
    #[serde(borrow, rename = "topology.kubernetes.io/zone")]
    pub(super) zone: Lenient<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Annotations<'a> {
    #[serde(borrow, rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub(super) trigger_time: Lenient<Text<'a>>,
}

/// core/v1 Service.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Service<'a> {
    #[serde(borrow)]
    pub(super) metadata: Lenient<Meta<'a>>,
    #[serde(borrow)]
    pub(super) spec: Lenient<ServiceSpec<'a>>,
    #[serde(borrow)]
    pub(super) status: Lenient<ServiceStatus<'a>>,
}

/// A list of strings.
pub(super) type Texts<'a> = Lenient<Vec<Lenient<Text<'a>>>>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Lenient<Text<'a>>,
    #[serde(borrow, rename = "clusterIP")]
    pub(super) cluster_ip: Lenient<Text<'a>>,
    #[serde(borrow, rename = "clusterIPs")]
    pub(super) cluster_ips: Texts<'a>,
    #[serde(borrow, rename = "externalIPs")]
    pub(super) external_ips: Texts<'a>,
    #[serde(borrow)]
    pub(super) load_balancer_source_ranges: Texts<'a>,
    #[serde(borrow)]
    pub(super) internal_traffic_policy: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) external_traffic_policy: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) session_affinity: Lenient<Text<'a>>,
    pub(super) session_affinity_config: Lenient<AffinityConfig>,
    pub(super) health_check_node_port: Lenient<i64>,
    #[serde(borrow)]
    pub(super) ports: Lenient<Vec<Lenient<ServicePort<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub(super) client_ip: Lenient<ClientIp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClientIp {
    pub(super) timeout_seconds: Lenient<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServicePort<'a> {
    #[serde(borrow)]
    pub(super) name: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) protocol: Lenient<Text<'a>>,
    pub(super) port: Lenient<i64>,
    pub(super) node_port: Lenient<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceStatus<'a> {
    #[serde(borrow)]
    pub(super) load_balancer: Lenient<LoadBalancer<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct LoadBalancer<'a> {
    #[serde(borrow)]
    pub(super) ingress: Lenient<Vec<Lenient<Ingress<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Ingress<'a> {
    #[serde(borrow)]
    pub(super) ip: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) ip_mode: Lenient<Text<'a>>,
}

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointSlice<'a> {
    #[serde(borrow)]
    pub(super) metadata: Lenient<Meta<'a>>,
    #[serde(borrow)]
    pub(super) address_type: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) endpoints: Lenient<Vec<Lenient<Endpoint<'a>>>>,
    #[serde(borrow)]
    pub(super) ports: Lenient<Vec<Lenient<EndpointPort<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoint<'a> {
    #[serde(borrow)]
    pub(super) addresses: Lenient<First<Lenient<Text<'a>>>>,
    pub(super) conditions: Lenient<Conditions>,
    #[serde(borrow)]
    pub(super) node_name: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) hints: Lenient<Hints<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Lenient<bool>,
    pub(super) serving: Lenient<bool>,
    pub(super) terminating: Lenient<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hints<'a> {
    #[serde(borrow)]
    pub(super) for_zones: Lenient<Vec<Lenient<Named<'a>>>>,
    #[serde(borrow)]
    pub(super) for_nodes: Lenient<Vec<Lenient<Named<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Named<'a> {
    #[serde(borrow)]
    pub(super) name: Lenient<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct EndpointPort<'a> {
    #[serde(borrow)]
    pub(super) name: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) protocol: Lenient<Text<'a>>,
    pub(super) port: Lenient<i64>,
}

/// core/v1 Node.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Node<'a> {
    #[serde(borrow)]
    pub(super) metadata: Lenient<Meta<'a>>,
    #[serde(borrow)]
    pub(super) spec: Lenient<NodeSpec<'a>>,
    #[serde(borrow)]
    pub(super) status: Lenient<NodeStatus<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NodeSpec<'a> {
    #[serde(borrow, rename = "podCIDR")]
    pub(super) pod_cidr: Lenient<Text<'a>>,
    #[serde(borrow, rename = "podCIDRs")]
    pub(super) pod_cidrs: Texts<'a>,
    #[serde(borrow)]
    pub(super) taints: Lenient<Vec<Lenient<Taint<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Taint<'a> {
    #[serde(borrow)]
    pub(super) key: Lenient<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NodeStatus<'a> {
    #[serde(borrow)]
    pub(super) addresses: Lenient<Vec<Lenient<NodeAddress<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NodeAddress<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Lenient<Text<'a>>,
    #[serde(borrow)]
    pub(super) address: Lenient<Text<'a>>,
}

/// networking.k8s.io/v1 ServiceCIDR.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ServiceCidr<'a> {
    #[serde(borrow)]
    pub(super) metadata: Lenient<Meta<'a>>,
    #[serde(borrow)]
    pub(super) spec: Lenient<ServiceCidrSpec<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ServiceCidrSpec<'a> {
    #[serde(borrow)]
    pub(super) cidrs: Texts<'a>,
}
