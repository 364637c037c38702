//! The lab's network with real packets: who answers, who is seen, and what is left afterwards.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use nix::errno::Errno;
use sluice_cluster::{
    Answer, Host, Isolation, Lab, LabSpec, LoadKind, LoadSpec, Pod, Privilege, Probe, prepare,
};
use sluice_core::net::{Family, Protocol};

#[path = "lab_network/remains.rs"]
mod remains;

/// For probes that are to stay without an answer.
const SHORT: Duration = Duration::from_millis(200);

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    if let Some(outcome) = remains::child() {
        return outcome;
    }
    let privilege = prepare(Isolation::Private)?;
    let trial = |name: &str, test: fn() -> Outcome| {
        Trial::test(name, move || test().map_err(|error| error.to_string().into()))
    };
    let mut trials = vec![
        trial("every_host_reaches_every_pod_directly_and_is_seen_as_itself", direct),
        trial("a_probe_is_sent_from_the_source_that_it_asks_for", chosen_source),
        trial("a_closed_port_is_refused", closed_ports),
        trial("a_dropped_probe_is_silent_and_a_rejected_one_refused", dropped_and_rejected),
        trial("an_unused_service_address_is_silent", unused_service_address),
        trial("translated_probes_arrive_with_right_checksums", translated),
        trial("a_spread_counts_every_connection", spread_over_two_pods),
        trial("a_held_connection_survives_a_new_ruleset", held_connection),
        trial("a_load_counts_what_a_removed_pod_breaks", load_over_removal),
        trial("nodes_and_the_client_can_serve_too", other_responders),
        trial("pods_and_nodes_come_and_go", coming_and_going),
        trial("names_are_checked", names_are_checked),
        trial("a_namespace_is_entered_by_name_from_outside", remains::entered_by_name),
        trial("a_killed_lab_is_removed_by_the_next_and_a_living_one_is_not", remains::leftovers),
        trial("nothing_is_left_and_the_surroundings_are_unchanged", remains::nothing_left),
    ];
    if privilege == Privilege::PrivateRoot {
        trials.push(trial("the_lab_works_without_root", remains::rootless));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Ports of all protocols that pods in these tests answer on.
fn ports(port: u16) -> [(Protocol, u16); 3] {
    Protocol::ALL.map(|protocol| (protocol, port))
}

/// Two nodes with a pod each, `web-1` and `web-2`, on port 8080 of all protocols.
fn two_pods() -> Result<(Lab, Pod, Pod), Box<dyn Error>> {
    let lab = Lab::new(LabSpec { nodes: 2 })?;
    let one = lab.add_pod("web-1", &lab.node("node-a")?, &ports(8080))?;
    let two = lab.add_pod("web-2", &lab.node("node-b")?, &ports(8080))?;
    Ok((lab, one, two))
}

/// Every combination of protocol and family.
fn wires() -> impl Iterator<Item = (Protocol, Family)> {
    Protocol::ALL.into_iter().flat_map(|p| Family::BOTH.map(|family| (p, family)))
}

/// Loads rules on a host.
fn nft(host: &Host, rules: &str) -> Outcome {
    let mut nft = host.command("nft")?;
    let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no pipe to nft")?.write_all(rules.as_bytes())?;
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(format!("nft ended with {status} for:\n{rules}").into()),
    }
}

fn check<T: PartialEq + std::fmt::Debug>(what: impl AsRef<str>, got: T, expected: T) -> Outcome {
    if got == expected {
        return Ok(());
    }
    Err(format!("{}: expected {expected:?}, got {got:?}", what.as_ref()).into())
}

fn direct() -> Outcome {
    let (lab, one, _two) = two_pods()?;
    let neighbour = lab.add_pod("neighbour", &lab.node("node-a")?, &ports(8080))?;
    let stranger = lab.add_pod("stranger", &lab.node("node-b")?, &[])?;
    let (node_a, node_b, client) = (lab.node("node-a")?, lab.node("node-b")?, lab.client());
    let from: [&Host; 6] = [&neighbour, &stranger, &node_a, &node_b, &client, &one];
    for from in from {
        for (protocol, family) in wires() {
            let what = format!("{} to web-1 by {protocol} over {family}", from.name());
            let to = one.socket_addr(family, 8080);
            match from.probe(&Probe::new(protocol, to))? {
                Answer::Answered { by, saw, local } => {
                    check(&what, (by.as_str(), saw.ip(), local), ("web-1", from.ip(family), to))?;
                }
                other => return Err(format!("{what}: {other}").into()),
            }
        }
    }
    Ok(())
}

