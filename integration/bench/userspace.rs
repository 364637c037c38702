//! What the userspace mode costs beside a direct connection and the nftables mode: bulk TCP, connections, the
//! daemon's processor time for each, and memory with idle connections.
//!
//! `cargo bench --bench userspace` prints the figures that docs/modes/userspace.md quotes. The ways take turns
//! in short windows, because a machine's other load changes from second to second: what counts is the median of
//! the ratios within a round. With `SLUICE_BEFORE=PROGRAM`, another build of the daemon takes part, so that a
//! change is measured against what was before. `SLUICE_ROUNDS` sets the number of rounds. Everything happens in
//! network namespaces of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)] // it is a bench

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde_json::json;
use sluice_cluster::{Cluster, ClusterSpec, Host, Isolation, prepare};
use sluice_core::net::Family;
use sluice_kernel::sockets::raise_descriptor_limit;

const ROUNDS: usize = 21;
const WINDOW: Duration = Duration::from_millis(300);
const CHUNK: usize = 256 * 1024;
const GIB: f64 = (1 << 30) as f64;
const IDLE: usize = 5000;
/// Ports of the server: one swallows, one hangs up, one echoes.
const SINK: u16 = 9000;
const GREET: u16 = 9001;
const ECHO: u16 = 9002;

/// A way to the server.
struct Way {
    name: String,
    client: Host,
    /// The server's address without a port.
    to: SocketAddr,
    received: Arc<AtomicU64>,
    /// The process that relays.
    daemon: Option<Pid>,
}

/// What came of a window.
struct Window {
    /// Per second, in its middle.
    rate: f64,
    /// From its begin to its end.
    amount: f64,
}

/// What is measured.
struct Quantity {
    name: &'static str,
    unit: &'static str,
    measure: fn(&Way) -> Window,
}

const QUANTITIES: [Quantity; 4] = [
    Quantity { name: "bulk, 1 stream", unit: "GiB", measure: |way| bulk(way, 1) },
    Quantity { name: "bulk, 64 streams", unit: "GiB", measure: |way| bulk(way, 64) },
    Quantity { name: "connections, 1 client", unit: "1000", measure: |way| connections(way, 1) },
    Quantity { name: "connections, 32 clients", unit: "1000", measure: |way| connections(way, 32) },
];

fn main() {
    prepare(Isolation::Private).unwrap();
    raise_descriptor_limit().unwrap();
    let mut ways = Vec::new();
    let now = cluster(PathBuf::from(env!("CARGO_BIN_EXE_sluice-under-test")));
    // The third node has no proxy, so it tracks no connections.
    for (node, mode, name) in [
        ("node-c", "", "direct"),
        ("node-a", "userspace", "userspace"),
        ("node-b", "nftables", "nftables"),
    ] {
        ways.push(way(&now, node, mode, name));
    }
    let before = std::env::var_os("SLUICE_BEFORE").map(|program| cluster(PathBuf::from(program)));
    ways.extend(before.as_ref().map(|before| way(before, "node-a", "userspace", "before")));
    let rounds = std::env::var("SLUICE_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    for quantity in &QUANTITIES {
        compare(quantity, &ways, rounds);
    }
    memory(&ways[1]);
}

fn cluster(program: PathBuf) -> Cluster {
    let configuration = "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48".to_owned();
    Cluster::new(ClusterSpec { nodes: 3, program, configuration }).unwrap()
}

