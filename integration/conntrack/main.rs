//! Flows after a change, with real packets: a client that keeps sending from one port reaches the new endpoint, and
//! other flows are not touched.

#[path = "../support/mod.rs"]
mod support;

mod senders;
mod transitions;
mod unanswered;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_cluster::api::Resource;
use sluice_cluster::{Answer, Cluster, ClusterSpec, Host, Isolation, Node, Pod, Probe, prepare};
use sluice_core::net::{Family, Protocol};
use sluice_kernel::conntrack::{self, Flow};

use support::daemon::program;
use support::objects::{NODE_PORT, web};
use support::{Outcome, PATIENCE, eventually};

const PORTS: [(Protocol, u16); 3] =
    [(Protocol::Tcp, 8080), (Protocol::Udp, 8080), (Protocol::Sctp, 8080)];
/// When the readings of a change have ended, long after the second that lies between them.
const LAST_READING: Duration = Duration::from_secs(10);
/// The port that every client sends from, all the time.
const FROM: u16 = 5000;
/// The daemon's log line for each family.
const REMOVED: &str = "removed stale flows family=";
/// What it says when there are none.
const NONE_LEFT: &str = "found no stale flows family=";

/// A program that is the daemon with `--reset-removed-tcp-endpoints`.
static RESETTING: OnceLock<PathBuf> = OnceLock::new();

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    write_resetting_daemon(&folder.path().join("resetting"));
    transitions::Mode::write_daemons(folder.path());
    let arguments = libtest_mimic::Arguments::from_args();
    let trial = |name, run: fn() -> Outcome| libtest_mimic::Trial::test(name, run);
    let mut trials = vec![
        trial("a_client_that_goes_on_sending_finds_the_new_pod", replaced),
        trial("flows_to_the_last_pod_end_with_it", last_pod),
        trial("flows_that_began_before_the_service_find_it", before_the_service),
        trial("a_changed_node_port_lets_go_of_the_old_one", changed_node_port),
        trial("a_reused_cluster_ip_leads_to_its_new_owner", reused_address),
        trial("what_changed_while_the_daemon_was_away_is_made_up_for", while_away),
        trial("an_sctp_client_on_a_fixed_port_finds_the_new_pod", sctp),
        trial("many_flows_are_removed_at_once", many),
        trial("a_tcp_connection_outlives_the_removal_of_its_pod", tcp_lives),
        trial("a_tcp_connection_to_a_removed_pod_is_reset_if_asked_for", tcp_reset),
        trial("tcp_is_not_cut_where_it_would_hang", tcp_strict),
        trial("a_connection_asked_for_before_its_address_came_is_made", unanswered::made),
        trial("connections_that_were_answered_outlive_a_new_service", unanswered::answered_live),
        trial("nat_rules_that_were_flushed_and_repaired_serve_again", transitions::repaired),
    ];
    trials.extend(transitions::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Before any thread is there: a program that another thread has open for writing cannot be run.
fn write_resetting_daemon(path: &Path) {
    let program = program().display();
    let script = format!("#!/bin/sh\nexec '{program}' --reset-removed-tcp-endpoints \"$@\"\n");
    fs::write(path, script).expect("the folder is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    RESETTING.set(path.to_owned()).expect("once");
}

/// One node, its daemon, and a Service `web` without pods.
struct World {
    cluster: Cluster,
    node: Node,
    client: Host,
    /// A pod that is no endpoint.
    neighbour: Pod,
}

impl World {
    fn new(program: &Path) -> Result<World, libtest_mimic::Failed> {
        let cluster = Cluster::new(ClusterSpec {
            nodes: 1,
            program: program.to_owned(),
            configuration: "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                            detectLocalMode: ClusterCIDR\n\
                            nftables: {minSyncPeriod: 1ms, syncPeriod: 1s}"
                .to_owned(),
        })?;
        let (node, client) = (cluster.lab().node("node-a")?, cluster.lab().client());
        let neighbour = cluster.lab().add_pod("neighbour", &node, &[])?;
        Ok(World { cluster, node, client, neighbour })
    }

    /// With the Service and the daemon.
    fn with_web(program: &Path) -> Result<World, libtest_mimic::Failed> {
        let world = World::new(program)?;
        world.cluster.create_service(&web())?;
        world.cluster.start_proxy("node-a")?;
        Ok(world)
    }

    fn pod(&self, name: &str, app: &str) -> Result<Pod, sluice_cluster::cluster::Error> {
        Ok(self.cluster.add_pod(name, app, "node-a", &PORTS)?.0)
    }

    /// Every way to the Service in a family: who sends, and where to.
    fn ways(&self, family: Family) -> Vec<(&Host, SocketAddr)> {
        let node_port = self.node.socket_addr(family, NODE_PORT);
        vec![
            (&self.neighbour, vip(family)),
            (&self.node, vip(family)),
            (&self.client, vip(family)),
            (&self.client, node_port),
            (&self.neighbour, node_port),
        ]
    }

    /// How often the daemon has said this of a family.
    fn said(&self, what: &str, family: Family) -> usize {
        let count =
            |proxy: &mut sluice_cluster::Proxy| proxy.lines_with(&format!("{what}{family}")).len();
        self.cluster.with_proxy("node-a", count).expect("the daemon runs")
    }

    /// Does something, and waits until the daemon has removed flows of both families after it. A reading that
    /// was under way has passed some of them by, so it must have found none after that.
    fn until_removed<T>(&self, what: impl FnOnce(&World) -> T) -> T {
        let before = Family::BOTH.map(|family| self.said(REMOVED, family));
        let result = what(self);
        for (family, before) in Family::BOTH.into_iter().zip(before) {
            let of =
                |what: &'static str| move |line: &&str| line.contains(&format!("{what}{family}"));
            let mut since = None;
            eventually("flows are removed, and none is left", || {
                let log = self.cluster.with_proxy("node-a", |proxy| proxy.log()).expect("it runs");
                let mut lines = log.lines();
                lines.by_ref().filter(of(REMOVED)).nth(before)?;
                // No other reading follows one that begins a second after the change.
                let since = *since.get_or_insert_with(Instant::now);
                let is_last = since.elapsed() > LAST_READING;
                (is_last || lines.any(|line| of(NONE_LEFT)(&line))).then_some(())
            });
        }
        result
    }

    /// The flows that the node tracks.
    fn flows(&self, family: Family, protocol: Protocol) -> BTreeSet<Flow> {
        let list = || conntrack::list(family, &[protocol].into());
        let flows = self.node.namespace().run(list).expect("the node is there");
        flows.expect("connection tracking can be read").into_iter().collect()
    }

    /// Those to one destination.
    fn flows_to(&self, protocol: Protocol, to: SocketAddr) -> BTreeSet<Flow> {
        let mut flows = self.flows(Family::of(to.ip()), protocol);
        flows.retain(|flow| flow.destination == to);
        flows
    }
}

/// Another Service, for other pods, at other addresses.
fn other(name: &str, last: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "selector": {"app": name}, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "UDP"}],
            "clusterIP": format!("10.96.0.{last}"),
            "clusterIPs": [format!("10.96.0.{last}"), format!("fd00:10:96::{last}")],
        },
    })
}

