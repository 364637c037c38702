//! The pure part of the mode: the cost of a change, the same rules after any order of changes, and the same
//! result by prefixes as by one list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::dispatch::{Dispatch, Entry, Key, LONGEST};
use super::line::{Chains, Line};
use super::names::{self, ChainId};
use super::rule::{Match, Rule};
use super::service::LONGEST_POOL;
use super::strict_programs::{BUILTIN, Model};
use super::tree_tests::{any_key, entry, laid_out};
use super::*;
use sluice_core::model::{Change, Condition, Service, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::fixtures::{any_change, endpoint, host, ip, service, slice, snapshot};
use sluice_core::plan::{NodePortAddresses, Planner, PodDetector, build};

pub(super) const OPTIONS: Options = Options {
    layout: Layout::Compact,
    localhost_node_ports: LocalhostNodePorts::Open,
    out_of_window: OutOfWindow::Drop,
};

pub(super) fn mode() -> Iptables<Model> {
    Iptables::new(Model::default(), OPTIONS)
}

pub(super) fn scope<'a>(services: impl IntoIterator<Item = &'a ServiceName>) -> Scope {
    Scope { services: services.into_iter().cloned().collect(), full: false }
}

pub(super) fn sync(mode: &mut Iptables<Model>, table: &ForwardingTable, scope: &Scope) -> Report {
    let report = mode.sync(table, scope).expect("the model accepts it");
    assert_eq!(report.refused, []);
    let chains = mode.applied.as_ref().map(|desired| desired.chains()).unwrap_or_default();
    for owned in &report.owned {
        let here = chains.iter().filter(|(id, _)| id.table.name() == owned.kind);
        let rules: usize = here.map(|(_, lines)| lines.len()).sum();
        assert_eq!(owned.count, rules, "rules of {}", owned.kind);
    }
    report
}

/// Chains that a script writes.
fn written(script: &str) -> Vec<&str> {
    let names = script.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    names.collect()
}

pub(super) fn many(count: u16, endpoints: u8) -> Snapshot {
    let mut services = Vec::new();
    let mut slices = Vec::new();
    for n in 0..count {
        let [high, low] = n.to_be_bytes();
        let mut web = service(&format!("web-{n}"), &format!("10.96.{high}.{low}"));
        web.ports[0].node_port = None;
        services.push(web);
        let pods = (0..endpoints).map(|e| {
            endpoint(&format!("10.{}.{high}.{low}", 100 + u16::from(e)), Condition::Ready, e == 0)
        });
        slices.push(slice(&format!("web-{n}"), "1", pods.collect()));
    }
    snapshot(services, slices)
}

#[test]
fn a_change_writes_the_chains_that_it_is_about() {
    let mut snapshot = many(1000, 5);
    let mut planner = Planner::new(Family::V4, "node-a", host());
    planner.update(&snapshot, &snapshot.services.keys().cloned().collect());
    let mut mode = mode();
    assert!(sync(&mut mode, planner.table(), &Scope::default()).operations > 1000);
    assert_eq!(sync(&mut mode, planner.table(), &Scope::default()).operations, 0, "no change");
    let mut change = |change: Change| {
        let mut dirty = BTreeSet::new();
        snapshot.apply(change, &mut dirty);
        let effect = planner.update(&snapshot, &dirty);
        mode.programs.script.clear();
        let saves = mode.programs.saves;
        sync(&mut mode, planner.table(), &scope(&effect.services));
        assert_eq!(mode.programs.saves, saves, "nothing is read");
        mode.programs.script.clone()
    };
    let pods = |count: u8| {
        let pods = (0..count).map(|e| endpoint(&format!("10.9.0.{e}"), Condition::Ready, false));
        slice("web-77", "1", pods.collect())
    };
    let script = change(Change::Slice(pods(6)));
    assert_eq!(written(&script).len(), 2, "an endpoint more, and the canary:\n{script}");
    assert_eq!(script.lines().count(), 12, "{script}");
    let script =
        change(Change::Service(Service { ports: vec![], ..service("web-77", "10.96.0.77") }));
    let names = written(&script);
    assert!(
        names.len() <= 5,
        "a Service leaves its part of each dispatch, and canaries: {names:?}"
    );
    assert!(script.contains("-X KUBE-SVC-"), "{script}");
}

