//! The kernel's table, from plans alone: for any Services, every packet for an endpoint goes to the relay of
//! the right pool instead, and the outcome of all others is unchanged.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;

use super::data_path::{KEPT, MASQUERADED};
use super::redirected::{RelayKey, needed, sources};
use super::visible_source::VisibleSource;
use sluice_core::model::{Condition, Service, Snapshot, TrafficPolicy};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::fixtures::{any_change, endpoint, host, ip, service, slice, snapshot};
use sluice_core::plan::{
    Address, Decision, ForwardingTable, Masquerade, Packet, PacketSource, PoolKind, build, decide,
};

fn table(snapshot: &Snapshot) -> ForwardingTable {
    build(Family::V4, "node", host(), snapshot).0
}

const SOURCES: [VisibleSource; 2] = [VisibleSource::Node, VisibleSource::Client];

fn relays(table: &ForwardingTable, visible: VisibleSource) -> Vec<RelayKey> {
    let of_pool = |name, port, pool| {
        sources(visible).iter().map(move |source| RelayKey::new(name, port, pool, *source))
    };
    let of = |(name, plan)| needed(plan).flat_map(move |(port, pool)| of_pool(name, port, pool));
    table.services.iter().map(|(name, plan)| (name, &**plan)).flat_map(of).collect()
}

/// The table with each relay at a port of its own.
fn redirected(
    table: &ForwardingTable,
    relays: &[RelayKey],
    visible: VisibleSource,
) -> ForwardingTable {
    let mut redirected = table.clone();
    for (name, plan) in &mut redirected.services {
        let at = |port: &_, pool, source| {
            let wanted = RelayKey::new(name, port, pool, source);
            let number = relays.iter().position(|relay| *relay == wanted)?;
            Some(relay_at(number))
        };
        *plan = Arc::new(super::redirected::redirected(plan, visible, at));
    }
    redirected
}

fn relay_at(number: usize) -> SocketAddr {
    SocketAddr::new(ip("192.168.0.2"), 40_000 + u16::try_from(number).expect("few"))
}

/// Packets to every address of the table and to neighbouring ones, from each source class.
fn packets(table: &ForwardingTable) -> Vec<Packet> {
    let ports = table.services.values().flat_map(|plan| &plan.ports);
    let addresses: BTreeSet<(IpAddr, Protocol, u16)> = ports
        .flat_map(|port| &port.frontends)
        .flat_map(|frontend| match frontend.at {
            Address::Vip { ip, protocol, port } => [(ip, protocol, port), (ip, protocol, port + 1)],
            Address::NodePort { protocol, port } => {
                [(ip("192.168.0.2"), protocol, port), (ip("192.168.0.3"), protocol, port)]
            }
        })
        .collect();
    let outside = |text| PacketSource::Interface { ip: ip(text), name: "eth0".to_owned() };
    let sources = [
        outside("10.244.9.9"),
        outside("192.168.0.77"),
        outside("203.0.113.7"),
        outside("203.0.113.8"),
        PacketSource::ThisNode(ip("192.168.0.2")),
    ];
    let packet = |(destination, protocol, port): (IpAddr, Protocol, u16)| {
        sources.clone().map(|source| {
            let to_this_node = destination == ip("192.168.0.2");
            Packet { source, protocol, destination, to_this_node, port }
        })
    };
    addresses.into_iter().flat_map(packet).collect()
}

