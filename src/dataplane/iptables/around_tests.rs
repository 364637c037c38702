//! Programs that lack extensions, tables that cannot be read, and changes by other programs.

use std::collections::BTreeMap;

use super::extensions::PROBE;
use super::strict_programs::Model;
use super::tests::{OPTIONS, many, mode, scope, sync};
use super::*;
use sluice_core::model::{Condition, Snapshot};
use sluice_core::plan::fixtures::{endpoint, host, service, slice, snapshot};
use sluice_core::plan::{NodePortAddresses, PodDetector, build};

/// A Service with affinity, one that is rejected, and a node port without restrictions.
fn of_every_extension(family: Family) -> ForwardingTable {
    let mut sticky = service("sticky", "10.96.0.1");
    sticky.affinity = Some(600);
    sticky.external_policy = sluice_core::model::TrafficPolicy::Local;
    let mut empty = service("empty", "10.96.0.2");
    empty.ports[0].node_port = Some(30_081);
    let pods = [
        endpoint("10.9.0.1", Condition::Ready, true),
        endpoint("10.9.0.2", Condition::Ready, false),
    ];
    let slices = vec![slice("sticky", "1", pods.into())];
    let mut host = host();
    host.node_ports = NodePortAddresses::AnyLocal;
    let snapshot = snapshot(vec![sticky, empty], slices);
    let (mut table, _) = build(Family::V4, "node-a", host, &snapshot);
    if family == Family::V6 {
        (table.family, table.services) = (family, BTreeMap::new());
        table.host.pods = PodDetector::None;
    }
    table
}

#[test]
fn rules_do_without_an_extension_that_is_not_there() {
    let words = ["-m bpf", "--random-fully", "-m comment", "-m recent", "-m addrtype", "-j REJECT"];
    for (family, at_commit) in [(Family::V4, false), (Family::V4, true), (Family::V6, false)] {
        for word in words {
            let table = of_every_extension(family);
            let mut mode = mode();
            if at_commit {
                mode.programs.refuses_at_commit = vec![word];
            } else {
                mode.programs.refuses = vec![word];
            }
            sync(&mut mode, &table, &Scope::default());
            let text = mode.programs.save(Table::Nat).expect("the model's tables");
            assert!(!text.contains(word) && !text.contains(PROBE), "{word}: {text}");
            assert!(text.contains("MASQUERADE"), "{word}: {text}");
            let served = text.contains("--to-destination 10.9.0.2:80");
            assert_eq!(served, family == Family::V4, "{word}: {text}");
            assert!(mode.programs.restores <= 2, "{word}: {} scripts", mode.programs.restores);
            let full = Scope { full: true, ..Scope::default() };
            assert_eq!(sync(&mut mode, &table, &full).operations, 0, "{word}: it is at rest");
        }
    }
}

#[test]
fn without_bpf_the_layout_is_classic() {
    let table = of_every_extension(Family::V4);
    let mut without = mode();
    without.programs.refuses = vec!["-m bpf"];
    sync(&mut without, &table, &Scope::default());
    let classic = Options { layout: Layout::Classic, ..OPTIONS };
    let mut classic = Iptables::new(Model::default(), classic);
    sync(&mut classic, &table, &Scope::default());
    assert_eq!(without.programs.chains, classic.programs.chains);
}

#[test]
fn an_extension_that_nothing_works_without_is_named() {
    for (word, name) in [
        ("-m statistic", "xt_statistic"),
        ("-m conntrack", "xt_conntrack"),
        ("-m mark", "match mark"),
        ("-j MARK", "target MARK"),
        ("-j MASQUERADE", "xt_MASQUERADE"),
        ("-j DNAT", "xt_nat"),
    ] {
        let mut mode = mode();
        mode.programs.refuses = vec![word];
        let table = of_every_extension(Family::V4);
        let error = mode.sync(&table, &Scope::default()).expect_err("nothing works").to_string();
        assert!(error.contains(name) && error.contains("another proxy mode"), "{word}: {error}");
        mode.programs.refuses.clear();
        sync(&mut mode, &table, &Scope::default());
    }
}

