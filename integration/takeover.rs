//! From one mode to another, and from what the Go kube-proxy left: under load, without a gap, and
//! without anything left behind.

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde_json::json;
use sluice_cluster::{
    Cluster, ClusterSpec, Isolation, Load, LoadKind, LoadSpec, Node, Pod, Probe, prepare,
};
use sluice_core::net::{Family, Protocol};
use sluice_kernel::ipvs::Ipvs;

use support::daemon::program;
use support::netlink::Request;
use support::{Outcome, PATIENCE};

const NODE: &str = "node-a";

/// The daemon's log line when everything is removed.
const DONE: &str = "nothing is left of other modes";

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let trial = |name: &str, run: fn() -> Outcome| libtest_mimic::Trial::test(name, run);
    let mut trials = vec![
        trial("every_change_of_mode_keeps_connections_and_leaves_nothing", every_direction),
        trial("the_ipvs_mode_comes_and_goes_without_a_gap", every_direction_of_ipvs),
        trial("cleanup_names_what_it_cannot_remove", cleanup_fails),
    ];
    for variant in ["nft", "legacy"] {
        for mode in [Mode::Nftables, Mode::IptablesNft, Mode::IptablesLegacy] {
            let name = format!("{mode:?}_takes_over_from_kube_proxy_with_iptables_{variant}");
            trials.push(libtest_mimic::Trial::test(name, move || from_iptables(mode, variant)));
        }
    }
    for mode in [Mode::Nftables, Mode::IptablesNft] {
        let name = format!("{mode:?}_takes_over_from_kube_proxy_in_nftables_mode");
        trials.push(libtest_mimic::Trial::test(name, move || from_nftables(mode)));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Our modes; the iptables mode once for each variant of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nftables,
    IptablesNft,
    IptablesLegacy,
    Userspace,
    Ipvs,
}

impl Mode {
    /// Those that every kernel can run.
    const USUAL: [Mode; 4] =
        [Mode::Nftables, Mode::IptablesNft, Mode::Userspace, Mode::IptablesLegacy];

    fn configuration(self) -> &'static str {
        match self {
            Mode::Nftables => "mode: nftables\n",
            Mode::IptablesNft | Mode::IptablesLegacy => "mode: iptables\n",
            Mode::Userspace => "mode: userspace\n",
            // The daemon waits until ended connections expire, which is soon for these.
            Mode::Ipvs => "mode: ipvs\nipvs: {tcpFinTimeout: 2s}\n",
        }
    }

    fn variant(self) -> Option<&'static str> {
        match self {
            Mode::IptablesNft => Some("nft"),
            Mode::IptablesLegacy => Some("legacy"),
            Mode::Nftables | Mode::Userspace | Mode::Ipvs => None,
        }
    }
}

/// A way through all modes that goes from each to each.
fn walk(modes: &[Mode]) -> Vec<Mode> {
    fn visit(modes: &[Mode], at: usize, way: &mut Vec<Mode>) {
        for next in at + 1..modes.len() {
            way.push(modes[next]);
            if next == at + 1 {
                visit(modes, next, way);
            }
            way.push(modes[at]);
        }
    }
    let mut way = vec![modes[0]];
    visit(modes, 0, &mut way);
    way
}

struct World {
    cluster: Cluster,
    node: Node,
    pod: Pod,
}

