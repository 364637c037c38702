//! `sluice-lab demo`: what a Service does, shown on a terminal in a lab of network namespaces.

#![allow(clippy::print_stdout)] // showing is what it is for

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use sluice_cluster::cluster::daemon_program;
use sluice_cluster::{Answer, Cluster, ClusterSpec, Host, Isolation, Pod, Probe, prepare};
use sluice_core::net::{Family, Protocol};

/// Connections whose spread over the pods is shown.
const CONNECTIONS: usize = 3000;

/// How long a change may take to reach packets before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(5);

const CLUSTER_IP: &str = "10.96.0.80";
const CLUSTER_IP6: &str = "fd00:10:96::80";
const NODE_PORT: u16 = 30080;

/// Runs the demo and leaves nothing behind.
pub(crate) fn run(daemon: Option<&Path>) -> Result<()> {
    let program = daemon_program(daemon)?;
    prepare(Isolation::Shared)?;
    let started = Instant::now();
    title("A cluster: two nodes, each a network namespace with the real daemon in nftables mode");
    let cluster = build(program)?;
    let pods = pods(&cluster)?;
    println!("  built in {:.1?}; look around while it runs, e.g.", started.elapsed());
    let node = cluster.lab().node("node-a")?;
    println!("  $ {}", node.namespace().enter_command("nft list table ip kube-proxy"));

    spread(&cluster, &pods)?;
    ruleset(&cluster)?;
    let newcomer = changes(&cluster, &pods)?;
    protocols(&cluster)?;
    last_one_gone(&cluster, &pods, &newcomer)?;
    println!("\nDone in {:.1?}; nothing is left behind.", started.elapsed());
    Ok(())
}

fn title(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}

fn build(program: PathBuf) -> Result<Cluster> {
    let cluster = Cluster::new(ClusterSpec {
        nodes: 2,
        program,
        configuration: "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                        detectLocalMode: ClusterCIDR"
            .to_owned(),
    })?;
    for (name, cluster_ips, node_port) in
        [("web", Some([CLUSTER_IP, CLUSTER_IP6]), Some(NODE_PORT)), ("dns", None, None)]
    {
        let protocols = [("tcp", "TCP", 80), ("udp", "UDP", 53), ("sctp", "SCTP", 132)];
        let ports: Vec<_> = protocols
            .iter()
            .map(|(name, protocol, port)| {
                let mut entry = json!({"name": name, "protocol": protocol, "port": port,
                                       "targetPort": 8000 + port});
                if let Some(node_port) = node_port.filter(|_| *name == "tcp") {
                    entry["nodePort"] = json!(node_port);
                }
                entry
            })
            .collect();
        let mut spec = json!({
            "selector": {"app": name}, "ports": ports, "ipFamilyPolicy": "RequireDualStack",
        });
        if let Some([v4, v6]) = cluster_ips {
            spec["type"] = json!("NodePort");
            spec["clusterIP"] = json!(v4);
            spec["clusterIPs"] = json!([v4, v6]);
        }
        cluster.create_service(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}),
        )?;
    }
    Ok(cluster)
}

const POD_PORTS: [(Protocol, u16); 3] =
    [(Protocol::Tcp, 8080), (Protocol::Udp, 8053), (Protocol::Sctp, 8132)];

fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let mut web = Vec::new();
    for (number, node) in [(1, "node-a"), (2, "node-b"), (3, "node-b")] {
        web.push(cluster.add_pod(&format!("web-{number}"), "web", node, &POD_PORTS)?.0);
        cluster.add_pod(&format!("dns-{number}"), "dns", node, &POD_PORTS)?;
    }
    for node in cluster.lab().nodes() {
        cluster.start_proxy(node.name())?;
    }
    Ok(web)
}

