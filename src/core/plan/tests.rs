//! Tables over the plan: what happens to which packet, decided from the forwarding table alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::fixtures::*;
use super::*;
use crate::model::{
    Change, Condition, Endpoint, EndpointSlice, Hints, Service, Snapshot, SourceRanges,
    TrafficPolicy,
};
use crate::net::{Family, Protocol};

fn table_of(snapshot: &Snapshot, host: Host) -> ForwardingTable {
    build(Family::V4, "node-a", host, snapshot).0
}

fn packet(from: &str, to: &str, port: u16) -> Packet {
    let source = match from {
        "node" => PacketSource::ThisNode(ip(NODE_IP)),
        "pod" => PacketSource::Interface { ip: ip("10.244.1.9"), name: "veth1".to_owned() },
        "client" => PacketSource::Interface { ip: ip("203.0.113.7"), name: "eth0".to_owned() },
        other => panic!("no vantage {other}"),
    };
    let destination = ip(to);
    let to_this_node = destination == ip(NODE_IP);
    Packet { source, protocol: Protocol::Tcp, destination, to_this_node, port }
}

/// The decision in one line: `10.0.0.1:80 10.0.0.2:80 masquerade`, `reject`, `drop` or `pass`.
fn line(decision: Decision) -> String {
    match decision {
        Decision::Reject => "reject".to_owned(),
        Decision::Drop => "drop".to_owned(),
        Decision::Pass => "pass".to_owned(),
        Decision::Forward { pool, masquerade, .. } => {
            let mut words: Vec<String> =
                pool.iter().map(|e| format!("{}:{}", e.ip, e.port)).collect();
            if masquerade == Masquerade::Yes {
                words.push("masquerade".to_owned());
            }
            words.join(" ")
        }
    }
}

#[track_caller]
fn check(table: &ForwardingTable, rows: &[(&str, &str, u16, &str)]) {
    for &(from, to, port, expected) in rows {
        let got = line(decide(table, &packet(from, to, port)));
        assert_eq!(got, expected, "{from} -> {to}:{port}");
    }
}

fn two_endpoints() -> Vec<EndpointSlice> {
    vec![slice(
        "web",
        "1",
        vec![
            endpoint("10.244.1.5", Condition::Ready, true),
            endpoint("10.244.2.5", Condition::Ready, false),
        ],
    )]
}

#[test]
fn cluster_ip_and_node_port_reach_every_endpoint() {
    let mut snapshot = snapshot(vec![service("web", "10.96.0.10")], two_endpoints());
    snapshot.service_cidrs.insert("10.96.0.0/16".parse().expect("prefix"));
    let table = table_of(&snapshot, host());
    let both = "10.244.1.5:8080 10.244.2.5:8080";
    let masq = "10.244.1.5:8080 10.244.2.5:8080 masquerade";
    check(
        &table,
        &[
            ("pod", "10.96.0.10", 80, both),
            ("node", "10.96.0.10", 80, masq),
            ("client", "10.96.0.10", 80, masq),
            ("client", NODE_IP, 30080, masq),
            ("pod", NODE_IP, 30080, masq),
            ("client", NODE_IP, 30081, "pass"),
            ("client", "192.168.0.3", 30080, "pass"),
            ("pod", "10.96.0.10", 81, "reject"),
            ("pod", "10.96.0.11", 80, "drop"),
            ("pod", "10.97.0.11", 80, "pass"),
        ],
    );
}

#[test]
fn masquerade_follows_the_detector_and_masquerade_all() {
    let snapshot = snapshot(vec![service("web", "10.96.0.10")], two_endpoints());
    let both = "10.244.1.5:8080 10.244.2.5:8080";
    let masq = "10.244.1.5:8080 10.244.2.5:8080 masquerade";
    let none = Host { pods: PodDetector::None, ..host() };
    check(
        &table_of(&snapshot, none),
        &[("client", "10.96.0.10", 80, both), ("pod", "10.96.0.10", 80, both)],
    );
    let all = Host { masquerade_all: true, ..host() };
    check(
        &table_of(&snapshot, all),
        &[("client", "10.96.0.10", 80, masq), ("pod", "10.96.0.10", 80, masq)],
    );
    let by_interface = Host { pods: PodDetector::InterfacePrefix("veth".into()), ..host() };
    check(
        &table_of(&snapshot, by_interface),
        &[("node", "10.96.0.10", 80, masq), ("pod", "10.96.0.10", 80, both)],
    );
}

