//! Many connections, too many connections, and those that are not for a relay.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_cluster::{Answer, Host, Probe};
use sluice_core::net::Family;

use super::support::daemon::program;
use super::support::{Outcome, eventually, run};
use super::world::{
    FEW_FILES, PORT, Programs, World, connect, echo, exchange, exchange_udp, serve, serve_udp,
    udp_client, vip,
};

const SEQUENTIAL: usize = 50_000;
const PARALLEL: usize = 5000;
const CLIENTS: usize = 16;

pub(crate) fn leaks() -> Outcome {
    let world = World::new(program())?;
    // Otherwise ended connections stay in conntrack for two minutes, and its table is limited.
    let forget = || {
        let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";
        std::fs::write(path, "1")
    };
    world.node.namespace().run(forget)??;
    // The client uses more ports than it has; the daemon sees to its own.
    let reuse = || std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
    world.client.namespace().run(reuse)??;
    let pod = world.pod("web-1")?;
    serve(&pod, echo);
    exchange(&mut world.connect(Family::V4), b"warm");
    let before = settled(&world);

    let left = AtomicUsize::new(SEQUENTIAL);
    let one_by_one = || {
        while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            let mut stream = TcpStream::connect(vip(Family::V4)).expect("it accepts");
            stream.write_all(b"x").expect("it takes a byte");
            stream.read_exact(&mut [0]).expect("it answers");
        }
    };
    let all = || {
        std::thread::scope(|scope| {
            (0..CLIENTS).for_each(|_| drop(scope.spawn(one_by_one)));
        })
    };
    world.client.namespace().run(all)?;
    nothing_is_left(&world, before);

    let open = || -> Vec<TcpStream> {
        (0..PARALLEL).map(|_| TcpStream::connect(vip(Family::V4)).expect("it accepts")).collect()
    };
    let mut streams = world.client.namespace().run(open)?;
    for stream in &mut streams {
        exchange(stream, b"all at once");
    }
    assert_eq!(carried(&world).len(), 2 * PARALLEL, "all are joined");
    drop(streams);
    nothing_is_left(&world, before);
    Ok(())
}

/// What other parts of the daemon may open meanwhile: connections to the API server, sockets to the kernel.
const IN_PASSING: usize = 16;

