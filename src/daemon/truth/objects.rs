//! What people want to know of objects, and the plan does not need: pods, selectors, which pod an endpoint is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use sluice_explain::truth::{EndpointFacts, Pod, PortFacts, ServiceFacts, Unserved};
use sluice_explain::{Known, Looked};
use sluice_kubernetes::watch::manifests::kind_of;

/// What objects tell besides the model. Without a pod among them, pods are not known.
pub(crate) fn known(objects: &[Value]) -> Known {
    let (mut known, mut pods) = (Known::default(), Vec::new());
    (known.without_slices, known.without_service_cidrs) = (true, true);
    for object in objects {
        match &*kind_of(object) {
            "Pod" => pods.push(pod(object)),
            "Node" => {
                known.nodes.insert(text(object, "/metadata/name"), node_addresses(object));
            }
            "Service" => {
                known.services.insert(full_name(object), service(object));
            }
            "EndpointSlice.discovery.k8s.io" => {
                known.without_slices = false;
                known.endpoints.extend(endpoints(object));
            }
            "ServiceCIDR.networking.k8s.io" => known.without_service_cidrs = false,
            _ => {}
        }
    }
    known.pods = if pods.is_empty() {
        Looked::Not("there is no Pod among the objects".to_owned())
    } else {
        Looked::At(pods)
    };
    known
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The namespace that objects without one are in, as kubectl has it.
fn namespace(object: &Value) -> String {
    Some(text(object, "/metadata/namespace"))
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".into())
}

fn full_name(object: &Value) -> String {
    // As the model names it: without a namespace, nothing stands before the slash.
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

fn labels(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn node_addresses(object: &Value) -> Vec<IpAddr> {
    let all = list(object, "/status/addresses").iter();
    let ips = all.filter(|one| one["type"] == "InternalIP" || one["type"] == "ExternalIP");
    ips.filter_map(|one| ip(one["address"].as_str()?)).collect()
}

fn pod(object: &Value) -> Pod {
    let ips = list(object, "/status/podIPs").iter().filter_map(|one| ip(one["ip"].as_str()?));
    let mut ips: Vec<IpAddr> = ips.collect();
    if ips.is_empty() {
        ips.extend(ip(&text(object, "/status/podIP")));
    }
    let ready = list(object, "/status/conditions").iter().find(|one| one["type"] == "Ready");
    let is_ready = ready.is_some_and(|one| one["status"] == "True");
    let names = list(object, "/spec/containers").iter().flat_map(|one| list(one, "/ports"));
    let names = names.filter_map(|port| port["name"].as_str()).map(str::to_owned);
    Pod {
        namespace: namespace(object),
        name: text(object, "/metadata/name"),
        labels: labels(object, "/metadata/labels"),
        node: text(object, "/spec/nodeName"),
        ips,
        host_network: flag(object, "/spec/hostNetwork"),
        not_ready: (!is_ready).then(|| why_not_ready(object, ready)),
        since: ready
            .filter(|_| !is_ready)
            .and_then(|one| one["lastTransitionTime"].as_str())
            .map(str::to_owned),
        port_names: names.collect(),
    }
}

/// What a container waits for, else the condition's message, else the phase.
fn why_not_ready(object: &Value, ready: Option<&Value>) -> String {
    let statuses = list(object, "/status/containerStatuses").iter();
    let waiting = statuses.filter_map(|one| one.pointer("/state/waiting/reason")?.as_str());
    let message = ready.and_then(|one| one["message"].as_str().or_else(|| one["reason"].as_str()));
    let phase = text(object, "/status/phase");
    let found = waiting.chain(message).find(|text| !text.is_empty());
    found.map_or_else(|| format!("phase {phase}"), str::to_owned)
}

fn service(object: &Value) -> ServiceFacts {
    let ports = list(object, "/spec/ports").iter().map(|port| PortFacts {
        name: text(port, "/name"),
        port: port["port"].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        protocol: port["protocol"].as_str().unwrap_or("TCP").to_lowercase(),
        target: match &port["targetPort"] {
            Value::String(name) => name.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        },
    });
    ServiceFacts {
        unserved: unserved(object),
        selector: labels(object, "/spec/selector"),
        ports: ports.collect(),
        publishes_not_ready: flag(object, "/spec/publishNotReadyAddresses"),
    }
}

fn unserved(object: &Value) -> Option<Unserved> {
    let proxy = object.pointer("/metadata/labels/service.kubernetes.io~1service-proxy-name");
    if let Some(proxy) = proxy {
        return Some(Unserved::OtherProxy(proxy.as_str().unwrap_or_default().to_owned()));
    }
    if text(object, "/spec/type") == "ExternalName" {
        return Some(Unserved::ExternalName(text(object, "/spec/externalName")));
    }
    let first =
        list(object, "/spec/clusterIPs").first().and_then(Value::as_str).unwrap_or_default();
    match (text(object, "/spec/clusterIP").as_str(), first) {
        ("None", _) | (_, "None") => Some(Unserved::Headless),
        ("", "") => Some(Unserved::NoAddress),
        _ => None,
    }
}

fn endpoints(object: &Value) -> Vec<EndpointFacts> {
    let owner = object.pointer("/metadata/labels/kubernetes.io~1service-name");
    let Some(owner) = owner.and_then(Value::as_str) else { return Vec::new() };
    let service = format!("{}/{owner}", text(object, "/metadata/namespace"));
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let of = |one: &Value| {
        Some(EndpointFacts {
            service: service.clone(),
            ip: ip(one.pointer("/addresses/0")?.as_str()?)?,
            pod: some(text(one, "/targetRef/name")),
            node: some(text(one, "/nodeName")),
        })
    };
    list(object, "/endpoints").iter().filter_map(of).collect()
}