#[test]
fn a_service_does_not_exist_in_a_family_that_it_has_no_cluster_ip_of() {
    let mut web = service("web", "fd00:10:96::10");
    web.external_ips = vec![ip("198.51.100.1")];
    web.load_balancer_ips = vec![ip("198.51.100.2")];
    let other = Service {
        external_ips: vec![ip("198.51.100.1")],
        created: 2,
        ..service("other", "10.96.0.11")
    };
    let slices = vec![slice("other", "1", vec![endpoint("10.244.1.5", Condition::Ready, true)])];
    check(
        &table_of(&snapshot(vec![web, other], slices), host()),
        &[
            ("client", "198.51.100.1", 80, "10.244.1.5:8080 masquerade"),
            ("client", "198.51.100.2", 80, "pass"),
            ("client", NODE_IP, 30080, "10.244.1.5:8080 masquerade"),
        ],
    );
}

#[test]
fn local_policies_short_circuit_and_drop() {
    let mut web = service("web", "10.96.0.10");
    web.external_policy = TrafficPolicy::Local;
    web.internal_policy = TrafficPolicy::Local;
    web.load_balancer_ips = vec![ip("198.51.100.1")];
    let both = "10.244.1.5:8080 10.244.2.5:8080";
    let masq = "10.244.1.5:8080 10.244.2.5:8080 masquerade";
    let here = "10.244.1.5:8080";
    let with_local = table_of(&snapshot(vec![web.clone()], two_endpoints()), host());
    check(
        &with_local,
        &[
            ("pod", "10.96.0.10", 80, here),
            ("pod", "198.51.100.1", 80, both),
            ("node", "198.51.100.1", 80, masq),
            ("client", "198.51.100.1", 80, here),
            ("client", NODE_IP, 30080, here),
            ("node", NODE_IP, 30080, masq),
        ],
    );
    let away = slice("web", "1", vec![endpoint("10.244.2.5", Condition::Ready, false)]);
    let without_local = table_of(&snapshot(vec![web], vec![away]), host());
    check(
        &without_local,
        &[
            ("pod", "10.96.0.10", 80, "drop"),
            ("pod", "198.51.100.1", 80, "10.244.2.5:8080"),
            ("client", "198.51.100.1", 80, "drop"),
            ("client", NODE_IP, 30080, "drop"),
        ],
    );
}

#[test]
fn source_ranges_bind_the_load_balancer_only() {
    let mut web = service("web", "10.96.0.10");
    web.load_balancer_ips = vec![ip("198.51.100.1")];
    web.source_ranges = SourceRanges::Only(vec!["192.168.0.0/24".parse().expect("prefix")]);
    let table = table_of(&snapshot(vec![web], two_endpoints()), host());
    let masq = "10.244.1.5:8080 10.244.2.5:8080 masquerade";
    check(
        &table,
        &[
            ("client", "198.51.100.1", 80, "drop"),
            ("node", "198.51.100.1", 80, masq),
            ("client", NODE_IP, 30080, masq),
            ("client", "10.96.0.10", 80, masq),
        ],
    );
}

#[test]
fn endpoints_fall_back_to_terminating_ones() {
    use Condition::{Ready, Terminating, Unusable};
    let table = [
        (vec![("10.244.1.5", Ready), ("10.244.1.6", Terminating)], "10.244.1.5:8080"),
        (vec![("10.244.1.5", Unusable), ("10.244.1.6", Terminating)], "10.244.1.6:8080"),
        (vec![("10.244.1.5", Unusable)], "reject"),
        (vec![], "reject"),
    ];
    for (endpoints, expected) in table {
        let endpoints = endpoints.into_iter().map(|(a, c)| endpoint(a, c, true)).collect();
        let snapshot =
            snapshot(vec![service("web", "10.96.0.10")], vec![slice("web", "1", endpoints)]);
        check(&table_of(&snapshot, host()), &[("pod", "10.96.0.10", 80, expected)]);
    }
}