#[test]
fn a_thousand_services_need_less_than_half_of_the_rules_of_the_go_kube_proxy() {
    let nat = |layout| {
        let (table, _) = build(Family::V4, "node-a", host(), &many(1000, 5));
        let mut mode = Iptables::new(Model::default(), Options { layout, ..OPTIONS });
        sync(&mut mode, &table, &Scope::default());
        mode.programs.chains[&Table::Nat].values().map(Vec::len).sum::<usize>()
    };
    let formula = 5 + 1000 * (2 + 3 * 5);
    let classic = nat(Layout::Classic);
    assert!(classic.abs_diff(formula) < 10, "{classic} rules, upstream has {formula}");
    let compact = nat(Layout::Compact);
    assert!(compact * 100 < formula * 45, "{compact} of {formula}");
}

#[test]
fn a_flush_is_noticed_and_healed_and_rules_of_others_stay() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(3, 2));
    let mut mode = mode();
    mode.programs.table(Table::Nat).insert("OTHERS".to_owned(), vec!["-j ACCEPT".to_owned()]);
    mode.programs.table(Table::Nat).insert("KUBE-SEP-OLD".to_owned(), vec!["-j DROP".to_owned()]);
    sync(&mut mode, &table, &Scope::default());
    let whole = mode.programs.chains.clone();
    assert!(!whole[&Table::Nat].contains_key("KUBE-SEP-OLD"), "leftovers go");
    for (what, table_hit, also_chains) in
        [("-F nat", Table::Nat, false), ("-F -X filter", Table::Filter, true)]
    {
        let hit = mode.programs.table(table_hit);
        hit.values_mut().for_each(Vec::clear);
        if also_chains {
            hit.retain(|name, _| BUILTIN.contains(&name.as_str()));
        }
        let report = sync(&mut mode, &table, &Scope::default());
        assert_eq!(report.observed, Observation::Drift, "{what}");
        let mut now = mode.programs.chains.clone();
        if table_hit == Table::Nat {
            let others = now.get_mut(&Table::Nat).and_then(|nat| nat.get_mut("OTHERS"));
            others.expect("not ours").push("-j ACCEPT".to_owned());
        }
        assert_eq!(now, whole, "{what}");
        mode.programs.chains.clone_from(&whole);
    }
}

#[test]
fn a_refused_service_is_left_out_and_named() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(20, 2));
    let mut mode = mode();
    mode.programs.refuses = vec!["10.100.0.7:", "10.100.0.9:"];
    let report = mode.sync(&table, &Scope::default()).expect("the others are applied");
    let names: Vec<String> = report.refused.iter().map(|r| r.service.to_string()).collect();
    assert_eq!(names, ["default/web-7", "default/web-9"]);
    assert!(report.refused[0].reason.contains("-A KUBE-SVC-"), "{:?}", report.refused);
    let text = mode.programs.save(Table::Nat).expect("the model's tables");
    assert!(text.contains("10.100.0.8:") && !text.contains("web-7"), "{text}");
    // The loop sets it again with every sync.
    mode.programs.refuses.clear();
    let again = scope(report.refused.iter().map(|r| &r.service));
    sync(&mut mode, &table, &again);
    let text = mode.programs.save(Table::Nat).expect("the model's tables");
    assert!(text.contains("10.100.0.7:") && text.contains("10.100.0.9:"), "{text}");
}

#[test]
fn services_refused_at_commit_are_found_by_halves() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(200, 2));
    let mut mode = mode();
    mode.programs.refuses_at_commit = vec!["10.100.0.7:", "10.100.0.123:"];
    let report = mode.sync(&table, &Scope::default()).expect("the others are applied");
    let names: Vec<String> = report.refused.iter().map(|r| r.service.to_string()).collect();
    assert_eq!(names, ["default/web-123", "default/web-7"]);
    let reason = &report.refused[0].reason;
    assert!(reason.contains("invalid argument"), "{reason}");
    assert!(mode.programs.restores < 40, "{} scripts", mode.programs.restores);
    let text = mode.programs.save(Table::Nat).expect("the model's tables");
    assert!(text.contains("10.100.0.8:") && !text.contains("web-123 "), "{text}");
    // In a later sync there is one suspect for each.
    mode.programs.restores = 0;
    let again = scope(report.refused.iter().map(|r| &r.service));
    let report = mode.sync(&table, &again).expect("the others stay");
    assert_eq!(report.refused.len(), 2);
    assert!(mode.programs.restores <= 5, "{} scripts", mode.programs.restores);
    mode.programs.refuses_at_commit.clear();
    sync(&mut mode, &table, &again);
    let text = mode.programs.save(Table::Nat).expect("the model's tables");
    assert!(text.contains("10.100.0.7:") && text.contains("10.100.0.123:"), "{text}");
}