impl World {
    fn new() -> Result<World, sluice_cluster::cluster::Error> {
        let cluster = Cluster::new(ClusterSpec {
            nodes: 1,
            program: program().to_owned(),
            configuration: "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                            detectLocalMode: ClusterCIDR\n"
                .to_owned(),
        })?;
        cluster.create_service(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {
                "type": "NodePort", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}],
                "ipFamilyPolicy": "RequireDualStack",
                "clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80", "fd00:10:96::80"],
            },
        }))?;
        let (pod, _) = cluster.add_pod("web-1", "web", NODE, &[(Protocol::Tcp, 8080)])?;
        let node = cluster.lab().node(NODE)?;
        Ok(World { cluster, node, pod })
    }

    /// Runs a program on the node, with text for it to read, and gives its exit code and what it
    /// printed.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> (Option<i32>, String) {
        let mut command = self.node.command(program).expect("the node is there");
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut stdin = child.stdin.take().expect("it has a pipe");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    #[track_caller]
    fn must(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let (code, said) = self.run(program, arguments, input);
        assert_eq!(code, Some(0), "{program} {arguments:?}: {said}");
        said
    }

    /// What others have on a node: the kubelet, a CNI plugin, a network policy, an administrator.
    fn put_others(&self) {
        for variant in ["nft", "legacy"] {
            for program in ["iptables", "ip6tables"] {
                self.must(&format!("{program}-{variant}-restore"), &["--noflush"], OTHERS);
            }
        }
        let table =
            "table ip other {\n chain c {\n  type filter hook input priority 5\n  counter\n }\n}\n";
        self.must("nft", &["-f", "-"], table);
    }

    #[track_caller]
    fn assert_others_are_there(&self) {
        for variant in ["nft", "legacy"] {
            for program in ["iptables", "ip6tables"] {
                let saved = self.must(&format!("{program}-{variant}-save"), &[], "");
                for line in OTHERS.lines().filter(|line| line.starts_with(['-', ':'])) {
                    let line = line.trim_end_matches(" [0:0]");
                    assert!(saved.contains(line), "{program}-{variant} lost {line}:\n{saved}");
                }
            }
        }
        assert!(self.must("nft", &["list", "tables"], "").contains("table ip other"));
    }

    /// Says as the kubelet does which variant of iptables is in use.
    fn hint(&self, variant: &str) {
        for each in ["nft", "legacy"] {
            let chain = if each == variant { ":KUBE-IPTABLES-HINT - [0:0]\n" } else { "" };
            let programs = format!("iptables-{each}");
            let _ = self.run(&programs, &["-t", "mangle", "-X", "KUBE-IPTABLES-HINT"], "");
            let script = format!("*mangle\n{chain}COMMIT\n");
            self.must(&format!("{programs}-restore"), &["--noflush"], &script);
        }
    }

    /// Chains of kube-proxy in a variant of iptables.
    fn chains(&self, variant: &str) -> Vec<String> {
        let mut found = Vec::new();
        for program in ["iptables", "ip6tables"] {
            let saved = self.must(&format!("{program}-{variant}-save"), &[], "");
            let theirs = ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"];
            let chains = saved.lines().filter_map(|line| line.strip_prefix(':'));
            let chains = chains.filter_map(|line| line.split(' ').next());
            let ours = chains.filter(|name| name.starts_with("KUBE-") && !theirs.contains(name));
            found.extend(
                ours.filter(|name| !name.contains("NWPLCY") && !name.contains("ROUTER"))
                    .map(str::to_owned),
            );
        }
        found
    }

    #[track_caller]
    fn assert_only(&self, mode: Option<Mode>) {
        for variant in ["nft", "legacy"] {
            let chains = self.chains(variant);
            let wanted = mode.and_then(Mode::variant) == Some(variant);
            assert_eq!(!chains.is_empty(), wanted, "{mode:?}, iptables-{variant}: {chains:?}");
        }
        let tables = self.must("nft", &["list", "tables"], "");
        let has_table = mode.is_some_and(|mode| mode.variant().is_none());
        assert_eq!(tables.contains("kube-proxy"), has_table, "{mode:?}: {tables}");
        let links = self.must("ip", &["link", "show"], "");
        assert_eq!(links.contains("kube-ipvs0"), mode == Some(Mode::Ipvs), "{mode:?}: {links}");
        self.assert_others_are_there();
    }

    fn load(&self, family: Family) -> Load {
        let spec = LoadSpec {
            probe: Probe::tcp(vip(family)).timeout(Duration::from_secs(30)),
            kind: LoadKind::NewConnections,
            connections: 2,
            pause: Duration::from_millis(10),
        };
        self.cluster.lab().client().load(spec).expect("the client is there")
    }

    fn start(&self, mode: Mode) {
        self.hint(mode.variant().unwrap_or("nft"));
        self.cluster
            .start_proxy_with(NODE, mode.configuration())
            .unwrap_or_else(|error| panic!("{mode:?}: {error}"));
    }

    fn wait_until_done(&self) {
        let waited = self.cluster.with_proxy(NODE, |proxy| proxy.wait_for(DONE, 0, PATIENCE));
        waited.expect("the daemon runs").unwrap_or_else(|error| panic!("{error}"));
    }

    /// Goes a way through modes.
    #[allow(clippy::print_stderr)] // in a slow guest it tells how far it got
    fn go(&self, way: &[Mode]) {
        self.start(way[0]);
        self.wait_until_done();
        for pair in way.windows(2) {
            eprintln!("{:?} to {:?}", pair[0], pair[1]);
            self.switch(Some(pair[0]), pair[1]);
        }
    }

    /// Starts a mode over the rules of another, under load, and checks that no connection is lost except those that
    /// `before` relayed itself.
    fn switch(&self, before: Option<Mode>, after: Mode) {
        let loads = Family::BOTH.map(|family| self.load(family));
        let probe = Probe::tcp(vip(Family::V4)).timeout(Duration::from_secs(30));
        let mut held = self.cluster.lab().client().connect(&probe).expect("a connection");
        held.exchange("before").expect("it works");
        self.cluster.stop_proxy(NODE).expect("the daemon ends");
        self.start(after);
        if before == Some(Mode::Ipvs) {
            // IPVS keeps its connections until they end.
            held.exchange("during").expect("the connection goes on");
            drop(held);
            self.wait_until_done();
        } else {
            self.wait_until_done();
            let result = held.exchange("after");
            if before != Some(Mode::Userspace) {
                result.unwrap_or_else(|error| panic!("{before:?} to {after:?}: {error}"));
            }
        }
        for load in loads {
            let tally = load.stop().expect("the load ends");
            assert!(tally.successes() > 0, "{before:?} to {after:?}: nothing was answered");
            if before != Some(Mode::Userspace) {
                assert_eq!(tally.failures(), 0, "{before:?} to {after:?}: {tally:?}");
            }
        }
        self.assert_only(Some(after));
    }
}

