//! The lab's endpoint controller: which EndpointSlices a Service should have, from the lab's Pods.
//!
//! As in Kubernetes (`staging/src/k8s.io/endpointslice`), a Service with a selector gets slices of at
//! most 100 endpoints, one set for each of its IP families; a Service without one is ignored.

use std::net::IpAddr;

use serde_json::{Value, json};

use sluice_core::net::Family;

/// The most endpoints in one slice (`--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;

/// The slices that `service` should have, given all Pods of its namespace.
pub(super) fn slices(service: &Value, pods: &[Value]) -> Vec<Value> {
    let Some(selector) = service["spec"]["selector"].as_object().filter(|s| !s.is_empty()) else {
        return Vec::new();
    };
    let selected = |pod: &&Value| {
        selector.iter().all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
    };
    let chosen: Vec<&Value> = pods.iter().filter(selected).collect();
    Family::BOTH
        .into_iter()
        .filter(|family| has_family(service, *family))
        .flat_map(|family| {
            let endpoints: Vec<Value> =
                chosen.iter().filter_map(|pod| endpoint(pod, family)).collect();
            let count = endpoints.len().div_ceil(PER_SLICE).max(1);
            (0..count).map(move |index| {
                let from = index * PER_SLICE;
                let part = &endpoints[from..endpoints.len().min(from + PER_SLICE)];
                slice(service, family, index, part)
            })
        })
        .collect()
}

fn has_family(service: &Value, family: Family) -> bool {
    let families = service["spec"]["ipFamilies"].as_array();
    families.is_some_and(|list| list.iter().any(|name| *name == family.to_string()))
}

fn endpoint(pod: &Value, family: Family) -> Option<Value> {
    let ips = pod["status"]["podIPs"].as_array()?;
    let mut ips = ips.iter().filter_map(|entry| entry["ip"].as_str());
    let ip = ips.find(|ip| ip.parse().is_ok_and(|ip: IpAddr| Family::of(ip) == family))?;
    Some(json!({
        "addresses": [ip],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
        },
    }))
}

fn slice(service: &Value, family: Family, index: usize, endpoints: &[Value]) -> Value {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let port = |port: &Value| {
        let target = if port["targetPort"].is_u64() { &port["targetPort"] } else { &port["port"] };
        let name = port["name"].as_str().unwrap_or_default();
        json!({"name": name, "protocol": port["protocol"], "port": target})
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{}-{index}", family.to_string().to_lowercase()),
            "namespace": service["metadata"]["namespace"],
            "labels": {
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "sluice-lab",
            },
        },
        "addressType": family.to_string(),
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "endpoints": endpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "selector": {"app": "web"},
                "ipFamilies": ["IPv4", "IPv6"],
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            },
        })
    }

    fn pod(name: &str, app: &str, ips: &[String]) -> Value {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
            "spec": {"nodeName": "node-a"},
            "status": {"podIPs": ips},
        })
    }

    #[test]
    fn only_selected_pods_are_endpoints_in_each_family() {
        let ips = ["10.244.1.1".to_owned(), "fd00::1".to_owned()];
        let slices = slices(&service(), &[pod("a", "web", &ips), pod("b", "other", &ips)]);
        let of = |index: usize| slices[index]["endpoints"].as_array().map(Vec::len);
        assert_eq!((slices.len(), of(0), of(1)), (2, Some(1), Some(1)));
        assert_eq!(slices[0]["endpoints"][0]["addresses"][0], "10.244.1.1");
        assert_eq!(slices[1]["endpoints"][0]["addresses"][0], "fd00::1");
        assert_eq!(slices[0]["ports"][0]["port"], 8080);
    }

    #[test]
    fn many_endpoints_are_spread_over_slices() {
        let pods: Vec<Value> =
            (0..250).map(|n| pod(&format!("p{n}"), "web", &[format!("10.244.1.{n}")])).collect();
        let slices = slices(&service(), &pods);
        let sizes: Vec<usize> =
            slices.iter().filter_map(|s| s["endpoints"].as_array().map(Vec::len)).collect();
        assert_eq!(sizes, [100, 100, 50, 0]);
    }

    #[test]
    fn without_pods_there_is_an_empty_slice_and_without_a_selector_none() {
        assert_eq!(slices(&service(), &[]).len(), 2);
        let mut manual = service();
        manual["spec"]["selector"] = json!(null);
        assert!(slices(&manual, &[]).is_empty());
    }
}
