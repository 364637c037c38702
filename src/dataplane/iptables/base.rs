//! The chains that always exist, and the jumps to them from built-in chains.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::dispatch::{Dispatch, loopback, only};
use super::form::{Form, Layout, LocalhostNodePorts, OutOfWindow};
use super::line::{Chains, Line};
use super::names::{self, ChainId};
use super::rule::{Match, Rule, Sense, Target};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{ForwardingTable, Host, NodePortAddresses, PodDetector};
use sluice_kernel::xtables::Table;

/// A jump from a built-in chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) at: ChainId,
    pub(super) to: Arc<str>,
    pub(super) line: Line,
}

/// Whether a hook's chain is for new connections only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    New,
    All,
}

/// Jumps from built-in chains, in the order in which they must stand there. All of them are upstream's,
/// letter by letter (`pkg/proxy/iptables/proxier.go`, iptablesJumpChains): before the Go kube-proxy
/// deletes the chains it unlinks them by these very rules, and a jump that it does not know would make
/// its deletion fail as a whole (`pkg/proxy/iptables/cleanup.go`).
pub(super) fn hooks(family: Family, form: Form) -> Vec<Hook> {
    use Of::{All, New};
    use Table::{Filter, Nat};
    let mut list = Vec::new();
    let mut hook = |table, builtin: &str, to: &str, comment: &str, of| {
        let rule = if of == New {
            Rule::new().when(Match::CtState(Sense::Is, "NEW"))
        } else {
            Rule::new()
        };
        let rule = if comment.is_empty() { rule } else { rule.comment(comment) };
        let line = form.line(&rule.jump(to));
        list.extend(line.map(|line| Hook {
            at: ChainId::new(table, builtin),
            to: to.into(),
            line,
        }));
    };
    let (firewall, portals) = ("kubernetes load balancer firewall", "kubernetes service portals");
    for builtin in ["INPUT", "FORWARD", "OUTPUT"] {
        if builtin == "INPUT" {
            let checks = "kubernetes health check service ports";
            hook(Filter, builtin, names::NODE_PORTS, checks, All);
        }
        hook(Filter, builtin, names::FIREWALL, firewall, New);
        let (to, comment) = match builtin {
            "INPUT" => (names::EXTERNAL, "kubernetes externally-visible service portals"),
            _ => (names::SERVICES, portals),
        };
        hook(Filter, builtin, to, comment, New);
        if builtin == "FORWARD" {
            hook(Filter, builtin, names::FORWARD, "kubernetes forwarding rules", All);
        } else if protects_localnet(family, form) {
            hook(Filter, builtin, names::LOCALNET, "", All);
        }
    }
    hook(Nat, "PREROUTING", names::SERVICES, portals, All);
    hook(Nat, "OUTPUT", names::SERVICES, portals, All);
    hook(Nat, "POSTROUTING", names::POSTROUTING, "kubernetes postrouting rules", All);
    list
}

fn protects_localnet(family: Family, form: Form) -> bool {
    family == Family::V4 && form.localhost_node_ports == LocalhostNodePorts::Open
}

/// Whether node ports answer on localhost: where they are open on every address of the node, or on this
/// one by name.
pub(super) fn opens_localhost(host: &Host, family: Family, form: Form) -> bool {
    protects_localnet(family, form)
        && match &host.node_ports {
            NodePortAddresses::AnyLocal => true,
            NodePortAddresses::Only(ips) => ips.iter().any(IpAddr::is_loopback),
        }
}

/// What a canary holds: gone after a flush of the table, whether or not chains are deleted too, and
/// another after older rules were restored over ours. That of the table mangle, where we have no
/// other rule, is empty: the Go kube-proxy deletes it without emptying it (upstream:
/// `pkg/proxy/iptables/cleanup.go`).
pub(super) fn canary(table: Table, digest: u64, form: Form) -> Vec<Line> {
    let text =
        format!("the rules of kube-proxy are in place as long as this one is: {digest:016x}");
    let rule = Rule::new().comment(text).then(Target::Return);
    form.line(&rule).filter(|_| table != Table::Mangle).into_iter().collect()
}

/// All chains that do not belong to a Service, but for those of dispatches; of these, only what comes
/// after the rules of Services.
pub(super) fn chains(table: &ForwardingTable, form: Form) -> Chains {
    let mut chains = Chains::new();
    let mut put = |table, name: &str, rules: Vec<Rule>| {
        let lines = rules.iter().filter_map(|rule| form.line(rule)).collect();
        chains.insert(ChainId::new(table, name), lines);
    };
    let (family, mark) = (table.family, table.host.masquerade_mark);
    put(Table::Nat, names::MARK_MASQ, vec![Rule::new().then(Target::SetMark(mark))]);
    put(Table::Nat, names::POSTROUTING, postrouting(table, form));
    if let PodDetector::Cidrs(nets) = &table.host.pods
        && nets.len() > 1
    {
        let mut rules: Vec<Rule> =
            nets.iter().map(|net| Rule::new().from(Sense::Is, *net).then(Target::Return)).collect();
        rules.push(Rule::new().jump(names::MARK_MASQ));
        put(Table::Nat, names::MARK_NOT_POD, rules);
    }
    put(Table::Filter, names::FORWARD, forward(mark, form));
    put(Table::Filter, names::NODE_PORTS, health_checks(table));
    let reset = Rule::new().protocol(Protocol::Tcp).then(Target::Reset);
    put(Table::Filter, names::REJECT, vec![reset, Rule::new().then(Target::Reject(family))]);
    if protects_localnet(family, form) {
        put(Table::Filter, names::LOCALNET, vec![localnet()]);
    }
    for dispatch in Dispatch::ALL {
        let root = dispatch.root();
        put(root.table, &root.name, after_services(dispatch, table, form));
    }
    chains
}

