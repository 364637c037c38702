//! What the userspace mode costs beyond what `sluice-lab bench` measures in every mode: the daemon's
//! processor time for a GiB, connections of many clients at a time (beside a connection straight to the
//! pod and one through the nftables mode, in the same run), and memory with idle connections.
//!
//! `cargo bench --bench userspace` prints the figures that docs/modes/userspace.md quotes. Everything
//! happens in network namespaces of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)] // it is a bench

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_cluster::{Cluster, ClusterSpec, Host, Isolation, prepare};
use sluice_core::net::Family;
use sluice_kernel::sockets::raise_descriptor_limit;

const ROUNDS: usize = 7;
const WINDOW: Duration = Duration::from_millis(1500);
const CHUNK: usize = 256 * 1024;
const IDLE: usize = 5000;
/// Ports of the server: one swallows, one hangs up, one echoes.
const SINK: u16 = 9000;
const GREET: u16 = 9001;
const ECHO: u16 = 9002;

/// A way to the server.
struct Way {
    name: &'static str,
    client: Host,
    /// The server's address without a port, and the first port.
    to: SocketAddr,
    received: Arc<AtomicU64>,
}

fn main() {
    prepare(Isolation::Private).unwrap();
    raise_descriptor_limit().unwrap();
    let cluster = Cluster::new(ClusterSpec {
        nodes: 2,
        program: PathBuf::from(env!("CARGO_BIN_EXE_sluice-under-test")),
        configuration: "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48".to_owned(),
    })
    .unwrap();
    let mut ways = Vec::new();
    for (node, mode, last) in [("node-a", "userspace", 80), ("node-b", "nftables", 81)] {
        let name = format!("{mode}-server");
        let (server, _) = cluster.add_pod(&name, mode, node, &[]).unwrap();
        let client = cluster.lab().node(node).unwrap();
        let client = cluster.lab().add_pod(&format!("{mode}-client"), &client, &[]).unwrap();
        let received = serve(&server);
        cluster.create_service(&service(mode, last)).unwrap();
        cluster.start_proxy_with(node, &format!("mode: {mode}")).unwrap();
        let vip = SocketAddr::new([10, 96, 0, last].into(), SINK);
        let way =
            |name, to| Way { name, client: (*client).clone(), to, received: Arc::clone(&received) };
        if mode == "userspace" {
            ways.push(way("direct", server.socket_addr(Family::V4, SINK)));
        }
        ways.push(way(mode, vip));
    }
    for streams in [1, 64] {
        let seconds = processor_time(&cluster, &ways[1], streams);
        println!("daemon's processor time, {streams} streams: {seconds:.2} s for a GiB");
    }
    compare("connections/s, 32 clients", &ways, |way| connections(way, 32));
    memory(&cluster, &ways[1]);
}

fn service(name: &str, last: u8) -> serde_json::Value {
    let port = |port: u16| json!({"name": format!("p{port}"), "port": port, "targetPort": port});
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "selector": {"app": name}, "clusterIP": format!("10.96.0.{last}"),
            "ports": [port(SINK), port(GREET), port(ECHO)],
        },
    })
}

/// Starts the server's three ports; gives the number of bytes that the first one has swallowed.
fn serve(host: &Host) -> Arc<AtomicU64> {
    let received = Arc::new(AtomicU64::new(0));
    let ip = host.ip(Family::V4);
    for port in [SINK, GREET, ECHO] {
        let listener =
            host.namespace().run(move || TcpListener::bind((ip, port)).unwrap()).unwrap();
        let received = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, received) = (stream.unwrap(), Arc::clone(&received));
                match port {
                    GREET => drop(stream.write_all(b"x")),
                    SINK => drop(std::thread::spawn(move || {
                        let mut buffer = vec![0; CHUNK];
                        while let Ok(n @ 1..) = stream.read(&mut buffer) {
                            received.fetch_add(n as u64, Relaxed);
                        }
                    })),
                    _ => drop(std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
                        stream.set_nodelay(true).unwrap();
                        let mut buffer = [0; 64];
                        while let Ok(n @ 1..) = stream.read(&mut buffer) {
                            if stream.write_all(&buffer[..n]).is_err() {
                                break;
                            }
                        }
                    })),
                }
            }
        });
    }
    received
}