#[test]
fn slices_merge_and_the_better_condition_counts() {
    let slices = vec![
        slice("web", "1", vec![endpoint("10.244.1.5", Condition::Terminating, true)]),
        slice("web", "2", vec![endpoint("10.244.1.5", Condition::Ready, true)]),
        slice("web", "3", vec![endpoint("10.244.2.7", Condition::Ready, false)]),
    ];
    let snapshot = snapshot(vec![service("web", "10.96.0.10")], slices);
    let rows = [("pod", "10.96.0.10", 80, "10.244.1.5:8080 10.244.2.7:8080")];
    check(&table_of(&snapshot, host()), &rows);
}

#[test]
fn topology_hints_need_every_ready_endpoint() {
    let hinted = |address: &str, node: &str, zone: &str| {
        let name = |text: &str| if text.is_empty() { vec![] } else { vec![text.into()] };
        let hints = Some(Arc::new(Hints { zones: name(zone), nodes: name(node) }));
        Endpoint { hints, ..endpoint(address, Condition::Ready, false) }
    };
    let (a, b) = ("10.244.1.5", "10.244.2.5");
    let table = [
        (vec![hinted(a, "node-a", "east"), hinted(b, "node-b", "east")], "10.244.1.5:8080"),
        (vec![hinted(a, "node-c", "west"), hinted(b, "node-b", "east")], "10.244.2.5:8080"),
        (vec![hinted(a, "", "west"), hinted(b, "", "east")], "10.244.2.5:8080"),
        (vec![hinted(a, "", "west"), hinted(b, "", "")], "10.244.1.5:8080 10.244.2.5:8080"),
        (
            vec![hinted(a, "node-a", "east"), endpoint(b, Condition::Ready, false)],
            "10.244.1.5:8080 10.244.2.5:8080",
        ),
    ];
    for (endpoints, expected) in table {
        let mut snapshot =
            snapshot(vec![service("web", "10.96.0.10")], vec![slice("web", "1", endpoints)]);
        let zone = Some("east".to_owned());
        snapshot.node = Some(crate::model::Node { zone, ..Default::default() });
        check(&table_of(&snapshot, host()), &[("pod", "10.96.0.10", 80, expected)]);
    }
}

#[test]
fn contested_addresses_have_one_winner_whatever_the_order() {
    let old = service("zebra", "10.96.0.10");
    let young = Service { created: 2, ..service("ant", "10.96.0.10") };
    let mut thief = Service { created: 0, ..service("thief", "10.96.0.99") };
    thief.external_ips = vec![ip("10.96.0.10")];
    thief.ports[0].node_port = Some(30081);
    let mut orders = [vec![&old, &young, &thief], vec![&thief, &young, &old]];
    for order in &mut orders {
        let mut planner = Planner::new(Family::V4, "node-a", host());
        let mut snapshot = Snapshot::default();
        let mut update = |change: Change| {
            let mut dirty = BTreeSet::new();
            snapshot.apply(change, &mut dirty);
            let effect = planner.update(&snapshot, &dirty);
            (planner.claims().clone(), effect)
        };
        for service in order.iter() {
            update(Change::Service((*service).clone()));
        }
        let (claims, _) = update(Change::Slice(two_endpoints().remove(0)));
        let vip = Address::Vip { ip: ip("10.96.0.10"), protocol: Protocol::Tcp, port: 80 };
        assert_eq!(claims.holder(&vip), Some(&old.name));
        let (claims, effect) = update(Change::ServiceGone(old.name.clone()));
        assert_eq!(claims.holder(&vip), Some(&young.name));
        assert!(effect.services.contains(&young.name), "the heir is planned anew");
        let refused = effect.warnings.iter().any(|w| w.object.contains("thief"));
        assert!(!refused, "a Service whose claims did not change is left alone");
        let (claims, effect) = update(Change::ServiceGone(young.name.clone()));
        assert_eq!(claims.holder(&vip), Some(&thief.name));
        assert_eq!(effect.services, [young.name.clone(), thief.name.clone()].into());
    }
}

/// Services of which two have one cluster IP, with different ports, and two one external IP.
fn one_cluster_ip_twice() -> [Service; 3] {
    let external_ips = vec![ip("198.51.100.7")];
    let old = service("zebra", "10.96.0.10");
    let mut young = Service { created: 2, ..service("ant", "10.96.0.10") };
    young.external_ips.clone_from(&external_ips);
    (young.ports[0].port, young.ports[0].node_port) = (443, Some(30443));
    let mut youngest = Service { created: 3, external_ips, ..service("bee", "10.96.0.11") };
    (youngest.ports[0].port, youngest.ports[0].node_port) = (443, Some(30444));
    [old, young, youngest]
}

