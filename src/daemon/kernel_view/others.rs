//! Chains of other programs that a packet meets: named, not evaluated.

use sluice_config::Mode;
use sluice_core::net::Family;
use sluice_core::plan::Hit;
use sluice_dataplane::{iptables, userspace};
use sluice_kernel::nft::{Hook, HookedChain, Place};
use sluice_kernel::xtables::{Table, legacy_programs, legacy_tables};

/// The table of all modes but iptables.
const OURS: &str = "kube-proxy";

/// In words, in the order in which packets meet them.
pub(super) fn on_the_way(hit: &Hit<'_>, mode: Mode, chains: &[HookedChain]) -> Vec<String> {
    let hooks = hooks(hit, mode);
    let rank = |chain: &HookedChain| match chain.place {
        Place::Device => Some(0),
        Place::Hook(hook) => hooks.iter().position(|other| *other == hook).map(|at| at + 1),
    };
    let mut met: Vec<(usize, i32, String)> = chains
        .iter()
        .filter(|chain| *chain.table != *OURS)
        .filter_map(|chain| Some((rank(chain)?, chain.priority, in_words(chain)?)))
        .collect();
    met.sort();
    let mut words: Vec<String> = met.into_iter().map(|(_, _, words)| words).collect();
    words.extend(legacy(hit.table.family, &hooks));
    words
}

/// The hooks that the first packet of a connection passes.
fn hooks(hit: &Hit<'_>, mode: Mode) -> Vec<Hook> {
    use Hook::{Forward, Input, Output, Postrouting, Prerouting};
    let relayed = mode == Mode::Userspace && userspace::is_relayed(hit.port.protocol);
    let through_this_node = relayed || mode == Mode::Ipvs;
    match (hit.is_from_this_node(), through_this_node) {
        (true, false) => vec![Output, Postrouting],
        (true, true) => vec![Output, Input, Postrouting],
        (false, true) => vec![Prerouting, Input, Output, Postrouting],
        (false, false) => vec![Prerouting, Forward, Postrouting],
    }
}

/// Nothing if no rule of another program is in it, and it lets all pass.
fn in_words(chain: &HookedChain) -> Option<String> {
    let others = chain.rules.iter().flatten().filter(|to| iptables::is_of_proxy(to)).count();
    let count = chain.rules.len() - others;
    let at = match chain.place {
        Place::Device => "at a device".to_owned(),
        Place::Hook(hook) => format!("{hook:?}").to_lowercase(),
    };
    let policy = if chain.drops { ", policy drop" } else { "" };
    (count > 0 || chain.drops).then(|| {
        format!(
            "table {} {}, chain {} ({at}, priority {}): {count} rules{policy}",
            chain.family, chain.table, chain.name, chain.priority
        )
    })
}

/// Tables of iptables-legacy, which nf_tables does not show.
fn legacy(family: Family, hooks: &[Hook]) -> Vec<String> {
    let tables = legacy_tables(family);
    if tables.is_empty() {
        return Vec::new();
    }
    let Some(programs) = legacy_programs(family) else {
        let names: Vec<&str> = tables.iter().map(|table| table.name()).collect();
        return vec![format!(
            "iptables-legacy has the tables {}, and its programs are not installed: not read",
            names.join(", ")
        )];
    };
    let saved = |table: &Table| Some((*table, programs.save(*table).ok()?));
    let builtin: Vec<String> =
        hooks.iter().map(|hook| format!("{hook:?}").to_uppercase()).collect();
    let of_table = |(table, saved): (Table, String)| {
        builtin.iter().filter_map(|chain| legacy_chain(table, chain, &saved)).collect::<Vec<_>>()
    };
    tables.iter().filter_map(saved).flat_map(of_table).collect()
}

fn legacy_chain(table: Table, chain: &str, saved: &str) -> Option<String> {
    let prefix = format!("-A {chain} ");
    let to = |rule: &str| {
        rule.rsplit(" -j ").next().and_then(|to| to.split(' ').next().map(str::to_owned))
    };
    let rules = saved.lines().filter(|line| line.starts_with(&prefix));
    let count = rules.filter(|rule| !to(rule).is_some_and(|to| iptables::is_of_proxy(&to))).count();
    let drops = saved.lines().any(|line| line.starts_with(&format!(":{chain} DROP ")));
    let policy = if drops { ", policy drop" } else { "" };
    (count > 0 || drops)
        .then(|| format!("iptables-legacy table {table}, chain {chain}: {count} rules{policy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_proxy_are_not_those_of_others() {
        let saved = "*filter\n:FORWARD DROP [0:0]\n:INPUT ACCEPT [0:0]\n-A FORWARD -j DOCKER-USER\n\
                     -A FORWARD -m comment --comment \"x\" -j KUBE-SERVICES\n-A INPUT -j KUBE-NODEPORTS\nCOMMIT\n";
        let forward = legacy_chain(Table::Filter, "FORWARD", saved);
        let expected = "iptables-legacy table filter, chain FORWARD: 1 rules, policy drop";
        assert_eq!(forward.as_deref(), Some(expected));
        assert_eq!(legacy_chain(Table::Filter, "INPUT", saved), None);
    }
}
