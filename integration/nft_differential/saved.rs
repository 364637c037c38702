//! What the daemon's modes put into the kernel, saved by `nft` and loaded again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use sluice_core::model::{
    Change, Condition, Endpoint, EndpointPort, EndpointSlice, Service, ServiceName, ServicePort,
    ServiceType, SliceName, Snapshot, SourceRanges, TrafficPolicy,
};
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{
    self, ClusterIpGuard, ForwardingTable, Host, NodePortAddresses, PodDetector,
};
use sluice_dataplane::service_table::{Connection, ServiceTable};
use sluice_dataplane::userspace::VisibleSource;
use sluice_dataplane::{Backend, Scope, ipvs, nftables, userspace};
use sluice_kernel::nft::{Chain, Counting, Element, Key, Nft, Op, Rule, Set, TableName};

use crate::sandbox::Sandbox;
use crate::words::of;

/// A mode for one family.
type Mode = fn(&Connection, Family) -> ServiceTable;

/// What a Service is called, what is special about it, and how many endpoints it has.
type Kind = (&'static str, fn(&mut Service), usize);

const MODES: [(&str, Mode); 5] = [
    ("nftables", |nft, family| nftables::table(nft.table(family))),
    ("nftables with counters", |nft, family| {
        nftables::table(nft.table(family)).counting(Counting::On)
    }),
    ("ipvs", |nft, family| ipvs::table(nft.table(family))),
    ("userspace", |nft, family| userspace::table(nft.table(family), VisibleSource::Node)),
    ("userspace-transparent", |nft, family| {
        userspace::table(nft.table(family), VisibleSource::Client)
    }),
];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Ways in which the same Services are seen by a host.
fn hosts(family: Family) -> Vec<Host> {
    let cidrs = of(family, ["10.244.0.0/16", "10.32.0.0/11"], ["fd00:10:244::/48", "fd00:32::/43"]);
    let cidrs = cidrs.map(|cidr| cidr.parse().expect("a prefix"));
    let node = ip(of(family, "192.168.0.2", "fd00:168::2"));
    let pods = [
        PodDetector::None,
        PodDetector::Cidrs(cidrs.to_vec()),
        PodDetector::BridgeInterface("cni0".into()),
        PodDetector::InterfacePrefix("veth".into()),
    ];
    let only = || NodePortAddresses::Only([node].into());
    let host = |pods, masquerade_all, node_ports| Host {
        pods,
        masquerade_all,
        masquerade_mark: 0x4000,
        node_ports,
        node_ip: Some(node),
        cluster_ip_guard: ClusterIpGuard::PortsAndAddresses,
    };
    let mut hosts: Vec<Host> = pods.map(|pods| host(pods, false, only())).into();
    hosts.push(host(PodDetector::None, true, NodePortAddresses::AnyLocal));
    hosts[1].cluster_ip_guard = ClusterIpGuard::Ports;
    hosts[2].cluster_ip_guard = ClusterIpGuard::Open;
    hosts
}

/// Services of every kind, with every option that shows in the tables.
fn snapshot(family: Family) -> Snapshot {
    let kinds: [Kind; 10] = [
        ("plain", |_| {}, 9),
        ("one", |_| {}, 1),
        ("two", |it| it.kind = ServiceType::NodePort, 2),
        ("empty", |_| {}, 0),
        ("external", |it| it.external_policy = TrafficPolicy::Local, 3),
        ("internal", |it| it.internal_policy = TrafficPolicy::Local, 5),
        ("sticky", |it| it.affinity = Some(10_800), 3),
        ("sticky-shortly", |it| it.affinity = Some(1), 2),
        (
            "sticky-local",
            |it| {
                it.affinity = Some(86_400);
                it.external_policy = TrafficPolicy::Local;
            },
            17,
        ),
        (
            "restricted",
            |it| {
                let ranges = ["203.0.113.0/24", "198.18.0.0/15", "192.0.2.1/32", "0.0.0.0/1"];
                let ranges = ranges.into_iter().chain(["2001:db8:1::/48", "2001:db8::/31", "::/1"]);
                it.source_ranges =
                    SourceRanges::Only(ranges.map(|range| range.parse().unwrap()).collect());
            },
            1,
        ),
    ];
    let mut changes = Vec::new();
    for (number, (name, change, endpoints)) in (1_u16..).zip(kinds) {
        let address = |v4: &str, v6: &str| ip(&format!("{}{number}", of(family, v4, v6)));
        let port = |protocol, port: u16, node_port| ServicePort {
            name: format!("{protocol}-{port}").into(),
            protocol,
            port,
            node_port: Some(node_port + number),
        };
        let ports = [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Sctp, 9)];
        let ports: Vec<ServicePort> = (1..)
            .zip(ports)
            .map(|(n, (protocol, number))| port(protocol, number, 30_000 + 100 * n))
            .collect();
        let mut service = Service {
            name: ServiceName::new("default", name),
            created: 1,
            kind: ServiceType::LoadBalancer,
            cluster_ips: vec![address("10.96.0.", "fd00:10:96::")],
            external_ips: vec![address("198.51.100.", "2001:db8:e::")],
            load_balancer_ips: vec![address("192.0.2.", "2001:db8:b::")],
            source_ranges: SourceRanges::Anyone,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            health_check_node_port: None,
            ports,
        };
        change(&mut service);
        let port = |port: &ServicePort| EndpointPort {
            name: Arc::clone(&port.name),
            protocol: port.protocol,
            port: port.port + 8000,
        };
        changes.push(Change::Slice(EndpointSlice {
            name: SliceName::new("default", name),
            service: service.name.clone(),
            family,
            ports: service.ports.iter().map(port).collect(),
            endpoints: (1..=endpoints)
                .map(|n| Endpoint {
                    address: ip(&format!("{}{n}", of(family, "10.244.1.", "fd00:10:244:1::"))),
                    condition: Condition::Ready,
                    local: n == 1 && name != "external",
                    hints: None,
                })
                .collect(),
            trigger_time: None,
        }));
        changes.push(Change::Service(service));
    }
    let cidrs = of(family, ["10.96.0.0/16", "10.98.0.0/15"], ["fd00:10:96::/112", "fd00:98::/107"]);
    changes.push(Change::ServiceCidrs(cidrs.map(|cidr| cidr.parse().unwrap()).into()));
    let mut snapshot = Snapshot::default();
    changes.into_iter().for_each(|change| snapshot.apply(change, &mut BTreeSet::new()));
    snapshot
}