fn chosen_source() -> Outcome {
    let (lab, one, _two) = two_pods()?;
    for (protocol, family) in wires() {
        let client = lab.client();
        let probe = Probe::new(protocol, one.socket_addr(family, 8080));
        let answer = client.probe(&probe.from_ip(client.ip(family)).from_port(4321))?;
        let expected = Some(client.socket_addr(family, 4321));
        check(format!("{protocol} over {family}"), answer.saw(), expected)?;
        let foreign = client.probe(&probe.from_ip(one.ip(family)));
        if foreign.is_ok() {
            return Err(format!("{protocol} over {family}: sent from another's address").into());
        }
    }
    Ok(())
}

fn closed_ports() -> Outcome {
    let (lab, one, _two) = two_pods()?;
    let idle = lab.add_pod("idle", &lab.node("node-b")?, &[])?;
    let from = [lab.client(), (*lab.node("node-a")?).clone(), (*one).clone()];
    for from in &from {
        for (protocol, family) in wires() {
            for pod in [&one, &idle] {
                let what = format!("{} to {} by {protocol} over {family}", from.name(), pod.name());
                let answer = from.probe(&Probe::new(protocol, pod.socket_addr(family, 81)))?;
                check(what, answer, Answer::Refused)?;
            }
        }
    }
    Ok(())
}

fn dropped_and_rejected() -> Outcome {
    let (lab, one, _two) = two_pods()?;
    let node = lab.node("node-a")?;
    for hook in ["forward", "output"] {
        for (verdict, expected) in [("drop", Answer::Silent), ("reject", Answer::Refused)] {
            nft(
                &node,
                &format!(
                    "table inet t {{ chain c {{ type filter hook {hook} priority 0; \
                     th dport 8080 {verdict}; }}; }}"
                ),
            )?;
            let from = if hook == "output" { (*node).clone() } else { lab.client() };
            for (protocol, family) in wires() {
                let what = format!("{verdict} in {hook}, {protocol} over {family}");
                let probe = Probe::new(protocol, one.socket_addr(family, 8080));
                let probe = if verdict == "drop" { probe.timeout(SHORT) } else { probe };
                check(what, from.probe(&probe)?, expected.clone())?;
            }
            nft(&node, "delete table inet t")?;
        }
    }
    Ok(())
}

fn unused_service_address() -> Outcome {
    let (lab, one, _two) = two_pods()?;
    for from in [&lab.client(), &*lab.node("node-b")?, &*one] {
        for (protocol, family) in wires() {
            let probe = Probe::new(protocol, vip(family)).timeout(SHORT);
            let what = format!("from {} by {protocol} over {family}", from.name());
            check(what, from.probe(&probe)?, Answer::Silent)?;
        }
    }
    Ok(())
}

/// A service address.
fn vip(family: Family) -> SocketAddr {
    let ip = match family {
        Family::V4 => "10.96.0.1",
        Family::V6 => "fd00:10:96::1",
    };
    SocketAddr::new(ip.parse().expect("an address"), 80)
}

/// Rules that translate the service addresses to the pods in turn, and hide sources behind the node
/// that are outside of the pods' addresses.
fn translation(pods: &[&Pod]) -> String {
    let family = |family: Family, ip: &str, pod_net: &str| {
        let targets: Vec<String> = pods
            .iter()
            .enumerate()
            .map(|(slot, pod)| format!("{slot} : {} . 8080", pod.ip(family)))
            .collect();
        let (vip, count, targets) = (vip(family).ip(), pods.len(), targets.join(", "));
        let dnat = format!(
            "{ip} daddr {vip} meta l4proto {{ tcp, udp, sctp }} th dport 80 \
             dnat {ip} to numgen inc mod {count} map {{ {targets} }}"
        );
        format!(
            "table {ip} t {{
               chain pre {{ type nat hook prerouting priority -100; {dnat}; }}
               chain out {{ type nat hook output priority -100; {dnat}; }}
               chain post {{ type nat hook postrouting priority 100;
                 ct status dnat {ip} saddr != {pod_net} masquerade fully-random; }}
             }}\n"
        )
    };
    family(Family::V4, "ip", "10.244.0.0/16") + &family(Family::V6, "ip6", "fd00:10:244::/48")
}