/// Waits until no connection of a relay is open, and hardly more files than before; if there are more, says
/// which sockets there are.
fn nothing_is_left(world: &World, before: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !carried(world).is_empty() || settled(world) > before + IN_PASSING {
        if Instant::now() > deadline {
            let sockets = world.node.namespace().run(|| run("ss", &["-aneo"]));
            let (carried, files) = (carried(world), settled(world));
            panic!(
                "{} connections of relays are left, {files} open files were {before}: {carried:?}\n{}",
                carried.len(),
                sockets.unwrap_or_default()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Open files, but for spare pipes, of which a few are kept.
fn settled(world: &World) -> usize {
    files(world).iter().filter(|name| !name.to_string_lossy().starts_with("pipe:")).count()
}

/// What each open file of the daemon is.
fn files(world: &World) -> Vec<PathBuf> {
    let folder = format!("/proc/{}/fd", world.pid());
    let files = std::fs::read_dir(folder).expect("it runs").flatten();
    files.filter_map(|file| std::fs::read_link(file.path()).ok()).collect()
}

/// TCP connections that the daemon has open, but for those to the API server: lines of /proc/net/tcp.
fn carried(world: &World) -> Vec<String> {
    const LISTENS: &str = "0A";
    let open: BTreeSet<PathBuf> = files(world).into_iter().collect();
    let api = format!(":{:04X}", world.cluster.api().address().port());
    let table = |name| std::fs::read_to_string(format!("/proc/{}/net/{name}", world.pid()));
    let lines = ["tcp", "tcp6"].map(|name| table(name).expect("it runs")).concat();
    let carried = lines.lines().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, remote, state, _, _, _, _, _, inode, ..] = words[..] else { return false };
        let its_own = open.contains(&PathBuf::from(format!("socket:[{inode}]")));
        its_own && state != LISTENS && !remote.ends_with(&api)
    });
    carried.map(str::to_owned).collect()
}

pub(crate) fn descriptors() -> Outcome {
    const WORDS: &str = "descriptors are used up";
    let began = Instant::now();
    let world = World::new(&Programs::get().few_files)?;
    let pod = world.pod("web-1")?;
    serve(&pod, echo);
    serve_udp(&pod);
    let mut first = world.connect(Family::V4);
    exchange(&mut first, b"first");
    // The kernel accepts them all; the relay takes what it can.
    let many: Vec<TcpStream> = (0..FEW_FILES)
        .map(|_| connect(&world.client, vip(Family::V4)).expect("there is a queue"))
        .collect();
    eventually("it is said", || (world.said(WORDS) > 0).then_some(()));
    exchange(&mut first, b"still there");
    assert!(world.open_files() < FEW_FILES, "the daemon itself has some left");
    let most = 1 + began.elapsed().as_secs() / 10;
    assert!(world.said(WORDS) as u64 <= most, "it is said once in ten seconds");
    drop(many);
    exchange(&mut world.connect(Family::V4), b"again");
    exchange(&mut world.connect(Family::V6), b"and here");
    exchange_udp(&udp_client(&world.client, vip(Family::V4)), b"and here");
    Ok(())
}

pub(crate) fn guarded() -> Outcome {
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    serve(&pod, echo);
    serve_udp(&pod);
    let outside = world.cluster.lab().client();
    for family in Family::BOTH {
        exchange(&mut world.connect(family), b"through the Service");
        let table = if family == Family::V4 { "ip" } else { "ip6" };
        let list = || run("nft", &["list", "set", table, "kube-proxy", "relay-ports"]);
        let list = world.node.namespace().run(list)?;
        let node = |port| world.node.socket_addr(family, port);
        let loopback = |port| match family {
            Family::V4 => SocketAddr::from(([127, 0, 0, 1], port)),
            Family::V6 => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)),
        };
        for protocol in ["tcp", "udp"] {
            let element = list.split([',', '{', '}']).find(|element| element.contains(protocol));
            let port = element.and_then(|element| element.split(" . ").nth(1)).ok_or("no relay")?;
            let port: u16 = port.trim().parse()?;
            let ways: [(&Host, SocketAddr); 4] = [
                (&outside, node(port)),
                (&world.client, node(port)),
                (&world.node, node(port)),
                (&world.node, loopback(port)),
            ];
            for (from, to) in ways {
                let probe = if protocol == "tcp" { Probe::tcp(to) } else { Probe::udp(to) };
                let answer = from.probe(&probe)?;
                assert_eq!(answer, Answer::Refused, "{} -> {to}/{protocol}", from.name());
            }
        }
    }
    Ok(())
}

/// On all addresses, and where localhost is named.
pub(crate) fn localhost() -> Outcome {
    const NODE_PORT: u16 = 30_080;
    let world = World::new(program())?;
    let pod = world.pod("web-1")?;
    serve(&pod, echo);
    serve_udp(&pod);
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 81, "targetPort": PORT, "nodePort": NODE_PORT});
    world.cluster.create_service(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "ports"},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack",
            "ports": [port("t", "TCP"), port("u", "UDP")],
        },
    }))?;
    let named = "nodePortAddresses: [127.0.0.0/8, '::1/128']";
    for (configuration, elsewhere) in [("", true), (named, false)] {
        world.cluster.stop_proxy("node-a")?;
        world.cluster.start_proxy_with("node-a", configuration)?;
        for family in Family::BOTH {
            let ip: IpAddr = match family {
                Family::V4 => [127, 0, 0, 1].into(),
                Family::V6 => [0, 0, 0, 0, 0, 0, 0, 1].into(),
            };
            let to = SocketAddr::new(ip, NODE_PORT);
            let mut stream = eventually("the node port answers", || connect(&world.node, to).ok());
            exchange(&mut stream, b"on localhost");
            exchange_udp(&udp_client(&world.node, to), b"on localhost");
            let own = world.node.socket_addr(family, NODE_PORT);
            assert_eq!(connect(&world.node, own).is_ok(), elsewhere, "{configuration} {own}");
        }
    }
    Ok(())
}
