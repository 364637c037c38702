//! The pure part of the table: the cost of a change, and the same kernel objects after any order of changes.
//! A strict model of the kernel refuses what the kernel would refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::frontends::{FrontendClass, frontend_key};
use super::sets::SetId;
use super::strict_kernel::{Kernel, Model};
use super::{PART, ServiceTable};
use crate::userspace::VisibleSource;
use crate::{Backend, Observation, Report, Scope};
use crate::{ipvs, nftables, userspace};
use sluice_core::model::{Change, Condition, Service, ServiceName, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::fixtures::{
    any_change, endpoint, host, ip, many, service, slice, snapshot, two_services,
};
use sluice_core::plan::{
    ClusterIpGuard, ForwardingTable, Host, NodePortAddresses, Planner, PodDetector, build,
};
use sluice_kernel::nft::{Counting, Element, Field, Key, Op, Set, SetKind, Value, statement};

/// A daemon and its kernel.
struct World {
    mode: ServiceTable<Kernel>,
}

impl World {
    fn new(kernel: Kernel) -> World {
        World::of(kernel, Counting::Off)
    }

    fn of(kernel: Kernel, counting: Counting) -> World {
        World { mode: nftables::table(kernel).counting(counting) }
    }

    /// Syncs and returns the operations that were applied.
    fn sync(&mut self, table: &ForwardingTable, scope: &BTreeSet<ServiceName>) -> Vec<Op> {
        let report = self.report(table, scope);
        assert_eq!(report.refused, []);
        std::mem::take(&mut self.mode.kernel.transactions).concat()
    }

    fn report(&mut self, table: &ForwardingTable, scope: &BTreeSet<ServiceName>) -> Report {
        self.mode.kernel.transactions.clear();
        let scope = Scope { services: scope.clone(), full: false };
        let report = self.mode.sync(table, &scope).expect("the model's transport never fails");
        // What was built in parts and could not be finished was deleted again.
        let deletion = [Op::AddTable { comment: None }, Op::DeleteTable];
        let deleted = self.mode.kernel.transactions.iter().rposition(|ops| **ops == deletion);
        let last = deleted.map_or(0, |at| at + 1);
        let done = self.mode.kernel.transactions[last..].iter().map(Vec::len).sum::<usize>();
        assert_eq!(report.operations, done);
        report
    }

    fn kernel(&mut self) -> &mut Kernel {
        &mut self.mode.kernel
    }

    /// The same kernel, seen by a process that starts now.
    fn restarted(&self) -> World {
        let kernel = Kernel { listening: false, ..self.mode.kernel.clone() };
        World::of(kernel, self.mode.counting)
    }
}

/// Elements with the slot of an endpoint replaced by its number of twins: the order in slots is the
/// one thing that history may decide.
fn without_order(model: &Model) -> Vec<(Arc<str>, Vec<u8>, Value, String)> {
    let mut elements = Vec::new();
    for (name, (_, content)) in &model.sets {
        for (key, element) in content {
            let bytes = key.as_bytes();
            let by_slot = name.ends_with("-endpoints") || name.ends_with("-endpoint-ids");
            let cut = if by_slot { bytes.len() - 4 } else { bytes.len() };
            let (value, extra) = (element.value.clone(), format!("{:?}", element.extra));
            elements.push((Arc::clone(name), bytes[..cut].to_vec(), value, extra));
        }
    }
    elements.sort();
    elements
}

fn ten_thousand() -> Snapshot {
    many(10_000, &[true, false, false, false, false])
}

#[test]
fn an_endpoint_more_in_ten_thousand_services_is_a_handful_of_operations() {
    let mut snapshot = ten_thousand();
    // Another Service of nine endpoints: the rules for its number of slots are there already.
    let nine = (0..9).map(|e| endpoint(&format!("10.90.0.{e}"), Condition::Ready, false));
    snapshot.apply(Change::Service(service("big", "10.97.0.1")), &mut BTreeSet::new());
    snapshot.apply(Change::Slice(slice("big", "1", nine.collect())), &mut BTreeSet::new());
    let mut planner = Planner::new(Family::V4, "node-a", host());
    let every = snapshot.services.keys().cloned().collect();
    planner.update(&snapshot, &every);
    let mut world = World::new(Kernel::default());
    world.sync(planner.table(), &BTreeSet::new());

    let mut change = |pods: &[u8]| {
        let endpoints =
            pods.iter().map(|n| endpoint(&format!("10.{n}.0.77"), Condition::Ready, *n == 100));
        let changed = slice("web-77", "1", endpoints.collect());
        let mut dirty = BTreeSet::new();
        snapshot.apply(Change::Slice(changed), &mut dirty);
        let effect = planner.update(&snapshot, &dirty);
        world.sync(planner.table(), &effect.services)
    };
    let cost = |ops: &[Op]| {
        let touches_77 = |element: &Element| {
            let key = format!("{:?}", element.key);
            key.contains("004d") || key.contains(&format!("{:04x}", 20_077))
        };
        for op in ops {
            match op {
                Op::AddElement { element, .. } | Op::DeleteElement { element, .. } => {
                    assert!(touches_77(element), "{op:?} is about another Service");
                }
                other => panic!("{other:?} is no element operation"),
            }
        }
        ops.len()
    };
    // The cluster IP and the node port each hold the endpoints.
    let five = [100, 101, 102, 103, 104];
    let eight = [100, 101, 102, 103, 104, 105, 106, 107];
    assert_eq!(cost(&change(&eight[..6])), 2, "a sixth comes");
    assert_eq!(cost(&change(&five)), 2, "it leaves again");
    assert_eq!(cost(&change(&[100, 101, 102, 110, 104])), 4, "one is replaced");
    assert_eq!(cost(&change(&[100, 101, 102, 110, 104])), 0, "nothing changed");
    change(&eight);
    let nine = [100, 101, 102, 103, 104, 105, 106, 107, 108];
    assert_eq!(cost(&change(&nine)), 6, "a ninth comes: from 8 slots to 16");
    assert_eq!(cost(&change(&nine[1..])), 11, "the local one leaves: the last takes its slot");
}

#[test]
fn a_new_table_has_no_rules_until_all_its_elements_are_there() {
    let (table, _) = build(Family::V4, "node-a", host(), &ten_thousand());
    let mut world = World::new(Kernel::default());
    world.report(&table, &BTreeSet::new());
    let (last, before) = world.kernel().transactions.split_last().expect("there are some");
    assert!(before.len() > 10 && before.iter().all(|ops| ops.len() <= PART));
    assert!(!before.iter().flatten().any(|op| matches!(op, Op::AddRule(_))));
    assert!(last.iter().all(|op| matches!(op, Op::AddRule(_))));
    assert!(world.restarted().sync(&table, &BTreeSet::new()).is_empty());
    // A Service that is refused in the midst of it costs itself only.
    let poison = Some(vip_key(&table, "web-77").number(1));
    let mut refusing = World::new(Kernel { poison, ..Kernel::default() });
    let refused = refusing.report(&table, &BTreeSet::new()).refused;
    let name = ServiceName::new("default", "web-77");
    assert_eq!(refused.iter().map(|it| &it.service).collect::<Vec<_>>(), [&name]);
    let services = table.services.into_iter().filter(|(other, _)| *other != name).collect();
    let without = ForwardingTable { services, ..table };
    assert!(refusing.restarted().sync(&without, &BTreeSet::new()).is_empty());
}

#[test]
fn the_number_of_rules_does_not_depend_on_the_number_of_services() {
    let count = |snapshot: &Snapshot| {
        let (table, _) = build(Family::V4, "node-a", host(), snapshot);
        let mut world = World::new(Kernel::default());
        world.sync(&table, &BTreeSet::new());
        world.kernel().model.chains.values().map(|(_, rules)| rules.len()).sum::<usize>()
    };
    let five = (0..5).map(|e| endpoint(&format!("10.{}.0.1", 100 + e), Condition::Ready, false));
    let one = snapshot(vec![service("a", "10.96.0.1")], vec![slice("a", "1", five.collect())]);
    assert_eq!(count(&ten_thousand()), count(&one));
}

#[test]
fn host_facts_change_rules_and_no_service() {
    let snapshot = ten_thousand();
    let mut planner = Planner::new(Family::V4, "node-a", host());
    let every = snapshot.services.keys().cloned().collect();
    planner.update(&snapshot, &every);
    let mut world = World::new(Kernel::default());
    world.sync(planner.table(), &BTreeSet::new());
    let mut with = |change: &dyn Fn(&mut sluice_core::plan::Host)| {
        let mut changed = host();
        change(&mut changed);
        let effect = planner.set_host(&snapshot, changed);
        let ops = world.sync(planner.table(), &effect.services);
        assert!(world.sync(planner.table(), &effect.services).is_empty());
        ops.iter()
            .filter(|op| matches!(op, Op::AddElement { .. } | Op::DeleteElement { .. }))
            .count()
    };
    assert_eq!(with(&|_| {}), 0);
    assert_eq!(with(&|host| host.masquerade_all = true), 0);
    assert_eq!(with(&|host| host.pods = PodDetector::InterfacePrefix("veth".into())), 0);
    let addresses = || NodePortAddresses::Only([ip("192.168.0.2"), ip("192.168.0.3")].into());
    assert_eq!(with(&|host| host.node_ports = addresses()), 1, "an address more");
    assert_eq!(with(&|host| host.node_ports = NodePortAddresses::AnyLocal), 2, "by fib");
}

fn vip_key(table: &ForwardingTable, name: &str) -> Key {
    let plan = &table.services[&ServiceName::new("default", name)];
    frontend_key(&plan.ports[0].frontends[0].at)
}

#[test]
fn a_foreign_change_is_repaired_by_the_next_sync() {
    let (table, _) = build(Family::V4, "node-a", host(), &two_services());
    let mut world = World::new(Kernel::default());
    world.sync(&table, &BTreeSet::new());
    let untouched = world.kernel().model.clone();
    let slot = vip_key(&table, "a").number(1);
    let endpoints = SetId::Endpoints(FrontendClass::Vip).name();
    world.kernel().foreign_delete(&endpoints, slot);
    let report = world.report(&table, &BTreeSet::new());
    assert_eq!((report.observed, report.operations), (Observation::Drift, 1));
    assert_eq!(world.kernel().model, untouched);

    // A missed notification shows when an operation fails because of the change.
    world.kernel().foreign_delete(&endpoints, slot);
    world.kernel().touched = false;
    let mut without_a = table.clone();
    let name = ServiceName::new("default", "a");
    without_a.services.remove(&name);
    let report = world.report(&without_a, &[name].into());
    assert_eq!(report.observed, Observation::Drift);
    assert!(world.restarted().sync(&without_a, &BTreeSet::new()).is_empty());
}

#[test]
fn one_refused_object_costs_its_own_service_only() {
    let (table, _) = build(Family::V4, "node-a", host(), &two_services());
    let poison = Some(vip_key(&table, "a").number(1));
    let both: BTreeSet<ServiceName> = table.services.keys().cloned().collect();
    let mut without_a = table.clone();
    without_a.services.remove(&ServiceName::new("default", "a"));
    for known_before in [false, true] {
        let mut world = World::new(Kernel::default());
        if known_before {
            world.sync(&ForwardingTable { services: BTreeMap::new(), ..table.clone() }, &both);
        }
        world.kernel().poison = poison;
        let report = world.report(&table, &both);
        let refused: Vec<String> = report.refused.iter().map(|r| r.service.to_string()).collect();
        assert_eq!(refused, ["default/a"]);
        assert!(report.refused[0].reason.contains("AddElement"), "{:?}", report.refused);
        let mut expected = World::new(Kernel::default());
        expected.sync(&without_a, &BTreeSet::new());
        assert_eq!(without_order(&world.kernel().model), without_order(&expected.kernel().model));
        world.kernel().poison = None;
        let report = world.report(&table, &both);
        assert_eq!(report.refused, [], "it is served as soon as the kernel takes it");
        assert!(world.restarted().sync(&table, &BTreeSet::new()).is_empty());
    }
}

/// The two Services, as a table, after a change of `a` and one of `b`.
fn changed(a: impl Fn(&mut Service), b: impl Fn(&mut Service)) -> ForwardingTable {
    let mut snapshot = two_services();
    for (name, change) in [("a", &a as &dyn Fn(&mut Service)), ("b", &b)] {
        let name = ServiceName::new("default", name);
        change(snapshot.services.get_mut(&name).expect("it is one of the two"));
    }
    build(Family::V4, "node-a", host(), &snapshot).0
}

fn port_81(service: &mut Service) {
    service.ports[0].port = 81;
}

#[test]
fn a_refused_service_keeps_what_it_had() {
    let (before, _) = build(Family::V4, "node-a", host(), &two_services());
    let (after, b_only) = (changed(port_81, port_81), changed(|_| {}, port_81));
    let both: BTreeSet<ServiceName> = before.services.keys().cloned().collect();
    for (full, vague) in [(false, false), (true, false), (false, true)] {
        let mut world = World::new(Kernel::default());
        world.sync(&before, &both);
        world.kernel().poison = Some(vip_key(&after, "a"));
        world.kernel().vague = vague;
        let scope = Scope { services: both.clone(), full };
        let report = world.mode.sync(&after, &scope).expect("only elements are refused");
        let refused = report.refused.iter().map(|refused| refused.service.to_string());
        let expected = if vague { vec!["default/a", "default/b"] } else { vec!["default/a"] };
        assert_eq!(refused.collect::<Vec<_>>(), expected);
        let mut right = World::new(Kernel::default());
        right.sync(if vague { &before } else { &b_only }, &BTreeSet::new());
        assert_eq!(without_order(&world.kernel().model), without_order(&right.kernel().model));
        world.kernel().poison = None;
        world.sync(&after, &both);
        assert!(world.restarted().sync(&after, &BTreeSet::new()).is_empty());
    }
}

/// One that kept it would delete it later, when it is another's.
#[test]
fn a_refused_service_does_not_keep_an_address_that_has_gone_to_another() {
    let mut old = two_services();
    old.slices.clear();
    let (before, _) = build(Family::V4, "node-a", host(), &old);
    let mut new = old.clone();
    let vip = |name: &str, vip: &str, new: &mut Snapshot| {
        let service = new.services.get_mut(&ServiceName::new("default", name));
        service.expect("it is one of the two").cluster_ips = vec![ip(vip)];
    };
    vip("a", "10.96.0.3", &mut new);
    vip("b", "10.96.0.1", &mut new);
    let (after, _) = build(Family::V4, "node-a", host(), &new);
    let both: BTreeSet<ServiceName> = before.services.keys().cloned().collect();
    let mut world = World::new(Kernel::default());
    world.sync(&before, &both);
    world.kernel().poison = Some(vip_key(&after, "a"));
    assert_eq!(world.report(&after, &both).refused.len(), 1);
    world.kernel().poison = None;
    world.sync(&after, &both);
    let mut right = World::new(Kernel::default());
    right.sync(&after, &BTreeSet::new());
    assert_eq!(without_order(&world.kernel().model), without_order(&right.kernel().model));
}

#[test]
fn a_foreign_change_is_not_forgotten_when_the_table_cannot_be_read() {
    let (table, _) = build(Family::V4, "node-a", host(), &two_services());
    let mut world = World::new(Kernel::default());
    world.sync(&table, &BTreeSet::new());
    let untouched = world.kernel().model.clone();
    let slot = vip_key(&table, "a").number(1);
    world.kernel().foreign_delete(&SetId::Endpoints(FrontendClass::Vip).name(), slot);
    world.kernel().unreadable = true;
    world.mode.sync(&table, &Scope::default()).expect_err("it cannot be read");
    world.kernel().unreadable = false;
    world.sync(&table, &BTreeSet::new());
    assert_eq!(world.kernel().model, untouched);
}

/// A counter that is written again begins at zero.
#[test]
fn counters_change_with_addresses_and_names_and_with_nothing_else() {
    let mut snapshot = two_services();
    let table = |snapshot: &Snapshot| build(Family::V4, "node-a", host(), snapshot).0;
    let mut world = World::of(Kernel::default(), Counting::On);
    world.sync(&table(&snapshot), &BTreeSet::new());
    let mut touched = |change: Change| {
        let mut dirty = BTreeSet::new();
        snapshot.apply(change, &mut dirty);
        let ops = world.sync(&table(&snapshot), &dirty);
        let of_counters = |op: &&Op| match op {
            Op::AddElement { set, .. } | Op::DeleteElement { set, .. } => {
                set.ends_with("-counters")
            }
            _ => false,
        };
        ops.iter().filter(of_counters).count()
    };
    let pods = |n: u8| (0..n).map(|n| endpoint(&format!("10.244.3.{n}"), Condition::Ready, false));
    assert_eq!(touched(Change::Slice(slice("b", "1", pods(5).collect()))), 0, "other endpoints");
    assert_eq!(touched(Change::Slice(slice("b", "1", vec![]))), 0, "no endpoint");
    let mut b = service("b", "10.96.0.2");
    assert_eq!(touched(Change::Service(b.clone())), 1, "without its node port");
    b.ports[0].name = "http".into();
    assert_eq!(touched(Change::Service(b)), 2, "under another name");
    let removed = Change::ServiceGone(ServiceName::new("default", "b"));
    assert_eq!(touched(removed), 1, "and away");
}

/// A ruleset that was saved as JSON and loaded has lost comments and what parts of data are called.
#[test]
fn a_set_that_only_reads_otherwise_is_left_alone() {
    let (table, _) = build(Family::V4, "node-a", host(), &two_services());
    let endpoints = SetId::Endpoints(FrontendClass::Vip).name();
    let after = |change: &dyn Fn(&mut Set)| {
        let mut world = World::new(Kernel::default());
        world.sync(&table, &BTreeSet::new());
        change(&mut world.kernel().model.sets.get_mut(&endpoints).expect("it is there").0);
        world.restarted().sync(&table, &BTreeSet::new()).len()
    };
    let bare = |datatype, length| Field::Bare { datatype, length };
    let plain = SetKind::Map(vec![bare(7, 4), bare(13, 2)]);
    assert_eq!(after(&|set| (set.comment, set.kind) = (None, plain.clone())), 0);
    let longer = SetKind::Map(vec![bare(8, 16), bare(13, 2)]);
    assert!(after(&|set| set.kind = longer.clone()) > 0);
    assert!(after(&|set| set.size = Some(1)) > 0);
    assert!(after(&|set| set.key[1] = bare(13, 2)) > 0);
}

/// What a name means in the nftables mode.
fn from_name(name: &str) -> Option<SetId> {
    let mode = nftables::table(Kernel::default());
    let permanent = SetId::permanent(mode.path.sets()).map(|id| (id, id.name()));
    SetId::from_name(name, &permanent.collect::<Vec<_>>())
}

/// Numbers, of slots or seconds, may be written in several ways.
#[test]
fn a_set_is_ours_only_under_the_name_that_we_would_give_it() {
    let ours = ["service-slots-4", "nodeport-local-slots-8", "remember-10800", "affinity"];
    let sticky = ["service-sticky", "service-local-sticky-slots-2", "nodeport-endpoint-ids"];
    let others = ["endpoint-ids", "service-counters", "nodeport-counters"];
    for name in ours.into_iter().chain(sticky).chain(others) {
        assert!(from_name(name).is_some_and(|id| *id.name() == *name), "{name}");
    }
    for name in [
        "service-slots-04",
        "service-slots-+4",
        "service-sticky-slots-04",
        "remember-",
        "slots-4",
        "strays",
    ] {
        assert_eq!(from_name(name), None, "{name}");
    }
}

/// Hooks jump to the chain of the check although nothing is checked; the kernel refuses a jump to nowhere.
#[test]
fn cluster_ips_are_guarded_as_the_table_says() {
    for (guard, rules) in [
        (ClusterIpGuard::Open, 0),
        (ClusterIpGuard::Ports, 1),
        (ClusterIpGuard::PortsAndAddresses, 2),
    ] {
        let host = Host { cluster_ip_guard: guard, ..host() };
        let (mut table, _) = build(Family::V4, "node-a", host, &Snapshot::default());
        table.service_cidrs = ["10.96.0.0/16".parse().expect("a prefix")].into();
        let relays = userspace::table(Kernel::default(), VisibleSource::Node);
        for mut mode in [nftables::table(Kernel::default()), relays] {
            mode.sync(&table, &Scope::default()).expect("the model's transport never fails");
            let chains = mode.kernel.model.chains;
            let check = chains.get("cluster-ips-check").map(|(_, rules)| rules.len());
            assert_eq!(check, Some(rules), "{guard:?}");
            // What passes keeps its source: it is not marked for masquerading when it leaves the chain.
            let last = chains.get("services").and_then(|(_, rules)| rules.last());
            let bit = table.host.masquerade_mark;
            let unmarks =
                last.is_some_and(|rule| rule.exprs.ends_with(&statement::flip_mark_bits(bit)));
            assert_eq!(unmarks, guard == ClusterIpGuard::Open, "{guard:?}");
        }
    }
}

/// The Go kube-proxy takes sets by their names for its own and deletes them (upstream:
/// `pkg/proxy/nftables/proxier.go`, isAffinitySetName). One that our rules use makes it fail.
#[test]
fn no_set_has_a_name_that_keeps_the_go_kube_proxy_from_starting() {
    let kernel = Kernel::default;
    let relays = userspace::table(kernel(), VisibleSource::Node);
    for mode in [nftables::table(kernel()), ipvs::table(kernel()), relays] {
        let on_demand = [SetId::Affinity, SetId::Remembered(10800)];
        for id in SetId::permanent(mode.path.sets()).chain(on_demand) {
            assert!(!id.name().starts_with("affinity-"), "{}", id.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_history_ends_in_the_same_objects(
        changes in prop::collection::vec((any_change(), 0..8_u8), 1..30),
        counting in prop::sample::select(vec![Counting::Off, Counting::On])
    ) {
        let mut planner = Planner::new(Family::V4, "node-a", host());
        let mut snapshot = Snapshot::default();
        let mut world = World::of(Kernel::default(), counting);
        for (change, dice) in changes {
            let mut dirty = BTreeSet::new();
            snapshot.apply(change, &mut dirty);
            let effect = planner.update(&snapshot, &dirty);
            if dice == 0 {
                world = world.restarted();
            }
            world.sync(planner.table(), &effect.services);
            let repeated = world.sync(planner.table(), &effect.services);
            prop_assert!(repeated.is_empty(), "a second sync did {repeated:?}");
            let after_restart = world.restarted().sync(planner.table(), &BTreeSet::new());
            prop_assert!(after_restart.is_empty(), "a restart did {after_restart:?}");

            let mut fresh = World::of(Kernel::default(), counting);
            fresh.sync(planner.table(), &BTreeSet::new());
            prop_assert_eq!(without_order(&world.kernel().model), without_order(&fresh.kernel().model));
            prop_assert_eq!(&world.kernel().model.chains, &fresh.kernel().model.chains);
            for id in world.kernel().model.sets.keys() {
                prop_assert!(from_name(id).is_some(), "{id} is not recognized");
            }
        }
    }
}
