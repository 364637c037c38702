//! Why a packet finds no frontend: near misses of address, port and protocol.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Walked;
use crate::explanation::{Outcome, Stage, StageName};
use crate::findings::{Code, Finding};
use crate::truth::Truth;
use sluice_config::Mode;
use sluice_core::model::ServiceName;
use sluice_core::net::Protocol;
use sluice_core::plan::{Address, Decision, ForwardingTable, NodePortAddresses, Packet};

/// A frontend of some Service that is almost what was asked for.
struct Near<'a> {
    service: &'a ServiceName,
    name: &'a str,
    protocol: Protocol,
    port: u16,
}

/// What happens to a packet that no Service takes, and why none does.
pub(super) fn missed(
    truth: &Truth<'_>,
    table: &ForwardingTable,
    packet: &Packet,
    named: Option<&ServiceName>,
    mut walked: Walked,
) -> Walked {
    let (decision, what, rule) = without_frontend(table, packet);
    let (text, finding) = reason(truth, table, packet, named);
    let mut stage =
        Stage::new(StageName::Frontend, Some(finding.is_none()), format!("{text}: {what}"));
    stage.rules.extend(rule.map(str::to_owned));
    if finding.is_none() && decision == Decision::Pass {
        stage.ok = None;
    }
    walked.stages.push(stage);
    let failed = finding.is_some() || decision != Decision::Pass;
    walked.findings.extend(finding);
    walked.decision = Some(decision);
    if failed {
        walked.ended(Outcome::Unreachable, format!("unreachable: {text}; {what}"))
    } else {
        walked.ended(Outcome::Undetermined, format!("undetermined: {text}; {what}"))
    }
}

/// What happens to traffic to no frontend.
fn without_frontend(
    table: &ForwardingTable,
    packet: &Packet,
) -> (Decision, &'static str, Option<&'static str>) {
    const PASSES: &str = "it is routed as if there were no proxy";
    let guard = table.host.cluster_ip_guard;
    if packet.to_this_node {
        return (Decision::Pass, "this node itself may answer", Some("S-50"));
    }
    if holder(table, packet.destination).is_some() {
        return if guard.refuses_ports() {
            (Decision::Reject, "rejected", Some("S-48"))
        } else {
            (Decision::Pass, PASSES, Some("S-48"))
        };
    }
    let allocatable = table.service_cidrs.iter().any(|net| net.contains(&packet.destination));
    match (allocatable, guard.drops_addresses()) {
        (true, true) => (Decision::Drop, "dropped without an answer", Some("S-49")),
        (true, false) => (Decision::Pass, PASSES, Some("S-49")),
        (false, _) => (Decision::Pass, PASSES, None),
    }
}

fn holder(table: &ForwardingTable, ip: IpAddr) -> Option<&ServiceName> {
    let mut plans = table.services.iter();
    plans.find(|(_, plan)| plan.cluster_ip == Some(ip)).map(|(name, _)| name)
}

fn reason(
    truth: &Truth<'_>,
    table: &ForwardingTable,
    packet: &Packet,
    named: Option<&ServiceName>,
) -> (String, Option<Finding>) {
    let (ip, port, protocol) = (packet.destination, packet.port, packet.protocol);
    if let (Some(named), Some(other)) = (named, holder(table, ip))
        && other != named
    {
        let finding = contested(named, other, &ip.to_string());
        return (finding.text.clone(), Some(finding));
    }
    let at_address: Vec<Near<'_>> =
        near(table, |at| matches!(at, Address::Vip { ip: other, .. } if *other == ip));
    if let Some(first) = at_address.first() {
        let finding = other_port(first.service, &at_address, &ip.to_string(), port, protocol);
        return (finding.text.clone(), Some(finding));
    }
    let number =
        |at: &Address| matches!(at, Address::NodePort { port: other, .. } if *other == port);
    let node_ports = near(table, number);
    if packet.to_this_node {
        return to_this_node(truth, table, packet, &node_ports);
    }
    if let Some((node, _)) = truth.known.nodes.iter().find(|(_, ips)| ips.contains(&ip)) {
        return (
            format!("{ip} is an address of node {node}, which decides itself (--on {node})"),
            None,
        );
    }
    let pods = truth.known.pods.seen().into_iter().flatten();
    if let Some(pod) = pods.into_iter().find(|pod| pod.ips.contains(&ip)) {
        return (
            format!("{ip} is pod {}/{} itself, no Service is asked", pod.namespace, pod.name),
            None,
        );
    }
    if let Some(named) = named {
        let text = format!("Service {named} has no frontend at {ip}:{port}/{protocol}");
        let fix = format!("kubectl get service -n {} {} -o yaml", named.namespace(), named.name());
        return (text.clone(), Some(Code::NoSuchPort.finding(text, Some(fix))));
    }
    if table.service_cidrs.iter().any(|net| net.contains(&ip)) {
        let text = format!("no Service has the cluster IP {ip}");
        let fix = "kubectl get services -A -o wide, and ask for the Service by its name".to_owned();
        return (text.clone(), Some(Code::NoSuchService.finding(text, Some(fix))));
    }
    let unknown =
        if truth.known.without_service_cidrs { " (ServiceCIDRs were not read)" } else { "" };
    (format!("no Service has the address {ip}{unknown}"), None)
}

