//! What changes cost in a large cluster: processor time at 100 changed EndpointSlices a second, and a
//! rolling update of a Service with 1,000 endpoints. The API is the lab's, so that no etcd is needed.
//!
//! `cargo bench --bench scale` prints the figures that docs/benchmarks.md quotes; numbers after `--` are
//! other sizes: `cargo bench --bench scale -- 50000`. Everything happens in a network namespace of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // it is a bench

#[path = "measured.rs"]
mod measured;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use sluice_cluster::api::{ApiServer, Options};
use sluice_cluster::proxy::Place;
use sluice_cluster::{Isolation, Lab, LabSpec, Proxy, prepare};
use sluice_core::net::Family;
use sluice_lab::bench::Scale;

use measured::{memory, processor_seconds, syncs};

/// Changed slices a second, and for how many seconds.
const RATE: u32 = 100;
const SECONDS: u32 = 20;
/// The rolling update: so many endpoints, and so many steps.
const LARGE: Scale = Scale { services: 1, endpoints: 1000 };
const STEPS: u32 = 10;
/// A first sync takes less, whatever the machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    prepare(Isolation::Private).unwrap();
    let asked: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![1000, 10_000, 50_000] } else { asked };
    let lab = Lab::new(LabSpec { nodes: 1 }).unwrap();
    for services in sizes {
        let fabric = lab.fabric();
        let address = fabric.socket_addr(Family::V4, 6443);
        let listener = fabric.namespace().run(move || TcpListener::bind(address)).unwrap().unwrap();
        let api = ApiServer::start(listener, Options::default()).unwrap();
        let scale = Scale { services, endpoints: 5 };
        api.bulk_create(scale.objects()).unwrap();
        churn(&lab, &api, scale);
    }
    let fabric = lab.fabric();
    let address = fabric.socket_addr(Family::V4, 6443);
    let listener = fabric.namespace().run(move || TcpListener::bind(address)).unwrap().unwrap();
    let api = ApiServer::start(listener, Options::default()).unwrap();
    api.bulk_create(LARGE.objects()).unwrap();
    rolling_update(&lab, &api);
}

/// The daemon, on a fresh node, with its rules in place.
fn start(lab: &Lab, api: &ApiServer, configuration: &str) -> Proxy {
    let node = lab.add_node().unwrap();
    let configuration = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: nftables\nhostnameOverride: {}\n{configuration}\n",
        node.name(),
    );
    let program = Path::new(env!("CARGO_BIN_EXE_sluice-under-test"));
    let proxy = Proxy::start(program, Place::On(&node), &api.url(), &configuration).unwrap();
    proxy.wait_for("first sync done family=IPv4", 0, PATIENCE).unwrap();
    proxy.wait_for("first sync done family=IPv6", 0, PATIENCE).unwrap();
    proxy
}

fn churn(lab: &Lab, api: &ApiServer, scale: Scale) {
    let proxy = start(lab, api, "");
    std::thread::sleep(Duration::from_secs(2));
    let (begin, before) = (Instant::now(), processor_seconds(&proxy));
    for change in 0..RATE * SECONDS {
        let due = begin + Duration::from_secs(1) * change / RATE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (service, round) = (change % scale.services, change / scale.services);
        for slice in scale.slices(service, (round + 1) % 2) {
            api.update(&slice).unwrap();
        }
    }
    let share = (processor_seconds(&proxy) - before) / begin.elapsed().as_secs_f64();
    let (longest, syncs) = syncs(&proxy);
    println!(
        "{} Services with 5 endpoints, {RATE} changed slices a second: {:.2} % of a core; {syncs} syncs, \
         the longest {longest:.2?}; {}",
        scale.services,
        share * 100.0,
        memory(&proxy),
    );
}

fn rolling_update(lab: &Lab, api: &ApiServer) {
    for (pause, period) in [(Duration::from_millis(500), "100ms"), (Duration::from_secs(2), "1s")] {
        let settings = format!("nftables: {{minSyncPeriod: {period}}}");
        let proxy = start(lab, api, &settings);
        for (back, step) in [false, true].into_iter().flat_map(|b| (1..=STEPS).map(move |s| (b, s)))
        {
            let replaced = LARGE.endpoints / STEPS * if back { STEPS - step } else { step };
            for slice in LARGE.slices(0, replaced) {
                api.update(&slice).unwrap();
            }
            std::thread::sleep(pause);
        }
        let (longest, count) = syncs(&proxy);
        println!(
            "rolling update of 1,000 endpoints by {} at a time, minSyncPeriod {period}: {count} syncs, the \
             longest {longest:.2?}",
            LARGE.endpoints / STEPS,
        );
    }
}
