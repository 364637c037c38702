//! The pure part of the mode, against a strict model of the kernel: the cost of a change, the same objects
//! after any order of changes, and that a sync that stops half-way harms no other Service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::strict_kernel::{Answer, Handle, Machine};
use super::{Ipvs, Leaving};
use crate::service_table::ServiceTable;
use crate::{Backend, Observation, Report, Scope};
use sluice_core::model::{Change, Condition, Service, ServiceName, Snapshot, TrafficPolicy};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::fixtures::{
    any_change, endpoint, host, ip, many, service, slice, snapshot, two_services,
};
use sluice_core::plan::{
    Address, ForwardingTable, Planner, PortPlan, Route, ServicePlan, SourceClass, Verdict, build,
};
use sluice_kernel::ipvs::Key;
use sluice_kernel::nft;

type Mode = Ipvs<ServiceTable<Handle>, Handle>;

/// A daemon and its kernel.
struct World {
    kernel: Handle,
    mode: Mode,
}

impl World {
    fn new(machine: Machine) -> World {
        World::leaving(machine, Leaving::Gracefully)
    }

    fn leaving(machine: Machine, leaving: Leaving) -> World {
        let kernel = Handle::new(machine);
        let table = super::table(kernel.clone());
        let mode = Ipvs::new(table, kernel.clone(), "rr".into(), leaving);
        World { kernel, mode }
    }

    fn machine(&self) -> Machine {
        self.kernel.machine().clone()
    }

    /// The same kernel, seen by a process that starts now.
    fn restarted(&self) -> World {
        let mut machine = self.machine();
        (machine.table.listening, machine.done, machine.asked) = (false, 0, 0);
        machine.budget = None;
        World::new(machine)
    }

    /// Syncs; returns the number of applied operations, where a transaction counts as one.
    fn sync(&mut self, table: &ForwardingTable, scope: &BTreeSet<ServiceName>) -> usize {
        let before = self.kernel.machine().done;
        let report = self.report(table, scope);
        assert_eq!(report.refused, []);
        self.assert_counted(&report);
        self.kernel.machine().done - before
    }

    /// The applied objects are those of the kernel.
    fn assert_counted(&self, report: &Report) {
        let machine = self.machine();
        let destinations = machine.services.values().map(|(_, destinations)| destinations.len());
        let addresses = machine.addresses.iter().flatten().count();
        let counts = [
            ("virtual-service", machine.services.len()),
            ("destination", destinations.sum()),
            ("address", addresses),
        ];
        for (kind, there) in counts {
            let said = report.owned.iter().find(|count| count.kind == kind);
            assert_eq!(said.map(|count| count.count), Some(there), "{kind}");
        }
    }

    fn report(&mut self, table: &ForwardingTable, scope: &BTreeSet<ServiceName>) -> Report {
        let scope = Scope { services: scope.clone(), full: false };
        self.mode.sync(table, &scope).expect("the model answers")
    }
}

/// What the kernel has, without the order of slots (there are none here).
fn objects(machine: &Machine) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        machine.services.clone(),
        machine.addresses.clone(),
        machine.table.model.sets.clone(),
        machine.table.model.chains.clone(),
    )
}

fn name(name: &str) -> ServiceName {
    ServiceName::new("default", name)
}

/// What clients of each class must find at every frontend of a plan.
fn expected(plan: &ServicePlan) -> BTreeMap<(String, usize), Answer> {
    let answer = |port: &PortPlan, route: &Route| match route.verdict {
        Verdict::Reject => Answer::Reject,
        Verdict::Drop => Answer::Drop,
        Verdict::Forward(pool) => {
            Answer::Endpoints(port.pool(pool).iter().map(|to| (to.ip, to.port)).collect())
        }
    };
    let mut found = BTreeMap::new();
    for port in &plan.ports {
        for frontend in &port.frontends {
            let pod = frontend.routes.iter().find(|route| route.from == SourceClass::Pod);
            let anyone = frontend.routes.for_anyone();
            let at = frontend.at.to_string();
            found.insert((at.clone(), 0), answer(port, pod.unwrap_or(&anyone)));
            found.insert((at, 1), answer(port, &anyone));
        }
    }
    found
}