/// An address of this node.
fn to_this_node(
    truth: &Truth<'_>,
    table: &ForwardingTable,
    packet: &Packet,
    node_ports: &[Near<'_>],
) -> (String, Option<Finding>) {
    let (ip, port, protocol) = (packet.destination, packet.port, packet.protocol);
    let Some(first) = node_ports.first() else {
        return (
            format!(
                "no Service has the node port {port}, and {ip} is an address of {}",
                truth.node
            ),
            None,
        );
    };
    let Some(same) = node_ports.iter().find(|near| near.protocol == protocol) else {
        let finding = other_port(first.service, node_ports, "its node port", port, protocol);
        return (finding.text.clone(), Some(finding));
    };
    if opens_loopback(truth, table, ip) {
        return (
            format!(
                "node port {port}/{protocol} of {} is open on {ip} in mode {}, unless localhostNodePorts is false",
                same.service, truth.mode
            ),
            None,
        );
    }
    let open = match &table.host.node_ports {
        NodePortAddresses::AnyLocal => format!("all addresses of {} but loopback", truth.node),
        NodePortAddresses::Only(ips) => {
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            if ips.is_empty() { "no address".to_owned() } else { ips.join(", ") }
        }
    };
    let text = format!(
        "node port {port}/{protocol} of {} is not open on {ip}: it is open on {open}",
        same.service
    );
    let fix = "use such an address, or add the other one's prefix to nodePortAddresses".to_owned();
    (text.clone(), Some(Code::NodePortNotHere.finding(text, Some(fix))))
}

/// Whether the mode by itself opens node ports on loopback addresses, which the plan does not (S-83).
fn opens_loopback(truth: &Truth<'_>, table: &ForwardingTable, ip: IpAddr) -> bool {
    let selected = match &table.host.node_ports {
        NodePortAddresses::AnyLocal => true,
        NodePortAddresses::Only(ips) => ips.contains(&ip),
    };
    let opens = match truth.mode {
        Mode::Iptables => ip.is_ipv4(),
        Mode::Userspace => true,
        Mode::Nftables | Mode::Ipvs => false,
    };
    ip.is_loopback() && selected && opens
}

/// Frontends whose address is almost right.
fn near<'t>(table: &'t ForwardingTable, fits: impl Fn(&Address) -> bool) -> Vec<Near<'t>> {
    let mut found = Vec::new();
    for (service, plan) in &table.services {
        for port in &plan.ports {
            for frontend in port.frontends.iter().filter(|frontend| fits(&frontend.at)) {
                let (Address::Vip { protocol, port: number, .. }
                | Address::NodePort { protocol, port: number }) = frontend.at;
                found.push(Near { service, name: &port.name, protocol, port: number });
            }
        }
    }
    found
}

/// The address is right, and port or protocol are not.
fn other_port(
    service: &ServiceName,
    near: &[Near<'_>],
    at: &str,
    port: u16,
    protocol: Protocol,
) -> Finding {
    let has: BTreeSet<String> = near
        .iter()
        .map(|near| match near.name {
            "" => format!("{}/{}", near.port, near.protocol),
            name => format!("{}/{} ({name})", near.port, near.protocol),
        })
        .collect();
    let has = has.into_iter().collect::<Vec<_>>().join(", ");
    match near.iter().find(|near| near.port == port) {
        Some(same) => {
            let text = format!(
                "Service {service} has port {port} at {at} for {}, and not for {protocol}",
                same.protocol
            );
            let fix = format!("connect by {}: …:{port}/{}", same.protocol, same.protocol);
            Code::WrongProtocol.finding(text, Some(fix))
        }
        None => {
            let text =
                format!("Service {service} has no port {port}/{protocol} at {at}; it has {has}");
            let fix = near.first().map(|near| format!("use port {}", near.port));
            Code::NoSuchPort.finding(text, fix)
        }
    }
}

/// The address is claimed by several Services, and another one has it.
pub(super) fn contested(named: &ServiceName, holder: &ServiceName, at: &str) -> Finding {
    let text = format!(
        "{at} belongs to Service {holder}: Service {named} claims it too, and does not have it"
    );
    let fix = format!(
        "give Service {named} another address: for a cluster IP, delete it and create it again without spec.clusterIP"
    );
    Code::ContestedAddress.finding(text, Some(fix))
}
