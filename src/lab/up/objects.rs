//! What is there when a lab comes up: nodes, cluster DNS, `web` and `shell`.

use serde_json::{Value, json};

use sluice_cluster::Node;
use sluice_cluster::cluster::node_object;

use crate::kubelet::DNS_IMAGE;

/// The Node of a node that is ready, in a zone of its own: `zone-a` for `node-a`.
pub(super) fn node(node: &Node, now: &str) -> Value {
    let mut object = node_object(node);
    let letters = node.name().trim_start_matches("node-");
    object["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(format!("zone-{letters}"));
    object["metadata"]["labels"]["kubernetes.io/os"] = json!("linux");
    object["status"]["conditions"] = json!([{
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "message": "kubelet is posting ready status", "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }]);
    object["status"]["nodeInfo"] = json!({
        "kubeletVersion": "v1.36.0+sluice-lab", "osImage": "network namespace",
        "operatingSystem": "linux", "containerRuntimeVersion": "sluice-lab://1",
        "architecture": std::env::consts::ARCH, "machineID": "", "systemUUID": "", "bootID": "",
        "kernelVersion": "", "kubeProxyVersion": "",
    });
    object
}

/// Deployments, Services and Pods, in the order in which they are created.
pub(super) fn workloads() -> Vec<Value> {
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1});
    let web = json!({
        "name": "web", "image": "nginx", "readinessProbe": probe,
        "ports": [{"name": "http", "containerPort": 8080}],
    });
    let dns_port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "containerPort": 53});
    let dns = json!({
        "name": "dns", "image": DNS_IMAGE,
        "ports": [dns_port("dns", "UDP"), dns_port("dns-tcp", "TCP")],
    });
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 53, "targetPort": name});
    let dns_service = json!({
        "selector": {"k8s-app": "kube-dns"}, "clusterIP": "10.96.0.10",
        "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
    });
    let web_service = json!({
        "selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    });
    let shell = json!({"containers": [{
        "name": "shell", "image": "sluice-lab/shell", "command": ["sleep", "infinity"],
    }], "terminationGracePeriodSeconds": 1});
    vec![
        deployment(("kube-system", "coredns"), ("k8s-app", "kube-dns"), 2, &dns),
        object("v1", "Service", ("kube-system", "kube-dns"), dns_service),
        deployment(("default", "web"), ("app", "web"), 3, &web),
        object("v1", "Service", ("default", "web"), web_service),
        object("v1", "Pod", ("default", "shell"), shell),
    ]
}

fn object(version: &str, kind: &str, (namespace, name): (&str, &str), spec: Value) -> Value {
    json!({
        "apiVersion": version, "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": spec,
    })
}

fn deployment(
    place: (&str, &str),
    (key, value): (&str, &str),
    replicas: u32,
    container: &Value,
) -> Value {
    let labels = json!({key: value});
    let spec = json!({
        "replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    });
    object("apps/v1", "Deployment", place, spec)
}

/// A kubeconfig for an API server without access control.
pub(super) fn kubeconfig(name: &str, url: &str) -> Value {
    let context = json!({"cluster": name, "user": name, "namespace": "default"});
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {}}],
        "contexts": [{"name": name, "context": context}],
    })
}