fn cluster_ip(family: Family, last: u8) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => [10, 96, 0, last].into(),
        // The digits of the address are those of the number.
        Family::V6 => format!("fd00:10:96::{last}").parse().expect("an address"),
    };
    SocketAddr::new(ip, 80)
}

fn vip(family: Family) -> SocketAddr {
    cluster_ip(family, 80)
}

/// A datagram from the port that all datagrams of a host come from.
fn udp(to: SocketAddr) -> Probe {
    Probe::udp(to).from_port(FROM).timeout(Duration::from_millis(500))
}

/// Waits until some pod answers.
#[track_caller]
fn served(from: &Host, probe: Probe) {
    eventually("a pod answers", || from.probe(&probe).ok()?.by().map(drop));
}

/// One datagram, which this pod must answer.
#[track_caller]
fn answered_by(pod: &str, from: &Host, to: SocketAddr) {
    let answer = from.probe(&udp(to).timeout(PATIENCE)).expect("the host is there");
    assert_eq!(answer.by(), Some(pod), "{} -> {to}: {answer}", from.name());
}

fn replaced() -> Outcome {
    let world = World::with_web(program())?;
    world.cluster.create_service(&other("other", "81"))?;
    let old = world.pod("web-1", "web")?;
    world.pod("other-1", "other")?;
    let bystanders = |family| {
        [cluster_ip(family, 81), old.socket_addr(family, 8080)].map(|to| (&*world.neighbour, to))
    };
    for family in Family::BOTH {
        served(&world.client, Probe::udp(vip(family)));
        served(&world.client, Probe::udp(cluster_ip(family, 81)));
        world.ways(family).iter().for_each(|&(from, to)| answered_by("web-1", from, to));
        let by = ["other-1", "web-1"];
        bystanders(family).iter().zip(by).for_each(|(&(from, to), by)| answered_by(by, from, to));
    }
    let of_bystanders = || {
        Family::BOTH.map(|family| {
            bystanders(family).map(|(from, to)| {
                let from = from.socket_addr(family, FROM);
                world.flows_to(Protocol::Udp, to).into_iter().find(|flow| flow.source == from)
            })
        })
    };
    let before = of_bystanders();
    assert!(before.iter().flatten().all(Option::is_some), "{before:?}");

    world.pod("web-2", "web")?;
    world.until_removed(|world| world.cluster.retire_pod(&old))?;
    for family in Family::BOTH {
        world.ways(family).iter().for_each(|&(from, to)| answered_by("web-2", from, to));
    }
    assert_eq!(of_bystanders(), before, "flows of others, and straight to the pod");
    Ok(())
}

