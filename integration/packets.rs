//! Real connections through the daemon in the lab: which pod answered, which source it saw, what was rejected,
//! and what a restart does to traffic.

mod counted;
mod support;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use sluice_cluster::api::{Part, Patch, Resource};
use sluice_cluster::{
    Answer, Cluster, ClusterSpec, Host, Isolation, LoadKind, LoadSpec, Pod, Probe, prepare,
};
use sluice_core::net::{Family, Protocol};

use support::daemon::program;
use support::objects::{NODE_PORT, web};
use support::{Outcome, eventually};

const PORTS: [(Protocol, u16); 3] =
    [(Protocol::Tcp, 8080), (Protocol::Udp, 8080), (Protocol::Sctp, 8080)];

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    counted::write_daemon(folder.path());
    let arguments = libtest_mimic::Arguments::from_args();
    let trial = |name, run: fn() -> Outcome| libtest_mimic::Trial::test(name, run);
    let trials = vec![
        trial("every_vantage_reaches_every_endpoint_in_every_protocol", reach),
        trial("a_restart_under_load_loses_no_connection", restart),
        trial("pods_come_and_go_and_the_last_one_leaves_a_refusal", come_and_go),
        trial("masquerade_all_hides_pods_too", masquerade_all),
        trial("a_client_keeps_its_endpoint_until_that_leaves", affinity),
        trial("connections_are_counted_by_service_port_if_asked_for", counted::exactly),
        trial("only_listed_sources_reach_a_load_balancer", source_ranges),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Two nodes whose daemons have these lines of configuration.
fn cluster(configuration: &str) -> Result<Cluster, sluice_cluster::cluster::Error> {
    let cluster = Cluster::new(ClusterSpec {
        nodes: 2,
        program: program().to_owned(),
        configuration: format!(
            "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
             detectLocalMode: ClusterCIDR\n\
             {configuration}"
        ),
    })?;
    cluster.create_service(&web())?;
    Ok(cluster)
}

fn vip(family: Family) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => [10, 96, 0, 80].into(),
        Family::V6 => [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80].into(),
    };
    SocketAddr::new(ip, 80)
}

/// The sources that a pod saw of probes from one host, over enough probes to meet every pod.
fn sources(from: &Host, probe: Probe, pods: &[&Pod]) -> Vec<(String, IpAddr)> {
    let mut seen: Vec<(String, IpAddr)> = Vec::new();
    // With two endpoints, forty probes miss one of them once in 10^12 times.
    for _ in 0..40 {
        match from.probe(&probe).expect("the host is there") {
            Answer::Answered { by, saw, .. } => seen.push((by, saw.ip())),
            other => panic!("{} -> {}/{}: {other}", from.name(), probe.destination, probe.protocol),
        }
    }
    seen.sort();
    seen.dedup();
    let mut names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let expected: Vec<&str> = pods.iter().map(|pod| pod.name()).collect();
    assert_eq!(names, expected, "{} -> {}", from.name(), probe.destination);
    seen
}

fn reach() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms}")?;
    let (near, _) = cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    let (far, _) = cluster.add_pod("web-2", "web", "node-b", &PORTS)?;
    for node in ["node-a", "node-b"] {
        cluster.start_proxy(node)?;
    }
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    for family in Family::BOTH {
        for protocol in Protocol::ALL {
            let cluster_ip = Probe::new(protocol, vip(family));
            let node_port = Probe::new(protocol, node.socket_addr(family, NODE_PORT));
            // A pod keeps its address, but for the way to itself.
            for (pod, source) in sources(&near, cluster_ip, &[&near, &far]) {
                let own = if pod == near.name() { node.ip(family) } else { near.ip(family) };
                assert_eq!(source, own, "{protocol} from web-1 to {pod}");
            }
            // Traffic from outside is masqueraded, so that replies come back through this node.
            for probe in [cluster_ip, node_port] {
                for (pod, source) in sources(&client, probe, &[&near, &far]) {
                    let hidden = cluster.lab().node("node-a")?.ip(family);
                    assert_eq!(source, hidden, "{protocol} from the client to {pod}");
                }
            }
            sources(&node, cluster_ip, &[&near, &far]);
            sources(&node, node_port, &[&near, &far]);
            let unknown = SocketAddr::new(vip(family).ip(), 81);
            let answer = client.probe(&Probe::new(protocol, unknown))?;
            assert_eq!(answer, Answer::Refused, "{protocol} to a port that no Service has");
        }
    }
    Ok(())
}

