//! Questions to the spec of a Service.

use serde_json::Value;

pub(super) fn kind(spec: &Value) -> &str {
    spec["type"].as_str().unwrap_or("ClusterIP")
}

pub(super) fn ports(spec: &Value) -> &[Value] {
    spec["ports"].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None"
}

/// Whether clients outside the cluster can reach it, so that it has an external traffic policy.
pub(super) fn is_external(spec: &Value) -> bool {
    let external_ips = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    matches!(kind(spec), "NodePort" | "LoadBalancer") || (kind(spec) == "ClusterIP" && external_ips)
}

pub(super) fn needs_health_check_port(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

pub(super) fn has_cluster_ip(spec: &Value) -> bool {
    kind(spec) != "ExternalName"
}

pub(super) fn has_node_ports(spec: &Value) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}