#[test]
fn a_table_that_cannot_be_read_is_written_all_the_same() {
    for (table, native) in [
        (Table::Nat, "OTHERS"),
        (Table::Nat, "PREROUTING"),
        (Table::Nat, "POSTROUTING"),
        (Table::Filter, "FORWARD"),
        (Table::Filter, "OTHERS"),
    ] {
        let case = format!("a native rule in {table} {native}");
        let (before, _) = build(Family::V4, "node-a", host(), &many(3, 2));
        let (after, _) = build(Family::V4, "node-a", host(), &many(2, 2));
        let mut mode = mode();
        mode.programs.table(table).insert("OTHERS".to_owned(), vec!["-j DROP".to_owned()]);
        let uses = vec!["-j KUBE-MARK-MASQ".to_owned()];
        mode.programs.table(Table::Nat).insert("USER".to_owned(), uses);
        mode.programs.table(Table::Nat).insert("KUBE-MARK-MASQ".to_owned(), vec![]);
        sync(&mut mode, &before, &Scope::default());
        let mut fresh = Iptables::new(mode.programs.clone(), OPTIONS);
        sync(&mut fresh, &after, &Scope::default());
        // Jumps that a version without this wrote at each start.
        for _ in 0..2 {
            let rules = mode.programs.table(table).get_mut(native).expect("the chain");
            let ours: Vec<String> =
                rules.iter().filter(|rule| rule.contains("KUBE-")).cloned().collect();
            rules.splice(0..0, ours);
        }
        mode.programs.incompatible = [(table, native)].into();
        let mut tables = mode.programs.clone();
        for start in 1..=3 {
            let mut again = Iptables::new(tables, OPTIONS);
            let report = sync(&mut again, &after, &Scope::default());
            assert_eq!(report.observed, Observation::Asked);
            assert_eq!(again.programs.chains, fresh.programs.chains, "{case}, start {start}");
            let report = sync(&mut again, &after, &Scope::default());
            assert_eq!((report.observed, report.operations), (Observation::None, 0), "{case}");
            assert_eq!(again.unreadable, [table].into(), "{case}");
            tables = again.programs;
        }
    }
}

/// Removes something as another program would, and returns how many syncs it took to notice.
fn noticed_after(
    harm: impl Fn(&mut Model),
    next: impl Fn(usize) -> Scope,
    table: &ForwardingTable,
) -> Option<usize> {
    let mut mode = mode();
    sync(&mut mode, table, &Scope::default());
    let whole = mode.programs.chains.clone();
    harm(&mut mode.programs);
    assert_ne!(mode.programs.chains, whole);
    let noticed =
        (1..=12).find(|n| sync(&mut mode, table, &next(*n)).observed == Observation::Drift);
    assert_eq!(mode.programs.chains, whole, "it is repaired");
    noticed
}

#[test]
fn jumps_that_are_gone_and_older_rules_are_noticed_by_the_next_check() {
    let (table, _) = build(Family::V4, "node-a", host(), &many(3, 2));
    let name = ServiceName::new("default", "web-1");
    let quiet = |_| Scope::default();
    let busy = |_| scope([&name]);
    let places = base::hooks(Family::V4, Form::new(OPTIONS, Lacking::default()));
    for Hook { at, line, .. } in places {
        let rules =
            |model: &mut Model| model.table(at.table).get_mut(&*at.name).map(std::mem::take);
        let flushed = |model: &mut Model| drop(rules(model));
        assert_eq!(noticed_after(flushed, quiet, &table), Some(1), "{at:?} flushed");
        let noticed = noticed_after(flushed, busy, &table);
        assert!(noticed.is_some_and(|n| n <= UNLOOKED), "{at:?} flushed: {noticed:?}");
        let one = |model: &mut Model| {
            let rules = model.table(at.table).get_mut(&*at.name);
            rules.expect("it is there").retain(|rule| **rule != *line.text);
        };
        assert_eq!(noticed_after(one, quiet, &table), Some(1), "{line:?} deleted");
    }
    // Rules that another program saved before a change and restored after it.
    let (older, _) = build(Family::V4, "node-a", host(), &many(3, 3));
    for at in [Table::Nat, Table::Filter] {
        let older = match at {
            Table::Nat => older.clone(),
            _ => build(Family::V4, "node-a", host(), &Snapshot::default()).0,
        };
        let restored = |model: &mut Model| {
            let mut before = mode();
            sync(&mut before, &older, &Scope::default());
            model.chains.insert(at, before.programs.chains[&at].clone());
        };
        assert_eq!(noticed_after(restored, quiet, &table), Some(1), "{at}");
    }
}