fn restart() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms}")?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    cluster.add_pod("web-2", "web", "node-b", &PORTS)?;
    for node in ["node-a", "node-b"] {
        cluster.start_proxy(node)?;
    }
    let client = cluster.lab().client();
    let load = |kind, family| LoadSpec {
        probe: Probe::tcp(vip(family)).timeout(Duration::from_secs(20)),
        kind,
        connections: 8,
        pause: Duration::from_millis(2),
    };
    let mut loads = Vec::new();
    for family in Family::BOTH {
        loads.push(client.load(load(LoadKind::NewConnections, family))?);
        loads.push(client.load(load(LoadKind::HeldConnections, family))?);
    }
    // Every load gets on with it, however busy the machine is.
    let traffic = |what: &str| {
        let before: Vec<u64> = loads.iter().map(|load| load.tally().successes()).collect();
        eventually(what, || {
            let now = loads.iter().map(|load| load.tally().successes());
            now.zip(&before).all(|(now, before)| now >= before + 50).then_some(())
        });
    };
    for crash in [true, false] {
        if crash {
            cluster.with_proxy("node-a", |proxy| proxy.crash()).expect("it is running")?;
        } else {
            cluster.stop_proxy("node-a")?;
        }
        traffic("traffic without a daemon");
        cluster.start_proxy("node-a")?;
        let lines = cluster
            .with_proxy("node-a", |proxy| proxy.lines_with("first sync done"))
            .expect("it is running");
        assert!(lines.iter().all(|line| line.contains("operations=0")), "{lines:?}");
        traffic("traffic with the new one");
    }
    for load in loads {
        let tally = load.stop()?;
        assert_eq!(tally.failed, Default::default(), "of {} exchanges", tally.successes());
        assert!(tally.successes() > 100, "there was traffic: {tally:?}");
    }
    Ok(())
}

fn come_and_go() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms}")?;
    let (first, _) = cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    cluster.start_proxy("node-a")?;
    let client = cluster.lab().client();
    let all = |wanted: &dyn Fn(&Answer) -> bool, what: &str| {
        for family in Family::BOTH {
            for protocol in Protocol::ALL {
                let probe = Probe::new(protocol, vip(family));
                eventually(&format!("{probe:?}: {what}"), || {
                    client.probe(&probe).ok().filter(|answer| wanted(answer)).map(|_| ())
                });
            }
        }
    };
    all(&|answer| answer.by() == Some("web-1"), "the only pod answers");
    let (second, _) = cluster.add_pod("web-2", "web", "node-b", &PORTS)?;
    cluster.remove_pod(&first)?;
    all(&|answer| answer.by() == Some("web-2"), "the new pod answers");
    cluster.remove_pod(&second)?;
    all(&|answer| *answer == Answer::Refused, "nobody is left");
    let node = cluster.lab().node("node-a")?;
    for family in Family::BOTH {
        for protocol in Protocol::ALL {
            let probe = Probe::new(protocol, node.socket_addr(family, NODE_PORT));
            assert_eq!(client.probe(&probe)?, Answer::Refused, "node port over {protocol}");
        }
    }
    Ok(())
}