fn vip(family: Family) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => [10, 96, 0, 80].into(),
        Family::V6 => [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80].into(),
    };
    SocketAddr::new(ip, 80)
}

const OTHERS: &str = "\
*mangle
:MINE - [0:0]
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
-A CNI-HOSTPORT-SETMARK -m comment --comment \"like -j KUBE-SERVICES\" -j MARK --set-xmark 0x2000/0x2000
COMMIT
*filter
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-NWPLCY-DEFAULT - [0:0]
-A FORWARD -m comment --comment \"network policy\" -j KUBE-NWPLCY-DEFAULT
COMMIT
";

fn every_direction() -> Outcome {
    let world = World::new()?;
    world.put_others();
    world.go(&walk(&Mode::USUAL));
    world.cluster.stop_proxy(NODE)?;
    let program = program().to_str().expect("a path");
    world.must(program, &["--cleanup"], "");
    world.assert_only(None);
    Ok(())
}

#[allow(clippy::print_stderr)] // that something is left out must be seen
fn every_direction_of_ipvs() -> Outcome {
    if let Err(error) = Ipvs::open() {
        eprintln!("left out: {error}");
        return Ok(());
    }
    let world = World::new()?;
    world.put_others();
    let mut way = vec![Mode::Ipvs];
    way.extend(Mode::USUAL.into_iter().flat_map(|mode| [mode, Mode::Ipvs]));
    world.go(&way);
    Ok(())
}

/// A recorded listing with the addresses of this test's pod.
fn recorded(text: &str, world: &World) -> String {
    let (v4, v6) = (world.pod.ip(Family::V4), world.pod.ip(Family::V6));
    let mut result = String::new();
    // Who uses which variant of iptables is for the test to say.
    let hint = |line: &&str| line.contains("KUBELET-CANARY") || line.contains("IPTABLES-HINT");
    for line in text.lines().filter(|line| !hint(line)) {
        // Counters that rules name are objects of another kind.
        let mut line = line.to_owned();
        for name in ["ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"] {
            line = line.replace(&format!(" -m nfacct --nfacct-name  {name}"), "");
        }
        let line = line.replace(WEB_V4, "10.96.0.80").replace(WEB_V6, "fd00:10:96::80");
        let line = line.replace("10.244.0.5", &v4.to_string());
        let _ = writeln!(result, "{}", line.replace("fd00:10:244::5", &v6.to_string()));
    }
    result
}