#[test]
fn what_no_service_is_to_blame_for_is_an_error() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(200, 2));
    let mut mode = mode();
    mode.programs.refuses_at_commit = vec!["RELATED,ESTABLISHED"];
    let error = mode.sync(&table, &Scope::default()).expect_err("nothing can be written");
    assert!(error.to_string().contains("invalid argument"), "{error}");
    assert_eq!(mode.programs.restores, 2);
}

#[test]
fn too_many_services_to_blame_are_left_out_with_their_neighbours() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(100, 2));
    let mut mode = mode();
    mode.programs.refuses_at_commit = vec!["--to-destination 10.10"];
    let report = mode.sync(&table, &Scope::default()).expect("the base is applied");
    assert_eq!(report.refused.len(), 100);
    assert!(mode.programs.restores < 60, "{} scripts", mode.programs.restores);
}

#[test]
fn dozens_of_services_with_refused_lines_do_not_stop_the_others() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(100, 2));
    let mut mode = mode();
    mode.programs.refuses = vec!["web-1", "web-2"];
    let report = mode.sync(&table, &Scope::default()).expect("some are applied");
    assert!(report.refused.len() >= 22, "{}", report.refused.len());
    assert!(mode.programs.restores < 80, "{} scripts", mode.programs.restores);
    let full = Scope { full: true, ..Scope::default() };
    mode.programs.refuses.clear();
    sync(&mut mode, &table, &full);
    let text = mode.programs.save(Table::Nat).expect("the model's tables");
    assert!(text.contains("10.100.0.1:") && text.contains("10.100.0.99:"), "{text}");
}

#[test]
fn a_lock_that_is_held_is_an_error_after_which_all_is_looked_at() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(2, 2));
    let mut mode = mode();
    mode.programs.locked = true;
    let error = mode.sync(&table, &Scope::default()).expect_err("nothing can be written");
    assert!(error.to_string().contains("lock"), "{error}");
    mode.programs.locked = false;
    sync(&mut mode, &table, &Scope::default());
    assert!(mode.programs.rules() > 20);
}

fn port_of(table: &ForwardingTable) -> &sluice_core::plan::PortPlan {
    let plan = table.services.values().next().expect("a Service");
    plan.ports.first().expect("a port")
}

/// The probability at which each endpoint is drawn by a chain that is entered with `probability`.
fn draws(
    nat: &BTreeMap<String, Vec<String>>,
    chain: &str,
    probability: f64,
    shares: &mut Vec<f64>,
) {
    let mut left = probability;
    assert!(nat[chain].len() <= 1 + LONGEST_POOL, "{chain} is a long way");
    for rule in nat[chain].iter().filter(|rule| !rule.contains("KUBE-MARK-MASQ")) {
        let word = rule.split("--probability ").nth(1).and_then(|rest| rest.split(' ').next());
        let text: f64 = word.map_or(1.0, |word| word.parse().expect("a number"));
        // As iptables reads it.
        let taken = (text * 2_f64.powi(31)).round() / 2_f64.powi(31);
        match rule.rsplit_once("-j ").expect("a target").1 {
            target if target.starts_with("KUBE-") => draws(nat, target, left * taken, shares),
            _ => shares.push(left * taken),
        }
        left *= 1.0 - taken;
    }
}

#[test]
fn an_endpoint_more_in_a_large_pool_writes_a_part_of_it() {
    let world = |size: usize| {
        let pods = (0..size)
            .map(|e| endpoint(&format!("10.9.{}.{}", e / 250, e % 250), Condition::Ready, false));
        snapshot(vec![service("web", "10.96.0.1")], vec![slice("web", "1", pods.collect())])
    };
    let mut mode = mode();
    sync(&mut mode, &build(Family::V4, "node-a", host(), &world(1000)).0, &Scope::default());
    let (table, _) = build(Family::V4, "node-a", host(), &world(1001));
    sync(&mut mode, &table, &scope(&[ServiceName::new("default", "web")]));
    let script = &mode.programs.script;
    assert_eq!(written(script).len(), 3, "with the canary: {script}");
    assert!(script.lines().count() < 120, "{script}");
}