fn masquerade_all() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms, masqueradeAll: true}")?;
    let (pod, _) = cluster.add_pod("web-1", "web", "node-b", &PORTS)?;
    let (other, _) = cluster.add_pod("other", "other", "node-a", &PORTS)?;
    cluster.start_proxy("node-a")?;
    for family in Family::BOTH {
        let hidden = cluster.lab().node("node-a")?.ip(family);
        for (_, source) in sources(&other, Probe::tcp(vip(family)), &[&pod]) {
            assert_eq!(source, hidden);
        }
    }
    Ok(())
}

fn affinity() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms}")?;
    let patch = json!({"spec": {"sessionAffinity": "ClientIP"}});
    cluster.api().patch(Resource::Services, "default", "web", Part::Whole, &Patch::Merge(patch))?;
    let mut pods = Vec::new();
    for number in 1..=4 {
        let node = if number % 2 == 0 { "node-b" } else { "node-a" };
        pods.push(cluster.add_pod(&format!("web-{number}"), "web", node, &PORTS)?.0);
    }
    cluster.start_proxy("node-a")?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    for family in Family::BOTH {
        for protocol in Protocol::ALL {
            for to in [vip(family), node.socket_addr(family, NODE_PORT)] {
                let probe = Probe::new(protocol, to);
                for from in [&client, &*node, &*pods[0]] {
                    let tally = from.spread(&probe, 30)?;
                    assert_eq!(tally.failures(), 0, "{} -> {probe:?}: {tally:?}", from.name());
                    assert_eq!(tally.answered.len(), 1, "{} -> {probe:?}: {tally:?}", from.name());
                }
            }
        }
    }
    // Its endpoint leaves: the client goes to another one, and stays there.
    let probe = Probe::tcp(vip(Family::V4));
    let before = client.probe(&probe)?.by().map(str::to_owned).ok_or("nobody answered")?;
    let leaving = pods.iter().find(|pod| pod.name() == before).ok_or("an unknown pod")?;
    cluster.retire_pod(leaving)?;
    eventually("the client finds another endpoint", || {
        client.probe(&probe).ok()?.by().filter(|by| *by != before).map(|_| ())
    });
    let tally = client.spread(&probe, 30)?;
    assert_eq!((tally.failures(), tally.answered.len()), (0, 1), "{tally:?}");
    Ok(())
}

fn source_ranges() -> Outcome {
    let cluster = cluster("nftables: {minSyncPeriod: 1ms}")?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    let (client, node) = (cluster.lab().client(), cluster.lab().node("node-a")?);
    let outside = cluster.add_pod("other", "other", "node-a", &PORTS)?.0;
    let balancer = |family| match family {
        Family::V4 => IpAddr::from([198, 51, 100, 1]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    };
    let ranges = Family::BOTH.map(|family| {
        format!(
            "{}/{}",
            client.ip(family),
            match family {
                Family::V4 => 31,
                Family::V6 => 127,
            }
        )
    });
    let spec = json!({"spec": {"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}});
    let ingress = Family::BOTH.map(|family| json!({"ip": balancer(family)}));
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let api = cluster.api();
    api.patch(Resource::Services, "default", "web", Part::Whole, &Patch::Merge(spec))?;
    api.patch(Resource::Services, "default", "web", Part::Status, &Patch::Merge(status))?;
    cluster.start_proxy("node-a")?;
    for family in Family::BOTH {
        for protocol in Protocol::ALL {
            let to = SocketAddr::new(balancer(family), 80);
            let probe = Probe::new(protocol, to);
            assert_eq!(client.probe(&probe)?.by(), Some("web-1"), "{probe:?} within the range");
            let probe = probe.timeout(Duration::from_millis(300));
            assert_eq!(outside.probe(&probe)?, Answer::Silent, "{probe:?} outside of it");
            assert_eq!(node.probe(&probe)?, Answer::Silent, "{probe:?} from the node");
            let node_port = Probe::new(protocol, node.socket_addr(family, NODE_PORT));
            assert_eq!(outside.probe(&node_port)?.by(), Some("web-1"), "node ports are not bound");
        }
    }
    Ok(())
}
