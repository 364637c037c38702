//! From the model back to objects of the API: as much of them as a proxy reads, for dumps.
//!
//! What is read of them again ([`super::manifests`]) is the model that they were written from.

use serde_json::{Value, json};

use sluice_core::model::{
    Condition, EndpointSlice, Hints, Node, Service, ServiceType, SliceName, Snapshot, SourceRanges,
    TrafficPolicy,
};
use sluice_core::net::Family;

/// Seconds since 1970 as the API writes them.
fn time(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

/// A Service.
pub fn service(service: &Service) -> Value {
    let kind = match service.kind {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let protocol = port.protocol.to_string().to_uppercase();
            let mut entry = json!({ "port": port.port, "protocol": protocol });
            if !port.name.is_empty() {
                entry["name"] = json!(port.name);
            }
            if let Some(number) = port.node_port {
                entry["nodePort"] = json!(number);
            }
            entry
        })
        .collect();
    let mut spec = json!({
        "type": kind,
        "clusterIPs": service.cluster_ips,
        "internalTrafficPolicy": policy(service.internal_policy),
        "externalTrafficPolicy": policy(service.external_policy),
        "ports": ports,
    });
    if let Some(first) = service.cluster_ips.first() {
        spec["clusterIP"] = json!(first);
    }
    if !service.external_ips.is_empty() {
        spec["externalIPs"] = json!(service.external_ips);
    }
    if let SourceRanges::Only(ranges) = &service.source_ranges {
        // No range at all would admit everybody; one that is invalid admits nobody, as those that were written.
        let nobody = ranges.is_empty().then(|| "invalid".to_owned());
        let ranges = ranges.iter().map(ToString::to_string).chain(nobody);
        spec["loadBalancerSourceRanges"] = ranges.collect();
    }
    if let Some(timeout) = service.affinity {
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": timeout } });
    }
    if let Some(port) = service.health_check_node_port {
        spec["healthCheckNodePort"] = json!(port);
    }
    let mut metadata = json!({
        "name": service.name.name(), "namespace": service.name.namespace(),
    });
    if service.created != 0 {
        metadata["creationTimestamp"] = json!(time(service.created));
    }
    let ingress = service.load_balancer_ips.iter().map(|ip| json!({ "ip": ip, "ipMode": "VIP" }));
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec,
        "status": { "loadBalancer": { "ingress": ingress.collect::<Vec<Value>>() } },
    })
}

fn parts(name: &SliceName) -> (String, String) {
    let text = name.to_string();
    let (namespace, name) = text.split_once('/').unwrap_or(("", &text));
    (namespace.to_owned(), name.to_owned())
}

/// An EndpointSlice as the node `node` has it: of endpoints elsewhere it does not know the node.
pub fn slice(slice: &EndpointSlice, node: &str) -> Value {
    let (namespace, name) = parts(&slice.name);
    let ports: Vec<Value> = slice
        .ports
        .iter()
        .map(|port| {
            let protocol = port.protocol.to_string().to_uppercase();
            json!({ "name": port.name, "port": port.port, "protocol": protocol })
        })
        .collect();
    let endpoints = slice.endpoints.iter().map(|endpoint| {
        let conditions = match endpoint.condition {
            Condition::Ready => json!({ "ready": true }),
            Condition::Terminating => {
                json!({ "ready": false, "serving": true, "terminating": true })
            }
            Condition::Unusable => json!({ "ready": false, "serving": false }),
        };
        let mut entry = json!({ "addresses": [endpoint.address], "conditions": conditions });
        if endpoint.local {
            entry["nodeName"] = json!(node);
        }
        if let Some(hints) = &endpoint.hints {
            entry["hints"] = named(hints);
        }
        entry
    });
    let endpoints: Vec<Value> = endpoints.collect();
    let family = match slice.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let labels = json!({ "kubernetes.io/service-name": slice.service.name() });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}

fn named(hints: &Hints) -> Value {
    let list = |names: &[std::sync::Arc<str>]| -> Vec<Value> {
        names.iter().map(|name| json!({ "name": name })).collect()
    };
    json!({ "forZones": list(&hints.zones), "forNodes": list(&hints.nodes) })
}

