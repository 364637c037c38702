//! The rules of one Service in each mode, computed without a kernel: the proxy modes are pure.
//!
//! [`nft`] writes a table as `nft list` prints it and as JSON, [`statements`] and [`text`] its rules; iptables' own
//! text is in the mode; IPVS and relays are a few lines each, here.

mod nft;
mod statements;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use self::nft::rule_text;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use sluice_config::{Config, Mode};
use sluice_core::model::ServiceName;
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{ForwardingTable, PoolKind, ServicePlan};
use sluice_dataplane::iptables::{self, Layout, LocalhostNodePorts, OutOfWindow};
use sluice_dataplane::{ipvs, nftables, userspace};
use sluice_kernel::ipvs::{Key, Service};

/// Every mode, in the order in which they are shown.
pub(crate) const MODES: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

/// The rules of a Service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rules {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) service: String,
    pub(crate) modes: Vec<ModeRules>,
    /// The tables of the nftables mode, or else of the IPVS mode: `nft -j -f` loads this file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nftables: Vec<Value>,
    /// Which `nft` loads them, and why no older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nftables_needs: Option<String>,
}

/// `nft` 1.0.6 reads a map's data from one name of a type only, and knows no `typeof` in JSON (`json_parse_cmd_add_set` in
/// its `src/parser_json.c`).
const NEEDS: &str = "an nft that reads typeof in JSON, newer than 1.0.6: there, maps to an address and port, and keys \
     without a named type, can only be written as text";

/// The rules of one mode in one family.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ModeRules {
    pub(crate) mode: String,
    pub(crate) family: String,
    /// Whose words the text is in.
    pub(crate) format: String,
    pub(crate) text: String,
}

/// The modes that a word names: one of them, or all.
pub(crate) fn modes(word: &str) -> Result<Vec<Mode>, String> {
    if matches!(word, "" | "all") {
        return Ok(MODES.to_vec());
    }
    let found = Mode::from_name(word).map(|mode| vec![mode]);
    found.ok_or_else(|| {
        let shown = word.escape_debug();
        format!("\"{shown}\" is no mode; there are nftables, iptables, ipvs, userspace and all")
    })
}

/// The rules of a Service in these modes; each table has that Service alone.
pub(crate) fn of(
    name: &ServiceName,
    tables: &[ForwardingTable],
    modes: &[Mode],
    config: Option<&Config>,
) -> Rules {
    let mut rules = Rules {
        api_version: sluice_explain::API_VERSION.to_owned(),
        kind: "Rules".to_owned(),
        service: name.to_string(),
        modes: Vec::new(),
        nftables: Vec::new(),
        nftables_needs: None,
    };
    for mode in modes {
        let mut objects = Vec::new();
        for table in tables {
            rules.modes.extend(of_mode(*mode, table, config, &mut objects));
        }
        if rules.nftables.is_empty() {
            rules.nftables_needs = (!objects.is_empty()).then(|| NEEDS.to_owned());
            rules.nftables = objects;
        }
    }
    rules
}

fn of_mode(
    mode: Mode,
    table: &ForwardingTable,
    config: Option<&Config>,
    objects: &mut Vec<Value>,
) -> Vec<ModeRules> {
    let one = |format: &str, text: String| ModeRules {
        mode: mode.to_string(),
        family: table.family.to_string(),
        format: format.to_owned(),
        text,
    };
    match mode {
        Mode::Nftables => {
            let ruleset = nftables::ruleset(table);
            objects.extend(nft::objects(&ruleset));
            vec![one("nft list", nft::text(&ruleset))]
        }
        Mode::Iptables => {
            let options = iptables_options(config);
            vec![one("iptables-save", iptables::saved(table, options))]
        }
        Mode::Ipvs => {
            let ruleset = ipvs::ruleset(table);
            objects.extend(nft::objects(&ruleset));
            let scheduler = ipvs_scheduler(config);
            let plans = table.services.values();
            let services = plans.map(|plan| virtual_services(plan, &scheduler));
            vec![one("ipvsadm -Sn", services.collect()), one("nft list", nft::text(&ruleset))]
        }
        Mode::Userspace => {
            let plans = table.services.values();
            vec![one("relays", plans.map(|plan| relays(plan)).collect())]
        }
    }
}

/// The form of rules that a configuration asks for.
pub(crate) fn iptables_options(config: Option<&Config>) -> iptables::Options {
    let open = config.is_none_or(|config| config.localhost_node_ports);
    iptables::Options {
        layout: Layout::Compact,
        localhost_node_ports: match open {
            true => LocalhostNodePorts::Open,
            false => LocalhostNodePorts::Closed,
        },
        out_of_window: OutOfWindow::Drop,
    }
}

/// The scheduler of virtual services that a configuration asks for.
pub(crate) fn ipvs_scheduler(config: Option<&Config>) -> Arc<str> {
    let scheduler = config.map(|config| &*config.ipvs.scheduler).unwrap_or_default();
    if scheduler.is_empty() { "rr" } else { scheduler }.into()
}

/// As `ipvsadm -Sn` prints them.
fn virtual_services(plan: &ServicePlan, scheduler: &Arc<str>) -> String {
    let mut text = String::new();
    for (service, destinations) in ipvs::virtual_services_of(plan, scheduler) {
        let Service { key: Key::Address { ip, protocol, port }, persistence, .. } = service else {
            continue;
        };
        let flag = match protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
            Protocol::Sctp => "--sctp-service",
        };
        let at = SocketAddr::new(ip, port);
        let sticky = persistence.map(|it| format!(" -p {}", it.timeout)).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(text, "-A {flag} {at} -s {scheduler}{sticky}");
        for (ip, port) in destinations {
            let _ = writeln!(text, "-a {flag} {at} -r {} -m -w 1", SocketAddr::new(ip, port));
        }
    }
    text
}

/// A line for each relay: what leads to it, and where it leads.
fn relays(plan: &ServicePlan) -> String {
    let mut text = String::new();
    for (port, pool) in userspace::relayed(plan) {
        let name = if port.name.is_empty() { "(no name)" } else { &port.name };
        let policy = match pool {
            PoolKind::Cluster => "Cluster",
            PoolKind::Local => "Local",
        };
        let frontends: Vec<String> = port.frontends.iter().map(|it| it.at.to_string()).collect();
        let to = port.pool(pool).iter().map(|to| SocketAddr::new(to.ip, to.port).to_string());
        let to: Vec<String> = to.collect();
        let _ = writeln!(
            text,
            "{name} {} policy {policy}: {} -> {}",
            port.protocol,
            frontends.join(", "),
            to.join(", ")
        );
    }
    text
}

/// As people read them: a headline for each mode and family.
pub(crate) fn shown(rules: &Rules) -> String {
    let mut text = String::new();
    for ModeRules { mode, family, format, text: lines } in &rules.modes {
        let lines = if lines.is_empty() { "# nothing\n" } else { lines };
        let _ = write!(text, "# {}: mode {mode}, {family}, as {format}\n{lines}\n", rules.service);
    }
    if rules.modes.is_empty() {
        let _ =
            writeln!(text, "# {} has no address here, or another Service has it", rules.service);
    }
    text
}

/// The tables of one Service among all that are planned.
pub(crate) fn tables_of(
    name: &ServiceName,
    planned: impl Fn(Family) -> Option<ForwardingTable>,
) -> Vec<ForwardingTable> {
    let tables = Family::BOTH.into_iter().filter_map(planned);
    let tables = tables.map(|mut table| {
        table.services.retain(|other, _| other == name);
        table
    });
    tables.filter(|table| !table.services.is_empty()).collect()
}
