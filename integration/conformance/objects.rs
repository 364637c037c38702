//! From a case to objects of the API.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use sluice_cluster::address;
use sluice_core::net::Family;

use super::case::{Endpoint, NodeState, Service, Slice, World, Write};
use super::plan::{address_of, twin, twin_net};

/// Every object of a world but the Node. Raw objects are in the words of `family`.
pub(crate) fn objects(world: &World, family: Family) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    for write in world.writes.values() {
        match write {
            Write::Service(it) => all.push(service(it)?),
            Write::Slice(it) => {
                for family in Family::BOTH.into_iter().filter(|f| it.only.is_none_or(|o| o == *f)) {
                    all.push(slice(it, family)?);
                }
            }
            Write::ServiceCidr { name, prefix } => {
                let cidrs = Family::BOTH.map(|family| twin_net(prefix, family));
                let [v4, v6] = cidrs;
                all.push(json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                    "metadata": {"name": name}, "spec": {"cidrs": [v4?, v6?]},
                }));
            }
            Write::Raw { name, yaml } => all.push(raw(name, yaml, family)?),
            Write::Node(_) | Write::Delete(_) => {}
        }
    }
    Ok(all)
}

/// The object of node-a.
pub(crate) fn node(state: &NodeState) -> Value {
    let addresses = address::node(1);
    let addresses = Family::BOTH.map(|f| json!({"type": "InternalIP", "address": addresses.of(f)}));
    let cidrs = Family::BOTH.map(|family| address::pod_cidr(1, family).to_string());
    let mut labels = json!({"kubernetes.io/hostname": "node-a"});
    if let Some(zone) = &state.zone {
        labels["topology.kubernetes.io/zone"] = json!(zone);
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a", "labels": labels},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": addresses},
    })
}

fn ip(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IPv4 address"))
}

/// The twins of a list of addresses, in both families.
fn both(list: &str) -> Result<Vec<IpAddr>, String> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        for text in list.split(',') {
            all.push(twin(ip(text)?, family));
        }
    }
    Ok(all)
}

fn service(it: &Service) -> Result<Value, String> {
    let families: Vec<Family> =
        Family::BOTH.into_iter().filter(|f| it.only.is_none_or(|o| o == *f)).collect();
    let names: Vec<String> = families.iter().map(Family::to_string).collect();
    let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
    let mut spec = json!({"type": it.kind, "ports": ports(it), "sessionAffinity": "None"});
    if it.kind != "ExternalName" {
        let ips: Vec<Value> = match it.cluster_ip {
            Some(ip) => families.iter().map(|family| json!(twin(ip, *family))).collect(),
            None => vec![json!("None")],
        };
        spec["clusterIP"] = ips[0].clone();
        spec["clusterIPs"] = json!(ips);
        spec["ipFamilies"] = json!(names);
        spec["ipFamilyPolicy"] = json!(policy);
        spec["internalTrafficPolicy"] = json!("Cluster");
    }
    if matches!(&*it.kind, "NodePort" | "LoadBalancer") {
        spec["externalTrafficPolicy"] = json!("Cluster");
    }
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": it.name, "namespace": "default"}, "spec": spec,
    });
    if it.kind == "LoadBalancer" && it.ports.iter().all(|port| port.node_port.is_none()) {
        object["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    }
    for (key, value) in &it.fields {
        field(&mut object, key, value)?;
    }
    Ok(object)
}

fn ports(it: &Service) -> Vec<Value> {
    let ports = it.ports.iter().map(|port| {
        let protocol = port.protocol.to_string().to_uppercase();
        let mut entry =
            json!({"port": port.number, "protocol": protocol, "targetPort": port.number});
        if !port.name.is_empty() {
            entry["name"] = json!(port.name);
        }
        if let Some(number) = port.node_port {
            entry["nodePort"] = json!(number);
        }
        entry
    });
    ports.collect()
}

/// One `key=value` of a Service.
fn field(object: &mut Value, key: &str, value: &str) -> Result<(), String> {
    match key {
        "external" => object["spec"]["externalTrafficPolicy"] = json!(value),
        "internal" => object["spec"]["internalTrafficPolicy"] = json!(value),
        "affinity" => {
            let seconds: u32 = value.parse().map_err(|_| format!("affinity={value}"))?;
            object["spec"]["sessionAffinity"] = json!("ClientIP");
            object["spec"]["sessionAffinityConfig"] =
                json!({"clientIP": {"timeoutSeconds": seconds}});
        }
        "external-ip" => {
            object["spec"]["externalTrafficPolicy"] =
                match object["spec"]["externalTrafficPolicy"].take() {
                    Value::Null => json!("Cluster"),
                    set => set,
                };
            object["spec"]["externalIPs"] = json!(both(value)?);
        }
        "ranges" => object["spec"]["loadBalancerSourceRanges"] = ranges(value)?,
        "lb" => object["status"] = json!({"loadBalancer": {"ingress": ingress(value)?}}),
        "external-name" => object["spec"]["externalName"] = json!(value),
        "health" => {
            let port: u16 = value.parse().map_err(|_| format!("health={value}"))?;
            object["spec"]["healthCheckNodePort"] = json!(port);
        }
        "publish-not-ready" => object["spec"]["publishNotReadyAddresses"] = json!(true),
        "label" => {
            let (name, text) = value.split_once(':').unwrap_or((value, ""));
            object["metadata"]["labels"][name] = json!(text);
        }
        other => return Err(format!("a service has no {other:?}")),
    }
    Ok(())
}

/// Prefixes with their twins; a prefix written as `v4:PREFIX` has none.
fn ranges(list: &str) -> Result<Value, String> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        for text in list.split(',') {
            let (only, text) = match text.split_once(':') {
                Some((only, text)) => (Some(only), text),
                None => (None, text),
            };
            if only.is_none() || only == Some(if family == Family::V4 { "v4" } else { "v6" }) {
                all.push(twin_net(text, family)?.to_string());
            }
        }
    }
    Ok(json!(all))
}