/// The `nft` that is installed, and those that the variable names, the oldest first.
fn programs() -> Vec<String> {
    let more = std::env::var("SLUICE_NFT").unwrap_or_default();
    let all = std::iter::once("nft").chain(more.split_whitespace());
    let mut programs: Vec<(Vec<u32>, String)> = all
        .map(|program| {
            let told = run(program, &["--version"], "").expect("it knows its version");
            let version = told.split_whitespace().find_map(|word| word.strip_prefix('v'));
            let numbers = version.unwrap_or_default().split('.').map(|number| number.parse());
            (numbers.collect::<Result<_, _>>().expect("numbers"), program.to_owned())
        })
        .collect();
    programs.sort();
    programs.into_iter().map(|(_, program)| program).collect()
}

/// Tables that one `nft` saved are loaded by the same one, as text and as JSON, and are what they were:
/// a daemon that finds them has nothing to do.
pub(crate) fn trials() -> Vec<Trial> {
    let hosts = hosts(Family::V4).len();
    let every_host = (0..hosts).map(|host| (0, host));
    let every_mode = (1..MODES.len()).map(|mode| (mode, mode % hosts));
    let trial = |(mode, host): (usize, usize)| {
        let name = format!("what is saved can be loaded: {}, host {host}", MODES[mode].0);
        crate::trial(name, move || saved(mode, host))
    };
    let upgrade =
        crate::trial("the layout of an earlier version is converted at once".into(), upgrade);
    every_host.chain(every_mode).map(trial).chain([upgrade]).collect()
}

