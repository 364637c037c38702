//! What a source is to this node, and which frontend its packet has found.

use crate::client::Client;
use crate::explanation::{Stage, StageName};
use crate::truth::Truth;
use sluice_core::plan::Hit;
use sluice_core::plan::{
    Address, ForwardingTable, FrontendKind, Packet, PacketSource, PodDetector, is_pod,
};

/// Pod, this node, or outside.
pub(super) fn source(
    truth: &Truth<'_>,
    table: &ForwardingTable,
    client: &Client,
    packet: &Packet,
) -> Stage {
    let (text, rules) = class(truth, table, packet);
    let mut stage = Stage::new(StageName::Source, Some(true), text).by(&rules);
    if client.assumed_interface {
        let note =
            "the pod is on this node, so its interface is assumed to be one that is recognized";
        stage.notes.push(note.to_owned());
    }
    stage
}

fn class<'r>(
    truth: &Truth<'_>,
    table: &ForwardingTable,
    packet: &Packet,
) -> (String, Vec<&'r str>) {
    let ip = packet.source.ip();
    let detector = &table.host.pods;
    let rule = match detector {
        PodDetector::None => "S-79",
        PodDetector::Cidrs(_) => "S-75",
        PodDetector::BridgeInterface(_) => "S-77",
        PodDetector::InterfacePrefix(_) => "S-78",
    };
    if is_pod(detector, &packet.source) {
        let why = match detector {
            PodDetector::Cidrs(nets) => {
                let net = nets.iter().find(|net| net.contains(&ip));
                let net = net.map_or_else(String::new, ToString::to_string);
                format!("{ip} is in the pods' prefix {net}")
            }
            PodDetector::BridgeInterface(name) => format!("{ip} comes in by bridge {name}"),
            PodDetector::InterfacePrefix(prefix) => {
                format!("{ip} comes in by an interface called {prefix}…")
            }
            PodDetector::None => String::new(),
        };
        return (format!("a pod: {why}"), vec![rule]);
    }
    let not_a_pod = match detector {
        PodDetector::None => {
            "no traffic is recognized as a pod's (clusterCIDR is empty)".to_owned()
        }
        PodDetector::Cidrs(nets) => {
            let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
            format!("not in the pods' prefix {}", nets.join(", "))
        }
        PodDetector::BridgeInterface(name) => format!("not by the pods' bridge {name}"),
        PodDetector::InterfacePrefix(prefix) => format!("not by an interface called {prefix}…"),
    };
    match &packet.source {
        PacketSource::ThisNode(ip) => {
            (format!("this node itself: {ip} is an address of {}", truth.node), vec![])
        }
        PacketSource::Interface { ip, .. } => {
            (format!("from outside: {ip}, {not_a_pod}"), vec![rule])
        }
    }
}

/// Whose frontend it is, and what kind.
pub(super) fn frontend(hit: &Hit<'_>) -> Stage {
    let (kind, rule) = match hit.frontend.kind {
        FrontendKind::ClusterIp => ("cluster IP", "S-10"),
        FrontendKind::ExternalIp => ("external IP", "S-16"),
        FrontendKind::LoadBalancer => ("load balancer IP", "S-13"),
        FrontendKind::NodePort => ("", "S-12"),
    };
    let port = match &*hit.port.name {
        "" => String::new(),
        name => format!(", port {name:?}"),
    };
    let on = match hit.frontend.at {
        Address::NodePort { .. } => format!(" on {}", hit.packet.destination),
        Address::Vip { .. } => String::new(),
    };
    let space = if kind.is_empty() { "" } else { " " };
    let text = format!("{kind}{space}{}{on} of {}{port}", hit.frontend.at, hit.service);
    Stage::new(StageName::Frontend, Some(true), text).by(&[rule])
}
