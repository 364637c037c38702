//! Clients that never stop sending, while endpoints come and go in every order: whatever packets pass while a
//! change is written, no flow keeps an endpoint that the new rules would not choose.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_cluster::api::Resource;
use sluice_cluster::{Answer, Cluster, ClusterSpec, Host, Pod, Probe};
use sluice_core::net::{Family, Protocol};

use super::senders::Senders;
use super::support::{Outcome, daemon::program, run};
use super::{NODE_PORT, PATIENCE, PORTS, cluster_ip, web};

type Failed = libtest_mimic::Failed;

const EXTERNAL: [&str; 2] = ["198.51.100.9", "2001:db8::9"];
/// Flows on each way.
const EACH: usize = 5;

/// A proxy mode, as it is started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    Iptables,
    /// With a pause between the commits of two tables.
    IptablesSlow,
    IptablesLegacy,
    IptablesLegacySlow,
    Userspace,
    UserspaceTransparent,
}

/// Where the daemon's programs for [`Mode::program`] are.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

impl Mode {
    const ALL: [Mode; 7] = [
        Mode::Nftables,
        Mode::Iptables,
        Mode::IptablesSlow,
        Mode::IptablesLegacy,
        Mode::IptablesLegacySlow,
        Mode::Userspace,
        Mode::UserspaceTransparent,
    ];

    /// Writes what [`Mode::program`] names. Before any thread is there: a program that another thread
    /// has open for writing cannot be run.
    pub(crate) fn write_daemons(folder: &Path) {
        let write = |name: &str, script: String| {
            let path = folder.join(name);
            fs::write(&path, script).expect("the folder is writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        };
        let slow = folder.join("slow");
        fs::create_dir(&slow).expect("the folder is writable");
        let (daemon, at) = (program().display(), slow.display());
        write("slow-daemon", format!("#!/bin/sh\nPATH='{at}':$PATH exec '{daemon}' \"$@\"\n"));
        let transparent = "--userspace-transparent";
        write("transparent-daemon", format!("#!/bin/sh\nexec '{daemon}' {transparent} \"$@\"\n"));
        for name in ["iptables", "ip6tables"] {
            for variant in ["nft", "legacy"] {
                let name = format!("{name}-{variant}-restore");
                let pause = "/^COMMIT/ { system(\"sleep 0.2\") }";
                let real = format!("PATH=${{PATH#*:}} exec {name} \"$@\"");
                let script = format!("#!/bin/sh\nawk '{{ print; fflush() }} {pause}' | ({real})\n");
                write(&format!("slow/{name}"), script);
            }
        }
        FOLDER.set(folder.to_owned()).expect("once");
    }

    fn program(self) -> PathBuf {
        let folder = FOLDER.get().expect("they were written");
        match self {
            Mode::IptablesSlow | Mode::IptablesLegacySlow => folder.join("slow-daemon"),
            Mode::UserspaceTransparent => folder.join("transparent-daemon"),
            Mode::Nftables | Mode::Iptables | Mode::IptablesLegacy | Mode::Userspace => {
                program().to_owned()
            }
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Userspace | Mode::UserspaceTransparent => "userspace",
            _ => "iptables",
        }
    }
}

/// A test for each mode.
pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
    let datagrams = Mode::ALL.map(|mode| {
        let name = format!("senders_follow_every_change_of_endpoints_{mode:?}");
        libtest_mimic::Trial::test(name, move || senders_follow(mode))
    });
    let connections = [Mode::IptablesSlow, Mode::IptablesLegacySlow].map(|mode| {
        let name = format!("connections_asked_for_between_two_commits_are_made_{mode:?}");
        libtest_mimic::Trial::test(name, move || connections_are_made(mode))
    });
    datagrams.into_iter().chain(connections).collect()
}

/// Two nodes, of which one has the daemon, and a Service `web` whose traffic has to stay on a node.
struct World {
    cluster: Cluster,
    node: Host,
    client: Host,
    neighbour: Host,
}

impl World {
    fn new(mode: Mode) -> Result<World, Failed> {
        let cluster = Cluster::new(ClusterSpec {
            nodes: 2,
            program: mode.program(),
            configuration: format!(
                "mode: {}\n\
                 clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                 detectLocalMode: ClusterCIDR\n\
                 nftables: {{minSyncPeriod: 1ms, syncPeriod: 30s}}\n\
                 iptables: {{minSyncPeriod: 1ms, syncPeriod: 30s}}",
                mode.setting()
            ),
        })?;
        let (node, client) = ((*cluster.lab().node("node-a")?).clone(), cluster.lab().client());
        if matches!(mode, Mode::IptablesLegacy | Mode::IptablesLegacySlow) {
            let hint = ["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"];
            node.namespace().run(|| run("iptables-legacy", &hint))?;
        }
        let neighbour =
            (*cluster.lab().add_pod("neighbour", &cluster.lab().node("node-a")?, &[])?).clone();
        let mut service = web();
        service["spec"]["externalIPs"] = json!(EXTERNAL);
        service["spec"]["externalTrafficPolicy"] = json!("Local");
        service["spec"]["internalTrafficPolicy"] = json!("Local");
        cluster.create_service(&service)?;
        cluster.start_proxy("node-a")?;
        Ok(World { cluster, node, client, neighbour })
    }

