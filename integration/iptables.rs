//! The iptables mode against the kernel, in both variants of iptables and both families: what it
//! writes, that it recognizes it, what it leaves alone, and what the real daemon makes of it.

#[path = "iptables_around.rs"]
mod around;
#[path = "iptables_return.rs"]
mod back;
#[path = "iptables_families.rs"]
mod families;
#[path = "iptables_world.rs"]
mod world;

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use serde_json::json;
use sluice_cluster::{Answer, Cluster, ClusterSpec, Host, Isolation, Probe, prepare};
use sluice_core::model::{
    Change, Endpoint, ServiceName, ServiceType, Snapshot, SourceRanges, TrafficPolicy,
};
use sluice_core::net::{Family, Protocol};
use sluice_dataplane::iptables::{Iptables, Layout, Programs};
use sluice_dataplane::{Backend, Observation, Scope};
use sluice_kernel::xtables::{ChainGraph, CountedRule, Table, Variant, Xtables, XtablesError};

use support::daemon::program;
use support::{Outcome, eventually, in_own_network, run};

/// What is tried in each family and variant.
type Test = fn(Family, Variant) -> Outcome;

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = vec![
        Trial::test("the_variant_with_more_rules_or_a_hint_is_used", || in_own_network(variants)),
        Trial::test("the_lock_is_waited_for_and_its_holder_reported", || in_own_network(lock)),
        Trial::test("node_ports_answer_on_localhost_unless_switched_off", localhost),
        Trial::test("node_ports_answer_on_localhost_where_it_is_named", localhost_by_name),
        Trial::test("without_ip6tables_ipv4_is_served_and_healthy", || {
            in_own_network(families::without_ip6tables)
        }),
        Trial::test("leftovers_of_a_family_that_is_needed_and_cannot_be_served_stay", || {
            in_own_network(families::leftovers_of_a_needed_family)
        }),
        Trial::test("a_daemon_heals_a_flush_within_seconds", flush),
        Trial::test("a_daemon_serves_where_iptables_lacks_bpf", around::without_bpf),
    ];
    for family in Family::BOTH {
        for layout in [Layout::Compact, Layout::Classic] {
            let name = format!("rules_are_as_in_the_golden_files/{family}/{layout:?}");
            trials.push(Trial::test(name, move || in_own_network(|| golden(family, layout))));
        }
        for variant in world::VARIANTS {
            let tests: [(&str, Test); 9] = [
                ("a_restart_finds_nothing_to_do", restart),
                ("a_foreign_change_is_undone_and_rules_of_others_stay", foreign),
                ("an_endpoint_more_writes_one_chain", one_chain),
                ("a_refusal_at_commit_is_traced_to_its_service", refusal_at_commit),
                ("the_go_kube_proxy_can_delete_all_of_it", back::cleaned),
                ("a_refused_line_is_traced_to_its_number", refusal),
                ("rules_do_without_an_extension", around::without_extensions),
                ("jumps_that_are_gone_and_older_rules_are_noticed", around::noticed),
                ("a_native_rule_keeps_nothing_from_working", around::native),
            ];
            for (name, test) in tests {
                let name = format!("{name}/{family}/{variant}");
                trials.push(Trial::test(name, move || in_own_network(|| test(family, variant))));
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A Service of every kind.
fn every_kind(family: Family) -> Snapshot {
    let ip = |octets| world::ip(family, octets);
    let service = |name, at| world::service(family, name, at);
    let mut ports = service("ports", [10, 96, 0, 11]);
    ports.ports = vec![
        world::port("http", Protocol::Tcp, 80),
        world::port("dns", Protocol::Udp, 53),
        world::port("sigtran", Protocol::Sctp, 2905),
    ];
    let mut node_port = service("node-port", [10, 96, 0, 12]);
    node_port.kind = ServiceType::NodePort;
    node_port.ports[0].node_port = Some(30_080);
    let mut local = service("local", [10, 96, 0, 13]);
    local.kind = ServiceType::LoadBalancer;
    local.ports[0].node_port = Some(30_081);
    local.load_balancer_ips = vec![ip([192, 0, 2, 13])];
    local.external_policy = TrafficPolicy::Local;
    local.internal_policy = TrafficPolicy::Local;
    local.health_check_node_port = Some(31_000);
    local.affinity = Some(600);
    let mut restricted = service("restricted", [10, 96, 0, 14]);
    restricted.load_balancer_ips = vec![ip([192, 0, 2, 14])];
    restricted.external_ips = vec![ip([198, 51, 100, 14])];
    let range = ipnet::IpNet::from(ip([203, 0, 113, 1]));
    restricted.source_ranges = SourceRanges::Only(vec![range]);
    let mut empty = service("empty", [10, 96, 0, 15]);
    empty.ports[0].node_port = Some(30_082);
    empty.load_balancer_ips = vec![ip([192, 0, 2, 15])];
    empty.source_ranges = SourceRanges::Only(vec![range]);
    let mut elsewhere = service("elsewhere", [10, 96, 0, 16]);
    elsewhere.external_policy = TrafficPolicy::Local;
    elsewhere.ports[0].node_port = Some(30_083);
    let pods = [ip([10, 244, 1, 2]), ip([10, 244, 2, 2]), ip([10, 244, 2, 3])];
    let mut remote = world::slice(&elsewhere, &pods[1..]);
    let elsewhere_too = |endpoint| Endpoint { local: false, ..endpoint };
    remote.endpoints = remote.endpoints.iter().map(elsewhere_too).collect();
    let simple = service("cluster-ip", [10, 96, 0, 10]);
    let full = [&simple, &ports, &node_port, &local, &restricted];
    let mut slices: Vec<_> = full.iter().map(|service| world::slice(service, &pods)).collect();
    slices.push(remote);
    let list = vec![simple, ports, node_port, local, restricted, empty, elsewhere];
    let mut snapshot = world::snapshot(list, slices);
    let cidr = if family == Family::V4 { "10.96.0.0/16" } else { "fd00:10:96::/112" };
    snapshot.service_cidrs = [cidr.parse().expect("a prefix")].into();
    snapshot
}

fn sync(mode: &mut Iptables, family: Family, scope: &Scope) -> (Observation, usize) {
    let table = world::table(family, &every_kind(family));
    let report = mode.sync(&table, scope).expect("the kernel takes it");
    assert_eq!(report.refused, []);
    (report.observed, report.operations)
}

fn saved(family: Family, variant: Variant) -> String {
    let tables = Xtables::new(family, variant);
    let save = |table| tables.save(table).expect("iptables-save works");
    let text: String = Table::ALL.map(save).concat();
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Chains in the order of their names: each program has an order of its own.
fn sorted(saved: &str) -> String {
    let rank = |line: &str| match line.as_bytes().first() {
        Some(b':') => 0,
        Some(b'-') => 1,
        _ => 2,
    };
    let chain = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut out = String::new();
    for table in saved.split_inclusive("COMMIT\n") {
        let (head, rest) = table.split_once('\n').expect("a table has a name");
        let mut lines: Vec<&str> = rest.lines().filter(|line| !builtin(line)).collect();
        // Stable: rules keep their order within a chain.
        lines.sort_by_key(|line| match rank(line) {
            0 => (0, (*line).to_owned()),
            1 => (1, chain(line)),
            other => (other, String::new()),
        });
        out.push_str(&format!("{head}\n{}\n", lines.join("\n")));
    }
    out
}

/// The variants differ in which built-in chains they show.
fn builtin(line: &str) -> bool {
    line.starts_with(':') && !line.starts_with(":KUBE-")
}

fn golden(family: Family, layout: Layout) -> Outcome {
    let name = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let file = format!("integration/golden/{name}-{layout:?}.rules").to_lowercase();
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(file);
    for variant in world::VARIANTS {
        let found = in_own_network(|| {
            sync(&mut world::mode(family, variant, layout), family, &Scope::default());
            sorted(&saved(family, variant))
        });
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &found)?;
        }
        let golden = std::fs::read_to_string(&file)?;
        assert_eq!(found, golden, "{variant}: UPDATE_GOLDEN=1 rewrites");
        let restore = format!("{name}-{variant}-restore");
        let file = file.to_str().expect("a path in UTF-8");
        run("unshare", &["-n", &restore, "--test", file]);
    }
    Ok(())
}

fn restart(family: Family, variant: Variant) -> Outcome {
    let mut mode = world::mode(family, variant, Layout::Compact);
    let (observed, operations) = sync(&mut mode, family, &Scope::default());
    assert_eq!(observed, Observation::Asked);
    assert!(operations > 60, "{operations}");
    assert_eq!(sync(&mut mode, family, &Scope::default()), (Observation::None, 0));
    let full = Scope { full: true, ..Scope::default() };
    assert_eq!(sync(&mut mode, family, &full), (Observation::Asked, 0));
    let mut again = world::mode(family, variant, Layout::Compact);
    assert_eq!(sync(&mut again, family, &Scope::default()), (Observation::Asked, 0));
    // The other shape takes over, and back.
    let whole = sorted(&saved(family, variant));
    let mut classic = world::mode(family, variant, Layout::Classic);
    assert!(sync(&mut classic, family, &Scope::default()).1 > 0);
    let full = Scope { full: true, ..Scope::default() };
    assert_eq!(sync(&mut classic, family, &full), (Observation::Asked, 0), "text goes round");
    let mut back = world::mode(family, variant, Layout::Compact);
    assert!(sync(&mut back, family, &Scope::default()).1 > 0);
    assert_eq!(sorted(&saved(family, variant)), whole);
    Ok(())
}

fn foreign(family: Family, variant: Variant) -> Outcome {
    let infix = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let program = format!("{infix}-{variant}");
    let iptables = |line: &str| {
        run(&program, &line.split(' ').collect::<Vec<_>>());
    };
    iptables("-N OTHERS");
    iptables("-A FORWARD -j OTHERS");
    iptables("-t nat -N KUBE-KUBELET-CANARY");
    iptables("-t nat -N KUBE-SEP-AAAAAAAAAAAAAAAA");
    iptables("-t nat -A KUBE-SEP-AAAAAAAAAAAAAAAA -j RETURN");
    let mut mode = world::mode(family, variant, Layout::Compact);
    sync(&mut mode, family, &Scope::default());
    let whole = sorted(&saved(family, variant));
    assert!(whole.contains("-A FORWARD -j OTHERS") && whole.contains(":KUBE-KUBELET-CANARY"));
    assert!(!whole.contains("KUBE-SEP-AAAAAAAAAAAAAAAA"), "leftovers go");
    iptables("-t nat -F");
    let (observed, operations) = sync(&mut mode, family, &Scope::default());
    assert!(observed == Observation::Drift && operations > 0);
    assert_eq!(sorted(&saved(family, variant)), whole);
    // Subtler changes are found by the complete comparison.
    iptables("-t nat -D KUBE-POSTROUTING 2");
    iptables("-t nat -D OUTPUT 1");
    iptables("-t filter -A KUBE-REJECT -j ACCEPT");
    let full = Scope { full: true, ..Scope::default() };
    assert!(sync(&mut mode, family, &full).1 > 0);
    assert_eq!(sorted(&saved(family, variant)), whole);
    Ok(())
}

fn refusal(family: Family, variant: Variant) -> Outcome {
    let tables = Xtables::new(family, variant);
    let script = "*nat\n:KUBE-X - [0:0]\n-A KUBE-X -j MARK --set-mark x\nCOMMIT\n";
    let error = tables.restore(script).expect_err("there is no such mark").to_string();
    assert!(error.contains("line 3"), "{error}");
    assert!(!tables.save(Table::Nat)?.contains("KUBE-X"), "all or nothing");
    let table = world::table(family, &every_kind(family));
    let mut bad = table.clone();
    let victim = bad.services.iter_mut().next().expect("a Service");
    let name = victim.0.clone();
    // iptables has no such protocol number in a name: the family is the wrong one.
    let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
    let mut port = victim.1.ports[0].clone();
    port.cluster[0].ip = world::ip(other, [10, 244, 1, 2]);
    Arc::make_mut(victim.1).ports = [port].into();
    let mut mode = world::mode(family, variant, Layout::Compact);
    let report = mode.sync(&bad, &Scope::default()).expect("the others are applied");
    assert_eq!(report.refused.len(), 1, "{report:?}");
    assert_eq!(report.refused[0].service, name);
    assert!(report.refused[0].reason.contains("-A KUBE-SVC-"), "{report:?}");
    let scope = Scope { services: [name].into(), full: false };
    assert_eq!(mode.sync(&table, &scope).expect("now it is right").refused, []);
    Ok(())
}

/// Tables on which one Service gets rules that are refused at `COMMIT` only.
struct Sabotaged(Xtables);

/// A jump to nowhere is looked at then by iptables-nft; the kernel refuses a filter that does not end,
/// of which iptables-legacy hears only then.
fn sabotaged(script: &str, variant: Variant) -> String {
    let target = "-p tcp -m comment --comment \"default/ports:http cluster IP\"";
    let lines = script.lines().map(|line| match line.split_once(target) {
        Some((before, _)) if variant == Variant::Nft => format!("{before}-j KUBE-MISSING\n"),
        Some((before, _)) => format!("{before}-m bpf --bytecode \"1,0 0 0 0\"\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

impl Programs for Sabotaged {
    fn save(&mut self, table: Table) -> Result<String, XtablesError> {
        self.0.save(table)
    }

    fn chain_graph(&mut self, table: Table) -> Result<ChainGraph, XtablesError> {
        self.0.chain_graph(table)
    }

    fn restore(&mut self, script: &str) -> Result<(), XtablesError> {
        self.0.restore(&sabotaged(script, self.0.variant()))
    }

    fn chains(&mut self, asked: &[(Table, &str)]) -> Result<Vec<Option<String>>, XtablesError> {
        self.0.chains(asked)
    }

    fn route_localnet(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn refusal_at_commit(family: Family, variant: Variant) -> Outcome {
    let table = world::table(family, &every_kind(family));
    let tables = Sabotaged(Xtables::new(family, variant));
    let mut mode = Iptables::new(tables, world::options(Layout::Compact));
    let report = mode.sync(&table, &Scope::default()).expect("the others are applied");
    let names: Vec<String> = report.refused.iter().map(|r| r.service.to_string()).collect();
    assert_eq!(names, ["default/ports"], "{report:?}");
    let found = saved(family, variant);
    assert!(!found.contains("default/ports"), "{found}");
    for other in ["cluster-ip", "node-port", "local", "restricted", "empty", "elsewhere"] {
        assert!(found.contains(&format!("default/{other}")), "{other}: {found}");
    }
    Ok(())
}

fn one_chain(family: Family, variant: Variant) -> Outcome {
    let mut snapshot = every_kind(family);
    let mut mode = world::mode(family, variant, Layout::Compact);
    mode.sync(&world::table(family, &snapshot), &Scope::default())?;
    let name = ServiceName::new("default", "cluster-ip");
    let web = snapshot.services[&name].clone();
    let pods = [2, 3, 4, 5].map(|d| world::ip(family, [10, 244, 1, d]));
    snapshot.apply(Change::Slice(world::slice(&web, &pods)), &mut [].into());
    let scope = Scope { services: [name].into(), full: false };
    let report = mode.sync(&world::table(family, &snapshot), &scope)?;
    assert_eq!(report.observed, Observation::None);
    let expected = 1 + 1 + pods.len() + 2;
    assert_eq!(report.operations, expected, "the chain, the mark, the endpoints, the canary");
    Ok(())
}

fn lock() -> Outcome {
    const LOCK: &str = "/run/xtables.lock";
    // A lock of our own: others are not kept waiting.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let hold = || {
        let file = std::fs::File::create(LOCK).expect("a lock file");
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("the lock")
    };
    let table = world::table(Family::V4, &every_kind(Family::V4));
    let mut legacy = world::mode(Family::V4, Variant::Legacy, Layout::Compact);
    let held = hold();
    let error = legacy.sync(&table, &Scope::default()).expect_err("the lock is held").to_string();
    assert!(error.contains("held the xtables lock for 5 s"), "{error}");
    let mut nft = world::mode(Family::V4, Variant::Nft, Layout::Compact);
    assert!(nft.sync(&table, &Scope::default())?.operations > 0, "nf_tables has no lock");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| legacy.sync(&table, &Scope::default()));
        // Whether it waits by then or has not begun makes no difference to what is shown.
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
        let report = waiting.join().expect("no panic").expect("the lock is free");
        assert!(report.operations > 0 && report.refused.is_empty());
    });
    Ok(())
}

fn variants() -> Outcome {
    let used = || Xtables::open(Family::V4).expect("both variants are installed").variant();
    assert_eq!(used(), Variant::Nft, "an empty node");
    run("iptables-legacy", &["-A", "INPUT", "-j", "ACCEPT"]);
    assert_eq!(used(), Variant::Legacy, "more rules");
    run("iptables-nft", &["-A", "INPUT", "-j", "ACCEPT"]);
    assert_eq!(used(), Variant::Nft, "as many");
    run("iptables-legacy", &["-A", "INPUT", "-j", "ACCEPT"]);
    run("iptables-nft", &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
    assert_eq!(used(), Variant::Nft, "the kubelet's hint");
    run("iptables-nft", &["-t", "mangle", "-X", "KUBE-IPTABLES-HINT"]);
    run("ip6tables-legacy", &["-t", "mangle", "-N", "KUBE-KUBELET-CANARY"]);
    assert_eq!(used(), Variant::Legacy, "the kubelet's canary");
    Ok(())
}

/// Two nodes whose daemons run in this mode, and a Service whose pod is on the other one.
fn cluster(settings: &str) -> Result<Arc<Cluster>, Box<dyn std::error::Error>> {
    cluster_of(program(), settings)
}

fn cluster_of(program: &Path, settings: &str) -> Result<Arc<Cluster>, Box<dyn std::error::Error>> {
    let cluster = Cluster::new(ClusterSpec {
        nodes: 2,
        program: program.to_owned(),
        configuration: format!(
            "mode: iptables\nclusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
             detectLocalMode: ClusterCIDR\niptables: {{minSyncPeriod: 1ms{settings}}}"
        ),
    })?;
    cluster.create_service(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
            "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80", "fd00:10:96::80"],
        },
    }))?;
    cluster.add_pod("web-1", "web", "node-b", &[(Protocol::Tcp, 8080)])?;
    cluster.start_proxy("node-a")?;
    Ok(Arc::new(cluster))
}

fn localhost() -> Outcome {
    let to = SocketAddr::from(([127, 0, 0, 1], 30_080));
    let open = cluster("")?;
    let node = open.lab().node("node-a")?;
    let answered = || matches!(node.probe(&Probe::tcp(to)), Ok(Answer::Answered { .. }));
    eventually("the node port answers on localhost", || answered().then_some(()));
    let count = |variant, counted| {
        let tables = Xtables::new(Family::V4, variant);
        node.namespace().run(move || tables.packets(counted))
    };
    assert!(count(Variant::Nft, CountedRule::LOCALHOST_NODE_PORTS)??.is_some_and(|n| n > 0));
    assert_eq!(count(Variant::Nft, CountedRule::INVALID_DROPPED)??, Some(0));
    assert_eq!(count(Variant::Legacy, CountedRule::INVALID_DROPPED)??, None, "no such chain");
    drop(open);
    let closed = cluster(", localhostNodePorts: false")?;
    let node = closed.lab().node("node-a")?;
    let at = |to| Probe::tcp(to);
    let own = node.socket_addr(Family::V4, 30_080);
    eventually("the node port answers elsewhere", || {
        matches!(node.probe(&at(own)), Ok(Answer::Answered { .. })).then_some(())
    });
    assert_eq!(node.probe(&at(to))?, Answer::Refused);
    Ok(())
}

fn localhost_by_name() -> Outcome {
    let localhost = SocketAddr::from(([127, 0, 0, 1], 30_080));
    let network = "172.18.0.0/16";
    for (prefixes, elsewhere) in
        [("127.0.0.0/8", false), (&format!("127.0.0.0/8, {network}"), true)]
    {
        let cluster =
            cluster(&format!("}}\nnodePortAddresses: [{prefixes}]\nconntrack: {{maxPerCore: 0"))?;
        let node = cluster.lab().node("node-a")?;
        let (client, own) = (cluster.lab().client(), node.socket_addr(Family::V4, 30_080));
        let answers =
            |from: &Host, to| matches!(from.probe(&Probe::tcp(to)), Ok(Answer::Answered { .. }));
        eventually("the node port answers on localhost", || {
            answers(&node, localhost).then_some(())
        });
        assert_eq!(answers(&client, own), elsewhere, "{prefixes}");
        assert_eq!(answers(&node, own), elsewhere, "{prefixes}");
        let setting = "net.ipv4.conf.all.route_localnet";
        let output = node.command("sysctl")?.args(["-n", setting]).output()?;
        assert_eq!(output.stdout, b"1\n", "{prefixes}");
    }
    Ok(())
}

fn flush() -> Outcome {
    let cluster = cluster("")?;
    let node = cluster.lab().node("node-a")?;
    let vip = Probe::tcp(SocketAddr::from(([10, 96, 0, 80], 80))).timeout(Duration::from_secs(1));
    let works = || matches!(node.probe(&vip), Ok(Answer::Answered { .. }));
    eventually("the Service answers", || works().then_some(()));
    let daemon = cluster.with_proxy("node-a", |proxy| proxy.pid()).ok_or("it runs")?;
    for also_chains in [false, true] {
        // It repairs the rules as soon as it is notified, which may be before this check.
        kill(daemon, Signal::SIGSTOP)?;
        let flushed = node.command("iptables-nft")?.args(["-t", "nat", "-F"]).status()?;
        assert!(flushed.success());
        if also_chains {
            assert!(node.command("iptables-nft")?.args(["-t", "nat", "-X"]).status()?.success());
        }
        assert!(!works(), "the rules are gone");
        kill(daemon, Signal::SIGCONT)?;
        eventually("the Service answers again", || works().then_some(()));
    }
    Ok(())
}
