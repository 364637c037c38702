//! The path of a packet through the chains of this mode.

use super::extensions::Lacking;
use super::form::{Form, LocalhostNodePorts, Options, OutOfWindow};
use super::names::{self, PortName};
use super::service::{Common, render};
use crate::packet_path::PacketPath;
use sluice_core::plan::{Address, Admit, FrontendKind, Hit, Masquerade, Verdict};
use sluice_kernel::xtables::Table;

/// The path of a packet that has found a frontend, with the rules of its pool.
pub fn path(hit: &Hit<'_>) -> PacketPath {
    let id = PortName::new(hit.service, hit.port);
    let node_port = matches!(hit.frontend.at, Address::NodePort { .. });
    let pool = match hit.route.verdict {
        Verdict::Forward(pool) if hit.admitted => pool,
        _ => return stopped(hit, node_port),
    };
    let mut steps = vec![if hit.is_from_this_node() { "OUTPUT" } else { "PREROUTING" }.to_owned()];
    steps.push(names::SERVICES.to_owned());
    if node_port {
        steps.push(names::NODE_PORTS.to_owned());
    }
    if matches!(hit.frontend.admit, Admit::Only(_)) {
        steps.push(id.firewall().to_string());
    }
    if hit.frontend.kind != FrontendKind::ClusterIp {
        steps.push(id.external().to_string());
    }
    let chain = id.pool(pool);
    steps.push(chain.to_string());
    steps.push("DNAT".to_owned());
    if hit.route.masquerade == Masquerade::Yes {
        steps.extend(["POSTROUTING", names::POSTROUTING].map(str::to_owned));
    }
    let common = Common { family: hit.table.family, host: &hit.table.host, form: form() };
    let rendered = render(common, hit.service, hit.plan);
    let rules = rendered.chains.iter().filter(|(id, _)| id.table == Table::Nat && id.name == chain);
    let rules = rules.flat_map(|(id, lines)| {
        lines.iter().map(|line| (id.name.to_string(), format!("-A {} {}", id.name, line.text)))
    });
    PacketPath { objects: rules.collect(), steps }
}

/// The form that a kernel with all extensions gets.
fn form() -> Form {
    let options = Options {
        layout: super::Layout::Compact,
        localhost_node_ports: LocalhostNodePorts::Closed,
        out_of_window: OutOfWindow::Drop,
    };
    Form::new(options, Lacking::default())
}

/// In the table filter.
fn stopped(hit: &Hit<'_>, node_port: bool) -> PacketPath {
    let hook = match (hit.is_from_this_node(), node_port || hit.packet.to_this_node) {
        (_, true) => "INPUT",
        (true, false) => "OUTPUT",
        (false, false) => "FORWARD",
    };
    let (chain, end) = match hit.route.verdict {
        _ if !hit.admitted => (names::FIREWALL, "DROP"),
        Verdict::Drop => (refusing(hit, node_port), "DROP"),
        _ => (refusing(hit, node_port), names::REJECT),
    };
    let steps = [hook, chain, end].map(str::to_owned).to_vec();
    PacketPath { steps, objects: Vec::new() }
}

fn refusing(hit: &Hit<'_>, node_port: bool) -> &'static str {
    match hit.frontend.kind {
        _ if node_port => names::EXTERNAL_NODE_PORTS,
        FrontendKind::ClusterIp => names::SERVICES,
        _ => names::EXTERNAL,
    }
}
