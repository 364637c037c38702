//! `--what-if`: what would change, and what it would have the node write.

use serde_json::Value;

use crate::{ask, root};

fn compared(from: &str, to: &str, changes: &[&str]) -> Value {
    let flags = changes.iter().flat_map(|change| ["--what-if", change]);
    let more: Vec<&str> = flags.chain(["-o", "json"]).collect();
    let output = ask(from, to, &more);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// How many things of a kind a mode would write and remove.
fn counts(compared: &Value, mode: &str, kind: &str) -> (u64, u64) {
    let all = compared["operations"].as_array().expect("a list").iter();
    let fit = all.filter(|it| it["mode"] == mode && it["kind"] == kind);
    let number = |it: &Value, field: &str| it[field].as_u64().expect("a number");
    fit.fold((0, 0), |(w, r), it| (w + number(it, "written"), r + number(it, "removed")))
}

#[test]
fn an_endpoint_that_goes_is_counted_in_every_mode() {
    let gone = compared("pod/shell", "svc/web", &["pod/web-1 gone"]);
    assert_eq!(gone["after"]["summary"], "reachable: a new connection goes to web-2");
    assert_eq!(gone["changes"][0]["stage"], "endpoints");
    // One destination leaves the virtual services of the cluster IP, the node port, the load balancer.
    let (written, removed) = counts(&gone, "ipvs", "destination");
    assert!(written == 0 && removed > 0, "{written} {removed}");
    assert_eq!(counts(&gone, "ipvs", "virtual-service"), (0, 0));
    let (written, removed) = counts(&gone, "nftables", "element");
    assert!(removed > written && written > 0, "slots move: {written} {removed}");
    let (written, removed) = counts(&gone, "iptables", "rule");
    assert!(removed > 0 && written < removed, "{written} {removed}");
    // A relay chooses from fewer endpoints, and the kernel has the same.
    assert_eq!(counts(&gone, "userspace", "element"), (0, 0));
    let current = gone["operations"].as_array().expect("a list").iter();
    let current: Vec<&Value> = current.filter(|it| it["current"] == true).collect();
    assert!(!current.is_empty() && current.iter().all(|it| it["mode"] == "nftables"));
    let kernel = gone["kernel"].as_str().expect("words");
    assert!(kernel.starts_with("nftables: ") && kernel.contains(" written, "), "{kernel}");
}

#[test]
fn a_field_that_changes_and_one_that_does_not_matter() {
    let local =
        compared("203.0.113.7", "node/node-b:30080", &["svc/web externalTrafficPolicy=Local"]);
    let stages: Vec<&str> = local["changes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|it| it["stage"].as_str())
        .collect();
    assert_eq!(stages, ["policy", "endpoints", "rewrite"]);
    assert!(counts(&local, "nftables", "element").0 > 0, "{local}");
    let same = compared("pod/shell", "svc/web", &["svc/web internalTrafficPolicy=Cluster"]);
    assert_eq!(same["operations"], serde_json::json!([]));
    assert_eq!(same["kernel"], "nftables: nothing would be written");
    assert_eq!(same["changes"], serde_json::json!([]));
}

#[test]
fn a_service_that_goes_takes_its_objects_along() {
    let gone = compared("pod/shell", "svc/web", &["svc/web gone"]);
    assert_eq!(gone["after"]["result"], "unreachable");
    for (mode, kind) in [
        ("nftables", "element"),
        ("iptables", "chain"),
        ("ipvs", "virtual-service"),
        ("ipvs", "address"),
        ("userspace", "relay"),
    ] {
        let (written, removed) = counts(&gone, mode, kind);
        assert!(written == 0 && removed > 0, "{mode} {kind}: {written} {removed}");
    }
}

#[test]
fn a_file_of_changed_objects_is_taken_before_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("new.yaml");
    let new = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\n\
               spec: {selector: {app: web}, ports: [{name: http, port: 8080, targetPort: http}]}\n";
    std::fs::write(&file, new).expect("it is written");
    let file = file.to_str().expect("a path");
    let moved = compared("pod/shell", "svc/web:8080", &[file]);
    assert_eq!(moved["before"]["result"], "unreachable", "{moved}");
    assert_eq!(moved["before"]["findings"][0]["code"], "no-such-port");
    assert_eq!(moved["after"]["to"]["address"], "10.96.0.80:8080/tcp", "it keeps its cluster IP");
    assert_eq!(moved["after"]["result"], "reachable");
    let (written, removed) = counts(&moved, "nftables", "element");
    assert!(written > 0 && removed > written, "its node port is gone, too: {written} {removed}");
    let both = compared("pod/shell", "svc/web:8080", &["pod/web-1 gone", file]);
    assert_eq!(both["after"]["summary"], "reachable: a new connection goes to web-2");
}

#[test]
fn another_proxys_operations_are_not_guessed() {
    let output =
        ask("pod/shell", "svc/web", &["--as", "kube-proxy", "--what-if", "pod/web-1 gone"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("not known: the rules are another proxy's"), "{text}");
    assert!(!text.contains("iptables"), "{text}");
}

#[test]
fn the_schema_and_its_page_are_named_where_people_look() {
    let page = std::fs::read_to_string(root().join("docs/explain.md")).expect("the page");
    assert!(page.contains("(schemas/explain.v1alpha1.json)"));
}