    /// Every way whose traffic has to stay on the node.
    fn ways(&self) -> Vec<(&Host, SocketAddr)> {
        let of_family = |(family, external): (Family, &str)| {
            let external = SocketAddr::new(external.parse().expect("an address"), 80);
            [
                (&self.client, external),
                (&self.client, self.node.socket_addr(family, NODE_PORT)),
                (&self.neighbour, cluster_ip(family, 80)),
                (&self.node, cluster_ip(family, 80)),
            ]
        };
        Family::BOTH.into_iter().zip(EXTERNAL).flat_map(of_family).collect()
    }

    /// Changes the endpoints at once: some leave, and one of a name may come.
    fn change(&self, pods: &mut Pods, step: &Step, name: &str) -> Result<(), Failed> {
        for place in step.leave {
            for old in pods.remove(place).into_iter().flatten() {
                self.cluster.api().delete(Resource::Pods, "default", old.name())?;
            }
        }
        match step.come {
            Some(place) => {
                let node = if place == Place::Here { "node-a" } else { "node-b" };
                let pod = self.cluster.add_pod(name, "web", node, &PORTS)?.0;
                pods.entry(place).or_default().push(pod);
            }
            None => drop(self.cluster.publish()?),
        }
        Ok(())
    }
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Here,
    Elsewhere,
}

type Pods = BTreeMap<Place, Vec<Pod>>;

/// Whose endpoints leave, and where one comes.
#[derive(Debug)]
struct Step {
    leave: &'static [Place],
    come: Option<Place>,
}

const fn step(leave: &'static [Place], come: Option<Place>) -> Step {
    Step { leave, come }
}

/// Every transition between no endpoint, one on this node, one on another node, and both.
const STEPS: [Step; 14] = [
    step(&[], Some(Place::Here)),
    step(&[Place::Here], Some(Place::Here)),
    step(&[Place::Here], Some(Place::Elsewhere)),
    step(&[], Some(Place::Here)),
    step(&[Place::Here], None),
    step(&[], Some(Place::Here)),
    step(&[Place::Elsewhere], None),
    step(&[Place::Here], None),
    step(&[], Some(Place::Elsewhere)),
    step(&[Place::Elsewhere], Some(Place::Here)),
    step(&[Place::Here], None),
    step(&[], Some(Place::Elsewhere)),
    step(&[Place::Elsewhere], None),
    step(&[], Some(Place::Here)),
];

/// Waits until a list is empty.
#[track_caller]
fn until_none<T: std::fmt::Debug>(what: &str, list: impl Fn() -> Vec<T>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = list();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {} of them: {left:?}", left.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn senders_follow(mode: Mode) -> Outcome {
    let world = World::new(mode)?;
    let ways = world.ways();
    let senders = Senders::start(&ways, EACH)?;
    let mut pods = Pods::new();
    for (index, step) in STEPS.iter().enumerate() {
        world.change(&mut pods, step, &format!("pod-{index}"))?;
        let what = format!("{mode:?}, step {index}, {step:?}");
        if let Some(here) = pods.get(&Place::Here).and_then(|here| here.first()) {
            until_none(&format!("{what}: flows that {} does not answer", here.name()), || {
                senders.not_answered_by(here.name())
            });
        } else {
            let redirected = || -> Vec<String> {
                let list = |family| sluice_kernel::conntrack::list(family, &[Protocol::Udp].into());
                let flows = world.node.namespace().run(|| Family::BOTH.map(list));
                let flows = flows.expect("the node is there").map(|flows| flows.expect("listed"));
                let to_web = |flow: &sluice_kernel::conntrack::Flow| {
                    let of_way = ways.iter().any(|(_, to)| *to == flow.destination);
                    of_way && flow.is_redirected()
                };
                let flows = flows.into_iter().flatten().filter(to_web);
                flows.map(|flow| flow.to_string()).collect()
            };
            until_none(&format!("{what}: flows to nobody"), redirected);
        }
    }
    Ok(())
}

/// A SYN that meets the new table filter and the old table nat goes nowhere; its repetitions must not.
fn connections_are_made(mode: Mode) -> Outcome {
    let world = World::new(mode)?;
    let mut pods = Pods::new();
    world.change(&mut pods, &step(&[], Some(Place::Elsewhere)), "there")?;
    for (family, external) in Family::BOTH.into_iter().zip(EXTERNAL) {
        let to = SocketAddr::new(external.parse()?, 80);
        // Without any endpoint, clients are refused; now they are to wait.
        let probe = Probe::tcp(to).timeout(Duration::from_millis(300));
        until_none("refusals", || match world.client.probe(&probe) {
            Ok(Answer::Refused) => vec![to],
            _ => Vec::new(),
        });
        let client = &world.client;
        let open = move || std::net::TcpStream::connect_timeout(&to, PATIENCE);
        let connect = move || client.namespace().run(open);
        let name = format!("here-{family}").to_lowercase();
        let (world, pods) = (&world, &mut pods);
        std::thread::scope(|scope| -> Outcome {
            let mut attempts = Vec::new();
            let begun = Instant::now();
            attempts.push(scope.spawn(connect));
            let change = scope.spawn(|| world.change(pods, &step(&[], Some(Place::Here)), &name));
            // Some before the change, some in the midst of it, some after it.
            while begun.elapsed() < Duration::from_secs(2) {
                attempts.push(scope.spawn(connect));
                std::thread::sleep(Duration::from_millis(20));
            }
            change.join().map_err(|_| "the change")??;
            let failed = attempts.into_iter().filter_map(|attempt| match attempt.join() {
                Ok(Ok(Ok(_))) => None,
                other => Some(format!("{other:?}")),
            });
            let failed: Vec<String> = failed.collect();
            assert!(failed.is_empty(), "{mode:?} {to}: {} of them: {failed:?}", failed.len());
            Ok(())
        })?;
        world.change(pods, &step(&[Place::Here], None), "")?;
    }
    Ok(())
}

/// What was let through while rules were missing is translated once they are back.
pub(crate) fn repaired() -> Outcome {
    let world = World::new(Mode::Iptables)?;
    world.change(&mut Pods::new(), &step(&[], Some(Place::Here)), "pod")?;
    let ways = world.ways();
    let senders = Senders::start(&ways, EACH)?;
    until_none("before", || senders.not_answered_by("pod"));
    drop(senders);
    let flush = || {
        for program in ["iptables-nft", "ip6tables-nft"] {
            run(program, &["-t", "nat", "-F"]);
        }
    };
    world.node.namespace().run(flush)?;
    let senders = Senders::start(&ways, EACH)?;
    until_none("after the repair", || senders.not_answered_by("pod"));
    Ok(())
}
