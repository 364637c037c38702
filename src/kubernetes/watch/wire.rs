//! The few fields of API objects that Sluice reads, as the API spells them.
//!
//! Everything else is skipped while parsing. Names and meanings: `k8s.io/api/{core,discovery,
//! networking}/v1/types.go`. No field is required and none has to be of the right type ([`Loose`]).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::loose::{First, Loose, Text};

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
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
    pub(super) resource_version: Loose<Text<'a>>,
    #[serde(borrow, rename = "continue")]
    pub(super) next: Loose<Text<'a>>,
}

/// The object of an ERROR event, and the body of a failed request.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Status<'a> {
    pub(super) code: Loose<i64>,
    #[serde(borrow)]
    pub(super) reason: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) message: Loose<Text<'a>>,
    pub(super) details: Loose<StatusDetails>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StatusDetails {
    pub(super) retry_after_seconds: Loose<i64>,
}

/// What a watch needs of any object: where to go on, and whether a bookmark ends the first list.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Mark<'a> {
    #[serde(borrow)]
    pub(super) metadata: Loose<MarkMeta<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MarkMeta<'a> {
    #[serde(borrow)]
    pub(super) resource_version: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) annotations: Loose<MarkAnnotations<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct MarkAnnotations<'a> {
    #[serde(borrow, rename = "k8s.io/initial-events-end")]
    pub(super) initial_events_end: Loose<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta<'a> {
    #[serde(borrow)]
    pub(super) namespace: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) name: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) uid: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) creation_timestamp: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) deletion_timestamp: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) labels: Loose<Labels<'a>>,
    #[serde(borrow)]
    pub(super) annotations: Loose<Annotations<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Labels<'a> {
    #[serde(borrow, rename = "kubernetes.io/service-name")]
    pub(super) service_name: Loose<Text<'a>>,
    #[serde(borrow, rename = "service.kubernetes.io/service-proxy-name")]
    pub(super) service_proxy_name: Loose<Text<'a>>,
    #[serde(borrow, rename = "service.kubernetes.io/headless")]
    pub(super) headless: Loose<Text<'a>>,
    #[serde(borrow, rename = "topology.kubernetes.io/zone")]
    pub(super) zone: Loose<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Annotations<'a> {
    #[serde(borrow, rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub(super) trigger_time: Loose<Text<'a>>,
}

/// core/v1 Service.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Service<'a> {
    #[serde(borrow)]
    pub(super) metadata: Loose<Meta<'a>>,
    #[serde(borrow)]
    pub(super) spec: Loose<ServiceSpec<'a>>,
    #[serde(borrow)]
    pub(super) status: Loose<ServiceStatus<'a>>,
}

/// A list of strings.
pub(super) type Texts<'a> = Loose<Vec<Loose<Text<'a>>>>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceSpec<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Loose<Text<'a>>,
    #[serde(borrow, rename = "clusterIP")]
    pub(super) cluster_ip: Loose<Text<'a>>,
    #[serde(borrow, rename = "clusterIPs")]
    pub(super) cluster_ips: Texts<'a>,
    #[serde(borrow, rename = "externalIPs")]
    pub(super) external_ips: Texts<'a>,
    #[serde(borrow)]
    pub(super) load_balancer_source_ranges: Texts<'a>,
    #[serde(borrow)]
    pub(super) internal_traffic_policy: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) external_traffic_policy: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) session_affinity: Loose<Text<'a>>,
    pub(super) session_affinity_config: Loose<AffinityConfig>,
    pub(super) health_check_node_port: Loose<i64>,
    #[serde(borrow)]
    pub(super) ports: Loose<Vec<Loose<ServicePort<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub(super) client_ip: Loose<ClientIp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClientIp {
    pub(super) timeout_seconds: Loose<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServicePort<'a> {
    #[serde(borrow)]
    pub(super) name: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) protocol: Loose<Text<'a>>,
    pub(super) port: Loose<i64>,
    pub(super) node_port: Loose<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceStatus<'a> {
    #[serde(borrow)]
    pub(super) load_balancer: Loose<LoadBalancer<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct LoadBalancer<'a> {
    #[serde(borrow)]
    pub(super) ingress: Loose<Vec<Loose<Ingress<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Ingress<'a> {
    #[serde(borrow)]
    pub(super) ip: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) ip_mode: Loose<Text<'a>>,
}

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointSlice<'a> {
    #[serde(borrow)]
    pub(super) metadata: Loose<Meta<'a>>,
    #[serde(borrow)]
    pub(super) address_type: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) endpoints: Loose<Vec<Loose<Endpoint<'a>>>>,
    #[serde(borrow)]
    pub(super) ports: Loose<Vec<Loose<EndpointPort<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoint<'a> {
    #[serde(borrow)]
    pub(super) addresses: Loose<First<Loose<Text<'a>>>>,
    pub(super) conditions: Loose<Conditions>,
    #[serde(borrow)]
    pub(super) node_name: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) hints: Loose<Hints<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Conditions {
    pub(super) ready: Loose<bool>,
    pub(super) serving: Loose<bool>,
    pub(super) terminating: Loose<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hints<'a> {
    #[serde(borrow)]
    pub(super) for_zones: Loose<Vec<Loose<Named<'a>>>>,
    #[serde(borrow)]
    pub(super) for_nodes: Loose<Vec<Loose<Named<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Named<'a> {
    #[serde(borrow)]
    pub(super) name: Loose<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct EndpointPort<'a> {
    #[serde(borrow)]
    pub(super) name: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) protocol: Loose<Text<'a>>,
    pub(super) port: Loose<i64>,
}

/// core/v1 Node.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Node<'a> {
    #[serde(borrow)]
    pub(super) metadata: Loose<Meta<'a>>,
    #[serde(borrow)]
    pub(super) spec: Loose<NodeSpec<'a>>,
    #[serde(borrow)]
    pub(super) status: Loose<NodeStatus<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NodeSpec<'a> {
    #[serde(borrow, rename = "podCIDR")]
    pub(super) pod_cidr: Loose<Text<'a>>,
    #[serde(borrow, rename = "podCIDRs")]
    pub(super) pod_cidrs: Texts<'a>,
    #[serde(borrow)]
    pub(super) taints: Loose<Vec<Loose<Taint<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Taint<'a> {
    #[serde(borrow)]
    pub(super) key: Loose<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NodeStatus<'a> {
    #[serde(borrow)]
    pub(super) addresses: Loose<Vec<Loose<NodeAddress<'a>>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NodeAddress<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Loose<Text<'a>>,
    #[serde(borrow)]
    pub(super) address: Loose<Text<'a>>,
}

/// networking.k8s.io/v1 ServiceCIDR.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ServiceCidr<'a> {
    #[serde(borrow)]
    pub(super) metadata: Loose<Meta<'a>>,
    #[serde(borrow)]
    pub(super) spec: Loose<ServiceCidrSpec<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ServiceCidrSpec<'a> {
    #[serde(borrow)]
    pub(super) cidrs: Texts<'a>,
}
