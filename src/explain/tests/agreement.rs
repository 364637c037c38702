//! The reasons come to what the plan decides.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::world::World;
use crate::{Code, Outcome};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::fixtures::{any_change, host, ip};
use sluice_core::plan::{
    ClusterIpGuard, Decision, Host, NodePortAddresses, Packet, PacketSource, PodDetector, build,
    decide,
};

fn any_host() -> impl Strategy<Value = Host> {
    let pods = prop::sample::select(vec![
        PodDetector::None,
        host().pods,
        PodDetector::InterfacePrefix("veth".into()),
        PodDetector::BridgeInterface("cni0".into()),
    ]);
    let guard = prop::sample::select(vec![
        ClusterIpGuard::Open,
        ClusterIpGuard::Ports,
        ClusterIpGuard::PortsAndAddresses,
    ]);
    let node_ports = prop::sample::select(vec![NodePortAddresses::AnyLocal, host().node_ports]);
    (pods, guard, node_ports, any::<bool>()).prop_map(|(pods, guard, node_ports, all)| Host {
        pods,
        cluster_ip_guard: guard,
        node_ports,
        masquerade_all: all,
        ..host()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn reasons_come_to_what_the_plan_decides(
        changes in prop::collection::vec(any_change(), 1..12),
        host in any_host(),
        from in prop::sample::select(vec![
            "10.244.1.1@veth7", "10.244.1.2@cni0", "192.168.0.2", "192.168.0.77@eth0", "203.0.113.7@eth0",
            "198.51.100.1@eth0",
        ]),
        to in prop::sample::select(vec![
            "10.96.0.1", "10.96.0.2", "10.96.0.9", "198.51.100.1", "192.168.0.2", "127.0.0.1", "10.244.1.1",
            "192.168.0.3",
        ]),
        port in prop::sample::select(vec![80_u16, 81, 30080, 31000]),
        protocol in prop::sample::select(Protocol::ALL.to_vec()),
        cidrs in any::<bool>(),
    ) {
        let mut world = World::of(vec![], vec![]);
        for change in changes {
            world.snapshot.apply(change, &mut BTreeSet::new());
        }
        if !cidrs {
            world.snapshot.service_cidrs.clear();
        }
        world.host = host;
        let (table, _) = build(Family::V4, "node-a", world.host.clone(), &world.snapshot);
        let (address, device) = from.split_once('@').unwrap_or((from, ""));
        let source = if device.is_empty() {
            PacketSource::ThisNode(ip(address))
        } else {
            PacketSource::Interface { ip: ip(address), name: device.to_owned() }
        };
        let destination = ip(to);
        let to_this_node = world.local.contains(&destination);
        let packet = Packet { source, protocol, destination, to_this_node, port };
        let decided = decide(&table, &packet);
        let answer = world.answer(from, &format!("{to}:{port}/{protocol}"));
        prop_assert_eq!(answer.decision.as_ref(), Some(&decided), "{:#?}", answer);
        let expected: &[Outcome] = match decided {
            Decision::Forward { .. } => &[Outcome::Reachable],
            Decision::Reject | Decision::Drop => &[Outcome::Unreachable],
            Decision::Pass => &[Outcome::Undetermined, Outcome::Unreachable],
        };
        prop_assert!(expected.contains(&answer.result), "{:#?}", answer);
        prop_assert_eq!(answer.stages.len(), 10);
        let errors = answer.findings.iter().any(|f| f.severity == crate::Severity::Error);
        prop_assert_eq!(errors, answer.result == Outcome::Unreachable, "{:#?}", answer);
        let text = crate::render::text(&answer, crate::render::Style::new(None, false));
        prop_assert!(text.lines().all(|line| line.chars().count() <= 100), "{}", text);
    }
}

#[test]
fn a_connection_that_works_names_its_endpoints_and_the_others() {
    let answer = World::usual().answer("pod/shell", "http://web");
    assert_eq!(answer.result, Outcome::Reachable);
    assert_eq!(answer.summary, "reachable: a new connection goes to web-1 or web-3");
    let stage = answer.stage(crate::StageName::Endpoints).expect("all stages are there");
    let used: Vec<&str> = stage.used.iter().map(|used| &*used.endpoint).collect();
    assert_eq!(used, ["10.244.1.2:8080", "10.244.2.2:8080"]);
    let unused = &stage.unused[0];
    assert_eq!(unused.pod.as_deref(), Some("web-2"));
    assert_eq!(unused.detail.as_deref(), Some("GET :8080/healthz says 503"));
    assert_eq!(answer.findings[0].code, Code::EndpointsNotReady);
    assert_eq!(answer.findings.len(), 1);
}

#[test]
fn an_explanation_survives_json() {
    let answer = World::usual().answer("pod/shell", "svc/web");
    let text = serde_json::to_string(&answer).expect("it is JSON");
    let mut again: crate::Explanation = serde_json::from_str(&text).expect("it is read");
    assert_eq!(again.decision, None, "the decision is not for others");
    again.decision.clone_from(&answer.decision);
    assert_eq!(again, answer);
}
