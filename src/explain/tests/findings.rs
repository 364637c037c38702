//! What produces each finding, and which questions have no answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::world::{World, facts, pod};
use crate::truth::{Looked, Object, Observed, Problem, Unserved, Way};
use crate::{Code, Outcome, Refusal, Severity};
use sluice_core::model::{
    Change, Condition, Hints, Service, ServicePort, SourceRanges, TrafficPolicy,
};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::fixtures::{endpoint, ip, service, slice};

/// The usual world, changed.
fn world(change: impl FnOnce(&mut World)) -> World {
    let mut world = World::usual();
    change(&mut world);
    world
}

fn change(world: &mut World, change: Change) {
    world.snapshot.apply(change, &mut BTreeSet::new());
}

/// The Service `web` of the usual world, changed.
fn web(world: &mut World, edit: impl FnOnce(&mut Service)) {
    let name = sluice_core::model::ServiceName::new("default", "web");
    let mut service = (*world.snapshot.services[&name]).clone();
    edit(&mut service);
    change(world, Change::Service(service));
}

fn endpoints(world: &mut World, list: &[(&str, Condition, bool)]) {
    let list = list.iter().map(|(ip, condition, local)| endpoint(ip, *condition, *local)).collect();
    change(world, Change::Slice(slice("web", "1", list)));
}

fn dns(world: &mut World, condition: Condition) {
    let mut dns = service("kube-dns", "10.96.0.10");
    dns.name = sluice_core::model::ServiceName::new("kube-system", "kube-dns");
    (dns.ports[0].port, dns.ports[0].node_port) = (53, None);
    let mut slice = slice("kube-dns", "1", vec![endpoint("10.244.1.7", condition, true)]);
    slice.service = dns.name.clone();
    change(world, Change::Service(dns));
    change(world, Change::Slice(slice));
}

fn object(element: &str) -> Object {
    Object { set: "service-endpoints".into(), element: element.into(), state: String::new() }
}

/// A world, a question, and what it must find.
type Row = (Code, World, &'static str, &'static str, Outcome);

fn names_and_addresses() -> Vec<Row> {
    use Outcome::{Mixed, Undetermined, Unreachable};
    let of = |edit: fn(&mut World)| world(edit);
    let unserved = |why: Unserved| {
        world(|w| {
            let service = w.known.services.entry("default/db".into()).or_default();
            service.unserved = Some(why);
        })
    };
    let v6 = of(|w| web(w, |s| s.cluster_ips = vec![ip("fd00::80")]));
    let both = of(|w| {
        web(w, |s| s.cluster_ips.push(ip("fd00::80")));
        w.families.push(Family::V6);
        let Looked::At(pods) = &mut w.known.pods else { panic!("pods are known") };
        pods[0].ips.push(ip("fd00:244::9"));
    });
    let contested = of(|w| {
        let older = Service { created: 0, ..service("older", "10.96.0.80") };
        change(w, Change::Service(older));
    });
    let others = of(|w| w.known.without_slices = false);
    vec![
        (Code::NoSuchService, others, "pod/shell", "svc/wbe", Unreachable),
        (Code::NoSuchService, World::usual(), "pod/shell", "10.96.0.99:80", Unreachable),
        (Code::DnsNoSuchName, World::usual(), "pod/shell", "http://web.shop", Unreachable),
        (Code::NoSuchPort, World::usual(), "pod/shell", "svc/web:8080", Unreachable),
        (Code::NoSuchPort, World::usual(), "pod/shell", "svc/web:metrics", Unreachable),
        (Code::WrongProtocol, World::usual(), "pod/shell", "svc/web:80/udp", Unreachable),
        (Code::WrongProtocol, World::usual(), "203.0.113.7", "192.168.0.2:30080/udp", Unreachable),
        (Code::WrongFamily, v6, "pod/shell", "svc/web", Unreachable),
        (Code::NoEndpoints, both, "pod/shell", "svc/web", Mixed),
        (Code::NoClusterIp, unserved(Unserved::Headless), "pod/shell", "svc/db", Undetermined),
        (
            Code::NoClusterIp,
            unserved(Unserved::ExternalName("db.example".into())),
            "pod/shell",
            "db:5432",
            Undetermined,
        ),
        (Code::NoClusterIp, unserved(Unserved::NoAddress), "pod/shell", "svc/db", Undetermined),
        (
            Code::OtherProxy,
            unserved(Unserved::OtherProxy("cilium".into())),
            "pod/shell",
            "svc/db",
            Undetermined,
        ),
        (Code::ContestedAddress, contested, "pod/shell", "svc/web", Unreachable),
        (Code::NodePortNotHere, World::usual(), "node/node-a", "127.0.0.1:30080", Unreachable),
        (
            Code::DnsNoEndpoints,
            of(|w| dns(w, Condition::Unusable)),
            "pod/shell",
            "web:80",
            Unreachable,
        ),
    ]
}

