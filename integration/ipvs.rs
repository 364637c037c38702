//! IPVS of the real kernel: our messages against `ipvsadm`, and the daemon in IPVS mode. On a kernel
//! without IPVS, what the daemon says about that; `integration/guest/run` has a kernel with it.

mod ipvs_explained;
mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::json;
use sluice_cluster::{Answer, Cluster, ClusterSpec, Host, Isolation, Pod, Probe, Proxy, prepare};
use sluice_core::net::{Family, Protocol};
use sluice_kernel::dummy::{Dummy, DummyOp};
use sluice_kernel::ipvs::{Destination, Ipvs, IpvsError, Key, Op, Persistence, Service, Timeouts};

use support::daemon::program;
use support::{Outcome, eventually, in_own_network, run, trial};

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let there = in_own_network(|| !matches!(Ipvs::open(), Err(IpvsError::Unsupported)));
    let with = |trial: Trial| trial.with_ignored_flag(!there);
    let trials = vec![
        with(trial("what_we_write_is_what_ipvsadm_lists", listed_alike)),
        with(trial("refusals_name_their_object", refusals)),
        with(trial("timeouts_are_set_and_read", timeouts)),
        with(trial("addresses_come_and_go", addresses)),
        with(trial("ten_thousand_services_are_written_fast", ten_thousand)),
        with(Trial::test("a_restart_changes_nothing_and_foreign_changes_are_undone", daemon)),
        with(Trial::test("what_is_excluded_stays_and_settings_are_made", settings)),
        with(Trial::test("the_scheduler_of_the_configuration_chooses", scheduler)),
        with(Trial::test("a_connection_outlives_the_removal_of_its_pod", graceful)),
        with(Trial::test("what_is_taken_away_is_named", ipvs_explained::taken_away)),
        with(Trial::test("a_host_port_takes_nothing_from_a_service", host_port)),
        trial("without_ip_vs_the_daemon_says_so_in_one_sentence", without).with_ignored_flag(there),
    ];
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials).exit_code()
}

fn key(ip: &str, protocol: Protocol, port: u16) -> Key {
    Key::Address { ip: ip.parse().expect("an address"), protocol, port }
}

/// Applies operations, none of which may be refused.
fn apply(ipvs: &mut Ipvs, ops: &[Op]) -> Result<(), IpvsError> {
    for (op, answer) in ops.iter().zip(ipvs.apply(ops)?) {
        assert_eq!(answer, Ok(()), "{op}");
    }
    Ok(())
}

