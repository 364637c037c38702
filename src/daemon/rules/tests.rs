//! What is printed, against the words of the programs that print the same.

use std::collections::BTreeSet;

use super::*;
use sluice_core::model::{Snapshot, TrafficPolicy};
use sluice_core::plan::{NodePortAddresses, PodDetector, build, fixtures};

/// Services with all that shows in rules, and ways in which hosts see them.
fn tables(family: Family) -> Vec<ForwardingTable> {
    let mut snapshot: Snapshot = fixtures::two_services();
    for service in snapshot.services.values_mut() {
        service.external_policy = TrafficPolicy::Local;
        service.affinity = Some(10_800);
    }
    snapshot.service_cidrs = BTreeSet::from(["10.96.0.0/15".parse().expect("a prefix")]);
    let cidrs = ["10.244.0.0/16", "10.32.0.0/11"].map(|net| net.parse().expect("a prefix"));
    let pods = [
        PodDetector::None,
        PodDetector::Cidrs(cidrs.to_vec()),
        PodDetector::BridgeInterface("cni0".into()),
        PodDetector::InterfacePrefix("veth".into()),
    ];
    let mut hosts: Vec<_> =
        pods.map(|pods| sluice_core::plan::Host { pods, ..fixtures::host() }).into();
    hosts[0].node_ports = NodePortAddresses::AnyLocal;
    hosts[1].masquerade_all = true;
    hosts.into_iter().map(|host| build(family, "node-a", host, &snapshot).0).collect()
}

#[test]
fn every_rule_of_ours_has_words() {
    for table in tables(Family::V4) {
        for mode in [Mode::Nftables, Mode::Ipvs] {
            let mut objects = Vec::new();
            for rules in of_mode(mode, &table, None, &mut objects) {
                assert!(
                    !rules.text.contains("# a rule"),
                    "{mode} {:?}: {}",
                    table.host,
                    rules.text
                );
                assert!(!rules.text.contains("Named("), "{mode}: {}", rules.text);
            }
            let rules = nftables::ruleset(&table)
                .chains
                .iter()
                .map(|(_, rules)| rules.len())
                .sum::<usize>();
            let written = objects.iter().filter(|object| object.get("rule").is_some()).count();
            assert!(mode != Mode::Nftables || rules == written, "{rules} rules, {written} in JSON");
        }
    }
}

#[test]
fn every_mode_says_where_a_service_leads() {
    let snapshot = fixtures::two_services();
    let (table, _) = build(Family::V4, "node-a", fixtures::host(), &snapshot);
    let name = ServiceName::new("default", "a");
    let tables = tables_of(&name, |family| (family == Family::V4).then(|| table.clone()));
    let rules = of(&name, &tables, &modes("all").expect("all of them"), None);
    let text = |mode: &str, format: &str| {
        let found = rules.modes.iter().find(|it| it.mode == mode && it.format == format);
        found.map(|it| it.text.clone()).unwrap_or_else(|| panic!("{mode} {format}"))
    };
    let nft = text("nftables", "nft list");
    assert!(nft.contains("10.96.0.1 . tcp . 80 . 0 : 10.244.1.1 . 8080"), "{nft}");
    assert!(!nft.contains("10.96.0.2"), "another Service's: {nft}");
    let saved = text("iptables", "iptables-save");
    assert!(saved.contains("--to-destination 10.244.1.1:8080"), "{saved}");
    let ipvs = text("ipvs", "ipvsadm -Sn");
    let expected = "-A -t 10.96.0.1:80 -s rr\n-a -t 10.96.0.1:80 -r 10.244.1.1:8080 -m -w 1\n\
                    -a -t 10.96.0.1:80 -r 10.244.2.1:8080 -m -w 1\n";
    assert_eq!(ipvs, expected);
    let relays = text("userspace", "relays");
    assert!(relays.contains(" -> 10.244.1.1:8080, 10.244.2.1:8080"), "{relays}");
}

#[test]
fn modes_are_named_as_in_the_configuration() {
    for (word, count) in [("all", 4), ("", 4), ("ipvs", 1), ("nftables", 1)] {
        assert_eq!(modes(word).map(|modes| modes.len()), Ok(count), "{word}");
    }
    let error = modes("winkernel").expect_err("not here");
    assert!(error.contains("\"winkernel\" is no mode; there are nftables"), "{error}");
}
