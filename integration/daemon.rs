//! The real daemon against the lab's API server, each test on a network of its own: what it writes
//! into the kernel, what it leaves alone, and how it behaves when something is missing.

#![allow(clippy::print_stdout)] // figures, for who asks for them

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Outage, Part, Patch, Resource};
use sluice_cluster::{Isolation, prepare};
use sluice_core::model::Snapshot;
use sluice_core::net::Family;
use sluice_core::plan::{self, ClusterIpGuard, Host, NodePortAddresses, PodDetector};
use sluice_dataplane::nftables;
use sluice_dataplane::service_table::Connection;
use sluice_dataplane::{Backend, Observation, Report, Scope};

use support::daemon::{Daemon, config, number};
use support::objects::api_server;
use support::{Outcome, eventually, run, trial};

/// The addresses of the node.
const NODE_IPS: [&str; 2] = ["192.168.0.2", "fd00:168::2"];

fn main() -> ExitCode {
    // Before any thread exists: without root, everything happens in a user namespace.
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = vec![
        trial("ten_thousand_services_load_and_a_restart_does_nothing", ten_thousand),
        trial("rulesets_are_as_in_the_golden_files", goldens),
        trial("a_foreign_change_is_repaired_and_other_tables_are_left_alone", drift),
        trial("a_family_that_loads_much_does_not_disturb_the_other", families),
        trial("a_table_of_the_go_kube_proxy_is_taken_over_in_one_step", take_over),
        trial("without_an_api_server_the_rules_stay", api_server_away),
        trial("nonsense_in_one_object_harms_no_other", nonsense),
        trial("without_permission_it_says_so_and_ends", no_permission),
        trial("a_bad_configuration_names_every_problem", bad_configuration),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[track_caller]
fn create(api: &ApiServer, object: Value) {
    api.create(&object).unwrap_or_else(|error| panic!("{error}: {object}"));
}

/// A dual-stack Service with one port.
fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    });
    merge(&mut object["spec"], spec);
    object
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A slice of a Service with these endpoints, the first of them on this node.
fn slice(service: &str, family: &str, addresses: &[String]) -> Value {
    let endpoint = |(index, address): (usize, &String)| {
        let node = if index == 0 { "node-a" } else { "node-b" };
        json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": node})
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": addresses.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
    })
}

fn both_slices(service: &str, hosts: &[u8]) -> [Value; 2] {
    let of = |prefix: &str| hosts.iter().map(|h| format!("{prefix}{h}")).collect::<Vec<_>>();
    [slice(service, "IPv4", &of("10.244.1.")), slice(service, "IPv6", &of("fd00:10:244:1::"))]
}

fn table(family: &str) -> String {
    run("nft", &["list", "table", family, "kube-proxy"])
}

fn ten_thousand() -> Outcome {
    let api = api_server(&NODE_IPS);
    let mut objects = Vec::new();
    for n in 0..10_000_u16 {
        let name = format!("web-{n}");
        let [high, low] = n.to_be_bytes();
        let spec = json!({"ipFamilyPolicy": "SingleStack"});
        objects.push(service(&name, spec));
        let pods: Vec<String> = (0..5).map(|e| format!("10.{}.{high}.{low}", 100 + e)).collect();
        objects.push(slice(&name, "IPv4", &pods));
    }
    api.bulk_create(objects)?;
    let mut daemon = Daemon::start(&api.url(), &config(""));
    let line = daemon.wait_for_first_sync("IPv4");
    assert_eq!(number(&line, "services"), 10_000);
    // 50,000 endpoints, 10,000 cluster IPs, 10,000 entries in slots, 10,000 local ones' hairpins.
    assert!(number(&line, "elements") >= 80_000, "{line}");
    show(&line, &daemon);
    daemon.stop();
    assert!(table("ip").contains("10.100.39.15"), "rules outlive the daemon");

    let daemon = Daemon::start(&api.url(), &config(""));
    let line = daemon.wait_for_first_sync("IPv4");
    assert_eq!(number(&line, "operations"), 0, "a restart finds nothing to do");
    let pods: Vec<String> = (0..6).map(|e| format!("10.{}.0.77", 100 + e)).collect();
    api.update(&slice("web-77", "IPv4", &pods))?;
    let line = daemon.wait_for(" synced family=IPv4");
    assert_eq!(number(&line, "operations"), 1, "an endpoint more is one element: {line}");
    show(&line, &daemon);
    Ok(())
}