fn translated() -> Outcome {
    let (lab, one, two) = two_pods()?;
    let node = lab.node("node-a")?;
    let (client, inside) = (lab.client(), lab.add_pod("inside", &node, &[])?);
    // On the node itself, and behind the other one.
    for pod in [&one, &two] {
        nft(&node, &translation(&[pod]))?;
        let cases: [(&Host, &Host); 3] = [(&client, &node), (&node, &node), (&inside, &inside)];
        for (from, seen_as) in cases {
            for (protocol, family) in wires() {
                let what = format!("{} to {}, {protocol} over {family}", from.name(), pod.name());
                let expected = (pod.name(), seen_as.ip(family), pod.socket_addr(family, 8080));
                match from.probe(&Probe::new(protocol, vip(family)))? {
                    Answer::Answered { by, saw, local } => {
                        check(what, (by.as_str(), saw.ip(), local), expected)?;
                    }
                    other => return Err(format!("{what}: {other}").into()),
                }
            }
        }
        nft(&node, "delete table ip t; delete table ip6 t")?;
    }
    Ok(())
}

fn spread_over_two_pods() -> Outcome {
    let (lab, one, two) = two_pods()?;
    let node = lab.node("node-a")?;
    nft(&node, &translation(&[&one, &two]))?;
    for (protocol, family) in wires() {
        let tally = lab.client().spread(&Probe::new(protocol, vip(family)), 300)?;
        let what = format!("{protocol} over {family}: {tally:?}");
        check(&what, tally.failures(), 0)?;
        check(&what, tally.answered.get("web-1").copied(), Some(150))?;
        check(&what, tally.answered.get("web-2").copied(), Some(150))?;
        let tally = lab.client().spread(&Probe::new(protocol, one.socket_addr(family, 9)), 100)?;
        let refused = [(Answer::Refused.to_string(), 100)].into();
        check(format!("refused, {protocol} over {family}"), tally.failed, refused)?;
    }
    Ok(())
}

fn held_connection() -> Outcome {
    let (lab, one, two) = two_pods()?;
    let node = lab.node("node-a")?;
    nft(&node, &translation(&[&one]))?;
    for family in Family::BOTH {
        let mut connection = lab.client().connect(&Probe::tcp(vip(family)))?;
        check("who answers", connection.answer().by(), Some("web-1"))?;
        connection.exchange("hello")?;
        nft(&node, &format!("delete table ip t; delete table ip6 t; {}", translation(&[&two])))?;
        connection.exchange("still there?")?;
        let new = lab.client().probe(&Probe::tcp(vip(family)))?;
        check("who answers now", new.by(), Some("web-2"))?;
        nft(&node, &format!("delete table ip t; delete table ip6 t; {}", translation(&[&one])))?;
    }
    let refused = lab.client().connect(&Probe::tcp(one.socket_addr(Family::V4, 9)));
    let message = refused.err().map(|error| error.to_string()).unwrap_or_default();
    check("no connection", message.as_str(), "connect to 10.244.1.2:9: refused")
}