/// Each pod gets its share, for every address and every client.
fn spread(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    title(&format!("{CONNECTIONS} connections each, and who answered"));
    let node = cluster.lab().node("node-a")?;
    let vip = |ip: &str| ip.parse().map(|ip| std::net::SocketAddr::new(ip, 80));
    let client = cluster.lab().client();
    let rows: [(&str, &Host, std::net::SocketAddr); 4] = [
        ("pod web-1  -> cluster IP", &pods[0], vip(CLUSTER_IP)?),
        ("pod web-1  -> cluster IP", &pods[0], vip(CLUSTER_IP6)?),
        ("client     -> node port ", &client, node.socket_addr(Family::V4, NODE_PORT)),
        ("client     -> node port ", &client, node.socket_addr(Family::V6, NODE_PORT)),
    ];
    for (who, from, to) in rows {
        let tally = from.spread(&Probe::tcp(to), CONNECTIONS)?;
        ensure!(tally.failures() == 0, "{who} {to}: {:?}", tally.failed);
        ensure!(tally.answered.len() == pods.len(), "{who} {to}: not every pod was reached");
        let shares: Vec<String> = tally
            .answered
            .iter()
            .map(|(pod, count)| format!("{pod} {:>4.1} %", share(*count, CONNECTIONS)))
            .collect();
        println!("  {who} {:<24} {}", to.to_string(), shares.join("   "));
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // small counts
fn share(count: u64, of: usize) -> f64 {
    100.0 * count as f64 / of as f64
}

/// The part of the live ruleset that forwarded those connections, if `nft` is installed.
fn ruleset(cluster: &Cluster) -> Result<()> {
    title("What the kernel has for it on node-a (excerpt of `nft list table ip kube-proxy`)");
    let node = cluster.lab().node("node-a")?;
    let mut nft: Command = node.command("nft")?;
    let Ok(output) = nft.args(["list", "table", "ip", "kube-proxy"]).output() else {
        println!("  (install nftables to see it)");
        return Ok(());
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of_web = |line: &&str| line.contains(&format!("{CLUSTER_IP} . tcp"));
    for heading in ["map service-endpoints", "chain services", "chain service-pools"] {
        let block = text.split(&format!("\t{heading} {{\n")).nth(1).unwrap_or_default();
        let block = block.split("\n\t}").next().unwrap_or_default();
        let lines = block.lines().filter(|line| heading.starts_with("chain") || of_web(line));
        println!("  {heading} {{");
        for line in lines {
            let line = line.replace("elements = {", "").replace(" }", "");
            println!("      {}", line.trim().trim_end_matches(','));
        }
        println!("  }}");
    }
    Ok(())
}

/// A pod comes, a pod goes; how long from the write to the API until packets follow.
fn changes(cluster: &Cluster, pods: &[Pod]) -> Result<Pod> {
    title("Changes, from the write to the API server to the first packet that follows");
    let client = cluster.lab().client();
    let to = cluster.lab().node("node-a")?.socket_addr(Family::V4, NODE_PORT);

    let (newcomer, written) = cluster.add_pod("web-4", "web", "node-a", &POD_PORTS)?;
    let seen = until(&client, &to, |answer| answer.by() == Some("web-4"))?;
    println!("  web-4 is added: it answers after {:.1?}", seen.duration_since(written));

    let written = cluster.retire_pod(&pods[1])?;
    let gone = last_connection(cluster, &pods[1], written)?;
    println!("  web-2 is removed: {}", last_one(gone));
    let tally = client.spread(&Probe::tcp(to), CONNECTIONS)?;
    ensure!(tally.failures() == 0, "connections failed: {:?}", tally.failed);
    let counts: BTreeMap<_, _> = tally.answered.into_iter().collect();
    let words: Vec<String> = counts.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
    println!("  {CONNECTIONS} connections now: {}", words.join("  "));
    ensure!(!counts.contains_key("web-2"), "a pod that left still gets connections");
    Ok(newcomer)
}

fn last_one(late: Option<Duration>) -> String {
    match late {
        Some(late) => format!("its last connection began after {late:.1?}"),
        None => "not one more connection reached it".to_owned(),
    }
}

/// Probes until one gives the expected answer, and returns the time.
fn until(
    from: &Host,
    to: &std::net::SocketAddr,
    wanted: impl Fn(&Answer) -> bool,
) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = from.probe(&Probe::tcp(*to))?;
        if wanted(&answer) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "{to} still says: {answer}");
    }
}

/// How long after `written` the last connection that reached a pod began, if any did.
fn last_connection(cluster: &Cluster, pod: &Pod, written: Instant) -> Result<Option<Duration>> {
    let client = cluster.lab().client();
    let to = cluster.lab().node("node-a")?.socket_addr(Family::V4, NODE_PORT);
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    let mut misses = 0;
    while misses < 200 {
        let asked = Instant::now();
        if client.probe(&Probe::tcp(to))?.by() == Some(pod.name()) {
            last = Some(asked.saturating_duration_since(written));
            misses = 0;
        } else {
            misses += 1;
        }
        ensure!(Instant::now() < deadline, "{} still answers", pod.name());
    }
    Ok(last)
}

/// The same addresses over UDP and SCTP, in both families, and the address that the pod saw.
fn protocols(cluster: &Cluster) -> Result<()> {
    title("UDP and SCTP, and the source that the pod sees");
    let client = cluster.lab().client();
    let pod = cluster.lab().pod("web-1")?;
    for (protocol, port) in [(Protocol::Udp, 53), (Protocol::Sctp, 132)] {
        for ip in [CLUSTER_IP, CLUSTER_IP6] {
            let to = std::net::SocketAddr::new(ip.parse()?, port);
            for (who, from) in [("pod web-1", &*pod), ("client   ", &client)] {
                let answer = from.probe(&Probe::new(protocol, to))?;
                ensure!(answer.by().is_some(), "{who} -> {to}/{protocol}: {answer}");
                println!("  {who} -> {:<26} {answer}", format!("{to}/{protocol}"));
            }
        }
    }
    Ok(())
}

/// Without endpoints, connections are refused at once instead of timing out.
fn last_one_gone(cluster: &Cluster, pods: &[Pod], newcomer: &Pod) -> Result<()> {
    title("The last endpoint goes");
    let mut written = Instant::now();
    for pod in [&pods[0], &pods[2], newcomer] {
        written = cluster.retire_pod(pod)?;
    }
    let to = std::net::SocketAddr::new(CLUSTER_IP.parse()?, 80);
    let client = cluster.lab().client();
    let refused = until(&client, &to, |answer| *answer == Answer::Refused)?;
    println!("  {to} is rejected after {:.1?}", refused.duration_since(written));
    Ok(())
}
