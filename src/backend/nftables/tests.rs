//! The pure part of the mode: what a change costs, and that any order of changes ends in the same
//! kernel objects. A strict model of the kernel refuses what the kernel would refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::layout::{Place, SetId, frontend_key};
use super::{Listening, Nftables, Tables};
use crate::backend::{Backend, Observation, Report, Scope};
use crate::kernel::nft::{
    ApplyError, Chain, Element, Expr, Key, NftError, Observed, ObservedChain, ObservedRule,
    ObservedSet, Op, Refused, Rule, Set, Value, Verdict,
};
use crate::model::{Change, Condition, ServiceName, Snapshot};
use crate::net::Family;
use crate::plan::fixtures::{any_change, endpoint, host, ip, service, slice, snapshot};
use crate::plan::{ForwardingTable, NodePortAddresses, Planner, PodDetector, build};

/// One table, as strict as the kernel about what exists and what is referred to.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    exists: bool,
    sets: BTreeMap<Arc<str>, (Set, BTreeMap<Key, Element>)>,
    chains: BTreeMap<Arc<str>, (Chain, Vec<Rule>)>,
}

impl Model {
    fn apply_one(&mut self, op: Op) -> Result<(), &'static str> {
        match op {
            Op::AddTable { .. } => self.exists = true,
            Op::DeleteTable => *self = Model::default(),
            _ if !self.exists => return Err("no table"),
            Op::AddChain(chain) => {
                self.chains.entry(Arc::clone(&chain.name)).or_insert((chain, Vec::new()));
            }
            Op::FlushChain(name) => self.chains.get_mut(&name).ok_or("no chain")?.1.clear(),
            Op::DeleteChain(name) => {
                self.chains.remove(&name).ok_or("no chain")?;
            }
            Op::AddSet(set) => {
                self.sets.entry(Arc::clone(&set.name)).or_insert((set, BTreeMap::new()));
            }
            Op::DeleteSet(name) => {
                self.sets.remove(&name).ok_or("no set")?;
            }
            Op::FlushSet(name) => self.sets.get_mut(&name).ok_or("no set")?.1.clear(),
            Op::AddRule(rule) => {
                self.chains.get_mut(&rule.chain).ok_or("no chain")?.1.push(rule);
            }
            Op::DeleteRule { .. } => return Err("not used by this mode"),
            Op::AddElement { set, element } => {
                let elements = &mut self.sets.get_mut(&set).ok_or("no set")?.1;
                if elements.insert(element.key, element).is_some() {
                    return Err("element exists");
                }
            }
            Op::DeleteElement { set, element } => {
                let elements = &mut self.sets.get_mut(&set).ok_or("no set")?.1;
                elements.remove(&element.key).ok_or("no element")?;
            }
        }
        Ok(())
    }

    fn check_references(&self) {
        for rule in self.chains.values().flat_map(|(_, rules)| rules) {
            for expr in &rule.exprs {
                match expr {
                    Expr::Lookup { set, .. } => assert!(self.sets.contains_key(set), "{rule:?}"),
                    Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => {
                        assert!(self.chains.contains_key(chain), "{rule:?}");
                    }
                    _ => {}
                }
            }
        }
    }

    /// What a process that starts now would read.
    fn observed(&self) -> Option<Observed> {
        let sets = self.sets.iter().map(|(name, (set, elements))| {
            let elements = elements.values().cloned().collect();
            (Arc::clone(name), ObservedSet { set: set.clone(), elements })
        });
        let chains = self.chains.iter().map(|(name, (chain, rules))| {
            let rule = |rule: &Rule| ObservedRule { handle: 1, rule: rule.clone(), counted: None };
            let rules = rules.iter().map(rule).collect();
            (Arc::clone(name), ObservedChain { chain: chain.clone(), rules })
        });
        let observed =
            Observed { sets: sets.collect(), chains: chains.collect(), ..Observed::default() };
        self.exists.then_some(observed)
    }
}

/// The kernel of a test: the model, with what it refuses and what others do to it.
#[derive(Debug, Default, Clone)]
struct Kernel {
    model: Model,
    generation: u32,
    listening: bool,
    touched: bool,
    /// Elements of this key are refused, as if the kernel did not want them.
    poison: Option<Key>,
    /// What the last transaction did.
    last: Vec<Op>,
}

impl Kernel {
    /// Somebody else deletes an element.
    fn foreign_delete(&mut self, set: &str, key: Key) {
        let (_, elements) = self.model.sets.get_mut(set).expect("the set is there");
        elements.remove(&key).expect("the element is there");
        self.generation += 1;
        self.touched = self.listening;
    }
}