fn listed_alike() -> Outcome {
    let mut ipvs = Ipvs::open()?;
    let web = Service {
        persistence: Some(Persistence { timeout: 10_800, prefix: 32 }),
        ..Service::new(key("10.96.0.80", Protocol::Tcp, 80), &"rr".into())
    };
    let dns = Service::new(key("fd00:10:96::a", Protocol::Udp, 53), &"sh".into());
    let marked = Service::new(Key::Mark { family: Family::V6, mark: 7 }, &"wlc".into());
    let to = |ip: &str, weight| Destination::new(ip.parse().expect("an address"), 8080, weight);
    let ops = [
        Op::AddService(web.clone()),
        Op::AddService(dns.clone()),
        Op::AddService(marked.clone()),
        Op::AddDestination(web.key, to("10.244.1.2", 1)),
        Op::AddDestination(web.key, to("10.244.2.2", 3)),
        Op::AddDestination(dns.key, to("fd00:10:244:1::2", 1)),
    ];
    apply(&mut ipvs, &ops)?;
    let saved = || run("ipvsadm", &["-Sn"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let expected = [
        "-A -t 10.96.0.80:80 -s rr -p 10800",
        "-a -t 10.96.0.80:80 -r 10.244.1.2:8080 -m -w 1",
        "-a -t 10.96.0.80:80 -r 10.244.2.2:8080 -m -w 3",
        "-A -u [fd00:10:96::a]:53 -s sh",
        "-a -u [fd00:10:96::a]:53 -r [fd00:10:244:1::2]:8080 -m -w 1",
        "-A -f 7 -6 -s wlc",
    ];
    assert_eq!(saved(), expected.map(str::to_owned).into());
    let read: BTreeSet<Service> = ipvs.services()?.into_iter().collect();
    assert_eq!(read, [web.clone(), dns.clone(), marked.clone()].into());
    let read: BTreeSet<Destination> =
        ipvs.destinations(&web.key)?.into_iter().map(|seen| seen.destination).collect();
    assert_eq!(read, [to("10.244.1.2", 1), to("10.244.2.2", 3)].into());

    let plain = Service { persistence: None, ..web.clone() };
    let ops = [
        Op::SetService(plain),
        Op::SetDestination(web.key, to("10.244.1.2", 0)),
        Op::DeleteDestination(web.key, to("10.244.2.2", 3).ip, 8080),
        Op::DeleteService(dns.key),
        Op::DeleteService(marked.key),
    ];
    apply(&mut ipvs, &ops)?;
    let expected = ["-A -t 10.96.0.80:80 -s rr", "-a -t 10.96.0.80:80 -r 10.244.1.2:8080 -m -w 0"];
    assert_eq!(saved(), expected.map(str::to_owned).into());
    Ok(())
}

fn refusals() -> Outcome {
    let mut ipvs = Ipvs::open()?;
    let web = Service::new(key("10.96.0.80", Protocol::Tcp, 80), &"rr".into());
    let to = Destination::new([10, 244, 1, 2].into(), 8080, 1);
    let ops = [
        Op::AddService(web.clone()),
        Op::AddService(web.clone()),
        Op::SetDestination(web.key, to),
        Op::AddDestination(web.key, to),
        Op::DeleteService(key("10.96.0.81", Protocol::Tcp, 80)),
    ];
    let answers = ipvs.apply(&ops)?;
    let refused: Vec<bool> = answers.iter().map(Result::is_err).collect();
    assert_eq!(refused, [false, true, true, false, true], "each on its own");
    let contradictions = answers.iter().flat_map(|answer| answer.as_ref().err());
    assert!(contradictions.into_iter().all(|refusal| refusal.contradicts_state()), "{answers:?}");
    assert!(ipvs.destinations(&key("10.96.0.82", Protocol::Tcp, 80))?.is_empty());
    let absent: Arc<str> = "fancy".into();
    let error = ipvs.check_scheduler(&absent).expect_err("there is no such scheduler");
    assert!(error.to_string().contains("\"fancy\""), "{error}");
    for name in ["rr", "wrr", "lc", "sh", "mh"] {
        ipvs.check_scheduler(&name.into())?;
    }
    assert_eq!(ipvs.services()?, [web], "trying leaves nothing behind");
    Ok(())
}

fn timeouts() -> Outcome {
    let mut ipvs = Ipvs::open()?;
    ipvs.set_timeouts(Timeouts { tcp: 700, tcp_fin: 0, udp: 70 })?;
    let now = ipvs.timeouts()?;
    assert_eq!((now.tcp, now.udp), (700, 70));
    assert_eq!(now.tcp_fin, 120, "the kernel's own");
    let listed = run("ipvsadm", &["-L", "--timeout"]);
    assert!(listed.contains("700 120 70"), "{listed}");
    assert_eq!(ipvs.info()?.version.0, 1);
    Ok(())
}

fn addresses() -> Outcome {
    let mut device = Dummy::open("kube-ipvs0")?;
    assert_eq!(device.addresses(Family::V4)?, None);
    let ips: [IpAddr; 2] = ["10.96.0.80".parse()?, "fd00:10:96::80".parse()?];
    let ops = [DummyOp::Create, DummyOp::Add(ips[0]), DummyOp::Add(ips[1])];
    assert!(device.apply(&ops)?.iter().all(Result::is_ok));
    assert_eq!(device.addresses(Family::V4)?, Some([ips[0]].into()));
    assert_eq!(device.addresses(Family::V6)?, Some([ips[1]].into()));
    let again =
        device.apply(&[DummyOp::Add(ips[0]), DummyOp::Remove(ips[1]), DummyOp::Remove(ips[1])])?;
    let refused: Vec<bool> = again.iter().map(Result::is_err).collect();
    assert_eq!(refused, [true, false, true]);
    let route = run("ip", &["route", "get", "10.96.0.80"]);
    assert!(route.contains("local 10.96.0.80"), "{route}");
    Ok(())
}

#[allow(clippy::print_stdout)] // the figures are for docs/modes/ipvs.md
fn ten_thousand() -> Outcome {
    let mut ipvs = Ipvs::open()?;
    let rr: Arc<str> = "rr".into();
    let mut ops = Vec::new();
    let mut ips = vec![DummyOp::Create];
    for n in 0..10_000_u16 {
        let [high, low] = n.to_be_bytes();
        let ip = IpAddr::from([10, 96, high, low]);
        ips.push(DummyOp::Add(ip));
        let key = Key::Address { ip, protocol: Protocol::Tcp, port: 80 };
        ops.push(Op::AddService(Service::new(key, &rr)));
        ops.extend((1..=5).map(|pod| {
            let pod = IpAddr::from([10, 100 + pod, high, low]);
            Op::AddDestination(key, Destination::new(pod, 8080, 1))
        }));
    }
    // Seconds, were it not for an emulated processor that others keep busy; what grows with the square of the
    // number takes hours.
    let timed = |what: &str, since: Instant| {
        println!("{what}: {:.2?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_secs(600), "{what}");
    };
    let since = Instant::now();
    apply(&mut ipvs, &ops)?;
    timed("10,000 virtual services with 5 destinations each", since);
    let since = Instant::now();
    // The kernel has one table for all networks, and lists in parts: a Service that another test adds or deletes
    // meanwhile shifts what follows.
    let services = eventually("each virtual service is listed", || {
        let found: BTreeSet<Service> = ipvs.services().ok()?.into_iter().collect();
        (found.len() == 10_000).then_some(found)
    });
    timed("list virtual services", since);
    let since = Instant::now();
    for service in &services {
        assert_eq!(ipvs.destinations(&service.key)?.len(), 5);
    }
    timed("list their destinations", since);
    let mut device = Dummy::open("kube-ipvs0")?;
    let since = Instant::now();
    assert!(device.apply(&ips)?.iter().all(Result::is_ok));
    timed("10,000 addresses", since);
    let since = Instant::now();
    assert_eq!(device.addresses(Family::V4)?.map(|all| all.len()), Some(10_000));
    timed("list addresses", since);
    let last = services.first().ok_or("there are some")?.key;
    let to = Destination::new([10, 200, 0, 1].into(), 8080, 1);
    let since = Instant::now();
    apply(&mut ipvs, &[Op::AddDestination(last, to)])?;
    timed("one destination more", since);
    Ok(())
}

const CONFIG: &str = "mode: ipvs\nclusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                      detectLocalMode: ClusterCIDR\nipvs: {minSyncPeriod: 1ms}";
const PORTS: [(Protocol, u16); 3] =
    [(Protocol::Tcp, 8080), (Protocol::Udp, 8053), (Protocol::Sctp, 8132)];
const CLUSTER_IP: &str = "10.96.0.80";

/// The Service `web` of `sluice-lab demo`, with three pods.
fn cluster() -> Result<(Cluster, Vec<Pod>), libtest_mimic::Failed> {
    let (cluster, pods) = unserved(CONFIG)?;
    cluster.start_proxy("node-a")?;
    Ok((cluster, pods))
}

/// The same before the daemon is started.
fn unserved(configuration: &str) -> Result<(Cluster, Vec<Pod>), libtest_mimic::Failed> {
    unserved_by(program(), configuration)
}

/// The same with a program of its own.
fn unserved_by(
    program: &Path,
    configuration: &str,
) -> Result<(Cluster, Vec<Pod>), libtest_mimic::Failed> {
    let cluster = Cluster::new(ClusterSpec {
        nodes: 2,
        program: program.to_owned(),
        configuration: configuration.to_owned(),
    })?;
    let ports = [("tcp", "TCP", 80), ("udp", "UDP", 53), ("sctp", "SCTP", 132)];
    let ports = ports.map(|(name, protocol, port)| {
        let node_port = if name == "tcp" { json!(30080) } else { json!(null) };
        json!({"name": name, "protocol": protocol, "port": port, "targetPort": 8000 + port,
               "nodePort": node_port})
    });
    cluster.create_service(&json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": ports,
                 "ipFamilyPolicy": "RequireDualStack", "clusterIP": CLUSTER_IP,
                 "clusterIPs": [CLUSTER_IP, "fd00:10:96::80"]}}))?;
    let mut pods = Vec::new();
    for (name, node) in [("web-1", "node-a"), ("web-2", "node-b"), ("web-3", "node-b")] {
        pods.push(cluster.add_pod(name, "web", node, &PORTS)?.0);
    }
    Ok((cluster, pods))
}

