//! A Pod as an endpoint of a Service, and at which ports (`utils.go`, `trafficdist`).

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::fields::{has_labels, is_deleted, is_over, is_true, list, name, namespace, text, uid};

/// Endpoints that have the same ports share slices.
pub(super) struct Group {
    pub(super) ports: Value,
    pub(super) endpoints: Vec<Value>,
}

/// Whether a Pod is among the endpoints, ready or not.
pub(super) fn may_be_one(service: &Value, pod: &Value) -> bool {
    has_labels(pod, &service["spec"]["selector"]) && !is_over(pod) && !ips(pod).is_empty()
}

fn ips(pod: &Value) -> Vec<&str> {
    list(&pod["status"]["podIPs"]).iter().map(|entry| text(&entry["ip"])).collect()
}

pub(super) fn groups<'a>(
    service: &Value,
    pods: &[&Value],
    family: &str,
    node: impl Fn(&str) -> Option<&'a Value>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for pod in pods {
        let node = node(text(&pod["spec"]["nodeName"]));
        let Some(endpoint) = endpoint(service, pod, family, node) else { continue };
        let ports = ports(service, pod);
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group { ports, endpoints: vec![endpoint] }),
        }
    }
    groups
}

fn endpoint(service: &Value, pod: &Value, family: &str, node: Option<&Value>) -> Option<Value> {
    let of_family =
        |ip: &&&str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"));
    let ip = ips(pod).iter().find(of_family).copied()?.to_owned();
    let (serving, terminating) = (is_true(pod, "Ready"), is_deleted(pod));
    let ready = service["spec"]["publishNotReadyAddresses"] == true || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": [ip],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod),
        },
    });
    let node_name = text(&pod["spec"]["nodeName"]);
    if !node_name.is_empty() {
        endpoint["nodeName"] = json!(node_name);
    }
    let zone = node.map(|node| text(&node["metadata"]["labels"]["topology.kubernetes.io/zone"]));
    let zone = zone.filter(|zone| !zone.is_empty());
    if let Some(zone) = zone {
        endpoint["zone"] = json!(zone);
    }
    let hostname = text(&pod["spec"]["hostname"]);
    if !hostname.is_empty() && pod["spec"]["subdomain"] == service["metadata"]["name"] {
        endpoint["hostname"] = json!(hostname);
    }
    if ready && let Some(hints) = hints(service, zone, node_name) {
        endpoint["hints"] = hints;
    }
    Some(endpoint)
}

/// For whom an endpoint is, by `trafficDistribution`.
fn hints(service: &Value, zone: Option<&str>, node: &str) -> Option<Value> {
    let zone = zone.map(|zone| json!([{"name": zone}]));
    match text(&service["spec"]["trafficDistribution"]) {
        "PreferClose" | "PreferSameZone" => Some(json!({"forZones": zone?})),
        "PreferSameNode" if !node.is_empty() => {
            let mut hints = json!({"forNodes": [{"name": node}]});
            if let Some(zone) = zone {
                hints["forZones"] = zone;
            }
            Some(hints)
        }
        _ => None,
    }
}

/// The ports of a Service at a Pod; one that the Pod does not name is left out.
fn ports(service: &Value, pod: &Value) -> Value {
    let ports = list(&service["spec"]["ports"]).iter().filter_map(|port| {
        let mut entry = json!({
            "name": text(&port["name"]),
            "protocol": protocol(port),
            "port": target(port, pod)?,
        });
        if let Some(application) = port.get("appProtocol") {
            entry["appProtocol"] = application.clone();
        }
        Some(entry)
    });
    ports.collect()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

/// The number of a target port, which a container of the Pod may have named (`FindPort`).
fn target(port: &Value, pod: &Value) -> Option<u64> {
    let target = &port["targetPort"];
    let Some(name) = target.as_str() else {
        return target.as_u64().filter(|number| *number > 0).or_else(|| port["port"].as_u64());
    };
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let named = list(&pod["spec"]["containers"])
        .iter()
        .flat_map(|container| list(&container["ports"]))
        .find(|other| other["name"] == *name && protocol(other) == protocol(port))?;
    named["containerPort"].as_u64()
}
