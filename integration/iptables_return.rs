//! What the Go kube-proxy does to iptables before it works in mode nftables, done to our rules.

use std::collections::BTreeSet;
use std::process::Command;

use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, PodDetector};
use sluice_dataplane::iptables::Layout;
use sluice_dataplane::{Backend, Scope};
use sluice_kernel::xtables::{Table, Variant, Xtables};

use super::{Outcome, every_kind, run, world};

/// The jumps that it takes out first: table, chain, rule (upstream, 1.36: `pkg/proxy/iptables/proxier.go`,
/// iptablesJumpChains). Others it does not know.
const JUMPS: [(&str, &str, &str, &str); 12] = [
    (
        "filter",
        "INPUT",
        NEW,
        "kubernetes externally-visible service portals KUBE-EXTERNAL-SERVICES",
    ),
    (
        "filter",
        "FORWARD",
        NEW,
        "kubernetes externally-visible service portals KUBE-EXTERNAL-SERVICES",
    ),
    ("filter", "INPUT", "", "kubernetes health check service ports KUBE-NODEPORTS"),
    ("filter", "FORWARD", NEW, "kubernetes service portals KUBE-SERVICES"),
    ("filter", "OUTPUT", NEW, "kubernetes service portals KUBE-SERVICES"),
    ("filter", "FORWARD", "", "kubernetes forwarding rules KUBE-FORWARD"),
    ("filter", "INPUT", NEW, "kubernetes load balancer firewall KUBE-PROXY-FIREWALL"),
    ("filter", "OUTPUT", NEW, "kubernetes load balancer firewall KUBE-PROXY-FIREWALL"),
    ("filter", "FORWARD", NEW, "kubernetes load balancer firewall KUBE-PROXY-FIREWALL"),
    ("nat", "OUTPUT", "", "kubernetes service portals KUBE-SERVICES"),
    ("nat", "PREROUTING", "", "kubernetes service portals KUBE-SERVICES"),
    ("nat", "POSTROUTING", "", "kubernetes postrouting rules KUBE-POSTROUTING"),
];

const NEW: &str = "-m conntrack --ctstate NEW ";

/// The chains that it deletes by name (upstream: `pkg/proxy/iptables/cleanup.go`), and the beginnings of
/// those that it looks for in the table nat (isServiceChainName).
const NAT: [&str; 5] =
    ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-PROXY-CANARY"];
const FILTER: [&str; 6] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FORWARD",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
];
const OF_SERVICES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"];

/// Unlinks, flushes and deletes as it does; every step but for an absent jump must succeed.
fn clean_up(family: Family, variant: Variant) {
    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let program = format!("{program}-{variant}");
    for (table, chain, state, what) in JUMPS {
        let (comment, to) = what.rsplit_once(' ').expect("two words at least");
        let rule = |verb: &str| {
            let mut arguments = vec!["-w", "5", "-t", table, verb, chain];
            arguments.extend(state.split_whitespace());
            arguments.extend(["-m", "comment", "--comment", comment, "-j", to]);
            arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let check = Command::new(&program).args(rule("-C")).output().expect("iptables runs");
        if check.status.success() {
            let delete = rule("-D");
            run(&program, &delete.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    let tables = Xtables::new(family, variant);
    for (table, known) in [(Table::Nat, &NAT[..]), (Table::Filter, &FILTER[..])] {
        let looks = table == Table::Nat;
        let goes = |chain: &&String| {
            known.contains(&chain.as_str())
                || looks && OF_SERVICES.iter().any(|prefix| chain.starts_with(prefix))
        };
        let found = chains(&tables.save(table).expect("it can be read"));
        let all: Vec<&String> = found.iter().filter(goes).collect();
        let flushed: String = all.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect();
        let deleted: String = all.iter().map(|chain| format!("-X {chain}\n")).collect();
        let script = format!("*{}\n{flushed}{deleted}COMMIT\n", table.name());
        tables.restore(&script).unwrap_or_else(|error| panic!("{program}: {error}\n{script}"));
    }
    run(&program, &["-w", "5", "-t", "mangle", "-X", "KUBE-PROXY-CANARY"]);
}

/// The chains of a table, but for the built-in ones and that of the kubelet.
fn chains(saved: &str) -> BTreeSet<String> {
    let names = saved.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    names.filter(|n| n.starts_with("KUBE-") && *n != "KUBE-FIREWALL").map(str::to_owned).collect()
}

fn plans(family: Family) -> Vec<ForwardingTable> {
    let mut every_kind = world::table(family, &every_kind(family));
    let mut nets = world::host(family).pods;
    if let PodDetector::Cidrs(nets) = &mut nets {
        let more = if family == Family::V4 { "10.245.0.0/16" } else { "fd00:10:245::/48" };
        nets.push(more.parse().expect("a prefix"));
    }
    every_kind.host.pods = nets;
    let mut plans = vec![every_kind];
    if family == Family::V4 {
        plans.push(world::table(family, &world::many(200, 2)));
    }
    plans
}

/// The Go kube-proxy deletes our chains, and what it does not know by name leads nowhere.
pub(super) fn cleaned(family: Family, variant: Variant) -> Outcome {
    for layout in [Layout::Compact, Layout::Classic] {
        for plan in plans(family) {
            let mut mode = world::mode(family, variant, layout);
            mode.sync(&plan, &Scope::default()).expect("the kernel takes it");
            clean_up(family, variant);
            let tables = Xtables::new(family, variant);
            assert_eq!(chains(&tables.save(Table::Mangle)?), [].into());
            assert_eq!(chains(&tables.save(Table::Nat)?), [].into());
            let saved = tables.save(Table::Filter)?;
            let left = chains(&saved);
            for rule in saved.lines().filter_map(|line| line.strip_prefix("-A ")) {
                let (from, rest) = rule.split_once(' ').expect("a rule has a chain");
                let to = rest.rsplit("-j ").next().and_then(|to| to.split(' ').next());
                let leads = to.is_some_and(|to| left.contains(to));
                assert!(!leads || left.contains(from), "{rule} still leads to a chain of ours");
            }
            for chain in &left {
                let named = ["KUBE-REJECT", "KUBE-EXTERNAL-NODEPORTS"].contains(&chain.as_str());
                let part = OF_SERVICES.iter().any(|prefix| chain.starts_with(prefix));
                assert!(named || part, "{chain}");
            }
        }
    }
    Ok(())
}