/// What comes before the rules of Services. Traffic of this node to external addresses is refused as
/// well, which upstream has no jump for: KUBE-SERVICES leads there, from OUTPUT and from FORWARD.
pub(super) fn before_services(dispatch: Dispatch) -> Option<Line> {
    let external = || Line::of(&Rule::new().jump(names::EXTERNAL));
    (dispatch == Dispatch::ClusterIps).then(external)
}

fn after_services(dispatch: Dispatch, table: &ForwardingTable, form: Form) -> Vec<Rule> {
    match dispatch {
        Dispatch::Services => {
            let last =
                "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
            let rule = |rule: Rule| rule.comment(last);
            node_port_addresses(table, form, rule, names::NODE_PORTS)
        }
        Dispatch::External => {
            node_port_addresses(table, form, |rule| rule, names::EXTERNAL_NODE_PORTS)
        }
        Dispatch::ClusterIps => {
            let unallocated = |net| {
                let rule = Rule::new().to(Sense::Is, net);
                rule.comment("no service has this address").then(Target::Drop)
            };
            let guarded = |_: &&IpNet| table.host.cluster_ip_guard.drops_addresses();
            table.service_cidrs.iter().filter(guarded).map(|net| unallocated(*net)).collect()
        }
        Dispatch::NodePorts | Dispatch::Firewall | Dispatch::ExternalNodePorts => Vec::new(),
    }
}

fn node_port_addresses(
    table: &ForwardingTable,
    form: Form,
    about: impl Fn(Rule) -> Rule,
    chain: &str,
) -> Vec<Rule> {
    match &table.host.node_ports {
        NodePortAddresses::AnyLocal => {
            let rule = if protects_localnet(table.family, form) {
                Rule::new()
            } else {
                Rule::new().to(Sense::IsNot, loopback(table.family))
            };
            vec![about(rule).when(Match::DestinationIsLocal).jump(chain)]
        }
        NodePortAddresses::Only(ips) => {
            ips.iter().map(|ip| about(Rule::new().to(Sense::Is, only(*ip))).jump(chain)).collect()
        }
    }
}

/// An endpoint that reaches itself gets this node's address as the source, or it would answer past
/// address translation. One rule compares source and destination, whatever the number of endpoints;
/// the classic layout has a rule per endpoint.
fn postrouting(table: &ForwardingTable, form: Form) -> Vec<Rule> {
    let (family, mark) = (table.family, table.host.masquerade_mark);
    // It does nothing but count: `CountedRule::LOCALHOST_NODE_PORTS`.
    let on_localhost = Rule::new()
        .comment("connections to node ports on localhost")
        .when(Match::TranslatedFrom(loopback(family)));
    let counts = opens_localhost(&table.host, family, form);
    let on_localhost = counts.then_some(on_localhost);
    let translated = Match::CtState(Sense::Is, "DNAT");
    let hairpin = Rule::new()
        .comment("a pod that reached itself through a service")
        .when(translated)
        .when(Match::ToItself(family))
        .jump(names::MARK_MASQ);
    let masquerade = Target::Masquerade { random_fully: true };
    let rest = [
        Rule::new().when(Match::Mark(Sense::IsNot, mark)).then(Target::Return),
        Rule::new().then(Target::FlipMark(mark)),
        Rule::new().comment("kubernetes service traffic requiring SNAT").then(masquerade),
    ];
    let hairpin = (form.layout == Layout::Compact).then_some(hairpin);
    on_localhost.into_iter().chain(hairpin).chain(rest).collect()
}

fn forward(mark: u32, form: Form) -> Vec<Rule> {
    let comment = "kubernetes forwarding rules";
    let marked = Rule::new().comment(comment).when(Match::Mark(Sense::Is, mark));
    let comment = "kubernetes forwarding conntrack rule";
    let known = Match::CtState(Sense::Is, "RELATED,ESTABLISHED");
    // Such a packet would pass untranslated, and reset the connection at the other end (k/k#74839).
    let invalid = Rule::new().when(Match::CtState(Sense::Is, "INVALID")).then(Target::Drop);
    let invalid = (form.out_of_window == OutOfWindow::Drop).then_some(invalid);
    let accepted = [
        marked.then(Target::Accept),
        Rule::new().comment(comment).when(known).then(Target::Accept),
    ];
    invalid.into_iter().chain(accepted).collect()
}

fn health_checks(table: &ForwardingTable) -> Vec<Rule> {
    let accept = |(name, check): (&_, &sluice_core::plan::HealthCheck)| {
        let rule = Rule::new().protocol(Protocol::Tcp);
        let rule = rule.comment(format!("{name} health check node port"));
        rule.port(Protocol::Tcp, check.port).then(Target::Accept)
    };
    table.health_checks.iter().map(accept).collect()
}

/// With route_localnet, neighbours could reach what listens on 127.0.0.1 only (k/k#90259). The
/// kubelet writes the same rule.
fn localnet() -> Rule {
    let localnet = loopback(Family::V4);
    Rule::new()
        .from(Sense::IsNot, localnet)
        .to(Sense::Is, localnet)
        .comment("block incoming localnet connections")
        .when(Match::CtState(Sense::IsNot, "RELATED,ESTABLISHED,DNAT"))
        .then(Target::Drop)
}