fn load_over_removal() -> Outcome {
    let (lab, one, two) = two_pods()?;
    let load = |pod: &Pod, kind| {
        // The pod that stays answers, however busy the machine is.
        let patience = if pod.name() == one.name() { SHORT } else { Duration::from_secs(20) };
        let probe = Probe::tcp(pod.socket_addr(Family::V4, 8080)).timeout(patience);
        let pause = Duration::from_millis(1);
        lab.client().load(LoadSpec { probe, kind, connections: 8, pause })
    };
    let broken = [load(&one, LoadKind::NewConnections)?, load(&one, LoadKind::HeldConnections)?];
    let whole = [load(&two, LoadKind::NewConnections)?, load(&two, LoadKind::HeldConnections)?];
    let reached = |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !holds() {
            if std::time::Instant::now() > deadline {
                return Err(format!("waited in vain until {what}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    reached("all exchange", &|| {
        broken.iter().chain(&whole).all(|load| load.tally().successes() >= 100)
    })?;
    lab.remove_pod(&one)?;
    reached("failures are noticed", &|| broken.iter().all(|load| load.tally().failures() >= 8))?;
    for load in broken {
        load.stop()?;
    }
    for load in whole {
        let tally = load.stop()?;
        check(format!("the other pod's load: {tally:?}"), tally.failures(), 0)?;
    }
    Ok(())
}

fn other_responders() -> Outcome {
    let (lab, one, _two) = two_pods()?;
    let node = lab.node("node-b")?;
    node.serve("daemon", &ports(9000))?;
    lab.client().serve("outside", &ports(9000))?;
    for (protocol, family) in wires() {
        for (host, name) in [(&*node, "daemon"), (&lab.client(), "outside")] {
            let answer = one.probe(&Probe::new(protocol, host.socket_addr(family, 9000)))?;
            check(format!("{name} by {protocol} over {family}"), answer.by(), Some(name))?;
        }
    }
    Ok(())
}

fn coming_and_going() -> Outcome {
    let lab = Lab::new(LabSpec { nodes: 1 })?;
    let first = lab.node("node-a")?;
    for round in 0..3 {
        let node = lab.add_node()?;
        check("the new node", node.name(), "node-b")?;
        let pod = lab.add_pod("web", &node, &ports(8080))?;
        let expected = format!("10.244.2.{}", 2);
        check("a new node starts anew", pod.ip(Family::V4).to_string(), expected)?;
        for from in [&lab.client(), &*first] {
            for (protocol, family) in wires() {
                let answer = from.probe(&Probe::new(protocol, pod.socket_addr(family, 8080)))?;
                check(format!("round {round}, {protocol} {family}"), answer.by(), Some("web"))?;
            }
        }
        lab.remove_pod(&pod)?;
        for (protocol, family) in wires() {
            let gone = first.probe(&Probe::new(protocol, pod.socket_addr(family, 8080)))?;
            let expected = match family {
                Family::V4 => Errno::EHOSTUNREACH,
                Family::V6 => Errno::ENETUNREACH,
            };
            let what = format!("after removal, {protocol} over {family}");
            check(what, gone, Answer::Unreachable(expected))?;
        }
        if pod.probe(&Probe::tcp(pod.socket_addr(Family::V4, 8080))).is_ok() {
            return Err("a removed pod sent a probe".into());
        }
        lab.add_pod("web", &node, &[])?;
        lab.remove_node(&node)?;
        check("pods left", lab.pods().len(), 0)?;
    }
    if lab.remove_node(&first).is_ok() {
        return Err("the client's gateway was removed".into());
    }
    let second = lab.add_node()?;
    lab.set_client_gateway(&second)?;
    Ok(lab.remove_node(&first)?)
}

fn names_are_checked() -> Outcome {
    let lab = Lab::new(LabSpec { nodes: 1 })?;
    let node = lab.node("node-a")?;
    lab.add_pod("web-6d4cf56db6-x7k2p", &node, &[])?;
    for name in ["", "a/b", "Web", "node-a", "node-c", "client", "fabric", "web-6d4cf56db6-x7k2p"] {
        if lab.add_pod(name, &node, &[]).is_ok() {
            return Err(format!("a pod was named {name:?}").into());
        }
    }
    let twice = lab.add_pod("twice", &node, &[(Protocol::Tcp, 80), (Protocol::Tcp, 80)]);
    let message = twice.err().map(|error| error.to_string()).unwrap_or_default();
    let expected = "start the responders of pod twice: listen on tcp 10.244.1.3:80: \
                    Address already in use (os error 98)";
    check("a port that is taken", message.as_str(), expected)?;
    lab.add_pod("twice", &node, &[(Protocol::Tcp, 80)]).map(drop).map_err(Into::into)
}