#[test]
fn a_service_whose_cluster_ip_is_anothers_is_not_served() {
    let [old, young, youngest] = one_cluster_ip_twice();
    let external = Address::Vip { ip: ip("198.51.100.7"), protocol: Protocol::Tcp, port: 443 };
    for order in [[&old, &young, &youngest], [&youngest, &young, &old]] {
        let mut planner = Planner::new(Family::V4, "node-a", host());
        let mut snapshot = Snapshot::default();
        let mut warnings = Vec::new();
        let mut update = |planner: &mut Planner, change: Change| {
            let mut dirty = BTreeSet::new();
            snapshot.apply(change, &mut dirty);
            warnings.extend(planner.update(&snapshot, &dirty).warnings);
        };
        for service in order {
            update(&mut planner, Change::Service(service.clone()));
        }
        for name in ["ant", "zebra", "bee"] {
            let pods = vec![endpoint("10.244.1.5", Condition::Ready, true)];
            update(&mut planner, Change::Slice(slice(name, "1", pods)));
        }
        assert!(planner.table().services.keys().eq([&youngest.name, &old.name]));
        assert_eq!(planner.claims().holder(&external), Some(&youngest.name), "not the unserved");
        check(
            planner.table(),
            &[
                ("pod", "10.96.0.10", 443, "reject"),
                ("client", NODE_IP, 30443, "pass"),
                ("client", NODE_IP, 30444, "10.244.1.5:8080 masquerade"),
            ],
        );
        update(&mut planner, Change::ServiceGone(old.name.clone()));
        assert!(planner.table().services.keys().eq([&young.name, &youngest.name]));
        assert_eq!(planner.claims().holder(&external), Some(&young.name));
        update(&mut planner, Change::Service(old.clone()));
        assert!(planner.table().services.keys().eq([&youngest.name, &old.name]));
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let said = said.iter().filter(|text| text.contains("default/ant"));
        let lost = said.filter(|text| text.contains("10.96.0.10 belongs to Service default/zebra"));
        assert!(lost.count() >= 1, "{warnings:?}");
    }
}

/// A Service whose health load balancers ask about.
fn checked(name: &str, cluster_ip: &str, port: u16) -> Service {
    let health_check_node_port = Some(port);
    let external_policy = TrafficPolicy::Local;
    Service { external_policy, health_check_node_port, ..service(name, cluster_ip) }
}

#[test]
fn health_checks_count_ready_pods_of_this_node_once() {
    use Condition::{Ready, Terminating, Unusable};
    let pods = |list: &[(&str, Condition, bool)]| {
        list.iter().map(|(ip, condition, local)| endpoint(ip, *condition, *local)).collect()
    };
    let (a, b) = ("10.244.1.5", "10.244.1.6");
    let mut without_ports = slice("web", "2", pods(&[(b, Ready, true)]));
    without_ports.ports = [].into();
    let mut second_port = slice("web", "2", pods(&[(a, Ready, true), (b, Ready, true)]));
    Arc::make_mut(&mut second_port.ports)[0].port = 9090;
    Arc::make_mut(&mut second_port.ports)[0].name = "metrics".into();
    let mut other_family = slice("web", "2", vec![endpoint("fd00::5", Ready, true)]);
    other_family.family = Family::V6;
    let one = slice("web", "1", pods(&[(a, Ready, true)]));
    let table = [
        ("no slice", vec![], 0),
        ("two ready", vec![slice("web", "1", pods(&[(a, Ready, true), (b, Ready, true)]))], 2),
        ("elsewhere", vec![slice("web", "1", pods(&[(a, Ready, false), (b, Ready, false)]))], 0),
        ("one ends", vec![slice("web", "1", pods(&[(a, Ready, true), (b, Terminating, true)]))], 1),
        ("the last ends", vec![slice("web", "1", pods(&[(a, Terminating, true)]))], 0),
        ("unusable", vec![slice("web", "1", pods(&[(a, Unusable, true)]))], 0),
        ("several ports", vec![one.clone(), second_port], 2),
        ("a slice without ports", vec![one.clone(), without_ports], 1),
        ("the other family", vec![one, other_family], 1),
    ];
    for (what, slices, local_endpoints) in table {
        let web = checked("web", "10.96.0.10", 31000);
        let checks = table_of(&snapshot(vec![web.clone()], slices), host()).health_checks;
        assert_eq!(
            checks,
            [(web.name, HealthCheck { port: 31000, local_endpoints })].into(),
            "{what}"
        );
    }
}

