//! `--userspace-transparent`: what endpoints see, and what is there for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;

use serde_json::{Value, json};
use sluice_cluster::{Answer, Cluster, ClusterSpec, Host, Node, Pod, Probe};
use sluice_core::net::{Family, Protocol};
use sluice_kernel::policy_routing::{PolicyRouting, PolicyRoutingError};
use socket2::{Domain, Socket, Type};

use super::support::daemon::program;
use super::support::{Outcome, eventually};
use super::world::{
    CONFIGURATION, PATIENCE, PORT, Programs, World, echo, exchange, exchange_udp, serve, serve_udp,
    udp_client, vip,
};

const LOCAL_NODE_PORT: u16 = 30080;
const NODE_PORT: u16 = 30081;

/// Two nodes; `web` has a pod on the first, `far` one on the second, and both have a node port, that of
/// `web` with policy Local.
struct Scene {
    cluster: Cluster,
    node: Node,
    /// Another pod besides that of `web`.
    neighbour: Pod,
    web: Pod,
    far: Pod,
}

impl Scene {
    fn new() -> Result<Scene, libtest_mimic::Failed> {
        let cluster = Cluster::new(ClusterSpec {
            nodes: 2,
            program: Programs::get().transparent.clone(),
            configuration: CONFIGURATION.to_owned(),
        })?;
        let node = cluster.lab().node("node-a")?;
        let neighbour = cluster.lab().add_pod("neighbour", &node, &[])?;
        for (name, last, node_port, policy) in
            [("web", 80, LOCAL_NODE_PORT, "Local"), ("far", 81, NODE_PORT, "Cluster")]
        {
            cluster.create_service(&service(name, last, node_port, policy))?;
        }
        let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol, PORT));
        let web = cluster.add_pod("web-1", "web", "node-a", &ports)?.0;
        let far = cluster.add_pod("far-1", "far", "node-b", &ports)?.0;
        cluster.start_proxy("node-a")?;
        Ok(Scene { cluster, node, neighbour, web, far })
    }

    /// The endpoint sees the client itself. On a busy machine the kernel may take so long to tell routes and
    /// flows that the relay goes on without (it logs that); such a connection is made again.
    #[track_caller]
    fn shows(&self, from: &Host, protocol: Protocol, to: SocketAddr, what: &str) {
        let client = from.ip(Family::of(to.ip()));
        eventually(&format!("{what}: the endpoint sees {client}"), || {
            let saw = seen(from, protocol, to);
            let log = self.cluster.with_proxy("node-a", |proxy| proxy.log()).unwrap_or_default();
            let unanswered = log.contains("cannot query routes and flows");
            assert!(saw == client || unanswered, "{what}: the endpoint saw {saw}, not {client}");
            (saw == client).then_some(())
        });
    }
}

/// The source that a pod sees, once it answers.
#[track_caller]
fn seen(from: &Host, protocol: Protocol, to: SocketAddr) -> IpAddr {
    eventually("somebody answers", || match from.probe(&Probe::new(protocol, to)) {
        Ok(Answer::Answered { saw, .. }) => Some(saw.ip()),
        _ => None,
    })
}

fn service(name: &str, last: u8, node_port: u16, policy: &str) -> Value {
    let port = |(name, protocol): (&str, &str)| {
        json!({"name": name, "protocol": protocol, "port": 80, "targetPort": PORT,
               "nodePort": node_port})
    };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "type": "NodePort", "externalTrafficPolicy": policy, "selector": {"app": name},
            "ports": [port(("t", "TCP")), port(("u", "UDP"))],
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": format!("10.96.0.{last}"),
            "clusterIPs": [format!("10.96.0.{last}"), format!("fd00:10:96::{last}")],
        },
    })
}

fn cluster_ip(family: Family, last: u8) -> SocketAddr {
    let ip = match family {
        Family::V4 => format!("10.96.0.{last}"),
        Family::V6 => format!("fd00:10:96::{last}"),
    };
    SocketAddr::new(ip.parse().expect("an address"), 80)
}