fn last_pod() -> Outcome {
    let world = World::with_web(program())?;
    let old = world.pod("web-1", "web")?;
    for family in Family::BOTH {
        served(&world.client, udp(vip(family)));
        world.ways(family).iter().for_each(|&(from, to)| answered_by("web-1", from, to));
    }
    world.until_removed(|world| world.cluster.remove_pod(&old))?;
    for family in Family::BOTH {
        for (from, to) in world.ways(family) {
            let answer = from.probe(&udp(to).timeout(PATIENCE))?;
            assert_eq!(answer, Answer::Refused, "{} -> {to}", from.name());
            assert_eq!(world.flows_to(Protocol::Udp, to), [].into(), "{} -> {to}", from.name());
        }
    }
    world.pod("web-2", "web")?;
    for family in Family::BOTH {
        served(&world.client, Probe::udp(vip(family)));
        world.ways(family).iter().for_each(|&(from, to)| answered_by("web-2", from, to));
    }
    Ok(())
}

fn before_the_service() -> Outcome {
    const EXTERNAL: [&str; 2] = ["198.51.100.9", "2001:db8::9"];
    let world = World::new(program())?;
    world.cluster.start_proxy("node-a")?;
    let ways: Vec<SocketAddr> = Family::BOTH
        .into_iter()
        .zip(EXTERNAL)
        .flat_map(|(family, external)| {
            let external = SocketAddr::new(external.parse().expect("an address"), 80);
            [world.node.socket_addr(family, NODE_PORT), external]
        })
        .collect();
    for &to in &ways {
        let answer = world.client.probe(&udp(to))?;
        assert_eq!(answer.by(), None, "nobody is at {to}");
        let flows = world.flows_to(Protocol::Udp, to);
        assert!(flows.iter().any(|flow| !flow.is_redirected()), "{to}: {flows:?}");
    }
    // The pod is there first, so that the Service is never without one.
    world.pod("web-1", "web")?;
    let mut service = web();
    service["spec"]["externalIPs"] = json!(EXTERNAL);
    world.until_removed(|world| world.cluster.create_service(&service))?;
    for to in ways {
        served(&world.client, Probe::udp(to));
        answered_by("web-1", &world.client, to);
    }
    Ok(())
}

