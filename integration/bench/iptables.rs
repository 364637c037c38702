//! What the iptables mode costs, in both variants of iptables: rules, the first load, a change of one
//! endpoint, a canary check, a full comparison, and the first packet of a connection.
//!
//! `cargo bench --bench iptables` prints the figures that docs/modes/iptables.md quotes. Everything
//! happens in network namespaces of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // it is a bench

#[path = "network.rs"]
mod network;
#[path = "../iptables_world.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use sluice_core::model::{Change, ServiceName};
use sluice_core::net::Family;
use sluice_dataplane::iptables::Layout;
use sluice_dataplane::{Backend, Scope};
use sluice_kernel::xtables::Variant;

const ENDPOINTS: u8 = 5;
const FLOWS: u16 = 20_000;

fn main() {
    println!(
        "variant  layout   services  nat rules  upstream  filter      load  endpoint   canary   compare  first packet"
    );
    let nothing = in_new_network(flows);
    println!("no rules {:>92.2} us", micros(nothing));
    for variant in world::VARIANTS {
        for services in [10, 1_000, 5_000, 10_000] {
            in_new_network(|| measure(variant, Layout::Compact, services));
        }
        // iptables-nft takes many minutes for more.
        let sizes: &[u16] =
            if variant == Variant::Nft { &[10, 1_000] } else { &[10, 1_000, 5_000] };
        for services in sizes {
            in_new_network(|| measure(variant, Layout::Classic, *services));
        }
        for endpoints in [10, 64, 100, 1_000] {
            for layout in [Layout::Compact, Layout::Classic] {
                in_new_network(|| measure_pool(variant, layout, endpoints));
            }
        }
    }
}

/// The first packet to one Service with so many endpoints.
fn measure_pool(variant: Variant, layout: Layout, endpoints: u16) {
    let table = world::table(Family::V4, &world::large_pool(endpoints));
    world::mode(Family::V4, variant, layout).sync(&table, &Scope::default()).unwrap();
    let (layout, time) = (format!("{layout:?}").to_lowercase(), micros(flows()));
    println!("{variant}  {layout}  a pool of {endpoints:>5}: first packet {time:>6.2} us");
}

fn measure(variant: Variant, layout: Layout, services: u16) {
    let mut snapshot = world::many(services, ENDPOINTS);
    let mut mode = world::mode(Family::V4, variant, layout);
    let before = world::table(Family::V4, &snapshot);
    let load = timed(|| mode.sync(&before, &Scope::default()).unwrap());
    let name = ServiceName::new("default", "web-3");
    let web = snapshot.services[&name].clone();
    let pods: Vec<_> = (0..=ENDPOINTS).map(|e| world::ip(Family::V4, [10, 200, 0, e])).collect();
    snapshot.apply(Change::Slice(world::slice(&web, &pods)), &mut [].into());
    let after = world::table(Family::V4, &snapshot);
    let scope = Scope { services: [name].into(), full: false };
    let change = timed(|| mode.sync(&after, &scope).unwrap());
    let canary = timed(|| mode.sync(&after, &Scope::default()).unwrap());
    let full = Scope { full: true, ..Scope::default() };
    let compare = timed(|| assert_eq!(mode.sync(&after, &full).unwrap().operations, 0));
    let count = |table: &str| {
        let program = format!("iptables-{variant}-save");
        let output = Command::new(program).args(["-t", table]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.starts_with("-A KUBE-")).count()
    };
    let upstream = 5 + usize::from(services) * (2 + 3 * usize::from(ENDPOINTS));
    println!(
        "{:<7}  {:<7}  {services:>8}  {:>9}  {upstream:>8}  {:>6}  {:>5.0} ms  {:>5.0} ms  {:>4.0} ms  {:>5.0} ms  {:>9.2} us",
        variant.to_string(),
        format!("{layout:?}").to_lowercase(),
        count("nat"),
        count("filter"),
        millis(load),
        millis(change),
        millis(canary),
        millis(compare),
        micros(flows())
    );
}

fn in_new_network<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    network::in_new_network("192.168.0.2/32", "10.0.0.0/8", body)
}

/// The average time of the first packet of a UDP flow to the last Service, through the output hook.
fn flows() -> Duration {
    let to: SocketAddr = "10.96.255.1:80".parse().unwrap();
    let _sink = UdpSocket::bind("0.0.0.0:8080").unwrap();
    let _direct = UdpSocket::bind("0.0.0.0:80").unwrap();
    let mut spent = Duration::ZERO;
    for port in 0..FLOWS {
        let from = (Ipv4Addr::new(192, 168, 0, 2), 10_000 + port);
        let socket = UdpSocket::bind(from).unwrap();
        let started = Instant::now();
        socket.send_to(b"x", to).unwrap();
        spent += started.elapsed();
    }
    spent / u32::from(FLOWS)
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