pub(crate) fn sources() -> Outcome {
    let scene = Scene::new()?;
    let client = scene.cluster.lab().client();
    for (family, protocol) in
        Family::BOTH.into_iter().flat_map(|f| [(f, Protocol::Tcp), (f, Protocol::Udp)])
    {
        let node = scene.node.ip(family);
        let what = format!("{family} {protocol}");
        let (web, far) = (cluster_ip(family, 80), cluster_ip(family, 81));
        scene.shows(&scene.neighbour, protocol, web, &format!("{what}: a pod"));
        let port = SocketAddr::new(node, LOCAL_NODE_PORT);
        scene.shows(&client, protocol, port, &format!("{what}: policy Local"));
        // Another pod's node gets the answers of the other pod.
        assert_eq!(seen(&scene.neighbour, protocol, far), node, "{what}: a pod elsewhere");
        let port = SocketAddr::new(node, NODE_PORT);
        assert_eq!(seen(&client, protocol, port), node, "{what}: policy Cluster");
        // Hairpin: the pod must not see its own address as the source.
        let hairpin = seen(&scene.web, protocol, web);
        assert_ne!(hairpin, scene.web.ip(family), "{what}: hairpin");
        let node_sees = seen(&scene.node, protocol, web);
        assert!(is_of(&scene.node, node_sees), "{what}: the node is {node_sees}");
    }
    // If the endpoint does not listen, clients get an error, although it is sent to their addresses.
    scene.cluster.remove_pod(&scene.far)?;
    let quiet = scene.cluster.add_pod("far-2", "far", "node-a", &[])?.0;
    for family in Family::BOTH {
        let refused = || {
            let socket = udp_client(&scene.neighbour, cluster_ip(family, 81));
            socket.send(b"anybody?").ok()?;
            let ended = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
            (ended == Err(ErrorKind::ConnectionRefused)).then_some(())
        };
        eventually("the pod's refusal arrives", refused);
    }
    serve_udp(&quiet);
    let socket = udp_client(&scene.neighbour, cluster_ip(Family::V4, 81));
    exchange_udp(&socket, b"now there is somebody");
    Ok(())
}

/// The CNI plugin portmap marks packets to host ports, to masquerade them: that mark must mean nothing else.
pub(crate) fn host_ports() -> Outcome {
    const HOST_PORT: u16 = 8090;
    let scene = Scene::new()?;
    for family in Family::BOTH {
        let program = if family == Family::V4 { "iptables-nft" } else { "ip6tables-nft" };
        let (pods, web) =
            (scene.node.pod_cidr(family), SocketAddr::new(scene.web.ip(family), PORT));
        let to_port = format!("-m addrtype --dst-type LOCAL -p tcp --dport {HOST_PORT}");
        // As portmap writes them, but for its own chains.
        for rule in [
            format!("PREROUTING {to_port} -s {pods} -j MARK --set-xmark 0x2000/0x2000"),
            format!("PREROUTING {to_port} -j DNAT --to-destination {web}"),
            "POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE".to_owned(),
        ] {
            sh(&scene.node, &format!("{program} -t nat -A {rule}"));
        }
        let to = SocketAddr::new(scene.node.ip(family), HOST_PORT);
        let saw = seen(&scene.neighbour, Protocol::Tcp, to);
        assert!(is_of(&scene.node, saw), "{family}: masqueraded, not {saw}");
    }
    Ok(())
}

fn is_of(node: &Host, ip: IpAddr) -> bool {
    let list = sh(node, "ip -o address");
    list.split_whitespace().any(|word| word.split('/').next() == Some(&ip.to_string()))
}

