//! Small objects for tests of this module and of the backends.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::{ClusterIpGuard, Host, NodePortAddresses, PodDetector};
use crate::model::{
    Change, Condition, Endpoint, EndpointPort, EndpointSlice, Service, ServiceName, ServicePort,
    ServiceType, SliceName, Snapshot, SourceRanges, TrafficPolicy,
};
use crate::net::{Family, Protocol};

pub const NODE_IP: &str = "192.168.0.2";

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("test address")
}

pub fn host() -> Host {
    Host {
        pods: PodDetector::Cidrs(vec!["10.244.0.0/16".parse().expect("prefix")]),
        masquerade_all: false,
        masquerade_mark: 0x4000,
        node_ports: NodePortAddresses::Only([ip(NODE_IP)].into()),
        node_ip: Some(ip(NODE_IP)),
        cluster_ip_guard: ClusterIpGuard::PortsAndAddresses,
    }
}

/// A Service `default/NAME` with one TCP port 80 and node port 30080.
pub fn service(name: &str, cluster_ip: &str) -> Service {
    Service {
        name: ServiceName::new("default", name),
        created: 1,
        kind: ServiceType::NodePort,
        cluster_ips: vec![ip(cluster_ip)],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: SourceRanges::Anyone,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_node_port: None,
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
        }],
    }
}

pub fn endpoint(address: &str, condition: Condition, local: bool) -> Endpoint {
    Endpoint { address: ip(address), condition, local, hints: None }
}

pub fn slice(service: &str, suffix: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: SliceName::new("default", &format!("{service}-{suffix}")),
        service: ServiceName::new("default", service),
        family: Family::V4,
        ports: [EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.into(),
        trigger_time: None,
    }
}

pub fn snapshot(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut dirty = BTreeSet::new();
    snapshot.apply(Change::Services(services), &mut dirty);
    snapshot.apply(Change::Slices(slices), &mut dirty);
    snapshot
}

/// So many Services, each with a node port of its own and as many endpoints as there are entries in `local`,
/// which says whether each is on this node.
pub fn many(services: u16, local: &[bool]) -> Snapshot {
    let of = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let mut web = service(&format!("web-{n}"), &format!("10.96.{high}.{low}"));
        web.ports[0].node_port = Some(20_000 + n);
        let pod = |(second, local): (u8, &bool)| {
            endpoint(&format!("10.{second}.{high}.{low}"), Condition::Ready, *local)
        };
        let pods = (100..).zip(local).map(pod).collect();
        (web, slice(&format!("web-{n}"), "1", pods))
    };
    let (services, slices) = (0..services).map(of).unzip();
    snapshot(services, slices)
}

/// A small world in which everything collides: few Services, addresses, ports and slices.
pub fn any_change() -> impl Strategy<Value = Change> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let address = prop::sample::select(vec!["10.96.0.1", "10.96.0.2"]);
    let policy = prop::sample::select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let condition = prop::sample::select(vec![Condition::Ready, Condition::Terminating]);
    let features = (any::<bool>(), any::<bool>(), any::<bool>());
    let put = (name.clone(), address, policy, 0..3_i64, features).prop_map(
        |(name, vip, policy, created, (sticky, balanced, restricted))| {
            let ranges = ["192.168.0.0/24", "203.0.113.7/32"];
            let ranges = ranges.iter().map(|range| range.parse().expect("prefix")).collect();
            Change::Service(Service {
                created,
                internal_policy: policy,
                external_policy: policy,
                external_ips: vec![ip("10.96.0.2")],
                affinity: sticky.then_some(10_800),
                health_check_node_port: (policy == TrafficPolicy::Local).then_some(31000),
                load_balancer_ips: balanced.then(|| ip("198.51.100.1")).into_iter().collect(),
                source_ranges: if restricted {
                    SourceRanges::Only(ranges)
                } else {
                    SourceRanges::Anyone
                },
                ..service(name, vip)
            })
        },
    );
    let gone = name.clone().prop_map(|n| Change::ServiceGone(ServiceName::new("default", n)));
    let pods = prop::collection::vec((1..5_u8, condition, any::<bool>()), 0..4);
    let put_slice = (name.clone(), name.clone(), pods).prop_map(|(owner, suffix, pods)| {
        let endpoints = pods
            .into_iter()
            .map(|(n, condition, local)| endpoint(&format!("10.244.1.{n}"), condition, local))
            .collect();
        let slice = slice(owner, suffix, endpoints);
        Change::Slice(EndpointSlice { name: SliceName::new("default", suffix), ..slice })
    });
    let slice_gone = name.prop_map(|n| Change::SliceGone(SliceName::new("default", n)));
    prop_oneof![4 => put, 1 => gone, 4 => put_slice, 1 => slice_gone]
}

/// Two Services, `a` and `b` (with node port 30081), with an endpoint here and one elsewhere each.
pub fn two_services() -> Snapshot {
    let mut services = vec![service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    services[1].ports[0].node_port = Some(30081);
    let endpoints = || {
        vec![
            endpoint("10.244.1.1", Condition::Ready, true),
            endpoint("10.244.2.1", Condition::Ready, false),
        ]
    };
    snapshot(services, vec![slice("a", "1", endpoints()), slice("b", "1", endpoints())])
}