fn pods_and_policies() -> Vec<Row> {
    use Condition::{Ready, Terminating, Unusable};
    use Outcome::{Reachable, Unreachable};
    let of = |edit: fn(&mut World)| world(edit);
    let typo = of(|w| {
        endpoints(w, &[]);
        let Looked::At(pods) = &mut w.known.pods else { panic!("pods are known") };
        pods.retain(|pod| pod.name == "shell");
        pods.push(pod("web-4", &[("app", "wep")], "10.244.1.4", "node-a"));
    });
    let typo_too = world(|w| {
        endpoints(w, &[]);
        let Looked::At(pods) = &mut w.known.pods else { panic!("pods are known") };
        pods.retain(|pod| pod.name == "shell");
        pods.push(pod("web-4", &[("app", "wep")], "10.244.1.4", "node-a"));
    });
    let unnamed = of(|w| {
        endpoints(w, &[]);
        w.known.services.insert("default/web".into(), facts("web", "web-port"));
    });
    let elsewhere: fn(&mut World) = |w| {
        endpoints(w, &[("10.244.2.2", Ready, false)]);
        web(w, |s| s.external_policy = TrafficPolicy::Local);
    };
    let internal = of(|w| {
        endpoints(w, &[("10.244.2.2", Ready, false)]);
        web(w, |s| s.internal_policy = TrafficPolicy::Local);
    });
    let hinted = of(|w| {
        let mut far = endpoint("10.244.2.2", Ready, false);
        let mut near = endpoint("10.244.1.2", Ready, true);
        far.hints = Some(Arc::new(Hints { zones: vec!["b".into()], nodes: vec![] }));
        near.hints = Some(Arc::new(Hints { zones: vec!["a".into()], nodes: vec![] }));
        change(w, Change::Slice(slice("web", "1", vec![near, far])));
        w.snapshot.node.iter_mut().for_each(|node| node.zone = Some("a".into()));
    });
    let restricted = of(|w| {
        let range = "203.0.113.0/30".parse().expect("a prefix");
        web(w, |s| s.source_ranges = SourceRanges::Only(vec![range]));
    });
    let none_ready = of(|w| endpoints(w, &[("10.244.1.2", Unusable, true)]));
    let last = of(|w| endpoints(w, &[("10.244.1.2", Terminating, true)]));
    vec![
        (Code::EndpointsNotReady, World::usual(), "pod/shell", "svc/web", Reachable),
        (Code::NoEndpoints, none_ready, "pod/shell", "svc/web", Unreachable),
        (Code::EndpointsTerminating, last, "pod/shell", "svc/web", Reachable),
        (Code::SelectorMatchesNothing, typo, "pod/shell", "svc/web", Unreachable),
        (Code::SelectorNearMiss, typo_too, "pod/shell", "svc/web", Unreachable),
        (Code::NamedPortMissing, unnamed, "pod/shell", "svc/web", Unreachable),
        (
            Code::LocalPolicyNoEndpoint,
            of(elsewhere),
            "203.0.113.7",
            "192.168.0.2:30080",
            Unreachable,
        ),
        (Code::LocalPolicyNoEndpoint, internal, "pod/shell", "svc/web", Unreachable),
        (Code::HintsExclude, hinted, "pod/shell", "svc/web", Reachable),
        (Code::SourceNotAdmitted, restricted, "203.0.113.7", "198.51.100.1:80", Unreachable),
        (
            Code::MasqueradeHidesSource,
            World::usual(),
            "203.0.113.7",
            "192.168.0.2:30080",
            Reachable,
        ),
    ]
}