/// Runs a line of shell on a host.
#[track_caller]
fn sh(host: &Host, line: &str) -> String {
    let mut command: Command = host.command("sh").expect("the host is there");
    let output = command.args(["-ec", line]).output().expect("there is a shell");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn bridge() -> Outcome {
    let scene = Scene::new()?;
    let (web, neighbour) = (scene.web.node_interface(), scene.neighbour.node_interface());
    // As the CNI plugin `bridge` does it: what two pods of a node say to each other never is routed.
    let mut lines = vec![
        "ip link add cni0 type bridge".to_owned(),
        "ip link set cni0 up".to_owned(),
        format!("ip link set {web} master cni0; ip link set {neighbour} master cni0"),
    ];
    for (flag, family) in [("-4", Family::V4), ("-6", Family::V6)] {
        for pod in [&scene.web, &scene.neighbour] {
            lines.push(format!("ip {flag} route replace {} dev cni0", pod.ip(family)));
        }
    }
    lines.push("ip address add 10.244.77.1/32 dev cni0".to_owned());
    lines.push("ip address add fd00:10:244:77::1/128 dev cni0 nodad".to_owned());
    sh(&scene.node, &lines.join("\n"));
    for (pod, other) in [(&scene.web, &scene.neighbour), (&scene.neighbour, &scene.web)] {
        sh(
            pod,
            &format!(
                "ip route replace 10.244.77.1 dev eth0; ip route replace default via 10.244.77.1
                 ip -6 route replace fd00:10:244:77::1 dev eth0
                 ip -6 route replace default via fd00:10:244:77::1
                 ip route replace {} dev eth0; ip -6 route replace {} dev eth0",
                other.ip(Family::V4),
                other.ip(Family::V6)
            ),
        );
    }
    let client = scene.cluster.lab().client();
    for family in Family::BOTH {
        let saw = seen(&scene.neighbour, Protocol::Tcp, cluster_ip(family, 80));
        assert!(is_of(&scene.node, saw), "{family}: {saw} is the node's");
        let port = SocketAddr::new(scene.node.ip(family), LOCAL_NODE_PORT);
        scene.shows(
            &client,
            Protocol::Tcp,
            port,
            &format!("{family}: what goes elsewhere is routed"),
        );
    }
    Ok(())
}

pub(crate) fn filtered() -> Outcome {
    let scene = Scene::new()?;
    for valid_mark in [0, 1] {
        sh(
            &scene.node,
            &format!(
                "for i in /proc/sys/net/ipv4/conf/*; do echo 1 > $i/rp_filter; done
                 echo {valid_mark} > /proc/sys/net/ipv4/conf/all/src_valid_mark"
            ),
        );
        let web = cluster_ip(Family::V4, 80);
        scene.shows(&scene.neighbour, Protocol::Tcp, web, &format!("src_valid_mark={valid_mark}"));
    }
    Ok(())
}

pub(crate) fn streams() -> Outcome {
    const MUCH: usize = 16 << 20;
    let world = World::new(&Programs::get().transparent)?;
    let pod = world.pod("web-1")?;
    // Reads everything, answers with its length and source, and only then closes.
    serve(&pod, |mut stream| {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() {
            let from = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = write!(stream, "{} bytes from {from}, ", all.len());
            let _ = stream.write_all(&all);
        }
    });
    for family in Family::BOTH {
        let sent: Vec<u8> = (0..MUCH).map(|n: usize| n.to_le_bytes()[n % 3]).collect();
        let mut client = world.connect(family);
        client.write_all(&sent)?;
        client.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer)?;
        let expected = format!("{MUCH} bytes from {}, ", world.client.ip(family));
        let (said, came_back) = answer.split_at(expected.len());
        assert_eq!(String::from_utf8_lossy(said), expected, "{family}");
        assert!(came_back == sent, "{family}: the bytes that were sent");
    }
    let udp = world.pod("web-2")?;
    world.cluster.retire_pod(&pod)?;
    serve_udp(&udp);
    for family in Family::BOTH {
        let client = udp_client(&world.client, vip(family));
        for length in [0, 1, 1473, 65_507] {
            exchange_udp(&client, &vec![7; length]);
        }
    }
    Ok(())
}

pub(crate) fn ports() -> Outcome {
    let scene = Scene::new()?;
    let to = cluster_ip(Family::V4, 80);
    let ask = |port| {
        let probe = Probe::tcp(to).from_port(port);
        eventually("the pod answers", || match scene.neighbour.probe(&probe) {
            Ok(Answer::Answered { saw, .. }) => Some(saw),
            _ => None,
        })
    };
    let ip = scene.neighbour.ip(Family::V4);
    assert_eq!(ask(45_001), SocketAddr::new(ip, 45_001), "one that nobody has");
    // One that programs of the node may count on.
    assert_eq!(ask(10_250).ip(), ip);
    assert_ne!(ask(10_250).port(), 10_250);
    let taken = scene.node.namespace().run(|| std::net::TcpListener::bind("0.0.0.0:45002"))??;
    let saw = ask(45_002);
    assert_eq!(saw.ip(), ip);
    assert_ne!(saw.port(), 45_002, "one that somebody on the node listens on");
    drop(taken);
    // Again from the same port: the flow of the first connection does not interfere.
    assert_eq!(ask(45_001).ip(), ip);
    Ok(())
}

pub(crate) fn beside() -> Outcome {
    const AT: u16 = 45_003;
    let scene = Scene::new()?;
    let pod = scene.cluster.add_pod("far-2", "far", "node-a", &[])?.0;
    scene.cluster.remove_pod(&scene.far)?;
    serve(&pod, echo);
    serve_udp(&pod);
    let neighbour = &scene.neighbour;
    for family in Family::BOTH {
        let (here, to) = (SocketAddr::new(neighbour.ip(family), AT), pod.socket_addr(family, PORT));
        let service = cluster_ip(family, 81);
        let mut straight = from_port(neighbour, here, to)?;
        exchange(&mut straight, b"straight to the pod");
        // The pod cannot tell two connections from one port apart.
        let mut carried = eventually("the Service accepts", || {
            let mut carried = from_port(neighbour, here, service).ok()?;
            carried.write_all(b"x").ok()?;
            (carried.read(&mut [0; 1]).ok()? == 1).then_some(carried)
        });
        exchange(&mut straight, b"still there");
        exchange(&mut carried, b"and the other one, too");

        let open = move |to: SocketAddr| -> std::io::Result<UdpSocket> {
            let socket = Socket::new(Domain::for_address(here), Type::DGRAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&here.into())?;
            socket.connect(&to.into())?;
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500)))?;
            Ok(socket.into())
        };
        let straight = neighbour.namespace().run(move || open(to))??;
        exchange_udp(&straight, b"straight to the pod");
        let carried = neighbour.namespace().run(move || open(service))??;
        exchange_udp(&carried, b"through the Service");
        exchange_udp(&straight, b"still there");
    }
    Ok(())
}