/// `192.0.2.1`, `192.0.2.1/Proxy`, or a host name.
fn ingress(list: &str) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        for entry in list.split(',') {
            let (address, mode) = entry.split_once('/').unwrap_or((entry, ""));
            match (ip(address), mode) {
                (Err(_), _) if family == Family::V4 => all.push(json!({"hostname": address})),
                (Err(_), _) => {}
                (Ok(ip), "") => all.push(json!({"ip": twin(ip, family)})),
                (Ok(ip), mode) => all.push(json!({"ip": twin(ip, family), "ipMode": mode})),
            }
        }
    }
    Ok(all)
}

fn slice(it: &Slice, family: Family) -> Result<Value, String> {
    let mut ports = Vec::new();
    for (name, number, protocol) in &it.ports {
        let protocol = protocol.to_string().to_uppercase();
        ports.push(json!({"name": name, "port": number, "protocol": protocol}));
    }
    let endpoints: Result<Vec<Value>, String> =
        it.endpoints.iter().map(|e| endpoint(e, family)).collect();
    let suffix = family.to_string().to_lowercase();
    let mut labels = json!({"endpointslice.kubernetes.io/managed-by": "conformance"});
    if it.service != "nobody" {
        labels["kubernetes.io/service-name"] = json!(it.service);
    }
    Ok(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{}-{suffix}", it.name), "namespace": "default",
                     "labels": labels},
        "addressType": family.to_string(),
        "ports": ports, "endpoints": endpoints?,
    }))
}

fn endpoint(it: &Endpoint, family: Family) -> Result<Value, String> {
    let resolve = |text: &str| match address_of(text, family) {
        Some(ip) => Ok(ip),
        None => ip(text).map(|ip| twin(ip, family)),
    };
    let mut addresses = vec![resolve(&it.at)?];
    if let Some(second) = &it.second {
        addresses.push(resolve(second)?);
    }
    let mut object = json!({"addresses": addresses, "conditions": it.conditions});
    if let Some(node) = &it.node {
        object["nodeName"] = json!(node);
    }
    let named =
        |list: &[String]| -> Vec<Value> { list.iter().map(|name| json!({"name": name})).collect() };
    if !it.zones.is_empty() {
        object["hints"]["forZones"] = json!(named(&it.zones));
    }
    if !it.nodes.is_empty() {
        object["hints"]["forNodes"] = json!(named(&it.nodes));
    }
    Ok(object)
}

/// YAML in which `<10.96.0.10>` is that address, or its twin.
fn raw(name: &str, yaml: &str, family: Family) -> Result<Value, String> {
    let mut text = String::new();
    let mut rest = yaml;
    while let Some((before, after)) = rest.split_once('<') {
        let (address, after) =
            after.split_once('>').ok_or_else(|| format!("raw {name}: < without >"))?;
        let replaced = match address {
            "family" => family.to_string(),
            address if address.contains('/') => twin_net(address, family)?.to_string(),
            address => twin(ip(address)?, family).to_string(),
        };
        text.push_str(before);
        text.push_str(&replaced);
        rest = after;
    }
    text.push_str(rest);
    serde_saphyr::from_str(&text).map_err(|error| format!("raw {name}: {error}"))
}