fn kernel_and_truth() -> Vec<Row> {
    use Outcome::{Mixed, Reachable, Unreachable};
    let seen = |present: &[&str], missing: &[&str], extra: &[&str]| {
        let objects = |list: &[&str]| list.iter().map(|element| object(element)).collect();
        let seen = Observed {
            present: objects(present),
            missing: objects(missing),
            extra: objects(extra),
        };
        world(|w| w.kernel.observed = Looked::At(seen))
    };
    let asked = |problem: Problem, blocked| {
        world(|w| {
            let (routes, problems) = (vec!["dev eth0".into()], vec![problem]);
            w.kernel.way = Looked::At(Way { routes, problems, blocked })
        })
    };
    let way = |problem| asked(problem, false);
    let one = |problem| {
        let mut one = asked(problem, true);
        endpoints(&mut one, &[("10.244.1.2", Condition::Ready, true)]);
        one
    };
    let no_route = || Problem::NoRoute("10.244.2.2: no route".into());
    vec![
        (Code::KernelObjectMissing, seen(&["a"], &["b"], &[]), "pod/shell", "svc/web", Mixed),
        (Code::KernelObjectMissing, seen(&[], &["b"], &[]), "pod/shell", "svc/web", Unreachable),
        (Code::KernelObjectExtra, seen(&["a"], &[], &["c"]), "pod/shell", "svc/web", Reachable),
        (Code::NoRoute, way(no_route()), "pod/shell", "svc/web", Mixed),
        (Code::NoRoute, one(no_route()), "pod/shell", "svc/web", Unreachable),
        (
            Code::ForwardingOff,
            one(Problem::ForwardingOff("off".into())),
            "pod/shell",
            "svc/web",
            Unreachable,
        ),
        (
            Code::ReversePath,
            one(Problem::ReversePath("eth1".into())),
            "pod/shell",
            "svc/web",
            Unreachable,
        ),
        (
            Code::ProxyBehind,
            world(|w| w.origin.pending_seconds = Some(41)),
            "pod/shell",
            "svc/web",
            Reachable,
        ),
        (
            Code::StaleTruth,
            world(|w| w.origin.stale_seconds = Some(600)),
            "pod/shell",
            "svc/web",
            Reachable,
        ),
    ]
}

#[test]
fn every_finding_is_produced_with_its_result_and_a_fix() {
    let mut produced = BTreeSet::new();
    for (code, world, from, to, outcome) in
        [names_and_addresses(), pods_and_policies(), kernel_and_truth()].into_iter().flatten()
    {
        let answer = world.answer(from, to);
        let finding = answer.findings.iter().find(|finding| finding.code == code);
        let finding = finding.unwrap_or_else(|| panic!("{from} → {to}: no {code}: {answer:#?}"));
        assert_eq!(answer.result, outcome, "{code}: {answer:#?}");
        assert!(finding.fix.is_some() || code == Code::NoClusterIp, "{code} has a fix");
        assert_eq!(finding.severity, code.severity());
        if outcome == Outcome::Unreachable {
            let failed = answer.stages.iter().filter(|stage| stage.ok == Some(false)).count();
            assert!(failed > 0, "{code}: a stage fails: {answer:#?}");
        }
        produced.insert(code);
    }
    let all: BTreeSet<Code> = Code::ALL.iter().copied().collect();
    assert_eq!(produced, all, "codes that a test produces, and codes");
}

#[test]
fn what_is_healthy_has_no_findings() {
    let healthy = world(|w| endpoints(w, &[("10.244.1.2", Condition::Ready, true)]));
    for (from, to) in [
        ("pod/shell", "web:80"),
        ("pod/shell", "svc/web"),
        ("pod/web-1", "svc/web"),
        ("node/node-a", "192.168.0.2:30080"),
        ("203.0.113.7", "10.96.0.80:80"),
        ("pod/shell", "10.244.2.2:8080"),
        ("203.0.113.7", "192.168.0.3:30080"),
        ("203.0.113.7", "192.168.0.2:22"),
    ] {
        assert_eq!(healthy.codes(from, to), [], "{from} → {to}");
    }
}

