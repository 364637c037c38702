//! What a question to a running daemon costs in a large cluster: how long `explain` takes over the admin socket, how much memory,
//! and whether changes have to wait while somebody asks all the time.
//!
//! `cargo bench --bench asked` prints the figures that docs/benchmarks-micro.md quotes; a number after `--` is another number of
//! Services. Everything happens in a network namespace of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // it is a bench

#[path = "measured.rs"]
mod measured;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluice_cluster::api::{ApiServer, Options};
use sluice_cluster::{Isolation, Lab, LabSpec, Proxy, prepare};
use sluice_core::net::Family;
use sluice_lab::bench::Scale;

use measured::{memory, processor_seconds, syncs};

const QUESTIONS: usize = 200;
/// Where one of the Services is reached.
const ADDRESS: &str = "/v1/explain?from=10.244.0.9&to=10.96.1.8:80";
/// Changed slices a second, and for how many seconds.
const RATE: u32 = 100;
const SECONDS: u32 = 10;
/// A first sync takes less, whatever the machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    proxy: Proxy,
    api: ApiServer,
    socket: PathBuf,
    scale: Scale,
    _folder: tempfile::TempDir,
}

fn main() {
    prepare(Isolation::Private).unwrap();
    let asked = std::env::args().find_map(|argument| argument.parse().ok());
    let scale = Scale { services: asked.unwrap_or(10_000), endpoints: 5 };
    let lab = Lab::new(LabSpec { nodes: 1 }).unwrap();
    let world = World::new(&lab, scale);
    println!("{} Services with 5 endpoints, mode nftables", scale.services);
    println!("  before any question: {}", memory(&world.proxy));
    for (what, path) in [
        ("an address", ADDRESS),
        ("a name", "/v1/explain?from=10.244.0.9&to=svc/service-00008.default"),
        ("a name that no Service has", "/v1/explain?from=10.244.0.9&to=svc/servise-00008.default"),
    ] {
        let mut times: Vec<Duration> = (0..QUESTIONS).map(|_| world.ask(path)).collect();
        times.sort();
        println!(
            "  {what}: median {:.2?}, longest {:.2?}",
            times[QUESTIONS / 2],
            times[QUESTIONS - 1]
        );
    }
    println!("  after {} questions: {}", 3 * QUESTIONS, memory(&world.proxy));
    churn(&world, None);
    churn(&world, Some(ADDRESS));
}

impl World {
    fn new(lab: &Lab, scale: Scale) -> World {
        let fabric = lab.fabric();
        let address = fabric.socket_addr(Family::V4, 6443);
        let listener = fabric.namespace().run(move || TcpListener::bind(address)).unwrap().unwrap();
        let api = ApiServer::start(listener, Options::default()).unwrap();
        api.bulk_create(scale.objects()).unwrap();
        let node = lab.add_node().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (file, socket) = (folder.path().join("config"), folder.path().join("asked/admin.sock"));
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: nftables\nhostnameOverride: {}\n",
            node.name()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_sluice-under-test")));
        command.arg("--config").arg(&file).args(["--master", &api.url(), "-v", "4"]);
        command.arg(format!("--admin-socket={}", socket.display()));
        let proxy = Proxy::start_on(&node, command).unwrap();
        proxy.wait_for("first sync done family=IPv4", 0, PATIENCE).unwrap();
        proxy.wait_for("first sync done family=IPv6", 0, PATIENCE).unwrap();
        World { proxy, api, socket, scale, _folder: folder }
    }

    /// From the connection to the end of the answer.
    fn ask(&self, path: &str) -> Duration {
        let begin = Instant::now();
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: sluice\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let elapsed = begin.elapsed();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"stages\""), "{answer}");
        elapsed
    }
}

/// Changes at a steady rate, while somebody asks all the time or nobody does.
fn churn(world: &World, question: Option<&str>) {
    let (_, already) = syncs(&world.proxy);
    let (begin, before) = (Instant::now(), processor_seconds(&world.proxy));
    let over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut count = 0;
            while let Some(question) = question.filter(|_| !over.load(Ordering::Relaxed)) {
                world.ask(question);
                count += 1;
            }
            count
        });
        for change in 0..RATE * SECONDS {
            let due = begin + Duration::from_secs(1) * change / RATE;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (service, round) = (change % world.scale.services, change / world.scale.services);
            let other = (round + 1 + u32::from(question.is_some())) % 2;
            for slice in world.scale.slices(service, other) {
                world.api.update(&slice).unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    let share = (processor_seconds(&world.proxy) - before) / begin.elapsed().as_secs_f64();
    let (longest, all) = syncs(&world.proxy);
    println!(
        "  {RATE} changed slices a second, {asked} questions meanwhile: {} syncs, the longest so far {longest:.2?}; \
         {:.1} % of a core",
        all - already,
        share * 100.0,
    );
}