fn check(table: &ForwardingTable, visible: VisibleSource) {
    let relays = relays(table, visible);
    let redirected = redirected(table, &relays, visible);
    for packet in packets(table) {
        let (before, after) = (decide(table, &packet), decide(&redirected, &packet));
        let Decision::Forward { service, pool: endpoints, masquerade: asked } = before else {
            assert_eq!(before, after, "{packet:?}");
            continue;
        };
        let Decision::Forward { pool, masquerade, .. } = after else {
            panic!("{packet:?}: {after:?}");
        };
        // The kernel picks the slot by whether it marked the packet for masquerading.
        let slot = match (visible, asked) {
            (VisibleSource::Node, _) => 0,
            (VisibleSource::Client, Masquerade::No) => KEPT as usize,
            (VisibleSource::Client, Masquerade::Yes) => MASQUERADED as usize,
        };
        let expected = if visible == VisibleSource::Node { Masquerade::No } else { asked };
        assert_eq!((pool.len(), masquerade), (sources(visible).len(), expected), "{packet:?}");
        let at = SocketAddr::new(pool[slot].ip, pool[slot].port);
        let relay = relays.iter().enumerate().find(|(number, _)| relay_at(*number) == at);
        let (_, relay) = relay.unwrap_or_else(|| panic!("{packet:?}: nobody is at {at}"));
        let plan = &table.services[&relay.service];
        let port = plan
            .ports
            .iter()
            .find(|port| port.name == relay.port && port.protocol == relay.protocol);
        let seen = visible == VisibleSource::Client && asked == Masquerade::No;
        assert_eq!(relay.source == VisibleSource::Client, seen, "{packet:?}");
        assert_eq!(relay.service, service);
        assert_eq!(port.expect("the relay's port").pool(relay.pool), endpoints, "{packet:?}");
    }
}

proptest! {
    #[test]
    fn the_kernels_table_decides_as_the_plan_does(
        changes in prop::collection::vec(any_change(), 1..12),
    ) {
        let (mut snapshot, mut dirty) = (Snapshot::default(), BTreeSet::new());
        changes.into_iter().for_each(|change| snapshot.apply(change, &mut dirty));
        SOURCES.into_iter().for_each(|visible| check(&table(&snapshot), visible));
    }
}

fn two_pools() -> ForwardingTable {
    let web = Service {
        external_policy: TrafficPolicy::Local,
        affinity: Some(10),
        ..service("web", "10.96.0.1")
    };
    let here = endpoint("10.244.1.2", Condition::Ready, true);
    let there = endpoint("10.244.2.2", Condition::Ready, false);
    table(&snapshot(vec![web], vec![slice("web", "1", vec![here, there])]))
}

#[test]
fn a_port_has_a_relay_for_each_pool_that_is_used() {
    let table = two_pools();
    let relays = relays(&table, VisibleSource::Node);
    let pools: Vec<PoolKind> = relays.iter().map(|relay| relay.pool).collect();
    assert_eq!(pools, [PoolKind::Cluster, PoolKind::Local]);
    SOURCES.into_iter().for_each(|visible| check(&table, visible));
    let redirected = redirected(&table, &relays, VisibleSource::Node);
    let mut ports = redirected.services.values().flat_map(|plan| &plan.ports);
    assert!(ports.all(|port| port.affinity.is_none()), "relays remember clients, not the kernel");
}

#[test]
fn without_a_relay_traffic_is_refused() {
    let table = two_pools();
    let packet = Packet {
        source: PacketSource::Interface { ip: ip("203.0.113.7"), name: "eth0".to_owned() },
        protocol: Protocol::Tcp,
        destination: ip("10.96.0.1"),
        to_this_node: false,
        port: 80,
    };
    // With only one of two relays open, neither is used, so that masquerading is never wrong.
    let single = &relays(&table, VisibleSource::Client)[..1];
    for (relays, visible) in [
        (&[][..], VisibleSource::Node),
        (&[], VisibleSource::Client),
        (single, VisibleSource::Client),
    ] {
        let redirected = redirected(&table, relays, visible);
        assert_eq!(decide(&redirected, &packet), Decision::Reject);
    }
}

#[test]
fn sctp_stays_as_it_is() {
    let mut table = two_pools();
    let ports = table.services.values_mut().flat_map(|plan| &mut Arc::make_mut(plan).ports);
    ports.for_each(|port| port.protocol = Protocol::Sctp);
    for visible in SOURCES {
        assert_eq!(relays(&table, visible), []);
        assert_eq!(redirected(&table, &[], visible), table);
    }
}
