//! When flows are looked at, and for how long a change is remembered.

use super::*;

#[test]
fn the_table_is_read_only_when_something_can_have_become_stale() {
    let quiet: [(&str, &[_], &[_]); 4] = [
        ("nothing changed", &[(1, Ready)], &[(1, Ready)]),
        ("an endpoint more", &[(1, Ready)], &[(1, Ready), (2, Ready)]),
        ("an endpoint begins to end", &[(1, Ready), (2, Ready)], &[(1, Terminating), (2, Ready)]),
        ("nobody is still nobody", &[], &[(1, Unusable)]),
    ];
    for (what, before, after) in quiet {
        let mut frontends =
            Frontends::settled(&Api::default().with(dns(Protocol::Udp), before), RemovedTcp::Keep);
        frontends.see(&Api::default().with(dns(Protocol::Udp), after), &["dns"]);
        assert!(frontends.suspected().is_empty(), "{what}");
    }
    let mut frontends = Frontends::new(Family::V4, RemovedTcp::Keep);
    frontends.see(&Api::default().with(dns(Protocol::Tcp), &[]), &["dns"]);
    assert!(frontends.wanted().is_empty(), "TCP, and nobody would answer");
    frontends.see(&Api::default().with(dns(Protocol::Udp), &[]), &["dns"]);
    let udp = BTreeMap::from([(Protocol::Udp, Part::All)]);
    assert_eq!(frontends.wanted(), udp, "the first time, each is looked at");
}

#[test]
fn what_was_not_settled_is_looked_at_again_in_its_latest_state() {
    let api = |pods: &[_]| Api::default().with(dns(Protocol::Udp), pods);
    let mut frontends = Frontends::settled(&api(&[(1, Ready)]), RemovedTcp::Keep);
    frontends.see(&api(&[(2, Ready)]), &["dns"]);
    frontends.see(&api(&[(1, Ready), (2, Ready)]), &["dns"]);
    assert!(!frontends.judges(Protocol::Udp, VIP, POD_1), "it came back");
    assert!(frontends.judges(Protocol::Udp, VIP, "10.244.1.3:8080"));
    frontends.look();
    assert!(!frontends.judges(Protocol::Udp, VIP, "10.244.1.3:8080"), "no suspicion is left");
}

#[test]
fn what_changed_is_looked_at_at_once_and_again_a_little_later() {
    let api = |pods: &[_]| Api::default().with(dns(Protocol::Udp), pods);
    let mut frontends = Frontends::settled(&api(&[(1, Ready)]), RemovedTcp::Keep);
    assert_eq!(frontends.due(), None);
    frontends.see(&api(&[(2, Ready)]), &["dns"]);
    let changed = long_ago();
    assert_eq!(frontends.due(), Some(changed));
    frontends.settle(changed + SETTLING / 2);
    assert_eq!(frontends.due(), Some(changed + SETTLING), "a packet may have been on its way");
    assert!(frontends.judges(Protocol::Udp, VIP, POD_1));
    frontends.settle(changed + SETTLING);
    assert_eq!(frontends.due(), None);
    // A read that began before a change does not cover it.
    frontends.see(&api(&[(1, Ready)]), &["dns"]);
    frontends.settle(changed.checked_sub(SETTLING).expect("some time has passed"));
    assert_eq!(frontends.due(), Some(changed));
}

#[test]
fn an_address_that_accepts_no_node_ports_any_more_is_looked_at_once_and_forgotten() {
    let api = Api::default().with(dns(Protocol::Udp), &[(1, Ready)]);
    let mut frontends = Frontends::settled(&api, RemovedTcp::Keep);
    let snapshot = api.snapshot();
    let seen = |frontends: &mut Frontends, node_ports: BTreeSet<IpAddr>| {
        let node_ports = NodePortAddresses::Only(node_ports);
        let (table, _) = build(
            Family::V4,
            "node-a",
            sluice_core::plan::Host { node_ports, ..host() },
            &snapshot,
        );
        let (local, backend) = (local(), &mut Direct);
        let mut world = world(&table, &snapshot, &local, backend);
        frontends.update(&mut world, &BTreeSet::new(), long_ago());
    };
    for last in 1..=200_u8 {
        let address = format!("172.20.0.{last}");
        seen(&mut frontends, [ip(&address)].into());
        let before = if last == 1 { NODE_IP.to_owned() } else { format!("172.20.0.{}", last - 1) };
        let (before, now) = (format!("{before}:30053"), format!("{address}:30053"));
        assert!(frontends.judges(Protocol::Udp, &before, POD_1), "translated at {before}");
        assert!(!frontends.judges(Protocol::Udp, &before, &before), "the node's own");
        assert!(!frontends.judges(Protocol::Udp, &now, POD_1), "it serves");
        frontends.look();
        assert!(!frontends.judges(Protocol::Udp, &before, POD_1), "not ours any more");
        assert!(frontends.left.is_empty(), "nothing is kept of it");
    }
}

/// Where the kernel has no connection tracking over netlink, nothing is ever settled.
#[test]
fn what_cannot_be_looked_at_is_not_remembered_one_by_one() {
    let mut frontends = Frontends::settled(&Api::default(), RemovedTcp::Keep);
    for last in 1..=200_u8 {
        let service = at("dns", Protocol::Udp, &format!("10.96.1.{last}"), 30000 + u16::from(last));
        frontends.see(&Api::default().with(service, &[(1, Ready)]), &["dns"]);
        frontends.give_up(long_ago());
        assert_eq!((frontends.suspects.len(), frontends.left.len()), (0, 0));
    }
    // A module is loaded at last.
    assert_eq!(frontends.suspected(), [Protocol::Udp].into());
    assert!(frontends.judges(Protocol::Udp, "10.96.1.200:53", POD_2));
    assert!(!frontends.judges(Protocol::Udp, "10.96.1.200:53", POD_1));
    frontends.look();
    assert!(frontends.wanted().is_empty());
}