fn on(host: &Host, program: &str, words: &[&str]) -> Result<String, libtest_mimic::Failed> {
    let output = host.command(program)?.args(words).output()?;
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[allow(clippy::print_stdout)] // the lists are for docs/modes/ipvs.md
fn daemon() -> Outcome {
    let (cluster, _pods) = cluster()?;
    let node = cluster.lab().node("node-a")?;
    let right = on(&node, "ipvsadm", &["-Ln"])?;
    println!("{right}{}", on(&node, "ip", &["address", "show", "kube-ipvs0"])?);
    println!("{}", on(&node, "nft", &["list", "table", "ip", "kube-proxy"])?);
    assert!(right.contains("TCP  10.96.0.80:80 rr"), "{right}");

    cluster.stop_proxy("node-a")?;
    cluster.start_proxy("node-a")?;
    let first = |proxy: &mut Proxy| proxy.lines_with("first sync done");
    let lines = cluster.with_proxy("node-a", first).ok_or("it runs")?;
    assert!(lines.iter().all(|line| line.contains("operations=0")), "{lines:?}");

    for meddle in ["ipvsadm -C", "ip link delete kube-ipvs0", "ip address flush dev kube-ipvs0"] {
        let words: Vec<&str> = meddle.split(' ').collect();
        on(&node, words[0], &words[1..])?;
        eventually(meddle, || {
            let services = on(&node, "ipvsadm", &["-Ln"]).ok()?;
            let ips = node.command("ip").ok()?.args(["address", "show", "kube-ipvs0"]).output();
            let ips = String::from_utf8_lossy(&ips.ok()?.stdout).into_owned();
            let whole = ips.contains(CLUSTER_IP) && ips.contains("fd00:10:96::80");
            (services == right && whole).then_some(())
        });
    }
    Ok(())
}

/// Virtual services and addresses of other programs stay in excluded prefixes, and are removed as leftovers
/// outside of them; and this node answers ARP strictly.
fn settings() -> Outcome {
    let text = CONFIG.replace("{", "{excludeCIDRs: [10.99.0.0/16], strictARP: true, ");
    let (cluster, _pods) = unserved(&text)?;
    let node = cluster.lab().node("node-a")?;
    on(&node, "ip", &["link", "add", "kube-ipvs0", "type", "dummy"])?;
    for ip in ["10.99.0.1", "10.96.9.9"] {
        on(&node, "ip", &["address", "add", &format!("{ip}/32"), "dev", "kube-ipvs0"])?;
        on(&node, "ipvsadm", &["-A", "-t", &format!("{ip}:80"), "-s", "rr"])?;
    }
    let arp = |name: &str| {
        let file = format!("/proc/sys/net/ipv4/conf/all/{name}");
        on(&node, "cat", &[&file]).map(|text| text.trim().to_owned())
    };
    assert_eq!([arp("arp_ignore")?, arp("arp_announce")?], ["0", "0"]);
    cluster.start_proxy("node-a")?;
    assert_eq!([arp("arp_ignore")?, arp("arp_announce")?], ["1", "2"]);
    let services = on(&node, "ipvsadm", &["-Ln"])?;
    let addresses = on(&node, "ip", &["address", "show", "kube-ipvs0"])?;
    for list in [services, addresses] {
        assert!(list.contains("10.99.0.1") && !list.contains("10.96.9.9"), "{list}");
        assert!(list.contains(CLUSTER_IP), "{list}");
    }
    let probe = Probe::tcp(SocketAddr::new(CLUSTER_IP.parse()?, 80));
    assert_eq!(cluster.lab().client().spread(&probe, 6)?.failures(), 0);
    Ok(())
}

/// By the hash of the source, one client always finds the same pod; in turns it would find all.
fn scheduler() -> Outcome {
    let text = CONFIG.replace("{", "{scheduler: sh, ");
    for (text, found) in [(text.as_str(), 1), (CONFIG, 3)] {
        let (cluster, _pods) = unserved(text)?;
        cluster.start_proxy("node-a")?;
        let client = cluster.lab().client();
        for ip in [CLUSTER_IP, "fd00:10:96::80"] {
            let probe = Probe::tcp(SocketAddr::new(ip.parse()?, 80));
            let tally = client.spread(&probe, 9)?;
            assert_eq!((tally.failures(), tally.answered.len()), (0, found), "{ip}: {tally:?}");
        }
    }
    Ok(())
}

/// The connection continues; when it ends, the destination is deleted.
fn graceful() -> Outcome {
    let (cluster, pods) = cluster()?;
    let node = cluster.lab().node("node-a")?;
    let client = cluster.lab().client();
    let to = SocketAddr::new(CLUSTER_IP.parse()?, 80);
    let mut connection = client.namespace().run(move || TcpStream::connect(to))??;
    connection.set_read_timeout(Some(Duration::from_secs(60)))?;
    for pod in &pods {
        cluster.retire_pod(pod)?;
    }
    let idle = |line: &str| line.contains("Masq    0");
    eventually("no destination takes new connections", || {
        let list = on(&node, "ipvsadm", &["-Ln"]).ok()?;
        let tcp = list.split("TCP ").nth(1)?.split("UDP ").next()?;
        let open = tcp.lines().filter(|line| line.contains("->")).all(idle);
        (open && tcp.contains("10.96.0.80:80")).then_some(())
    });
    connection.write_all(b"still there?\n")?;
    let mut answer = [0; 256];
    assert!(connection.read(&mut answer)? > 0, "the connection goes on");
    drop(connection);
    Ok(())
}

/// Cluster IPs are addresses of the node here, and so a host port's rules match them (k/k#66103): as the CNI
/// plugin portmap and Docker write them, in each variant of iptables, before the daemon and after it.
fn host_port() -> Outcome {
    for (variant, first) in [("nft", true), ("nft", false), ("legacy", true), ("legacy", false)] {
        let (cluster, pods) = unserved(CONFIG)?;
        let node = cluster.lab().node("node-a")?;
        let open = cluster.lab().add_pod("open", &node, &[(Protocol::Tcp, 8080)])?;
        if !first {
            cluster.start_proxy("node-a")?;
        }
        for (family, program) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
            let to = open.socket_addr(family, 8080).to_string();
            for chain in ["PREROUTING", "OUTPUT"] {
                let rule = format!(
                    "-t nat -A {chain} -m addrtype --dst-type LOCAL -p tcp --dport 80 -j DNAT --to {to}"
                );
                let words: Vec<&str> = rule.split(' ').collect();
                on(&node, &format!("{program}-{variant}"), &words)?;
            }
        }
        if first {
            cluster.start_proxy("node-a")?;
        }
        let what = format!("iptables-{variant}, before the daemon: {first}");
        let (client, neighbour) = (cluster.lab().client(), cluster.lab().add_pod("n", &node, &[])?);
        for ip in [CLUSTER_IP, "fd00:10:96::80"] {
            let probe = Probe::tcp(SocketAddr::new(ip.parse()?, 80));
            for from in [&client, &*node, &*neighbour] {
                let tally = from.spread(&probe, 6)?;
                let served = tally.answered.keys().all(|by| by.starts_with("web-"));
                assert!(
                    served && tally.failures() == 0,
                    "{} -> {ip}, {what}: {tally:?}",
                    from.name()
                );
            }
        }
        for family in Family::BOTH {
            let answer = client.probe(&Probe::tcp(node.socket_addr(family, 80)))?;
            assert_eq!(answer.by(), Some("open"), "the host port is there, {what}");
        }
        // Nor when the Service has no endpoint.
        for pod in &pods {
            cluster.retire_pod(pod)?;
        }
        for ip in [CLUSTER_IP, "fd00:10:96::80"] {
            let probe = Probe::tcp(SocketAddr::new(ip.parse()?, 80));
            for from in [&client, &*node, &*neighbour] {
                let refused = || from.probe(&probe).ok().filter(|answer| answer.by().is_none());
                let answer = eventually("no pod answers", refused);
                assert_eq!(answer, Answer::Refused, "{} -> {ip}, {what}", from.name());
            }
        }
    }
    Ok(())
}

/// One sentence with the module and the modes that would work.
fn without() -> Outcome {
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(
        config.path(),
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n",
    )?;
    let output = std::process::Command::new(program())
        .arg("--config")
        .arg(config.path())
        .args(["--master", "http://127.0.0.1:1"])
        .output()?;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    for word in ["ip_vs", "nftables", "iptables", "userspace"] {
        assert!(last.contains(word), "{said}");
    }
    Ok(())
}