/// A client and a server on a node, and between them a Service, unless there is no mode.
fn way(cluster: &Cluster, node: &str, mode: &str, name: &str) -> Way {
    let (server, _) = cluster.add_pod(&format!("{name}-server"), name, node, &[]).unwrap();
    let host = cluster.lab().node(node).unwrap();
    let client = cluster.lab().add_pod(&format!("{name}-client"), &host, &[]).unwrap();
    let received = serve(&server);
    let (mut to, mut daemon) = (server.socket_addr(Family::V4, SINK), None);
    if !mode.is_empty() {
        let last = if mode == "userspace" { 80 } else { 81 };
        to = SocketAddr::new([10, 96, 0, last].into(), SINK);
        cluster.create_service(&service(name, last)).unwrap();
        cluster.start_proxy_with(node, &format!("mode: {mode}")).unwrap();
        daemon = cluster.with_proxy(node, |proxy| proxy.pid()).filter(|_| mode == "userspace");
    }
    Way { name: name.to_owned(), client: (*client).clone(), to, received, daemon }
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

/// Measures all ways in turn, and prints of each the median rate, the quartiles of its ratio to the first, and
/// the median of the daemon's processor time.
fn compare(quantity: &Quantity, ways: &[Way], rounds: usize) {
    let mut figures: Vec<[Vec<f64>; 3]> = ways.iter().map(|_| Default::default()).collect();
    for _ in 0..rounds {
        let mut direct = None;
        for (way, [rates, ratios, costs]) in ways.iter().zip(&mut figures) {
            let before = spent(way);
            let window = (quantity.measure)(way);
            let rate = window.rate;
            rates.push(rate);
            ratios.push(rate / *direct.get_or_insert(rate));
            costs.push((spent(way) - before) / window.amount);
        }
    }
    println!("{} (per second; of direct, with quartiles; processor time)", quantity.name);
    for (way, [rates, ratios, costs]) in ways.iter().zip(&mut figures) {
        let [low, ratio, high] = [1, 2, 3].map(|quarter| quantile(ratios, quarter));
        let (rate, cost) = (quantile(rates, 2), quantile(costs, 2));
        let unit = quantity.unit;
        print!("  {:<10} {rate:>8.3} × {unit}  {ratio:.2} ({low:.2} to {high:.2})", way.name);
        println!(
            "{}",
            way.daemon.map_or_else(String::new, |_| format!("  {cost:.3} s per {unit}"))
        );
    }
}

fn quantile(figures: &mut [f64], quarter: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[(figures.len() - 1) * quarter / 4]
}

/// Seconds of processor time that a way's daemon has taken.
fn spent(way: &Way) -> f64 {
    let clock = |pid| clock_getcpuclockid(pid).and_then(ClockId::now).unwrap();
    way.daemon.map_or(0.0, |pid| Duration::from(clock(pid)).as_secs_f64())
}

fn connect(way: &Way, port: u16) -> TcpStream {
    let to = SocketAddr::new(way.to.ip(), port);
    way.client.namespace().run(move || TcpStream::connect(to).unwrap()).unwrap()
}

/// Sends in some streams until the window ends, and waits until all has arrived.
fn bulk(way: &Way, streams: usize) -> Window {
    let stop = AtomicBool::new(false);
    let first = way.received.load(Relaxed);
    let connections: Vec<TcpStream> = (0..streams).map(|_| connect(way, SINK)).collect();
    let rate = std::thread::scope(|scope| {
        for mut connection in connections {
            let stop = &stop;
            scope.spawn(move || {
                let chunk = vec![7; CHUNK];
                while !stop.load(Relaxed) && connection.write_all(&chunk).is_ok() {}
                // The server closes once it has read everything.
                let _ = connection.shutdown(std::net::Shutdown::Write);
                let _ = connection.read(&mut [0]);
            });
        }
        std::thread::sleep(WINDOW / 4);
        let (before, begun) = (way.received.load(Relaxed), Instant::now());
        std::thread::sleep(WINDOW);
        let bytes = way.received.load(Relaxed) - before;
        let rate = bytes as f64 / GIB / begun.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        rate
    });
    Window { rate, amount: (way.received.load(Relaxed) - first) as f64 / GIB }
}

/// Some clients open connections one after the other; the server says a byte and closes.
fn connections(way: &Way, clients: usize) -> Window {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let to = SocketAddr::new(way.to.ip(), GREET);
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
            std::thread::sleep(WINDOW / 4);
            let (before, begun) = (count.load(Relaxed), Instant::now());
            std::thread::sleep(WINDOW);
            let connections = count.load(Relaxed) - before;
            let rate = connections as f64 / 1e3 / begun.elapsed().as_secs_f64();
            stop.store(true, Relaxed);
            rate
        })
    };
    let rate = way.client.namespace().run(run).unwrap();
    Window { rate, amount: count.load(Relaxed) as f64 / 1e3 }
}

fn memory(way: &Way) {
    let pid = way.daemon.unwrap();
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
