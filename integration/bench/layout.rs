//! The cost of the nftables mode's layout, compared with the obvious one (a verdict map from frontends to
//! chains): a change, and the first packet of a connection, at several numbers of Services.
//!
//! `cargo bench --bench layout` prints the figures that docs/modes/nftables.md quotes. Everything
//! happens in a network namespace of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)] // it is a bench

#[path = "network.rs"]
mod network;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_core::net::{Family, Protocol};
use sluice_kernel::nft::{
    Chain, ChainKind, Counting, Data, Element, Field, Hook, Key, Nft, Op, Rule, Set, TableName,
    Verdict, fixtures, statement,
};

const FAMILY: Family = Family::V4;
const ROUNDS: usize = 200;
const FLOWS: u16 = 20_000;

fn main() {
    println!("services  layout                     load     one change   first packet");
    let nothing = in_new_network(flows);
    println!(
        "       -  no rules                      -            -     {:>6.2} us",
        micros(nothing)
    );
    for services in [1_000, 10_000, 30_000, 50_000] {
        let sets = |used, counting| Layout::Sets { used, counting };
        for layout in [
            Layout::VerdictMap,
            sets(1, Counting::Off),
            sets(6, Counting::Off),
            sets(6, Counting::On),
        ] {
            let (load, change, packet) = in_new_network(|| measure(&layout, services));
            println!(
                "{services:>8}  {:<24} {:>6.0} ms  {:>8.3} ms   {:>6.2} us",
                layout.name(),
                load.as_secs_f64() * 1e3,
                change.as_secs_f64() * 1e3,
                micros(packet)
            );
        }
    }
}

fn in_new_network<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    network::in_new_network("10.0.0.1/32", "10.96.0.0/12", body)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// How a frontend leads to its chain.
enum Layout {
    /// By a verdict map.
    VerdictMap,
    /// By being in one of several sets; so many of them are in use, the right one comes last. It may be
    /// counted first, by being in a set that counts.
    Sets { used: u32, counting: Counting },
}

impl Layout {
    fn name(&self) -> String {
        match self {
            Layout::VerdictMap => "verdict map".to_owned(),
            Layout::Sets { used, counting: Counting::On } => format!("sets, {used} sizes, counted"),
            Layout::Sets { used: 1, .. } => "sets, 1 size in use".to_owned(),
            Layout::Sets { used, .. } => format!("sets, {used} sizes in use"),
        }
    }
}

fn frontend(n: u32) -> Key {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + n + 1);
    Key::new().address(IpAddr::V4(ip)).protocol(Protocol::Udp).port(80)
}

fn fields() -> Vec<Field> {
    vec![Field::Daddr(FAMILY), Field::L4Proto, Field::Dport]
}

fn slot_fields(size: u32) -> Vec<Field> {
    let mut fields = fields();
    fields.push(Field::Random { modulus: size });
    fields
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn slots(n: u32) -> Arc<str> {
    format!("slots-{n}").into()
}

/// A set in which every frontend is counted, and the rule that finds it there.
fn counters(services: u32) -> Vec<Op> {
    let mut set = Set::set("counters", fields());
    set.counting = Counting::On;
    let found = statement::is_in(&fields(), &name("counters"));
    let mut ops = vec![Op::AddSet(set), Op::AddRule(Rule::new("output", found))];
    ops.extend((0..services).map(|n| Op::AddElement {
        set: name("counters"),
        element: Element::new(frontend(n)).with_comment(format!("default/web-{n}:http")),
    }));
    ops
}

/// Load, median of a change that gives a frontend another size, first packet.
fn measure(layout: &Layout, services: u32) -> (Duration, Duration, Duration) {
    let mut nft = Nft::open().expect("nf_tables");
    let table = TableName::new(FAMILY, "bench");
    let endpoints = name("endpoints");
    let mut ops = vec![
        Op::AddTable { comment: None },
        Op::AddSet(Set::map(
            Arc::clone(&endpoints),
            slot_fields(65536),
            vec![Field::Daddr(FAMILY), Field::Dport],
        )),
        Op::AddChain(Chain::base("output", ChainKind::Nat, Hook::Output, -100)),
        Op::AddChain(Chain::regular("draw-1")),
        Op::AddChain(Chain::regular("draw-2")),
    ];
    for size in [1, 2] {
        let dnat = statement::dnat_to_data_of(FAMILY, &slot_fields(size), &endpoints);
        ops.push(Op::AddRule(Rule::new(format!("draw-{size}"), dnat)));
    }
    let data = Data::new().address([10, 0, 0, 1].into()).port(9);
    ops.extend((0..services).map(|n| Op::AddElement {
        set: Arc::clone(&endpoints),
        element: Element::data(frontend(n).number(0), data),
    }));
    let (own, other): (Arc<str>, Arc<str>) = match layout {
        Layout::VerdictMap => {
            ops.insert(1, Op::AddSet(Set::verdict_map("services", fields())));
            let goto = fixtures::verdict_of(&fields(), &name("services"));
            ops.push(Op::AddRule(Rule::new("output", goto)));
            (name("services"), name("services"))
        }
        Layout::Sets { used, counting } => {
            if *counting == Counting::On {
                ops.extend(counters(services));
            }
            for n in 1..=used + 1 {
                ops.insert(1, Op::AddSet(Set::set(slots(n), fields())));
            }
            for n in 1..=*used {
                let member = statement::is_in(&fields(), &slots(n));
                let goto = [member, statement::goto(&name("draw-1"))].concat();
                ops.push(Op::AddRule(Rule::new("output", goto)));
            }
            (slots(*used), slots(used + 1))
        }
    };
    let member = |n: u32, size: u32| match layout {
        Layout::VerdictMap => {
            Element::verdict(frontend(n), Verdict::Goto(format!("draw-{size}").into()))
        }
        Layout::Sets { .. } => Element::new(frontend(n)),
    };
    ops.extend(
        (0..services).map(|n| Op::AddElement { set: Arc::clone(&own), element: member(n, 1) }),
    );
    let started = Instant::now();
    nft.apply(&table, &ops).unwrap();
    let load = started.elapsed();

    // A second endpoint comes: one more slot, and another size.
    let mut times: Vec<Duration> = (0..u32::try_from(ROUNDS).unwrap())
        .map(|round| {
            let n = round * (services / u32::try_from(ROUNDS).unwrap());
            let change = [
                Op::AddElement {
                    set: Arc::clone(&endpoints),
                    element: Element::data(frontend(n).number(1), data),
                },
                Op::DeleteElement { set: Arc::clone(&own), element: member(n, 1) },
                Op::AddElement { set: Arc::clone(&other), element: member(n, 2) },
            ];
            let started = Instant::now();
            nft.apply(&table, &change).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let packet = flows();
    (load, times[ROUNDS / 2], packet)
}

/// The mean time to send the first datagram of a flow to a frontend that no round has changed.
fn flows() -> Duration {
    let _sinks = ["10.0.0.1:9", "10.96.0.2:80"].map(|at| UdpSocket::bind(at).ok());
    let to: SocketAddr = "10.96.0.2:80".parse().unwrap();
    let mut spent = Duration::ZERO;
    for port in 0..FLOWS {
        let socket = UdpSocket::bind((Ipv4Addr::new(10, 0, 0, 1), 10_000 + port)).unwrap();
        let started = Instant::now();
        socket.send_to(b"x", to).unwrap();
        spent += started.elapsed();
    }
    spent / u32::from(FLOWS)
}