/// The table of an older version, which had affinity entries in a map.
fn upgrade() {
    let before = include_str!("../fixtures/nftables/affinity-map.nft");
    run("nft", &["-f", "-"], before).expect("it is loaded");
    let mut nft = Nft::open().expect("nf_tables is there");
    let before = nft.generation().expect("it can be read");
    let table =
        || plan::build(Family::V4, "node-a", hosts(Family::V4)[1].clone(), &snapshot(Family::V4)).0;
    assert!(write(0, &[table()]) > 500, "the table is built anew");
    let after = nft.generation().expect("it can be read");
    assert_eq!(after, before + 1, "one transaction, so that there is always a table");
    assert_eq!(write(0, &[table()]), 0);
}

fn saved(mode: usize, host: usize) {
    let tables = Family::BOTH.map(|family| {
        plan::build(family, "node-a", hosts(family)[host].clone(), &snapshot(family)).0
    });
    assert!(write(mode, &tables) > 500, "not much is written");
    remember_clients();
    let written = Written { mode, tables, dumps: Family::BOTH.map(dump) };
    let written = Arc::new(written);
    let programs = programs();
    for (index, program) in programs.iter().enumerate() {
        let text = run(program, &["list", "ruleset"], "").expect("it lists");
        let json = run(program, &["-j", "list", "ruleset"], "").expect("it lists JSON");
        let flushed = format!("flush ruleset\n{text}");
        run(program, &["-c", "-f", "-"], &flushed).expect("it checks what is to be in its place");
        // What an older one saved is loaded by a newer one when the distribution is upgraded.
        for loader in &programs[index..] {
            for text in [&text, &flushed] {
                written.load(program, loader, Form::Text, text.clone());
            }
        }
        written.load(program, program, Form::Json, json);
    }
}

/// What was written, and what it looked like.
struct Written {
    mode: usize,
    tables: [ForwardingTable; 2],
    dumps: [Dump; 2],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Text,
    Json,
}

impl Written {
    /// Loads what one program saved with another one, in a network of its own.
    fn load(self: &Arc<Written>, saver: &str, loader: &str, form: Form, input: String) {
        let what = format!("{form:?} of {saver}, loaded by {loader}");
        let arguments: &[&str] = match form {
            Form::Text => &["-f", "-"],
            Form::Json => &["-j", "-f", "-"],
        };
        let (written, loader) = (Arc::clone(self), loader.to_owned());
        let done = Sandbox::run(move || {
            match run(&loader, arguments, &input) {
                Ok(_) => {}
                // 1.0.6 writes maps to address and port to JSON and refuses to read them, even its own.
                Err(why) if form == Form::Json && why.contains("Invalid map type 'ip") => {
                    eprintln!("{what}: not to be had: {}", why.trim());
                    return;
                }
                Err(why) => panic!("{what}: {why}"),
            }
            for (family, dumped) in Family::BOTH.into_iter().zip(&written.dumps) {
                let differences = dumped.differences(&dump(family));
                // JSON has no comments and does not say what parts of data are called.
                let of_rules = |it: &&String| form == Form::Text || it.starts_with("chain");
                let differences: Vec<&String> = differences.iter().filter(of_rules).collect();
                assert!(differences.is_empty(), "{what}: {differences:#?}");
            }
            let operations = write(written.mode, &written.tables);
            assert_eq!(operations, 0, "{what}: what a daemon does that finds it");
        });
        done.unwrap_or_else(|panic| panic!("{panic}"));
    }
}

/// How many operations it takes to write the tables of a mode.
fn write(mode: usize, tables: &[ForwardingTable]) -> usize {
    let nft = Connection::open().expect("nf_tables is there");
    let sync = |table: &ForwardingTable| {
        let mut mode = MODES[mode].1(&nft, table.family);
        mode.sync(table, &Scope::default()).expect("the kernel takes it").operations
    };
    tables.iter().map(sync).sum()
}