#[test]
fn health_checks_are_for_services_with_a_port_of_the_family() {
    let v6 = checked("v6", "fd00:10:96::10", 31000);
    let without = service("without", "10.96.0.10");
    let snapshot = snapshot(vec![v6.clone(), without], vec![]);
    assert!(table_of(&snapshot, host()).health_checks.is_empty());
    let (table, _) = build(Family::V6, "node-a", host(), &snapshot);
    assert_eq!(table.health_checks.into_keys().collect::<Vec<_>>(), [v6.name]);
}

#[test]
fn a_port_answers_for_one_service_and_then_for_its_heir() {
    let (old, young) = (checked("old", "10.96.0.1", 31000), checked("young", "10.96.0.2", 31000));
    let young = Service { created: 2, ..young };
    let mut planner = Planner::new(Family::V4, "node-a", host());
    let mut snapshot = Snapshot::default();
    let mut dirty = BTreeSet::new();
    snapshot.apply(Change::Services(vec![young.clone(), old.clone()]), &mut dirty);
    let effect = planner.update(&snapshot, &dirty);
    assert!(planner.table().health_checks.keys().eq([&old.name]));
    let warned: Vec<String> = effect.warnings.iter().map(|w| w.to_string()).collect();
    assert!(warned.iter().any(|w| w.contains("young") && w.contains("default/old")), "{warned:?}");
    let mut dirty = BTreeSet::new();
    snapshot.apply(Change::ServiceGone(old.name), &mut dirty);
    assert!(planner.update(&snapshot, &dirty).health_checks);
    assert!(planner.table().health_checks.keys().eq([&young.name]));
}

proptest! {
    #[test]
    fn one_service_at_a_time_gives_the_same_table_as_all_at_once(
        changes in prop::collection::vec(any_change(), 1..40)
    ) {
        let mut planner = Planner::new(Family::V4, "node-a", host());
        let mut snapshot = Snapshot::default();
        for change in changes {
            let mut dirty = BTreeSet::new();
            snapshot.apply(change, &mut dirty);
            let before = planner.table().clone();
            let effect = planner.update(&snapshot, &dirty);
            let (whole, _) = build(Family::V4, "node-a", host(), &snapshot);
            prop_assert_eq!(planner.table(), &whole);
            let health_changed = before.health_checks != whole.health_checks;
            prop_assert_eq!(effect.health_checks, health_changed);
            for (name, plan) in &before.services {
                if !effect.services.contains(name) {
                    prop_assert_eq!(whole.services.get(name), Some(plan));
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_used_is_told_once_until_that_changes() {
    let (old, young) = (service("old", "10.96.0.1"), service("young", "10.96.0.2"));
    let external_ips = vec![ip("198.51.100.7")];
    let old = Service { external_ips: external_ips.clone(), ..old };
    let young = Service { created: 2, external_ips, ..young };
    let mut planner = Planner::new(Family::V4, "node-a", host());
    let mut snapshot = Snapshot::default();
    let mut warned = |change: Change| {
        let mut dirty = BTreeSet::new();
        snapshot.apply(change, &mut dirty);
        let warnings = planner.update(&snapshot, &dirty).warnings;
        warnings.into_iter().map(|warning| warning.object).collect::<BTreeSet<_>>()
    };
    let of_young = BTreeSet::from(["Service default/young".to_owned()]);
    assert_eq!(warned(Change::Services(vec![young.clone(), old.clone()])), of_young);
    for last in 1..=3 {
        let endpoints = vec![endpoint(&format!("10.244.1.{last}"), Condition::Ready, true)];
        let quiet = warned(Change::Slice(slice("young", "1", endpoints)));
        assert!(quiet.is_empty(), "nothing about the address has changed: {quiet:?}");
    }
    assert!(warned(Change::ServiceGone(old.name.clone())).is_empty(), "it is served now");
    assert_eq!(warned(Change::Service(old)), of_young, "it is lost once more");
    assert!(warned(Change::ServiceGone(young.name.clone())).is_empty());
    assert_eq!(warned(Change::Service(young)), of_young, "another Service of this name");
}