fn changed_node_port() -> Outcome {
    const NEW: u16 = 30090;
    let world = World::with_web(program())?;
    world.pod("web-1", "web")?;
    for family in Family::BOTH {
        let to = world.node.socket_addr(family, NODE_PORT);
        eventually("the pod is an endpoint", || world.client.probe(&udp(to)).ok()?.by().map(drop));
        answered_by("web-1", &world.client, vip(family));
    }
    let kept = Family::BOTH.map(|family| world.flows_to(Protocol::Udp, vip(family)));
    let api = world.cluster.api();
    let mut service = api.get(Resource::Services, "default", "web")?.value();
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        port["nodePort"] = json!(NEW);
    }
    world.until_removed(|_| api.update(&service))?;
    for (family, kept) in Family::BOTH.into_iter().zip(kept) {
        let old = world.node.socket_addr(family, NODE_PORT);
        assert_eq!(world.flows_to(Protocol::Udp, old), [].into());
        let answer = world.client.probe(&udp(old).timeout(PATIENCE))?;
        assert_eq!(answer, Answer::Refused, "{old}");
        answered_by("web-1", &world.client, world.node.socket_addr(family, NEW));
        assert_eq!(world.flows_to(Protocol::Udp, vip(family)), kept, "the cluster IP's");
    }
    Ok(())
}

fn reused_address() -> Outcome {
    let world = World::with_web(program())?;
    world.cluster.create_service(&other("first", "90"))?;
    world.pod("first-1", "first")?;
    world.pod("second-1", "second")?;
    for family in Family::BOTH {
        let to = cluster_ip(family, 90);
        served(&world.neighbour, udp(to));
    }
    world.until_removed(|world| {
        let api = world.cluster.api();
        api.delete(Resource::Services, "default", "first")
    })?;
    for family in Family::BOTH {
        assert_eq!(world.flows_to(Protocol::Udp, cluster_ip(family, 90)), [].into());
    }
    world.cluster.create_service(&other("second", "90"))?;
    for family in Family::BOTH {
        let to = cluster_ip(family, 90);
        served(&world.client, Probe::udp(to));
        answered_by("second-1", &world.neighbour, to);
    }
    Ok(())
}

fn while_away() -> Outcome {
    let world = World::with_web(program())?;
    let old = world.pod("web-1", "web")?;
    for family in Family::BOTH {
        served(&world.client, udp(vip(family)));
        world.ways(family).iter().for_each(|&(from, to)| answered_by("web-1", from, to));
    }
    world.cluster.stop_proxy("node-a")?;
    world.cluster.retire_pod(&old)?;
    world.pod("web-2", "web")?;
    world.cluster.start_proxy("node-a")?;
    for family in Family::BOTH {
        let removed = format!("{REMOVED}{family}");
        let wait =
            |proxy: &mut sluice_cluster::Proxy| proxy.wait_for(&removed, 0, PATIENCE).map(drop);
        world.cluster.with_proxy("node-a", wait).ok_or("it runs")??;
        world.ways(family).iter().for_each(|&(from, to)| answered_by("web-2", from, to));
    }
    Ok(())
}

/// Without help, the second association would be sent to the old pod: the kernel keeps the
/// translation of an association that has ended for ten seconds.
fn sctp() -> Outcome {
    let world = World::with_web(program())?;
    let old = world.pod("web-1", "web")?;
    let probe = |family| Probe::sctp(vip(family)).from_port(FROM);
    for family in Family::BOTH {
        served(&world.client, probe(family));
    }
    world.pod("web-2", "web")?;
    world.until_removed(|world| world.cluster.retire_pod(&old))?;
    for family in Family::BOTH {
        assert_eq!(world.client.probe(&probe(family))?.by(), Some("web-2"), "{family}");
    }
    Ok(())
}