/// Puts clients into the set that rules write, if there is one, each under a number that is in use.
fn remember_clients() {
    let mut nft = Nft::open().expect("nf_tables is there");
    for family in Family::BOTH {
        let name = TableName::new(family, "kube-proxy");
        let table = nft.dump(&name).expect("it can be read").expect("it is there");
        let Some(numbers) = table.sets.get("remember-10800") else { continue };
        let client = ip(of(family, "192.168.0.77", "fd00:168::77"));
        let elements = numbers.elements.iter().map(|number| {
            let key = Key::new().address(client).part(number.key.as_bytes());
            let element = Element::new(key).with_timeout(Duration::from_secs(10_800));
            Op::AddElement { set: "affinity".into(), element }
        });
        let elements: Vec<Op> = elements.collect();
        nft.apply(&name, &elements).expect("clients are remembered");
    }
}

/// A table without what changes by itself.
#[derive(Debug, PartialEq)]
struct Dump {
    chains: BTreeMap<Arc<str>, (Chain, Vec<Rule>)>,
    sets: BTreeMap<Arc<str>, (Set, Vec<Element>)>,
}

fn dump(family: Family) -> Dump {
    let mut nft = Nft::open().expect("nf_tables is there");
    let table = nft.dump(&TableName::new(family, "kube-proxy"));
    let table = table.expect("it can be read").expect("it is there");
    assert_eq!(table.foreign, Vec::<String>::new());
    let lasting = |mut element: Element| {
        if let Some(extra) = &mut element.extra {
            extra.expires = None;
        }
        element
    };
    let chains = table.chains.into_iter().map(|(name, chain)| {
        let rules = chain.rules.into_iter().map(|rule| rule.rule).collect();
        (name, (chain.chain, rules))
    });
    let sets = table.sets.into_iter();
    let sets = sets.map(|(name, it)| (name, (it.set, it.elements.iter().map(lasting).collect())));
    Dump { chains: chains.collect(), sets: sets.collect() }
}

impl Dump {
    /// Where the two differ, piece by piece, because whole tables are too long to see it.
    fn differences(&self, other: &Dump) -> Vec<String> {
        fn each<'a, T: PartialEq + Debug>(
            ours: &'a BTreeMap<Arc<str>, T>,
            theirs: &'a BTreeMap<Arc<str>, T>,
        ) -> impl Iterator<Item = (&'a str, Option<&'a T>, Option<&'a T>)> {
            let names: BTreeSet<&Arc<str>> = ours.keys().chain(theirs.keys()).collect();
            let pairs = names.into_iter().map(|name| (&**name, ours.get(name), theirs.get(name)));
            pairs.filter(|(_, ours, theirs)| ours != theirs)
        }
        let mut found = Vec::new();
        for (name, ours, theirs) in each(&self.sets, &other.sets) {
            let definition = |it: Option<&(Set, Vec<Element>)>| it.map(|(set, _)| set.clone());
            let (was, is) = (definition(ours), definition(theirs));
            found.push(format!("set {name}: {was:?} is {is:?}, or its elements differ"));
        }
        for (name, ours, theirs) in each(&self.chains, &other.chains) {
            let rules = |it: Option<&(Chain, Vec<Rule>)>| it.map_or(Vec::new(), |it| it.1.clone());
            let (ours, theirs) = (rules(ours), rules(theirs));
            let pair = ours.iter().zip(&theirs).find(|(was, is)| was != is);
            found.push(format!("chain {name}: {pair:?}, {} of {} rules", theirs.len(), ours.len()));
        }
        found
    }
}

/// Runs an `nft`, which may refuse, but must not warn.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that dies does not read all of it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() && errors.is_empty() {
        true => Ok(String::from_utf8(output.stdout).expect("it prints UTF-8")),
        false => Err(format!("{}: {errors}", output.status)),
    }
}