#[test]
fn a_pod_of_another_service_is_no_near_miss() {
    let world = world(|w| {
        let Looked::At(pods) = &mut w.known.pods else { panic!("pods are known") };
        pods.push(pod("wep-1", &[("app", "wep")], "10.244.1.8", "node-a"));
        w.known.services.insert("default/wep".into(), facts("wep", "http"));
    });
    assert!(!world.codes("pod/shell", "svc/web").contains(&Code::SelectorNearMiss));
}

#[test]
fn questions_that_cannot_be_answered_say_what_would_do() {
    let ambiguous = world(|w| {
        let mut other = service("web", "10.96.0.81");
        other.name = sluice_core::model::ServiceName::new("shop", "web");
        other.ports[0].node_port = None;
        change(w, Change::Service(other));
    });
    let many = world(|w| {
        web(w, |s| {
            s.ports[0].name = "http".into();
            let more = ServicePort {
                name: "metrics".into(),
                protocol: Protocol::Tcp,
                port: 9090,
                node_port: None,
            };
            s.ports.push(more);
        });
    });
    let pending = world(|w| {
        let Looked::At(pods) = &mut w.known.pods else { panic!("pods are known") };
        let reason = Some("ContainerCreating".to_owned());
        pods.push(crate::truth::Pod { not_ready: reason, ..pod("new", &[], "", "node-a") });
    });
    let forbidden = world(|w| w.known.pods = Looked::Not("pods are forbidden to you".into()));
    let table = [
        (&ambiguous, "203.0.113.7", "svc/web", "default, shop: write svc/web.NAMESPACE"),
        (&many, "pod/shell", "svc/web", "svc/web.default:http (80/tcp), svc/web.default:metrics"),
        (&pending, "pod/new", "svc/web", "no IP address yet (ContainerCreating)"),
        (&pending, "pod/web-3", "svc/web", "is on node node-b"),
        (&pending, "pod/shel", "svc/web", "do you mean pod/shell?"),
        (&pending, "pod/shell.shop", "svc/web", "do you mean pod/shell?"),
        (&pending, "node/node-c", "svc/web", "do you mean node-"),
        (&pending, "pod/shell", "node/nod-b:80", "do you mean node-b"),
        (&forbidden, "pod/shell", "svc/web", "pods are forbidden to you"),
    ];
    for (world, from, to, expected) in table {
        let refusal = world.ask(from, to).expect_err(to);
        assert!(refusal.to_string().contains(expected), "{from} → {to}: {refusal}");
        assert_eq!(refusal.exit_code(), 1, "{refusal}");
    }
    // With an address, nobody needs to know the pod.
    assert_eq!(forbidden.answer("10.244.1.9", "svc/web").result, Outcome::Reachable);
    let refusal: Refusal = ambiguous.ask("shell", "svc/web").expect_err("no FROM");
    assert_eq!(refusal.exit_code(), 2);
}

#[test]
fn names_mean_what_they_mean_in_the_clients_namespace() {
    let world = world(|w| {
        let mut other = service("web", "10.96.0.81");
        other.name = sluice_core::model::ServiceName::new("shop", "web");
        other.ports[0].node_port = None;
        change(w, Change::Service(other));
        let Looked::At(pods) = &mut w.known.pods else { panic!("pods are known") };
        let in_shop = pod("till", &[], "10.244.1.8", "node-a");
        pods.push(crate::truth::Pod { namespace: "shop".into(), ..in_shop });
    });
    for (from, to, service) in [
        ("pod/shell", "http://web", "default/web"),
        ("pod/till.shop", "http://web", "shop/web"),
        ("pod/till", "svc/web", "shop/web"),
        ("pod/shell", "web.shop:80", "shop/web"),
        ("pod/till", "web.default.svc:80", "default/web"),
        ("pod/shell", "web.shop.svc.cluster.local:80", "shop/web"),
        ("203.0.113.7", "svc/web.shop:80", "shop/web"),
    ] {
        let answer = world.answer(from, to);
        assert_eq!(answer.to.service.as_deref(), Some(service), "{from} → {to}");
    }
    let beyond = world.answer("pod/shell", "https://www.example.com/");
    assert_eq!(beyond.result, Outcome::Undetermined);
    assert!(beyond.findings.iter().all(|finding| finding.severity == Severity::Info));
}