/// More than fit into one request, and than the smallest receive queue has room for.
fn many() -> Outcome {
    const COUNT: usize = 5000;
    let world = World::with_web(program())?;
    let old = world.pod("web-1", "web")?;
    let keep = |family| Probe::udp(vip(family));
    for family in Family::BOTH {
        served(&world.client, keep(family));
        assert_eq!(world.client.spread(&keep(family), COUNT)?.failures(), 0);
        assert!(world.flows_to(Protocol::Udp, vip(family)).len() >= COUNT);
    }
    world.pod("web-2", "web")?;
    world.until_removed(|world| world.cluster.retire_pod(&old))?;
    let stale = |family| {
        let mut flows = world.flows_to(Protocol::Udp, vip(family));
        flows.retain(|flow| flow.answered_by == old.socket_addr(family, 8080));
        flows.len()
    };
    assert_eq!(Family::BOTH.map(stale), [0, 0]);
    Ok(())
}

/// A TCP connection as programs open it: unlike the lab's probes, it does not request ICMP
/// errors, and an established connection then ignores them.
struct Connection {
    way: String,
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(from: &Host, to: SocketAddr) -> Result<Connection, libtest_mimic::Failed> {
        let stream = from.namespace().run(move || TcpStream::connect(to))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new())?;
        Ok(Connection { way: format!("{} -> {to}", from.name()), stream })
    }

    /// Sends a line, and waits for its echo.
    fn exchange(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().write_all(b"still there?\n")?;
        match self.stream.read_line(&mut String::new())? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Connections to the Service on every way.
fn connections(world: &World) -> Result<Vec<Connection>, libtest_mimic::Failed> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        served(&world.client, Probe::tcp(vip(family)));
        for (from, to) in world.ways(family) {
            let mut connection = Connection::open(from, to)?;
            connection.exchange()?;
            all.push(connection);
        }
    }
    Ok(all)
}

fn tcp_lives() -> Outcome {
    outlives_its_pod(&World::with_web(program())?)
}

fn outlives_its_pod(world: &World) -> Outcome {
    let old = world.pod("web-1", "web")?;
    let mut connections = connections(world)?;
    // A flow of UDP shows when the removal was noticed.
    for family in Family::BOTH {
        answered_by("web-1", &world.client, vip(family));
    }
    world.pod("web-2", "web")?;
    world.until_removed(|world| world.cluster.retire_pod(&old))?;
    for connection in &mut connections {
        let echo = connection.exchange();
        assert!(echo.is_ok(), "{}: {echo:?}", connection.way);
    }
    Ok(())
}

/// The client gets a reset at its next segment, whether or not the pod still runs.
fn tcp_reset() -> Outcome {
    enum Old {
        LivesOn,
        IsGone,
    }
    let resetting = RESETTING.get().ok_or("written first thing")?;
    for (old_pod, endpoints_left) in
        [(Old::LivesOn, true), (Old::LivesOn, false), (Old::IsGone, true), (Old::IsGone, false)]
    {
        let world = World::with_web(resetting)?;
        let old = world.pod("web-1", "web")?;
        let connections = connections(&world)?;
        if endpoints_left {
            world.pod("web-2", "web")?;
        }
        world.until_removed(|world| match old_pod {
            Old::LivesOn => world.cluster.retire_pod(&old).map(drop),
            Old::IsGone => world.cluster.remove_pod(&old),
        })?;
        for mut connection in connections {
            let started = Instant::now();
            let end = connection.exchange().map_err(|error| error.kind());
            let took = started.elapsed();
            let what = format!("{}, endpoints left: {endpoints_left}", connection.way);
            assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "{what}, after {took:?}");
            assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        }
    }
    Ok(())
}

/// Where the kernel does not take connections up in midstream, one that is cut would hang.
fn tcp_strict() -> Outcome {
    let world = World::new(RESETTING.get().ok_or("written first thing")?)?;
    let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
    world.node.namespace().run(|| fs::write(path, "0"))??;
    world.cluster.create_service(&web())?;
    world.cluster.start_proxy("node-a")?;
    let said = |proxy: &mut sluice_cluster::Proxy| proxy.lines_with("nf_conntrack_tcp_loose").len();
    assert_eq!(world.cluster.with_proxy("node-a", said), Some(1));
    outlives_its_pod(&world)
}