/// Prints a sync and the daemon's memory, for `cargo test --test daemon ten_thousand -- --nocapture`.
#[allow(clippy::print_stdout)] // for those who ask for it
fn show(line: &str, daemon: &Daemon) {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
    let memory: Vec<&str> = status
        .lines()
        .filter(|l| l.starts_with("VmHWM") || l.starts_with("Rss") || l.starts_with("VmRSS"))
        .collect();
    println!("{}; {memory:?}", line.split("sync::report:").last().unwrap_or_default());
}

/// Services of every kind, in a table that `nft` accepts and prints as it is written down.
fn goldens() -> Outcome {
    let api = api_server(&NODE_IPS);
    create(
        &api,
        service(
            "cluster-ip",
            json!({"clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "fd00:10:96::10"]}),
        ),
    );
    create(
        &api,
        service(
            "node-port",
            json!({"type": "NodePort", "clusterIP": "10.96.0.11",
        "clusterIPs": ["10.96.0.11", "fd00:10:96::11"],
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}),
        ),
    );
    create(
        &api,
        service(
            "local",
            json!({"type": "NodePort", "clusterIP": "10.96.0.12",
        "clusterIPs": ["10.96.0.12", "fd00:10:96::12"], "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30081}]}),
        ),
    );
    create(
        &api,
        service(
            "empty",
            json!({"clusterIP": "10.96.0.13",
        "clusterIPs": ["10.96.0.13", "fd00:10:96::13"]}),
        ),
    );
    create(
        &api,
        service(
            "balanced",
            json!({"type": "LoadBalancer", "clusterIP": "10.96.0.14",
                "clusterIPs": ["10.96.0.14", "fd00:10:96::14"], "sessionAffinity": "ClientIP",
                "loadBalancerSourceRanges": ["203.0.113.0/24", "2001:db8:1::/48"],
                "externalIPs": ["198.51.100.9"],
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30082}]}),
        ),
    );
    let ingress = json!([{"ip": "198.51.100.1"}, {"ip": "2001:db8::1"}]);
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    api.patch(Resource::Services, "default", "balanced", Part::Status, &Patch::Merge(status))?;
    for (name, hosts) in [
        ("cluster-ip", &[1, 2, 3][..]),
        ("node-port", &[4]),
        ("local", &[5, 6]),
        ("balanced", &[7, 8]),
    ] {
        for slice in both_slices(name, hosts) {
            create(&api, slice);
        }
    }
    let daemon = Daemon::start(&api.url(), &config(""));
    for (family, name) in [("IPv4", "ip"), ("IPv6", "ip6")] {
        daemon.wait_for_first_sync(family);
        let listed = eventually("the ServiceCIDR is in force", || {
            Some(table(name)).filter(|text| text.contains("/112 drop") || text.contains("/16 drop"))
        });
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .join(format!("integration/golden/nftables-{name}.nft"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &listed)?;
        }
        let golden = fs::read_to_string(&file)?;
        assert_eq!(sorted_elements(&listed), sorted_elements(&golden), "UPDATE_GOLDEN=1 rewrites");
        // In a network of its own: no nft declares a map to address and port a second time.
        let file = file.to_str().expect("a path in UTF-8");
        run("unshare", &["-n", "nft", "-c", "-f", file]);
    }
    Ok(())
}

/// `nft` lists elements in the order of the kernel's hash, which is another one each time.
fn sorted_elements(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("elements = {") {
        let (list, after) = after.split_once('}').expect("elements end");
        let mut words: Vec<&str> = list.split(',').map(str::trim).collect();
        words.sort_unstable();
        out.push_str(&format!("{before}elements = {{ {} }}", words.join(", ")));
        rest = after;
    }
    out + rest
}

fn drift() -> Outcome {
    let api = api_server(&NODE_IPS);
    create(&api, service("web", json!({"clusterIP": "10.96.0.10"})));
    create(&api, slice("web", "IPv4", &["10.244.1.1".to_owned()]));
    run("nft", &["add", "table", "ip", "other"]);
    run("nft", &["add", "chain", "ip", "other", "mine"]);
    run("nft", &["add", "rule", "ip", "other", "mine", "counter"]);
    let other = run("nft", &["list", "table", "ip", "other"]);

    // Notifications arrive long before the next sync period of 30 seconds.
    let daemon = Daemon::start(&api.url(), &config(""));
    daemon.wait_for_first_sync("IPv4");
    let whole = eventually("the ServiceCIDR is in force", || {
        Some(table("ip")).filter(|text| text.contains("/16 drop"))
    });
    let harms: [&[&str]; 10] = [
        &[
            "delete",
            "element",
            "ip",
            "kube-proxy",
            "service-endpoints",
            "{ 10.96.0.10 . tcp . 80 . 0 }",
        ],
        &["flush", "chain", "ip", "kube-proxy", "nat-prerouting"],
        &["delete", "table", "ip", "kube-proxy"],
        &["add rule ip kube-proxy services tcp dport { 80, 443 } accept"],
        &["insert rule ip kube-proxy services tcp dport vmap { 80: drop, 443: accept }"],
        &["add chain ip kube-proxy stray; \
           add map ip kube-proxy strays { type inet_service : verdict; elements = { 80 : jump stray }; }; \
           add rule ip kube-proxy services tcp dport vmap @strays"],
        // Looks like one of ours, and is not.
        &["add set ip kube-proxy service-slots-03 { \
           type ipv4_addr . inet_proto . inet_service; elements = { 10.96.0.10 . tcp . 80 }; }"],
        &["add chain ip kube-proxy nat-prerouting { policy drop; }"],
        &["add table ip kube-proxy { flags dormant; }"],
        &["add counter ip kube-proxy stray"],
    ];
    for (count, harm) in harms.iter().enumerate() {
        run("nft", harm);
        daemon.wait_for_nth("another program changed our table; repaired family=IPv4", count);
        assert_eq!(sorted_elements(&table("ip")), sorted_elements(&whole), "after {harm:?}");
    }
    assert_eq!(run("nft", &["list", "table", "ip", "other"]), other);
    Ok(())
}

/// While there is a listener, the kernel sends a notification for every element.
fn families() -> Outcome {
    let connection = Connection::open()?;
    let mut v4 = nftables::table(connection.table(Family::V4));
    let mut v6 = nftables::table(connection.table(Family::V6));
    let host = || Host {
        pods: PodDetector::None,
        masquerade_all: false,
        masquerade_mark: 0x4000,
        node_ports: NodePortAddresses::AnyLocal,
        node_ip: None,
        cluster_ip_guard: ClusterIpGuard::PortsAndAddresses,
    };
    let addresses: BTreeSet<IpAddr> =
        (0..120_000_u128).map(|n| Ipv6Addr::from((0xfd << 120) + n).into()).collect();
    let few = plan::build(Family::V4, "node-a", host(), &Snapshot::default()).0;
    let mut many = plan::build(Family::V6, "node-a", host(), &Snapshot::default()).0;
    many.host.node_ports = NodePortAddresses::Only(addresses);
    let observed = |report: Report| (report.observed, report.operations);
    assert_eq!(v4.sync(&few, &Scope::default())?.observed, Observation::Asked);
    assert!(v6.sync(&many, &Scope::default())?.operations > 120_000);
    assert_eq!(observed(v4.sync(&few, &Scope::default())?), (Observation::None, 0));
    run("nft", &["delete", "table", "ip", "kube-proxy"]);
    assert_eq!(observed(v6.sync(&many, &Scope::default())?), (Observation::None, 0));
    assert_eq!(v4.sync(&few, &Scope::default())?.observed, Observation::Drift);
    Ok(())
}

fn take_over() -> Outcome {
    // The shape that kube-proxy 1.36 leaves: same table and hooks, other objects.
    let foreign = "table ip kube-proxy {
        comment \"rules for kube-proxy\"
        set cluster-ips { type ipv4_addr; comment \"Active ClusterIPs\"; elements = { 10.96.0.10 } }
        map service-ips { type ipv4_addr . inet_proto . inet_service : verdict
            elements = { 10.96.0.10 . tcp . 80 : goto service-ULMVA6XW-default/web/tcp/ } }
        chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
        chain nat-output { type nat hook output priority -100; jump services; }
        chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
        chain service-ULMVA6XW-default/web/tcp/ {
            meta l4proto tcp dnat to numgen random mod 1 map { 0 : 10.244.9.9 . 8080 }; }
    }";
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("foreign.nft");
    fs::write(&file, foreign)?;
    run("nft", &["-f", file.to_str().expect("a path in UTF-8")]);
    let api = api_server(&NODE_IPS);
    create(&api, service("web", json!({"clusterIP": "10.96.0.10"})));
    create(&api, slice("web", "IPv4", &["10.244.1.1".to_owned()]));
    let daemon = Daemon::start(&api.url(), &config(""));
    daemon.wait_for_first_sync("IPv4");
    let taken = table("ip");
    assert!(!taken.contains("10.244.9.9"), "nothing that forwards is left over:\n{taken}");
    assert!(taken.contains("10.96.0.10 . tcp . 80 . 0 : 10.244.1.1 . 8080"), "{taken}");
    Ok(())
}

fn api_server_away() -> Outcome {
    let api = api_server(&NODE_IPS);
    create(&api, service("web", json!({"clusterIP": "10.96.0.10"})));
    create(&api, slice("web", "IPv4", &["10.244.1.1".to_owned()]));
    let mut daemon = Daemon::start(&api.url(), &config(""));
    daemon.wait_for_first_sync("IPv4");
    eventually("ServiceCIDRs are in force", || table("ip").contains("/16 drop").then_some(()));
    daemon.stop();
    let before = sorted_elements(&table("ip"));

    api.faults().set_outage(Outage::Disconnected);
    let daemon = Daemon::start(&api.url(), &config(""));
    daemon.wait_for("cannot reach the API server");
    std::thread::sleep(Duration::from_secs(2)); // several tries, each of which could do harm
    assert_eq!(sorted_elements(&table("ip")), before, "the rules stay");
    assert_eq!(daemon.lines_with("cannot reach the API server").len(), 1, "said once");

    // Before the daemon can list: its first sync shall have it to do.
    api.update(&slice("web", "IPv4", &["10.244.1.2".to_owned()]))?;
    api.faults().set_outage(Outage::None);
    let line = daemon.wait_for_first_sync("IPv4");
    assert_eq!(number(&line, "operations"), 4, "the endpoint and its hairpin: {line}");
    assert!(table("ip").contains("10.244.1.2 . 8080"));
    Ok(())
}

fn nonsense() -> Outcome {
    let api = api_server(&NODE_IPS);
    create(&api, service("good", json!({"clusterIP": "10.96.0.10"})));
    for slice in both_slices("good", &[1, 2]) {
        create(&api, slice);
    }
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    let unchecked = |kind: &str, name: &str, spec: Value| {
        let object =
            json!({"apiVersion": "v1", "kind": kind, "metadata": metadata(name), "spec": spec});
        api.write_unchecked(&object).map(|_| ())
    };
    let port = json!([{"port": 80, "protocol": "TCP"}]);
    unchecked("Service", "bad-ip", json!({"clusterIP": "10.96.0.300", "ports": port}))?;
    unchecked(
        "Service",
        "bad-port",
        json!({"clusterIP": "10.96.0.20",
        "ports": [{"port": 0}, {"name": "ok", "port": 81, "protocol": "TCP"}]}),
    )?;
    unchecked("Service", "bad-type", json!({"clusterIP": 5, "ports": "eighty"}))?;
    unchecked("Service", "thief", json!({"clusterIP": "10.96.0.10", "ports": port}))?;
    let mut wrong_family = slice("good", "IPv4", &["fd00::1".to_owned(), "nonsense".to_owned()]);
    wrong_family["metadata"]["name"] = json!("good-wrong");
    wrong_family["metadata"]["namespace"] = json!("default");
    api.write_unchecked(&wrong_family)?;

    let daemon = Daemon::start(&api.url(), &config(""));
    daemon.wait_for_first_sync("IPv4");
    for object in [
        "default/bad-ip",
        "default/bad-port",
        "default/bad-type",
        "default/thief",
        "default/good-wrong",
    ] {
        let line = daemon.wait_for(object);
        assert!(line.contains("WARN"), "{line}");
    }
    let rules = table("ip");
    for served in
        ["10.96.0.10 . tcp . 80 . 0", "10.96.0.10 . tcp . 80 . 1", "10.96.0.20 . tcp . 81"]
    {
        assert!(rules.contains(served), "{served} is missing:\n{rules}");
    }
    assert!(!rules.contains("10.96.0.20 . tcp . 0"), "{rules}");
    api.delete(Resource::Services, "default", "good")?;
    eventually("the address goes to the one that waited for it", || {
        table("ip").contains("service-reject {").then(|| table("ip")).filter(|text| {
            text.split("set service-reject")
                .nth(1)
                .is_some_and(|t| t.contains("10.96.0.10 . tcp . 80"))
        })
    });
    Ok(())
}

fn no_permission() -> Outcome {
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("config.yaml");
    fs::write(&file, config(""))?;
    // A user namespace of its own has all capabilities, but none over this network.
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_sluice-under-test"), "--config"])
        .arg(&file)
        .args(["--master", "http://127.0.0.1:1"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let sentences: Vec<&str> = text.lines().filter(|l| l.starts_with("sluice: ")).collect();
    assert_eq!(sentences.len(), 1, "{text}");
    assert!(sentences[0].contains("CAP_NET_ADMIN"), "{text}");
    Ok(())
}

fn bad_configuration() -> Outcome {
    let mut daemon = Daemon::start(
        "http://127.0.0.1:1",
        &config("nodePortAddresses: [nonsense]\nnftables: {masqueradeBit: 77}"),
    );
    assert_eq!(daemon.exit_code(), Some(1));
    for problem in ["nodePortAddresses", "masqueradeBit"] {
        assert!(daemon.log().contains(problem), "{}", daemon.log());
    }
    Ok(())
}