impl Tables for Kernel {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        let refusal = |(op, errno)| Refused {
            op,
            errno,
            detail: "refused".to_owned(),
            object: format!("{:?}", ops[op]),
        };
        let poisoned = |op: &Op| matches!(op, Op::AddElement { element, .. } if Some(element.key) == self.poison);
        let refused: Vec<Refused> = ops
            .iter()
            .enumerate()
            .filter(|(_, op)| poisoned(op))
            .map(|(i, _)| refusal((i, 22)))
            .collect();
        if !refused.is_empty() {
            return Err(ApplyError::Refused(refused));
        }
        let mut next = self.model.clone();
        for (index, op) in ops.iter().enumerate() {
            if next.apply_one(op.clone()).is_err() {
                return Err(ApplyError::Refused(vec![refusal((index, 2))]));
            }
        }
        next.check_references();
        self.model = next;
        self.generation += 1;
        self.last = ops.to_vec();
        Ok(())
    }

    fn dump(&mut self) -> Result<Option<Observed>, NftError> {
        Ok(self.model.observed())
    }

    fn elements(&mut self, set: &Set) -> Result<Vec<Element>, NftError> {
        let observed = self.model.observed().unwrap_or_default();
        let found = observed.sets.get(&set.name);
        Ok(found.map(|set| set.elements.clone()).unwrap_or_default())
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.generation)
    }

    fn listen(&mut self) -> Result<Listening, NftError> {
        let before = std::mem::replace(&mut self.listening, true);
        Ok(if before { Listening::Before } else { Listening::Now })
    }

    fn drifted(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }
}

/// A daemon and its kernel.
struct World {
    mode: Nftables<Kernel>,
}

impl World {
    fn new(kernel: Kernel) -> World {
        World { mode: Nftables { tables: kernel, programmed: None } }
    }

    /// Syncs and gives the operations that the kernel carried out.
    fn sync(&mut self, table: &ForwardingTable, scope: &BTreeSet<ServiceName>) -> Vec<Op> {
        let report = self.report(table, scope);
        assert_eq!(report.refused, []);
        std::mem::take(&mut self.mode.tables.last)
    }

    fn report(&mut self, table: &ForwardingTable, scope: &BTreeSet<ServiceName>) -> Report {
        self.mode.tables.last.clear();
        let scope = Scope { services: scope.clone(), full: false };
        let report = self.mode.sync(table, &scope).expect("the model's transport never fails");
        assert_eq!(report.operations, self.mode.tables.last.len());
        report
    }

    fn kernel(&mut self) -> &mut Kernel {
        &mut self.mode.tables
    }

    /// The same kernel, seen by a process that starts now.
    fn restarted(&self) -> World {
        World::new(Kernel { listening: false, ..self.mode.tables.clone() })
    }
}

/// Elements with the slot of an endpoint replaced by its number of twins: the order in slots is the
/// one thing that history may decide.
fn without_order(model: &Model) -> Vec<(Arc<str>, Vec<u8>, Value, String)> {
    let mut elements = Vec::new();
    for (name, (_, content)) in &model.sets {
        for (key, element) in content {
            let bytes = key.as_bytes();
            let cut = if name.ends_with("-endpoints") { bytes.len() - 4 } else { bytes.len() };
            let (value, extra) = (element.value.clone(), format!("{:?}", element.extra));
            elements.push((Arc::clone(name), bytes[..cut].to_vec(), value, extra));
        }
    }
    elements.sort();
    elements
}

fn ten_thousand() -> Snapshot {
    let mut services = Vec::new();
    let mut slices = Vec::new();
    for n in 0..10_000_u16 {
        let [high, low] = n.to_be_bytes();
        let mut web = service(&format!("web-{n}"), &format!("10.96.{high}.{low}"));
        web.ports[0].node_port = Some(20_000 + n);
        services.push(web);
        let endpoints = (0..5)
            .map(|e| endpoint(&format!("10.{}.{high}.{low}", 100 + e), Condition::Ready, e == 0));
        slices.push(slice(&format!("web-{n}"), "1", endpoints.collect()));
    }
    snapshot(services, slices)
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
    let mut with = |change: &dyn Fn(&mut crate::plan::Host)| {
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

/// Two Services with two endpoints each.
fn two_services() -> Snapshot {
    let mut services = vec![service("a", "10.96.0.1"), service("b", "10.96.0.2")];
    services[1].ports[0].node_port = Some(30081);
    let endpoints = || {
        vec![
            endpoint("10.244.1.1", Condition::Ready, true),
            endpoint("10.244.2.1", Condition::Ready, false),
        ]
    };
    snapshot(services, vec![slice("a", "1", endpoints()), slice("b", "1", endpoints())])
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
    let endpoints = SetId::Endpoints(Place::Service).name();
    world.kernel().foreign_delete(&endpoints, slot);
    let report = world.report(&table, &BTreeSet::new());
    assert_eq!((report.observed, report.operations), (Observation::Drift, 1));
    assert_eq!(world.kernel().model, untouched);

    // One that was not heard of shows when an operation contradicts it.
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_history_ends_in_the_same_objects(
        changes in prop::collection::vec((any_change(), 0..8_u8), 1..30)
    ) {
        let mut planner = Planner::new(Family::V4, "node-a", host());
        let mut snapshot = Snapshot::default();
        let mut world = World::new(Kernel::default());
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

            let mut fresh = World::new(Kernel::default());
            fresh.sync(planner.table(), &BTreeSet::new());
            prop_assert_eq!(without_order(&world.kernel().model), without_order(&fresh.kernel().model));
            prop_assert_eq!(&world.kernel().model.chains, &fresh.kernel().model.chains);
            for id in world.kernel().model.sets.keys() {
                prop_assert!(SetId::from_name(id).is_some(), "{id} is not recognized");
            }
        }
    }
}