/// The cluster IPs of the Service `web` in the recorded listings.
const WEB_V4: &str = "10.96.190.113";
const WEB_V6: &str = "fd00:10:96::b70a";

fn from_iptables(mode: Mode, variant: &str) -> Outcome {
    let world = World::new()?;
    let listings = [
        ("iptables", include_str!("fixtures/kube-proxy/iptables.rules")),
        ("ip6tables", include_str!("fixtures/kube-proxy/ip6tables.rules")),
    ];
    for (program, text) in listings {
        let program = format!("{program}-{variant}-restore");
        world.must(&program, &["--noflush"], &recorded(text, &world));
    }
    // Afterwards: a chain that is declared again is emptied.
    world.put_others();
    assert!(!world.chains(variant).is_empty());
    world.switch(None, mode);
    Ok(())
}

fn from_nftables(mode: Mode) -> Outcome {
    let world = World::new()?;
    world.put_others();
    let listings = [
        include_str!("fixtures/kube-proxy/nftables-ip.nft"),
        include_str!("fixtures/kube-proxy/nftables-ip6.nft"),
    ];
    for text in listings {
        world.must("nft", &["-f", "-"], &recorded(text, &world));
    }
    world.switch(None, mode);
    let chains = world.run("nft", &["list", "chains"], "").1;
    assert!(!chains.contains("default/web/tcp/http"), "{chains}");
    Ok(())
}

fn cleanup_fails() -> Outcome {
    let world = World::new()?;
    world.put_others();
    let listing = include_str!("fixtures/kube-proxy/iptables.rules");
    world.must("iptables-nft-restore", &["--noflush"], &recorded(listing, &world));
    let jump = "*nat\n-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n";
    world.must("iptables-nft-restore", &["--noflush"], jump);
    let made = world.node.namespace().run(|| ["KUBE-CLUSTER-IP", "MINE"].map(make_set))?;
    assert_eq!(made, [0, 0]);
    let program = program().to_str().expect("a path");
    let (code, said) = world.run(program, &["--cleanup"], "");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("chain KUBE-MARK-MASQ in table ip nat"), "{said}");
    assert_eq!(world.chains("nft"), ["KUBE-MARK-MASQ"]);
    let made = world.node.namespace().run(|| ["KUBE-CLUSTER-IP", "MINE"].map(make_set))?;
    assert_eq!(made, [0, nix::libc::EEXIST], "one was destroyed, the other is there");
    world.must("iptables-nft", &["-t", "nat", "-F", "CNI-HOSTPORT-SETMARK"], "");
    world.must(program, &["--cleanup"], "");
    assert_eq!(world.chains("nft"), [] as [&str; 0]);
    Ok(())
}

/// Makes a set of ipset and gives the kernel's error number, because there may be no program for it
/// (`linux/netfilter/ipset/ip_set.h`).
fn make_set(name: &str) -> i32 {
    const IPSET: u8 = 6; // NFNL_SUBSYS_IPSET
    const CREATE: u8 = 2; // IPSET_CMD_CREATE
    const EXCLUSIVE: u16 = 0x200 | 0x400; // NLM_F_EXCL | NLM_F_CREATE
    const IPV4: u8 = 2; // AF_INET
    const NESTED: u16 = 0x8000;
    let name = format!("{name}\0");
    let create = Request {
        subsystem: IPSET,
        command: CREATE,
        flags: EXCLUSIVE,
        family: IPV4,
        attributes: &[
            (1, &[6]),            // IPSET_ATTR_PROTOCOL
            (2, name.as_bytes()), // IPSET_ATTR_SETNAME
            (3, b"hash:ip\0"),    // IPSET_ATTR_TYPENAME
            (4, &[0]),            // IPSET_ATTR_REVISION
            (5, &[IPV4]),         // IPSET_ATTR_FAMILY
            (7 | NESTED, &[]),    // IPSET_ATTR_DATA
        ],
    };
    match create.send() {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().expect("the kernel answers with a number"),
    }
}
