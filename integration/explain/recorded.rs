//! A node on which the Go kube-proxy ran: what `sluice explain --as kube-proxy` says of it, against the rules that kube-proxy
//! wrote (integration/fixtures/kube-proxy/node-a).

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

use crate::{PROGRAM, root};

/// What the rules do with a connection.
enum Rules {
    /// They translate to the endpoints of this Service port.
    To(&'static str),
    /// A line of them, in mode nftables and in mode iptables, decides.
    Decide(&'static str, &'static str),
}
use Rules::{Decide, To};

const DROPS_LOCAL: Rules = Decide(
    "tcp . 30082 comment \"default/door:http\" : drop",
    "\"default/door:http has no local endpoints\" -m addrtype --dst-type LOCAL -m tcp --dport 30082 -j DROP",
);
const REJECTS: Rules = Decide(
    "10.96.0.81 . tcp . 80 comment \"default/cart:http\" : goto reject-chain",
    "-d 10.96.0.81/32 -p tcp -m comment --comment \"default/cart:http has no endpoints\" -m tcp --dport 80 -j REJECT",
);
const ADMITS: Rules =
    Decide("ip saddr != 203.0.113.0/24 drop", "-A KUBE-PROXY-FIREWALL -d 198.51.100.1/32 -p tcp");

fn folder() -> std::path::PathBuf {
    root().join("integration/fixtures/kube-proxy/node-a")
}

fn asked(mode: &str, from: &str, to: &str, form: &str) -> Output {
    let configz = format!("{mode}-configz.json");
    Command::new(PROGRAM)
        .args(["explain", from, to, "--on", "node-a", "--as", "kube-proxy", "-o", form])
        .args(["--configz", &configz, "-f", "objects.yaml"])
        .current_dir(folder())
        .output()
        .expect("the program starts")
}

fn answered(mode: &str, from: &str, to: &str) -> Value {
    let output = asked(mode, from, to, "json");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn rules(mode: &str) -> String {
    let name = if mode == "nftables" { "nftables.nft" } else { "iptables.rules" };
    std::fs::read_to_string(folder().join(name)).expect("recorded rules")
}

/// The endpoints of a Service port in the recorded rules.
fn endpoints(mode: &str, service: &str) -> BTreeSet<String> {
    let text = rules(mode);
    if mode == "nftables" {
        let chain = format!("-default/{service}/tcp/http {{\n\t\tmeta l4proto tcp dnat ip to ");
        let rest = text.split_once(&chain).unwrap_or_else(|| panic!("{chain}")).1;
        let map = rest.split_once("map { ").and_then(|(_, map)| map.split_once(" }"));
        let parts = map.expect("a map").0.split(", ").map(|part| part.split_once(" : "));
        return parts.map(|part| part.expect("slot and endpoint").1.replace(" . ", ":")).collect();
    }
    let comment = format!("\"default/{service}:http\"");
    let lines = text.lines().filter(|line| line.contains(&comment));
    lines.filter_map(|line| Some(line.split_once("--to-destination ")?.1.to_owned())).collect()
}

fn used(answer: &Value) -> BTreeSet<String> {
    let stages = answer["stages"].as_array().expect("a list").iter();
    let used = stages.flat_map(|stage| stage["used"].as_array().cloned().unwrap_or_default());
    used.filter_map(|one| one["endpoint"].as_str().map(str::to_owned)).collect()
}

#[test]
fn answers_about_another_proxys_node_are_what_its_rules_do() {
    for (from, to, result, expected) in [
        ("pod/shell", "svc/web", "reachable", To("web")),
        ("pod/shell", "svc/door", "reachable", To("door")),
        ("203.0.113.7", "10.96.0.80:80", "reachable", To("web")),
        ("203.0.113.7", "172.18.0.11:30080", "reachable", To("web")),
        ("203.0.113.7", "198.51.100.1:80", "reachable", To("web")),
        ("pod/shell", "172.18.0.11:30082", "reachable", To("door")),
        ("node/node-a", "172.18.0.11:30082", "reachable", To("door")),
        ("203.0.113.7", "172.18.0.11:30082", "unreachable", DROPS_LOCAL),
        ("192.0.2.9", "198.51.100.1:80", "unreachable", ADMITS),
        ("pod/shell", "svc/cart", "unreachable", REJECTS),
        ("pod/shell", "10.96.0.80:81", "unreachable", Decide("@cluster-ips", "KUBE-SERVICES")),
    ] {
        for mode in ["nftables", "iptables"] {
            let answer = answered(mode, from, to);
            assert_eq!(answer["result"], result, "{mode}: {from} → {to}: {answer}");
            match &expected {
                To(service) => {
                    let there = endpoints(mode, service);
                    assert!(!there.is_empty(), "{mode} {service}");
                    assert_eq!(used(&answer), there, "{mode}: {from} → {to}");
                }
                Decide(nftables, iptables) => {
                    let line = if mode == "nftables" { nftables } else { iptables };
                    assert!(rules(mode).contains(line), "{mode}: {line}");
                    assert_eq!(used(&answer), BTreeSet::new(), "{mode}: {from} → {to}");
                }
            }
            assert_eq!(answer["truth"]["otherProxy"], true);
        }
    }
}

#[test]
fn a_source_is_replaced_where_the_rules_replace_it() {
    let text = |mode: &str, from: &str, to: &str| {
        let answer = answered(mode, from, to);
        answer["stages"][6]["text"].as_str().expect("a sentence").to_owned()
    };
    let from_outside = [
        "ip daddr @cluster-ips ip saddr != 10.244.0.0/16 meta mark set",
        "! -s 10.244.0.0/16 -d 10.96.0.80/32",
    ];
    for (mode, rule) in ["nftables", "iptables"].into_iter().zip(from_outside) {
        assert!(rules(mode).contains(rule), "{mode}: {rule}");
        let kept = text(mode, "pod/shell", "svc/web");
        assert!(kept.contains("source kept"), "{mode}: {kept}");
        for to in ["10.96.0.80:80", "172.18.0.11:30080"] {
            let replaced = text(mode, "203.0.113.7", to);
            assert!(replaced.contains("source to an address of node-a"), "{mode}: {replaced}");
        }
    }
}

#[test]
fn modes_differ_at_loopback_and_at_what_no_service_has() {
    // Of /configz, nodePortAddresses is ["primary"] in mode nftables, and null in mode iptables.
    assert!(rules("iptables").contains("-A KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp"));
    assert!(rules("nftables").contains("elements = { 172.18.0.11 }"));
    let loopback = |mode| answered(mode, "node/node-a", "127.0.0.1:30080");
    assert_eq!(loopback("nftables")["findings"][0]["code"], "node-port-not-here");
    assert_eq!(loopback("iptables")["result"], "undetermined", "it depends on localhostNodePorts");
    let summary = |mode| answered(mode, "pod/shell", "10.96.0.80:81")["summary"].to_string();
    assert!(summary("nftables").contains("; rejected"), "{}", summary("nftables"));
    assert!(summary("iptables").contains("as if there were no proxy"), "{}", summary("iptables"));
}

#[test]
fn nothing_is_said_about_another_proxys_kernel_objects() {
    for mode in ["nftables", "iptables"] {
        let output = asked(mode, "pod/shell", "svc/web", "text");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("not looked at: the rules are another proxy's"), "{text}");
        assert!(!text.contains("service-pools") && !text.contains("KUBE-SVC"), "{text}");
    }
}