/// Measures all ways in turn, and prints the median of each and its relation to the first.
fn compare(what: &str, ways: &[Way], measure: impl Fn(&Way) -> f64) {
    let mut figures: Vec<Vec<f64>> = ways.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (way, figures) in ways.iter().zip(&mut figures) {
            figures.push(measure(way));
        }
    }
    let median = |figures: &mut Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures[ROUNDS / 2]
    };
    let medians: Vec<f64> = figures.iter_mut().map(median).collect();
    for (way, median) in ways.iter().zip(&medians) {
        let relative = 100.0 * median / medians[0];
        println!("{what:<28} {:<10} {median:>10.2}  {relative:>4.0} %", way.name);
    }
}

fn connect(way: &Way, port: u16) -> TcpStream {
    let to = SocketAddr::new(way.to.ip(), port);
    way.client.namespace().run(move || TcpStream::connect(to).unwrap()).unwrap()
}

/// Sends for the length of a window.
fn send(way: &Way, streams: usize) {
    let stop = AtomicBool::new(false);
    let connections: Vec<TcpStream> = (0..streams).map(|_| connect(way, SINK)).collect();
    std::thread::scope(|scope| {
        for mut connection in connections {
            let stop = &stop;
            scope.spawn(move || {
                let chunk = vec![7; CHUNK];
                while !stop.load(Relaxed) && connection.write_all(&chunk).is_ok() {}
            });
        }
        std::thread::sleep(WINDOW);
        stop.store(true, Relaxed);
    });
}

/// Seconds of processor time that the daemon spends on a GiB, in the middle of some rounds. Unlike
/// throughput it hardly depends on what else the machine does.
fn processor_time(cluster: &Cluster, way: &Way, streams: usize) -> f64 {
    let pid = cluster.with_proxy("node-a", |proxy| proxy.pid()).unwrap();
    let spent = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The fields after the name, which may hold blanks: utime and stime are the 14th and 15th.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        // In hundredths of a second (USER_HZ) on every Linux.
        fields.map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    };
    let mut figures: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (before, bytes) = (spent(), way.received.load(Relaxed));
            send(way, streams);
            let bytes = way.received.load(Relaxed) - bytes;
            (spent() - before) / (bytes as f64 / f64::from(1 << 30))
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    figures[ROUNDS / 2]
}

fn connections(way: &Way, clients: usize) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let to = SocketAddr::new(way.to.ip(), GREET);
    let started = Instant::now();
    let work = || {
        while !stop.load(Relaxed) {
            let mut connection = TcpStream::connect(to).unwrap();
            let mut all = Vec::new();
            if connection.read_to_end(&mut all).is_ok() && all == b"x" {
                count.fetch_add(1, Relaxed);
            }
        }
    };
    let run = || {
        std::thread::scope(|scope| {
            (0..clients).for_each(|_| drop(scope.spawn(work)));
            std::thread::sleep(WINDOW);
            stop.store(true, Relaxed);
        });
    };
    way.client.namespace().run(run).unwrap();
    count.load(Relaxed) as f64 / started.elapsed().as_secs_f64()
}

fn memory(cluster: &Cluster, way: &Way) {
    let pid = cluster.with_proxy("node-a", |proxy| proxy.pid()).unwrap();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes / 1024.0
    };
    let before = resident();
    let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(way, ECHO)).collect();
    for connection in &mut idle {
        let mut answer = [0; 5];
        connection.write_all(b"hello").unwrap();
        connection.read_exact(&mut answer).unwrap();
    }
    println!("RSS {before:.1} MiB before, {:.1} MiB with {IDLE} idle connections", resident());
}
