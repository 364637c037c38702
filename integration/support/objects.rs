//! API objects that several test programs have.

use std::net::TcpListener;

use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Options};

/// The node port of [`web`].
pub(crate) const NODE_PORT: u16 = 30080;

/// An API server on loopback with the node `node-a`, which has these addresses.
#[track_caller]
pub(crate) fn api_server(node_ips: &[&str]) -> ApiServer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    let api = ApiServer::start(listener, Options::default()).expect("the API server starts");
    api.create(&node(node_ips)).expect("a node");
    api
}

fn node(ips: &[&str]) -> Value {
    let address = |ip: &&str| json!({"type": "InternalIP", "address": ip});
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"},
        "status": {"addresses": ips.iter().map(address).collect::<Vec<_>>()},
    })
}

/// A dual-stack Service with a node port for each protocol.
pub(crate) fn web() -> Value {
    let port = |(name, protocol): (&str, &str)| {
        json!({"name": name, "protocol": protocol, "port": 80, "targetPort": 8080,
               "nodePort": NODE_PORT})
    };
    let ports: Vec<Value> =
        [("t", "TCP"), ("u", "UDP"), ("s", "SCTP")].into_iter().map(port).collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"}, "ports": ports,
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80", "fd00:10:96::80"],
        },
    })
}