/// What they do find.
fn actual(machine: &Machine, plan: &ServicePlan) -> BTreeMap<(String, usize), Answer> {
    let frontends = plan.ports.iter().flat_map(|port| &port.frontends);
    let classes = [SourceClass::Pod, SourceClass::Anyone];
    frontends
        .flat_map(|frontend| {
            classes.into_iter().enumerate().map(move |(n, class)| {
                let answer = machine.answer(Family::V4, &frontend.at, class);
                ((frontend.at.to_string(), n), answer)
            })
        })
        .collect()
}

/// Services that are the same in both tables.
fn untouched<'t>(
    before: &'t ForwardingTable,
    after: &'t ForwardingTable,
) -> impl Iterator<Item = (&'t ServiceName, &'t Arc<ServicePlan>)> {
    before.services.iter().filter(|(name, plan)| after.services.get(*name) == Some(*plan))
}

#[test]
fn a_change_of_one_service_in_ten_thousand_costs_a_few_operations() {
    let mut snapshot = many(10_000, &[false]);
    let mut planner = Planner::new(Family::V4, "node-a", host());
    planner.update(&snapshot, &snapshot.services.keys().cloned().collect());
    let mut world = World::new(Machine::default());
    let first = world.sync(planner.table(), &BTreeSet::new());
    let of_table = world.machine().table.transactions.len();
    assert!((2..20).contains(&of_table), "{of_table} transactions of the table, which is new");
    assert_eq!(
        first - of_table,
        30_001,
        "a virtual service, a destination and an address each; device"
    );
    let mut change = |pods: &[u8]| {
        let pods = pods.iter().map(|n| endpoint(&format!("10.{n}.0.77"), Condition::Ready, false));
        let mut dirty = BTreeSet::new();
        snapshot.apply(Change::Slice(slice("web-77", "1", pods.collect())), &mut dirty);
        let effect = planner.update(&snapshot, &dirty);
        let asked = world.kernel.machine().asked;
        let operations = world.sync(planner.table(), &effect.services);
        (operations, world.kernel.machine().asked - asked)
    };
    assert_eq!(change(&[100, 101]), (1, 0), "a second endpoint comes");
    assert_eq!(change(&[100, 101]), (0, 0), "nothing changed");
    assert_eq!(change(&[101]), (2, 1), "one leaves: weight 0, counted, gone");
    assert_eq!(change(&[]), (3, 1), "the last one leaves: weight 0, rejected, all gone");
}

fn web_a() -> Key {
    Key::Address { ip: ip("10.96.0.1"), protocol: Protocol::Tcp, port: 80 }
}