/// The Node, and the ServiceCIDRs as one object.
pub fn surroundings(snapshot: &Snapshot, node: &str) -> Vec<Value> {
    let mut all: Vec<Value> = snapshot.node.iter().map(|it| of_node(it, node)).collect();
    if !snapshot.service_cidrs.is_empty() {
        let cidrs: Vec<String> = snapshot.service_cidrs.iter().map(ToString::to_string).collect();
        all.push(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": { "name": "kubernetes" }, "spec": { "cidrs": cidrs },
        }));
    }
    all
}

fn of_node(node: &Node, name: &str) -> Value {
    let addresses = node.addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip }));
    let addresses: Vec<Value> = addresses.collect();
    let mut metadata = json!({ "name": name });
    if !node.uid.is_empty() {
        metadata["uid"] = json!(node.uid);
    }
    if let Some(zone) = &node.zone {
        metadata["labels"] = json!({ "topology.kubernetes.io/zone": zone });
    }
    let cidrs: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    let mut spec = json!({ "podCIDRs": cidrs });
    if node.leaving {
        let taint = json!({ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" });
        spec["taints"] = json!([taint]);
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec,
        "status": { "addresses": addresses },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::watch::manifests;
    use sluice_core::model::{Change, Endpoint, EndpointPort, ServiceName, ServicePort};
    use sluice_core::net::Protocol;

    fn ips(list: &[&str]) -> Vec<std::net::IpAddr> {
        list.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn a_service() -> Service {
        let range = "203.0.113.0/24".parse().expect("a prefix");
        Service {
            name: ServiceName::new("shop", "web"),
            created: 1_700_000_000,
            kind: ServiceType::LoadBalancer,
            cluster_ips: ips(&["10.96.0.1", "fd00::1"]),
            external_ips: ips(&["198.51.100.1"]),
            load_balancer_ips: ips(&["192.0.2.7"]),
            source_ranges: SourceRanges::Only(vec![range]),
            internal_policy: TrafficPolicy::Local,
            external_policy: TrafficPolicy::Local,
            affinity: Some(60),
            health_check_node_port: Some(30_999),
            ports: vec![ServicePort {
                name: "dns".into(),
                protocol: Protocol::Udp,
                port: 53,
                node_port: Some(30_053),
            }],
        }
    }

    fn a_slice() -> EndpointSlice {
        let hints = Hints { zones: vec!["a".into()], nodes: vec!["node-a".into()] };
        let conditions = [Condition::Ready, Condition::Terminating, Condition::Unusable];
        let endpoints = (1..).zip(conditions).map(|(n, condition)| Endpoint {
            address: [10, 244, 1, n].into(),
            condition,
            local: n == 1,
            hints: (n == 1).then(|| std::sync::Arc::new(hints.clone())),
        });
        EndpointSlice {
            name: SliceName::new("shop", "web-1"),
            service: ServiceName::new("shop", "web"),
            family: Family::V4,
            ports: [EndpointPort { name: "dns".into(), protocol: Protocol::Udp, port: 5353 }]
                .into(),
            endpoints: endpoints.collect(),
            trigger_time: None,
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let nobody = Service { source_ranges: SourceRanges::Only(Vec::new()), ..a_service() };
        let plain = Service {
            source_ranges: SourceRanges::Anyone,
            affinity: None,
            created: 0,
            external_ips: Vec::new(),
            ..a_service()
        };
        for service in [a_service(), nobody, plain] {
            let mut before = Snapshot::default();
            let node = Node {
                uid: "u".to_owned(),
                addresses: ips(&["192.0.2.1", "fd00::9"]),
                pod_cidrs: vec!["10.244.1.0/24".parse().expect("a prefix")],
                zone: Some("a".to_owned()),
                leaving: true,
            };
            let cidrs = BTreeSet::from(["10.96.0.0/16".parse().expect("a prefix")]);
            let changes = [
                Change::Service(service.clone()),
                Change::Slice(a_slice()),
                Change::Node(Some(node)),
                Change::ServiceCidrs(cidrs),
            ];
            changes.into_iter().for_each(|change| before.apply(change, &mut BTreeSet::new()));
            let mut objects = surroundings(&before, "node-a");
            objects.extend([super::service(&service), slice(&a_slice(), "node-a")]);
            let (after, _) = manifests::snapshot(&objects, "node-a");
            assert_eq!(after.services, before.services);
            assert_eq!(after.slices, before.slices);
            assert_eq!((after.node, after.service_cidrs), (before.node, before.service_cidrs));
        }
    }
}
