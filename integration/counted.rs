//! `--service-counters` with real connections, for the tests of packets.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use sluice_cluster::{Cluster, ClusterSpec, Node, Probe};
use sluice_core::net::{Family, Protocol};

use super::{NODE_PORT, Outcome, PORTS, program, vip, web};

/// A program that runs the daemon with the flags in the file next to it.
static COUNTING: OnceLock<PathBuf> = OnceLock::new();

/// Before any thread is there: a program that another thread has open for writing cannot be run.
pub(super) fn write_daemon(folder: &Path) {
    let (path, flags) = (folder.join("counting"), folder.join("flags"));
    let (program, flags) = (program().display(), flags.display());
    let script = format!("#!/bin/sh\nexec '{program}' $(cat '{flags}') \"$@\"\n");
    fs::write(&path, script).expect("the folder is writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    COUNTING.set(path).expect("once");
}

fn counting() -> &'static Path {
    COUNTING.get().expect("it was written at the start")
}

fn set_flags(text: &str) -> std::io::Result<()> {
    fs::write(counting().with_file_name("flags"), text)
}

/// What the node's daemon shows of the Service, by address, family, port and protocol.
fn counts(node: &Node) -> Result<BTreeMap<String, u64>, Box<dyn std::error::Error + Send + Sync>> {
    let page = node.namespace().run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", 10249))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    })??;
    let lines = page.lines().filter_map(|line| {
        let (labels, number) =
            line.strip_prefix("sluice_service_connections_total{")?.split_once("} ")?;
        let (label, rest) = (",namespace=\"default\"", ",service=\"web\"");
        let labels = labels.strip_suffix(rest)?.replacen(label, "", 1);
        Some((labels, number.parse().ok()?))
    });
    Ok(lines.collect())
}

fn label(to: &str, family: Family, protocol: Protocol) -> String {
    let name = &protocol.to_string()[..1];
    let protocol = protocol.to_string().to_uppercase();
    format!("address=\"{to}\",ip_family=\"{family}\",port=\"{name}\",protocol=\"{protocol}\"")
}

fn table(node: &Node, family: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let output = node.command("nft")?.args(["list", "table", family, "kube-proxy"]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Connects so often, to the cluster IP and half as often to the node port.
fn connect(cluster: &Cluster, node: &Node, times: usize) -> Outcome {
    let client = cluster.lab().client();
    for family in Family::BOTH {
        for protocol in Protocol::ALL {
            let to = |to: SocketAddr, times| client.spread(&Probe::new(protocol, to), times);
            assert_eq!(to(vip(family), times)?.failures(), 0, "{family} {protocol}");
            let node_port = node.socket_addr(family, NODE_PORT);
            assert_eq!(to(node_port, times / 2)?.failures(), 0, "{family} {protocol}");
        }
    }
    Ok(())
}

#[track_caller]
fn assert_counted(found: &BTreeMap<String, u64>, times: u64) {
    let mut wanted = BTreeMap::new();
    for family in Family::BOTH {
        for protocol in Protocol::ALL {
            let cluster_ip = label(&vip(family).to_string(), family, protocol);
            wanted.insert(cluster_ip, times);
            wanted.insert(label(&format!(":{NODE_PORT}"), family, protocol), times / 2);
        }
    }
    assert_eq!(*found, wanted);
}

/// Every connection is counted once, through changes of endpoints and a restart, and nothing is there
/// without the flag.
pub(super) fn exactly() -> Outcome {
    set_flags("--service-counters")?;
    let cluster = Cluster::new(ClusterSpec {
        nodes: 2,
        program: counting().to_owned(),
        configuration: "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                        detectLocalMode: ClusterCIDR\n\
                        nftables: {minSyncPeriod: 1ms}\n"
            .to_owned(),
    })?;
    cluster.create_service(&web())?;
    cluster.add_pod("web-1", "web", "node-a", &PORTS)?;
    cluster.start_proxy("node-a")?;
    let node = cluster.lab().node("node-a")?;
    assert_counted(&counts(&node)?, 0);
    connect(&cluster, &node, 20)?;
    assert_counted(&counts(&node)?, 20);
    // Other endpoints, and so another number of slots, for the same frontends.
    cluster.add_pod("web-2", "web", "node-b", &PORTS)?;
    cluster.add_pod("web-3", "web", "node-b", &PORTS)?;
    connect(&cluster, &node, 10)?;
    assert_counted(&counts(&node)?, 30);
    cluster.stop_proxy("node-a")?;
    connect(&cluster, &node, 10)?;
    cluster.start_proxy("node-a")?;
    let first = cluster.with_proxy("node-a", |proxy| proxy.lines_with("first sync done"));
    let first = first.expect("it is running");
    assert!(first.iter().all(|line| line.contains("operations=0")), "{first:?}");
    assert_counted(&counts(&node)?, 40);
    let listed = table(&node, "ip")?;
    let element = "10.96.0.80 . tcp . 80 counter packets 40 bytes";
    assert!(listed.contains(element) && listed.contains("comment \"default/web:t\""), "{listed}");

    cluster.stop_proxy("node-a")?;
    set_flags("")?;
    cluster.start_proxy("node-a")?;
    for family in ["ip", "ip6"] {
        let listed = table(&node, family)?;
        assert!(listed.contains("service-endpoints") && !listed.contains("counter"), "{listed}");
    }
    assert_eq!(counts(&node)?, BTreeMap::new());
    connect(&cluster, &node, 2)
}