#[test]
fn probabilities_are_uniform_to_the_last_bit_that_the_kernel_compares() {
    for size in [2_usize, 3, 5, 7, 100, 1000] {
        let pods = (0..size)
            .map(|e| endpoint(&format!("10.9.{}.{}", e / 250, e % 250), Condition::Ready, false));
        let snapshot =
            snapshot(vec![service("web", "10.96.0.1")], vec![slice("web", "1", pods.collect())]);
        let (table, _) = build(Family::V4, "node-a", host(), &snapshot);
        let mut mode = mode();
        sync(&mut mode, &table, &Scope::default());
        let mut shares = Vec::new();
        let pool = names::PortName::new(&ServiceName::new("default", "web"), port_of(&table));
        let pool = pool.pool(sluice_core::plan::PoolKind::Cluster);
        draws(&mode.programs.chains[&Table::Nat], &pool, 1.0, &mut shares);
        assert_eq!(shares.len(), size);
        let fair = 1.0 / f64::from(u32::try_from(size).expect("small"));
        let worst = shares.iter().map(|share| (share - fair).abs()).fold(0.0, f64::max);
        assert!(worst < 2_f64.powi(-31), "{size} endpoints: off by {worst:e}");
    }
}

#[test]
fn comments_cannot_end_a_quotation_or_a_line() {
    let rule = Rule::new().comment("a\"b\n-A INPUT\\").when(Match::SourceIsLocal);
    let text = "-m comment --comment \"a?b?-A INPUT?\" -m addrtype --src-type LOCAL";
    assert_eq!(rule.to_string(), text);
    let long = "x".repeat(300);
    assert!(Rule::new().comment(&long).to_string().len() < 290);
}

#[test]
fn several_pod_prefixes_are_told_apart_in_a_chain_of_their_own() {
    let mut host = host();
    host.pods = PodDetector::Cidrs(
        ["10.244.0.0/16", "10.245.0.0/16"].map(|net| net.parse().expect("prefix")).into(),
    );
    let (table, _) = build(Family::V4, "node-a", host, &many(1, 1));
    let mut mode = mode();
    sync(&mut mode, &table, &Scope::default());
    let nat = &mode.programs.chains[&Table::Nat];
    let wanted = ["-s 10.244.0.0/16 -j RETURN", "-s 10.245.0.0/16 -j RETURN", "-j KUBE-MARK-MASQ"];
    assert_eq!(nat[names::MARK_NOT_POD], wanted);
}

/// The rules that match a packet to `key`, and how many it traverses.
fn walk(chains: &Chains, root: &ChainId, key: Key, passed: &mut usize) -> Vec<Line> {
    let mut found = Vec::new();
    for line in &chains[root] {
        *passed += 1;
        let target = line.text.rsplit("-j ").next().unwrap_or_default();
        if matches(&line.text, key) {
            if target.starts_with("KUBE-SVC-") || target.starts_with("KUBE-EXT-") {
                found.extend(walk(chains, &ChainId::new(root.table, target), key, passed));
            } else {
                found.push(line.clone());
            }
        }
    }
    found
}

fn matches(rule: &str, key: Key) -> bool {
    let after = |flag: &str| rule.split(flag).nth(1).and_then(|rest| rest.split(' ').next());
    match key {
        Key::V4(bits) => {
            let net: ipnet::IpNet = after("-d ").expect("a prefix").parse().expect("a prefix");
            net.contains(&IpAddr::from(Ipv4Addr::from_bits(bits)))
        }
        Key::V6(bits) => {
            let net: ipnet::IpNet = after("-d ").expect("a prefix").parse().expect("a prefix");
            net.contains(&IpAddr::from(std::net::Ipv6Addr::from_bits(bits)))
        }
        Key::Port(protocol, port) => {
            let ports = after("--dport ").expect("ports");
            let (low, high) = ports.split_once(':').unwrap_or((ports, ports));
            let within = |low: &str, high: &str| {
                (low.parse().expect("a port")..=high.parse().expect("a port")).contains(&port)
            };
            after("-p ") == Some(&protocol.to_string()) && within(low, high)
        }
    }
}