#[test]
fn foreign_changes_are_repaired_at_the_next_look() {
    let (table, _) = build(Family::V4, "node-a", host(), &two_services());
    let mut world = World::new(Machine::default());
    world.sync(&table, &BTreeSet::new());
    let right = world.machine();
    type Meddling = (u64, &'static str, fn(&mut Machine));
    let meddling: [Meddling; 6] = [
        (5, "everything is cleared", |m| m.services.clear()),
        (5, "the device is deleted", |m| m.addresses = None),
        (5, "an address is deleted", |m| {
            m.addresses.as_mut().expect("it is there").remove(&ip("10.96.0.2"));
        }),
        (5, "a destination is deleted", |m| {
            m.services.get_mut(&web_a()).expect("it is there").1.pop_first();
        }),
        (5, "another weight", |m| {
            let (_, to) = m.services.get_mut(&web_a()).expect("it is there");
            to.values_mut().for_each(|to| to.weight = 7);
        }),
        (60, "another scheduler", |m| {
            m.services.get_mut(&web_a()).expect("it is there").0.scheduler = "wlc".into();
        }),
    ];
    for (seconds, story, meddle) in meddling {
        meddle(&mut world.kernel.machine());
        assert_eq!(world.report(&table, &BTreeSet::new()).observed, Observation::None, "{story}");
        world.kernel.wait(seconds);
        let report = world.report(&table, &BTreeSet::new());
        assert_eq!(report.observed, Observation::Drift, "{story}");
        assert_eq!(objects(&world.machine()), objects(&right), "{story}");
    }
    world.kernel.wait(5);
    let report = world.report(&table, &BTreeSet::new());
    assert_eq!((report.observed, report.operations), (Observation::None, 0));
}

#[test]
fn a_change_that_contradicts_what_is_there_makes_it_look() {
    let (table, _) = build(Family::V4, "node-a", host(), &two_services());
    let mut world = World::new(Machine::default());
    world.sync(&table, &BTreeSet::new());
    world.kernel.machine().services.clear();
    let mut without = two_services();
    without.slices.get_mut(&name("a")).expect("a has slices").clear();
    let (after, _) = build(Family::V4, "node-a", host(), &without);
    let report = world.report(&after, &[name("a")].into());
    assert_eq!(report.observed, Observation::Drift);
    let mut right = World::new(Machine::default());
    right.sync(&after, &BTreeSet::new());
    assert_eq!(objects(&world.machine()), objects(&right.machine()));
}

#[test]
fn what_the_kernel_refuses_costs_its_own_service_only() {
    let mut objects = two_services();
    let sctp = objects.services.get_mut(&name("a")).expect("it is there");
    sctp.ports[0].protocol = Protocol::Sctp;
    objects.slices.get_mut(&name("a")).expect("it is there").iter_mut().for_each(|slice| {
        let ports = slice.ports.iter().cloned();
        let sctp = |port| sluice_core::model::EndpointPort { protocol: Protocol::Sctp, ..port };
        slice.ports = ports.map(sctp).collect();
    });
    let (table, _) = build(Family::V4, "node-a", host(), &objects);
    let mut world = World::new(Machine { unsupported: Some(Protocol::Sctp), ..Machine::default() });
    let both: BTreeSet<ServiceName> = table.services.keys().cloned().collect();
    let report = world.report(&table, &both);
    let refused: Vec<_> =
        report.refused.iter().map(|r| (r.service.to_string(), &r.reason)).collect();
    let [(service, reason)] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(service, "default/a");
    assert!(reason.starts_with("add virtual service 10.96.0.1:80/sctp (rr): "), "{reason}");
    let b = &table.services[&name("b")];
    assert_eq!(actual(&world.machine(), b), expected(b));
    world.kernel.machine().unsupported = None;
    assert_eq!(world.report(&table, &[name("a")].into()).refused, []);
    let a = &table.services[&name("a")];
    assert_eq!(actual(&world.machine(), a), expected(a));
}

/// The table of two Services after a change of the endpoints of `a`.
fn with_pods(pods: &[&str], protocol: Protocol) -> ForwardingTable {
    let mut objects = two_services();
    let a = objects.services.get_mut(&name("a")).expect("it is there");
    a.ports[0].protocol = protocol;
    let pods = pods.iter().map(|pod| endpoint(pod, Condition::Ready, false)).collect();
    let mut slice = slice("a", "1", pods);
    Arc::make_mut(&mut slice.ports)[0].protocol = protocol;
    objects.apply(Change::Slice(slice), &mut BTreeSet::new());
    build(Family::V4, "node-a", host(), &objects).0
}

/// Weights of the destinations of `a`, in order; none without a virtual service.
fn weights(world: &World, protocol: Protocol) -> Option<Vec<u32>> {
    let key = Key::Address { ip: ip("10.96.0.1"), protocol, port: 80 };
    let machine = world.kernel.machine();
    machine.services.get(&key).map(|(_, to)| to.values().map(|to| to.weight).collect())
}

#[test]
fn connections_end_in_peace() {
    let [one, two] = ["10.244.1.1", "10.244.2.1"];
    let tcp = Protocol::Tcp;
    let before = with_pods(&[one, two], tcp);
    let mut world = World::new(Machine::default());
    world.sync(&before, &BTreeSet::new());
    world.kernel.machine().connections.insert((web_a(), ip(one), 8080), 2);
    let scope: BTreeSet<_> = [name("a")].into();
    let after = with_pods(&[two], tcp);
    assert_eq!(world.sync(&after, &scope), 1, "no new connections");
    assert_eq!(weights(&world, tcp), Some(vec![0, 1]));
    assert_eq!(world.restarted().sync(&after, &BTreeSet::new()), 0, "nor does a restart cut them");
    world.kernel.wait(60);
    assert_eq!(world.sync(&after, &BTreeSet::new()), 0, "they are still there");
    assert_eq!(world.sync(&before, &scope), 1, "it comes back");
    assert_eq!(weights(&world, tcp), Some(vec![1, 1]));
    world.sync(&after, &scope);
    world.kernel.machine().connections.clear();
    world.kernel.wait(5);
    assert_eq!(world.sync(&after, &BTreeSet::new()), 1, "the last one ended");
    assert_eq!(weights(&world, tcp), Some(vec![1]));

    world.kernel.machine().connections.insert((web_a(), ip(two), 8080), 1);
    let nobody = with_pods(&[], tcp);
    world.sync(&nobody, &scope);
    assert_eq!(weights(&world, tcp), Some(vec![0]), "also where nobody is left");
    world.kernel.wait(3601);
    assert_eq!(world.sync(&nobody, &BTreeSet::new()), 1, "but not for ever");
    assert_eq!(weights(&world, tcp), None);
}

#[test]
fn udp_flows_and_connections_that_are_to_be_reset_are_cut_at_once() {
    let [one, two] = ["10.244.1.1", "10.244.2.1"];
    for (protocol, leaving) in
        [(Protocol::Udp, Leaving::Gracefully), (Protocol::Tcp, Leaving::AtOnce)]
    {
        let mut world = World::leaving(Machine::default(), leaving);
        world.sync(&with_pods(&[one, two], protocol), &BTreeSet::new());
        let key = Key::Address { ip: ip("10.96.0.1"), protocol, port: 80 };
        world.kernel.machine().connections.insert((key, ip(one), 8080), 2);
        let scope = [name("a")].into();
        assert_eq!(world.sync(&with_pods(&[two], protocol), &scope), 1, "{protocol}");
        assert_eq!(weights(&world, protocol), Some(vec![1]), "{protocol}");
    }
}

/// Also where its EndpointSlices go first: a virtual service that is still drained would refuse connections from
/// this node to an address that is nobody's any more.
#[test]
fn a_service_that_goes_takes_its_connections_along() {
    let before = with_pods(&["10.244.1.1"], Protocol::Tcp);
    let scope: BTreeSet<_> = [name("a")].into();
    for slices_first in [false, true] {
        let mut world = World::new(Machine::default());
        world.sync(&before, &BTreeSet::new());
        world.kernel.machine().connections.insert((web_a(), ip("10.244.1.1"), 8080), 2);
        if slices_first {
            world.sync(&with_pods(&[], Protocol::Tcp), &scope);
            assert_eq!(weights(&world, Protocol::Tcp), Some(vec![0]));
        }
        let mut after = before.clone();
        after.services.remove(&name("a"));
        world.sync(&after, &scope);
        assert_eq!(weights(&world, Protocol::Tcp), None, "slices first: {slices_first}");
        let addresses = world.machine().addresses.expect("the device stays");
        assert_eq!(addresses, [ip("10.96.0.2")].into());
    }
}

#[test]
fn each_class_of_sources_finds_its_own_pool() {
    let mut objects = two_services();
    let mut policy = |name_: &str, internal, external| {
        let service = objects.services.get_mut(&name(name_)).expect("it is there");
        (service.internal_policy, service.external_policy) = (internal, external);
        service.load_balancer_ips = vec![ip(&format!("198.51.100.{}", name_.len()))];
    };
    policy("a", TrafficPolicy::Local, TrafficPolicy::Local);
    policy("b", TrafficPolicy::Cluster, TrafficPolicy::Local);
    let (table, _) = build(Family::V4, "node-a", host(), &objects);
    let mut world = World::new(Machine::default());
    world.sync(&table, &BTreeSet::new());
    for plan in table.services.values() {
        assert_eq!(actual(&world.machine(), plan), expected(plan));
    }
    assert_eq!(world.machine().services.len(), 4, "two pools of two ports");
}

/// No other rule translates a cluster IP, which is an address of this node: served, without endpoints, or
/// dropped.
#[test]
fn a_cluster_ip_that_two_services_have_is_the_older_ones() {
    let policy = TrafficPolicy::Local;
    let old = Service { external_policy: policy, ..service("zebra", "10.96.0.1") };
    let mut young = Service { created: 2, ..service("ant", "10.96.0.1") };
    // Where the other's pool of this node has its virtual service.
    (young.ports[0].port, young.ports[0].node_port) = (80 ^ 0x8000, Some(30443));
    let pods = |name: &str, last: u8| {
        let at = |third: u8| format!("10.244.{third}.{last}");
        let both =
            [endpoint(&at(1), Condition::Ready, true), endpoint(&at(2), Condition::Ready, false)];
        slice(name, "1", both.into())
    };
    let snapshot = snapshot(vec![old, young], vec![pods("zebra", 1), pods("ant", 2)]);
    let (table, _) = build(Family::V4, "node-a", host(), &snapshot);
    let mut world = World::new(Machine::default());
    world.sync(&table, &BTreeSet::new());
    assert!(table.plan(&name("zebra")).is_some());
    for plan in table.services.values() {
        assert_eq!(actual(&world.machine(), plan), expected(plan));
    }
    let at = Address::NodePort { protocol: Protocol::Tcp, port: 30443 };
    for from in [SourceClass::Pod, SourceClass::Anyone] {
        let answer = world.machine().answer(Family::V4, &at, from);
        assert!(matches!(answer, Answer::Lost(_)), "{answer:?}");
    }
}

#[test]
fn every_port_of_a_cluster_ip_is_translated_before_iptables_looks() {
    let mut objects = two_services();
    objects.services.get_mut(&name("a")).expect("it is there").internal_policy =
        TrafficPolicy::Local;
    objects.slices.clear();
    for objects in [two_services(), objects] {
        let (table, _) = build(Family::V4, "node-a", host(), &objects);
        let mut world = World::new(Machine::default());
        world.sync(&table, &BTreeSet::new());
        let model = world.machine().table.model;
        let ports = table.services.values().flat_map(|plan| &plan.ports);
        for frontend in ports.flat_map(|port| &port.frontends) {
            let Address::Vip { ip, protocol, port } = frontend.at else { continue };
            let key = nft::Key::new().address(ip).protocol(protocol).port(port);
            let itself = nft::Element::data(key, nft::Data::new().address(ip).port(port));
            assert_eq!(model.sets["service-virtual"].1.get(&key), Some(&itself), "{}", frontend.at);
        }
        for chain in ["nat-prerouting", "nat-output"] {
            let hook = model.chains[chain].0.base.expect("a hook");
            assert!(hook.priority < -100, "{chain}: {hook:?}");
        }
    }
}

/// Plays changes, and gives the table after each with the Services that it changed.
fn tables(changes: Vec<Change>) -> Vec<(ForwardingTable, BTreeSet<ServiceName>)> {
    let mut planner = Planner::new(Family::V4, "node-a", host());
    let mut snapshot = Snapshot::default();
    let play = |change| {
        let mut dirty = BTreeSet::new();
        snapshot.apply(change, &mut dirty);
        let effect = planner.update(&snapshot, &dirty);
        (planner.table().clone(), effect.services)
    };
    changes.into_iter().map(play).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_history_ends_in_the_same_objects(
        changes in prop::collection::vec(any_change(), 1..24), restarts in any::<u32>()
    ) {
        let mut world = World::new(Machine::default());
        for (n, (table, touched)) in tables(changes).into_iter().enumerate() {
            if restarts >> n & 3 == 0 {
                world = world.restarted();
            }
            world.sync(&table, &touched);
            prop_assert_eq!(world.sync(&table, &touched), 0, "a second sync");
            prop_assert_eq!(world.restarted().sync(&table, &BTreeSet::new()), 0, "a restart");
            let mut fresh = World::new(Machine::default());
            fresh.sync(&table, &BTreeSet::new());
            if table.services.is_empty() {
                continue;
            }
            prop_assert_eq!(objects(&world.machine()), objects(&fresh.machine()));
            for (_, plan) in untouched(&table, &table) {
                prop_assert_eq!(actual(&world.machine(), plan), expected(plan));
            }
        }
    }

    #[test]
    fn a_sync_that_stops_after_any_operation_harms_no_other_service(
        changes in prop::collection::vec(any_change(), 2..20), busy in any::<bool>()
    ) {
        let mut world = World::new(Machine::default());
        let mut before: Option<ForwardingTable> = None;
        for (table, touched) in tables(changes) {
            let Some(last) = before.replace(table.clone()) else {
                world.sync(&table, &touched);
                continue;
            };
            let start = world.machine();
            world.sync(&table, &touched);
            let operations = world.machine().done - start.done;
            for stop in 0..operations {
                let mut half = World::new(start.clone());
                half.sync(&last, &BTreeSet::new());
                half.kernel.machine().budget = Some(stop);
                let scope = Scope { services: touched.clone(), full: false };
                prop_assert!(half.mode.sync(&table, &scope).is_err(), "it stops");
                for (name, plan) in untouched(&last, &table) {
                    prop_assert_eq!(
                        actual(&half.machine(), plan), expected(plan), "{} after {}", name, stop
                    );
                }
                let mut next = if busy { half.restarted() } else { half };
                next.kernel.machine().budget = None;
                next.sync(&table, &touched);
                prop_assert_eq!(objects(&next.machine()), objects(&world.machine()));
            }
        }
    }
}