pub(crate) fn many() -> Outcome {
    const MANY: usize = 600;
    let world = World::new(&Programs::get().transparent)?;
    let pod = world.pod("web-1")?;
    serve(&pod, |mut stream| drop(stream.write_all(b"x")));
    // Far fewer ports than flows that conntrack keeps for two minutes.
    world.cluster.stop_proxy("node-a")?;
    sh(&world.node, "echo 45000 45255 > /proc/sys/net/ipv4/ip_local_port_range");
    world.cluster.start_proxy("node-a")?;
    for n in 0..MANY {
        let mut stream = world.connect(Family::V4);
        let mut all = Vec::new();
        let ended = stream.read_to_end(&mut all);
        assert!(ended.is_ok() && all == b"x", "connection {n}: {ended:?}");
    }
    Ok(())
}

/// A connection of a host from a port that other connections may have, too.
fn from_port(host: &Host, here: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let connect = move || -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(here), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&here.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        Ok(socket.into())
    };
    host.namespace().run(connect).map_err(std::io::Error::other)?
}

/// Rules, and routes of the table; sorted, because one that comes back stands behind others of its
/// priority.
fn rules_of(node: &Host) -> String {
    sh(
        node,
        "for f in -4 -6; do ip $f rule; ip $f route show table all | grep 12600 || true; done | sort",
    )
}

pub(crate) fn rules() -> Outcome {
    let world = World::new(&Programs::get().transparent)?;
    let pod = world.pod("web-1")?;
    serve(&pod, echo);
    let stream = &mut world.connect(Family::V4);
    exchange(stream, b"hello");
    let node = &world.node;
    sh(node, "ip rule add priority 20 fwmark 0x77 lookup 77");
    let before = rules_of(node);
    assert_eq!(before.matches("12600").count(), 4, "a rule and a route each:\n{before}");

    // What another program removes is restored.
    for line in [
        "ip rule del priority 21",
        "ip -6 rule del priority 21",
        "ip route flush table 12600",
        "ip -6 route flush table 12600",
        "ip rule del priority 20 iif lo",
    ] {
        sh(node, line);
        eventually(line, || (rules_of(node) == before).then_some(()));
    }
    exchange(stream, b"still there");

    // A restart changes nothing.
    world.cluster.stop_proxy("node-a")?;
    assert_eq!(rules_of(node), before, "the rules stay in force");
    world.cluster.start_proxy("node-a")?;
    exchange(&mut world.connect(Family::V6), b"hello again");
    assert_eq!(rules_of(node), before);

    // All of ours is removed, and nothing else: in another mode, and by --cleanup.
    let gone = || {
        let after = rules_of(node);
        let left = "20:\tfrom all fwmark 0x77 lookup 77";
        let ours = |line: &&str| line.starts_with('2') && *line != left || line.contains("12600");
        assert!(after.contains(left), "{after}");
        (after.lines().filter(ours).count() == 0).then_some(())
    };
    world.cluster.stop_proxy("node-a")?;
    world.cluster.start_proxy_with("node-a", "mode: nftables")?;
    eventually("another mode removes the rules", gone);
    world.cluster.stop_proxy("node-a")?;
    world.cluster.start_proxy("node-a")?;
    assert_eq!(rules_of(node), before);
    world.cluster.stop_proxy("node-a")?;
    let status = node.command(&program().to_string_lossy())?.arg("--cleanup").status()?;
    assert!(status.success(), "{status}");
    assert_eq!(gone(), Some(()), "{}", rules_of(node));
    assert!(sh(node, "nft list tables").is_empty());

    // Another masqueradeBit: the rules for the old one go.
    let changes = node.namespace().run(|| -> Result<Vec<usize>, PolicyRoutingError> {
        let mut rules = PolicyRouting::open(Family::V6)?;
        let mut changes = Vec::new();
        for mark in [0x2000, 0x2000, 0x100] {
            changes.push(rules.ensure(mark)?);
        }
        changes.extend([rules.remove()?, rules.remove()?]);
        Ok(changes)
    })??;
    assert_eq!(changes, [4, 0, 4, 4, 0]);
    Ok(())
}