proptest! {
    #[test]
    fn prefixes_lead_to_the_rule_that_one_list_leads_to(
        keys in prop::collection::btree_set(any_key(), 1..1500),
    ) {
        for of in 0..3 {
            let same = |key: &&Key| match key {
                Key::V4(_) => of == 0,
                Key::V6(_) => of == 1,
                Key::Port(..) => of == 2,
            };
            let which = if of == 2 { Dispatch::NodePorts } else { Dispatch::Services };
            let keys: Vec<Key> = keys.iter().filter(same).copied().collect();
            let entries: BTreeSet<Entry> = keys.iter().map(|key| entry(*key)).collect();
            let chains = laid_out(which, &entries);
            for key in keys.iter().step_by(7) {
                let found = walk(&chains, &which.root(), *key, &mut 0);
                prop_assert_eq!(found, vec![entry(*key).line]);
            }
        }
    }

    #[test]
    fn any_order_of_changes_ends_in_the_rules_of_a_fresh_start(
        changes in prop::collection::vec(any_change(), 1..24),
    ) {
        let mut snapshot = Snapshot::default();
        let mut planner = Planner::new(Family::V4, "node-a", host());
        let mut mode = mode();
        for change in changes {
            let mut dirty = BTreeSet::new();
            snapshot.apply(change, &mut dirty);
            let effect = planner.update(&snapshot, &dirty);
            sync(&mut mode, planner.table(), &scope(&effect.services));
        }
        let mut fresh = self::mode();
        sync(&mut fresh, planner.table(), &Scope::default());
        prop_assert_eq!(&mode.programs.chains, &fresh.programs.chains);
        let full = Scope { full: true, ..Scope::default() };
        prop_assert_eq!(sync(&mut mode, planner.table(), &full).operations, 0);
        let mut restarted = Iptables::new(mode.programs.clone(), OPTIONS);
        prop_assert_eq!(sync(&mut restarted, planner.table(), &Scope::default()).operations, 0);
    }
}

#[test]
fn the_way_through_prefixes_is_short() {
    let longest = |count: u16| {
        let key = |n: u16| Key::of(ip("10.96.0.0")).with_low(n);
        let entries: BTreeSet<Entry> =
            (0..count).map(|n| entry(key(n.wrapping_mul(6007)))).collect();
        let chains = laid_out(Dispatch::Services, &entries);
        let passed = |n: u16| {
            let mut passed = 0;
            walk(&chains, &Dispatch::Services.root(), key(n.wrapping_mul(6007)), &mut passed);
            passed
        };
        (0..count).step_by(37).map(passed).max()
    };
    assert_eq!(longest(10), Some(10));
    assert!(longest(10_000) <= Some(LONGEST + 2 * 16), "{:?}", longest(10_000));
}

impl Key {
    fn with_low(self, low: u16) -> Key {
        match self {
            Key::V4(bits) => Key::V4(bits | u32::from(low)),
            other => other,
        }
    }
}

#[test]
fn localhost_is_opened_when_it_becomes_a_node_port_address() {
    let mut mode = mode();
    let mut table = build(Family::V4, "node-a", host(), &many(1, 1)).0;
    let mut asked = |ips: &[&str]| {
        table.host.node_ports = NodePortAddresses::Only(ips.iter().map(|at| ip(at)).collect());
        sync(&mut mode, &table, &Scope::default());
        let rules = mode.programs.table(Table::Nat)[names::SERVICES].join("\n");
        (mode.programs.localnet, rules.contains("-d 127.0.0.1/32"))
    };
    assert_eq!(asked(&["192.0.2.1"]), (0, false));
    assert_eq!(asked(&["192.0.2.1", "127.0.0.1"]), (1, true), "once");
    assert_eq!(asked(&["192.0.2.7", "127.0.0.1"]), (1, true), "it is still open");
    assert_eq!(asked(&["192.0.2.7"]), (1, false));
    table.host.node_ports = NodePortAddresses::AnyLocal;
    let full = Scope { full: true, ..Scope::default() };
    sync(&mut mode, &table, &full);
    assert_eq!(mode.programs.localnet, 2, "all addresses, and the kernel is looked at");
}
